"""Which modules of `common` a bundle needs: what its configs name, and all that these import."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "common"
# A prepared folder is made and checked, and two measurements compared, by commands that go with every bundle.
COMMANDS = (f"{PACKAGE}.data.__main__", f"{PACKAGE}.evaluation.__main__")


def needed_files(root: Path, targets: Iterable[str]) -> dict[str, bytes]:
    """The part of `common` that `targets` need, by path below `root`.

    Args:
        root: the folder that holds `common`.
        targets: dotted names of classes and functions in it.

    Found are the modules that are imported at any place of the text, also within functions, with the packages around
    them, and what lies beside a package's modules as data.
    """
    waiting = [*COMMANDS, *(_module_of(root, target) for target in targets)]
    modules: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in modules:
            continue
        modules.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += _imports(root, name)
    paths = {_path(root, name) for name in modules}
    for package in {path.parent for path in paths if path.name == "__init__.py"}:
        paths |= set(_data(package))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def _path(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _exists(root: Path, module: str) -> bool:
    return _path(root, module).is_file()


def _module_of(root: Path, target: str) -> str:
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        if _exists(root, ".".join(parts[:length])):
            return ".".join(parts[:length])
    raise LookupError(target)


def _imports(root: Path, module: str) -> tuple[str, ...]:
    path = _path(root, module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            base += node.module.split(".") if node.module else []
            names = [".".join([*base, each.name]) for each in node.names]
            found += [".".join(base), *(name for name in names if _exists(root, name))]
    if "import_module" in path.read_text(encoding="utf-8") and path.name == "__init__.py":
        # A package that imports its modules by name when they are asked for: any may be.
        found += [f"{package}.{each.stem}" for each in path.parent.glob("*.py") if not each.stem.startswith("__")]
    return tuple(found)


def _data(package: Path) -> list[Path]:
    # Files of a package that are no modules, in it or in folders that are no packages.
    found = []
    for path in sorted(package.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            found.append(path)
        elif path.is_dir() and not (path / "__init__.py").is_file():
            found += [each for each in sorted(path.rglob("*")) if each.is_file()]
    return found
