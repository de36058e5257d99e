"""The few expressions by which a packed config finds its own folder; `verify` knows them to the letter.

MONAI puts a bundle's folder on the path when it runs a workflow, but not when it only initialises one, as
`monai.bundle.load`, `create_workflow` and `MonaiAlgo` do; and a config cannot ask where it was read from. What reads it
knows: the `ConfigWorkflow` among the callers.
"""

from __future__ import annotations

_FOLDERS = (
    "str(f.frame.f_locals['self'].config_root_path.resolve().parent) for f in inspect.stack(0)"
    " if isinstance(f.frame.f_locals.get('self'), monai.bundle.ConfigWorkflow)"
)
# Appended: the package has a name that nothing else has, and nothing of the bundle can get in another's way.
FIND_PACKAGE = f"$sys.path.append(next(({_FOLDERS}), '.'))"
# Where there is no code to ask. A program that only parses the config, as MONAI Label does, gives the folder itself.
FIND_FOLDER = f"$next(({_FOLDERS}), '.')"
IMPORTS = ("$import inspect", "$import sys")
BOOT = frozenset({*IMPORTS, FIND_PACKAGE, FIND_FOLDER})
