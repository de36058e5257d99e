"""The Python that a bundle brings: read as text, never imported; what it defines, and what it reaches for."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from .archives import Refused

LONGEST, LARGEST, _MOST_STEPS = 1 << 18, 2 << 20, 12  # bytes of a module, and of all
_MOST_PARTS = 8  # of a dotted name
# Modules that reach beyond computing, files that a config names, and the packages that a bundle is made of.
_NAMES = """
    asyncio builtins cffi cloudpickle code codeop concurrent ctypes dill distutils ensurepip fcntl ftplib gc glob http
    httpx imp importlib inspect io joblib marshal mmap multiprocessing nntplib os pathlib pickle pip pkgutil poplib pty
    requests resource runpy sched select selectors shelve shutil signal site smtplib socket socketserver sqlite3 ssl
    subprocess sys tempfile telnetlib threading torch.hub torch.serialization torch.utils.cpp_extension types urllib
    urllib3 venv webbrowser winreg xmlrpc zipfile zipimport
"""
_REACHING = frozenset(_NAMES.split())
_CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "breakpoint", "getattr", "globals", "locals", "open", "setattr", "vars"}
)
_MODULES = frozenset({"builtins", "ctypes", "importlib", "os", "pickle", "shutil", "socket", "subprocess", "sys"})
_LOADERS = frozenset({"from_file", "from_pretrained", "fromfile", "load", "loads", "memmap", "save", "savez"})
_HIDDEN = frozenset({"__builtins__", "__class__", "__dict__", "__globals__", "__loader__", "__subclasses__"})


@dataclass(frozen=True)
class OwnPython:
    """The parsed Python of a bundle.

    Attributes:
        package: name of its package.
        modules: syntax trees by path below the bundle's folder.
    """

    package: str
    modules: Mapping[str, ast.Module]

    def target_fault(self, target: str) -> str | None:
        """Why a dotted name is none of a class or function that this package defines; None where it is.

        What a module merely imports is not: ``<package>.files.os.system`` would be MONAI's to find as well.
        """
        return self._fault(target.split("."), _MOST_STEPS)

    def _fault(self, parts: list[str], steps: int) -> str | None:
        if parts[0] != self.package or not all(part.isidentifier() for part in parts):
            return "it is not a name in the bundle's own package"
        if any(part.startswith("_") for part in parts[1:]):
            return "it names something private"
        path = self._module_of(parts[:-1])
        if path is None:
            return f"the bundle has no module {'.'.join(parts[:-1])}"
        names = self._names[path]
        if parts[-1] not in names or (names[parts[-1]] and not steps):
            return f"{path} does not define {parts[-1]}, nor imports it from the bundle's own package"
        elsewhere = names[parts[-1]]
        return self._fault(elsewhere, steps - 1) if elsewhere else None

    @cached_property
    def _names(self) -> dict[str, dict[str, list[str] | None]]:
        # By module: the classes and functions that it defines, and where those are that it has from another one.
        found: dict[str, dict[str, list[str] | None]] = {}
        for path, tree in self.modules.items():
            names = found[path] = {}
            for node in tree.body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef):
                    names.setdefault(node.name, None)
                elif isinstance(node, ast.ImportFrom) and node.level:
                    for alias in node.names:
                        names.setdefault(alias.asname or alias.name, [*self._from(path, node), alias.name])
            around = path.removesuffix(".py").removesuffix("/__init__").split("/")
            for name, home in _homes(tree).items():
                names.setdefault(name, [*around, home, name])
        return found

    def _module_of(self, parts: list[str]) -> str | None:
        base = "/".join(parts)
        return next((path for path in (f"{base}/__init__.py", f"{base}.py") if path in self.modules), None)

    def _from(self, path: str, node: ast.ImportFrom) -> list[str]:
        around = path.split("/")[: -node.level]
        return [*around, *(node.module.split(".") if node.module else [])]


def _homes(tree: ast.Module) -> dict[str, str]:
    # A package that imports its names when they are first used says so in a table of texts, from name to module.
    for node in tree.body:
        named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id
        if named == "_HOMES" and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            if all(isinstance(each, ast.Constant) and isinstance(each.value, str) for pair in pairs for each in pair):
                return ast.literal_eval(node.value)
    return {}


def parse_python(content: bytes, path: str) -> ast.Module:
    """The syntax tree of a module; nothing of it is run.

    Raises:
        Refused: if it is no Python, or too large or too deep to be read.
    """
    if len(content) > LONGEST:
        raise Refused(f"{path} has {len(content):,} bytes; at most {LONGEST:,} of Python are read")
    if b"\r" in content:  # some readers end a line there, and others do not
        raise Refused(f"{path} has a carriage return; lines that end with \\n are read")
    try:
        # Python would run what a declared encoding makes of the bytes, which is not what is read here, or by anybody.
        if (declared := tokenize.detect_encoding(io.BytesIO(content).readline)[0]) != "utf-8":
            raise Refused(f"{path} declares the encoding {declared}; only UTF-8 without a mark is read")
        return ast.parse(content.decode("utf-8"))
    except Refused:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{path} can not be read as Python in UTF-8: {str(error)[:100]}") from None


def reaches_for(tree: ast.Module) -> list[str]:
    """Some of the ways by which a module can do more than compute, sorted; for a person to begin with.

    Modules that it imports, built-in functions that it calls, what it loads or saves with a library, and modules that
    it reaches through another one's attributes. It is no proof: Python has other ways.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if _reaches(alias.name)}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            wholes = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} if _reaches(node.module) else {whole for whole in wholes if _reaches(whole)}
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in _LOADERS}
        elif isinstance(node, ast.Name) and node.id in _HIDDEN:
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found |= _attributes(node)
        elif isinstance(node, ast.Call):
            found |= _calls(node)
    return sorted(found - {"json.load()", "json.loads()"})


def _reaches(module: str) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:count]) in _REACHING for count in range(1, len(parts) + 1))


def _attributes(node: ast.Attribute) -> set[str]:
    # A module has those that it imports: torch.os is os.
    whole = _dotted(node)
    if node.attr in _HIDDEN or (node.attr in _MODULES and isinstance(node.value, ast.Name | ast.Attribute)):
        return {whole}
    return {whole} if whole in _REACHING else set()


def _dotted(node: ast.Attribute) -> str:
    # Its last parts: of a chain of thousands, each link's whole name would take for ever.
    parts: list[str] = []
    left: ast.expr = node
    while isinstance(left, ast.Attribute) and len(parts) < _MOST_PARTS:
        parts.append(left.attr)
        left = left.value
    return ".".join([left.id if isinstance(left, ast.Name) else "…", *reversed(parts)])


def _calls(node: ast.Call) -> set[str]:
    called = node.func
    if isinstance(called, ast.Name) and called.id in _CALLS:
        # With a text that stands there it looks up one name, which is told.
        fixed = called.id in ("getattr", "setattr") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
        return {f"{called.id}(…, {node.args[1].value!r})" if fixed else f"{called.id}()"}
    if isinstance(called, ast.Attribute) and called.attr in _LOADERS | {"open"}:
        return {f"{_dotted(called)[:60]}()"}
    return set()


def other_packages(trees: Mapping[str, ast.Module]) -> set[str]:
    """Packages outside of the standard library that the modules import by name."""
    found = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names
