"""TorchScript files, read as text: that their program only computes, and that their numbers are all there.

A TorchScript program is no Python, but its operators reach further than tensors: some read and write files, and names,
methods and modules lead from any operator to any other. Accepted is the form alone that `bundles.exporting` writes, a
frozen network: one class with one `forward`, made of a few statements, whose calls are operators of a list, written
in full; no method is called, nothing is looked up, and what is called is never stored.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .archives import Refused
from .pickles import Tensor, check_numbers, records, run_pickle

_LARGEST = 1 << 20  # bytes of the program; a parsed one takes a hundred times as many
# What a frozen segmenter of this collection uses, and nothing that reads, writes, waits or calls back.
_NAMES = """
    add amax append batch_norm cat channel_shuffle contiguous conv2d dim div eq flatten flip format hardtanh max_pool2d
    mean mul ne relu remainder rsqrt scaled_dot_product_attention sigmoid size square sub to transpose unflatten
    upsample_bilinear2d
"""
OPERATORS = frozenset(_NAMES.split())
_RAISED = frozenset({"builtins.ValueError", "builtins.NotImplementedError"})  # by a name that Python looks up
_TYPES = frozenset({"List[Tensor]", "List[float]"})
_TAKEN = """
    CONSTANTS List Tensor __torch__ annotate awaitable bool float fork getattr inf infj int len nan nanj ops print
    range self str torch unchecked_cast uninitialized
"""
_RESERVED = frozenset(_TAKEN.split())
_LOCAL = re.compile(r"_[0-9]+|[a-z][a-z0-9_]*", re.ASCII)
# torch's reader splits a text in its own way; of this alphabet, without comments, escapes and tabs, both make the same.
_TEXT = re.compile(r'(?<!\w)"[ !#-\[\]-~]*"')
_ALPHABET = re.compile(r"[A-Za-z0-9_ \n.,:=()\[\]>-]*")
_PLACES = re.compile(
    r"(data|constants)\.pkl|constants/\d+|code/__torch__(/\w+)*\.py|version|byteorder|\.data/serialization_id"
    r"|\.format_version|\.storage_alignment",
    re.ASCII,
)
# An object without attributes of one class; all that data.pkl of a frozen network holds.
_OBJECT = re.compile(rb"\x80\x02c(__torch__(?:\.[A-Za-z_]\w*)+)\n([A-Za-z]\w*)\nq\x00\)\x81\}\(ubq\x01\.")
_CONSTANT = re.compile(r"c(0|[1-9][0-9]{0,5})", re.ASCII)


def check_torchscript(content: bytes, name: str) -> None:
    """Make sure that a TorchScript file only computes. Nothing of it is loaded.

    Raises:
        Refused: naming what in it is anything else.
    """
    files = records(content, name, "torch.jit.save")
    if unknown := sorted(path for path in files if not _PLACES.fullmatch(path)):
        raise Refused(f"{name} has {unknown[0]!r} in it, which a frozen network does not need")
    if not re.fullmatch(rb"[1-9]\d?\n", files.get("version", b"")):
        raise Refused(f"{name} tells no version of its form")
    programs = [path for path in files if path.startswith("code/")]
    if "data.pkl" not in files or "constants.pkl" not in files or len(programs) != 1:
        raise Refused(f"{name} has no data.pkl, no constants.pkl or not one program; it is no frozen TorchScript")
    path = programs[0]
    if len(files[path]) > _LARGEST:
        raise Refused(f"{name} has a program of {len(files[path]):,} bytes; at most {_LARGEST:,} are read")
    module, kind = _class_of(files["data.pkl"], name)
    if f"code/{module.replace('.', '/')}.py" != path:
        raise Refused(f"{name}: data.pkl is of the class {module}.{kind}, whose program is not there")
    constants = _constants(files, name)
    for fault in program_faults(_parsed(files[path], f"{name}, {path}"), f"{module}.{kind}", constants):
        raise Refused(f"{name}, {path}, {fault}")


def _class_of(content: bytes, name: str) -> tuple[str, str]:
    if not (match := _OBJECT.fullmatch(content)):
        raise Refused(f"{name}, data.pkl: it holds anything but one object without attributes, a frozen network")
    return match[1].decode("ascii"), match[2].decode("ascii")


def _constants(files: dict[str, bytes], name: str) -> int:
    built, storages = run_pickle(files["constants.pkl"], f"{name}, constants.pkl")
    if not isinstance(built, tuple) or not all(isinstance(each, Tensor) for each in built):
        raise Refused(f"{name}, constants.pkl: it holds something that is no tensor")
    check_numbers(storages, files, "constants", name)
    if any(each.device != "cpu" for each in storages.values()):
        raise Refused(f"{name}, constants.pkl: its numbers are of another device than the CPU")
    if unused := {path for path in files if path.startswith("constants/")} - {f"constants/{key}" for key in storages}:
        raise Refused(f"{name} has {min(unused)!r} in it, which nothing in it uses")
    return len(built)


def _parsed(content: bytes, name: str) -> ast.Module:
    try:
        source = content.decode("ascii")
        if not _ALPHABET.fullmatch(_TEXT.sub("", source)):
            raise ValueError("a letter that torch.jit.save does not write, as of a comment or an escape")
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{name} can not be read: {str(error)[:100]}") from None


# ---- the program -----------------------------------------------------------------------------------------------------


class _Fault(Exception):
    # What of a program has another form, and where.
    def __init__(self, node: ast.AST, text: str) -> None:
        super().__init__(f"line {getattr(node, 'lineno', 0)}: {text}")


def program_faults(tree: ast.Module, kind: str, constants: int) -> Iterator[str]:
    """What in the text of a TorchScript program is not in the form of this module; the first of it.

    Args:
        tree: parsed.
        kind: full name of its one class.
        constants: how many ``CONSTANTS.c…`` there are.
    """
    try:
        _Forward(constants).block(_body(tree, kind))
    except _Fault as fault:
        yield str(fault)


def _body(tree: ast.Module, kind: str) -> list[ast.stmt]:
    # Of the one method of the one class, where these are declared as frozen ones are.
    if len(tree.body) != 1 or not isinstance(owner := tree.body[0], ast.ClassDef) or len(owner.body) != 3:
        raise _Fault(tree, "a frozen network is one class with one method")
    *declared, method = owner.body
    if not isinstance(method, ast.FunctionDef):
        raise _Fault(method, "a frozen network is one class with one method")
    head = ast.ClassDef(owner.name, owner.bases, owner.keywords, declared, owner.decorator_list)
    wanted = f"class {kind.rpartition('.')[2]}(Module):\n    __parameters__ = []\n    __buffers__ = []"
    if ast.unparse(head) != wanted:
        raise _Fault(owner, "its class is not declared as a frozen one, without parameters and attributes")
    bare = ast.FunctionDef(method.name, method.args, [ast.Pass()], method.decorator_list, method.returns)
    if ast.unparse(ast.fix_missing_locations(bare)) != f"def forward(self: {kind}, image: Tensor) -> Tensor:\n    pass":
        raise _Fault(method, "its method is not forward(self, image: Tensor) -> Tensor")
    if not method.body or not isinstance(method.body[-1], ast.Return):
        raise _Fault(method, "forward does not end with what it returns")
    return method.body


class _Forward:
    # A walk through the statements in their order: every one and every expression has to be of a form that is here.

    def __init__(self, constants: int) -> None:
        self.constants = constants
        self.known = {"image"}

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            self.value(node.value)
            self.store(node.targets[0])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.call(node.value)
        elif isinstance(node, ast.If):
            self.value(node.test)
            self.block(node.body)
            self.block(node.orelse)
        elif isinstance(node, ast.For) and not node.orelse:
            self.counted(node)
        elif isinstance(node, ast.Return) and node.value is not None:
            self.value(node.value)
        elif not isinstance(node, ast.Pass):
            raise _Fault(node, f"a statement {type(node).__name__}, which a frozen network is not written with")

    def counted(self, node: ast.For) -> None:
        called = node.iter
        if not (isinstance(called, ast.Call) and _dotted(called.func) == "range" and len(called.args) == 1):
            raise _Fault(node, "a loop over anything but a range")
        if called.keywords:
            raise _Fault(node, "a keyword")
        self.value(called.args[0])
        self.store(node.target)
        self.block(node.body)

    def store(self, node: ast.expr) -> None:
        if not isinstance(node, ast.Name) or not _LOCAL.fullmatch(node.id) or node.id in _RESERVED:
            raise _Fault(node, f"it would set {ast.unparse(node)[:100]}")
        self.known.add(node.id)

    def value(self, node: ast.expr) -> None:
        if isinstance(node, ast.Name):
            if node.id not in self.known:
                raise _Fault(node, f"the name {node.id[:100]}, which is not set before")
        elif isinstance(node, ast.Attribute):
            self.constant(node)
        elif isinstance(node, ast.Call):
            self.call(node)
        elif isinstance(node, ast.List):
            for each in node.elts:
                self.value(each)
        elif isinstance(node, ast.Subscript):
            if not isinstance(node.value, ast.Name) or not _is_number(node.slice):
                raise _Fault(node, "an index that is no number, or of something computed")
            self.value(node.value)
        elif not (_is_number(node) or (isinstance(node, ast.Constant) and _is_plain(node.value))):
            raise _Fault(node, f"a {type(node).__name__}, which a frozen network is not written with")

    def constant(self, node: ast.Attribute) -> None:
        match = _CONSTANT.fullmatch(node.attr)
        if not (isinstance(node.value, ast.Name) and node.value.id == "CONSTANTS" and match):
            raise _Fault(node, f"{ast.unparse(node)[:100]} is read, which is no constant")
        if int(match[1]) >= self.constants:
            raise _Fault(node, f"there is no CONSTANTS.{node.attr}")

    def call(self, node: ast.Call) -> None:
        name, given = _dotted(node.func), node.args
        if node.keywords:
            raise _Fault(node, "a keyword")
        if name in ("annotate", "uninitialized"):
            self.typed(node, name)
        elif name == "ops.prim.RaiseException":
            if len(given) != 2 or not isinstance(given[1], ast.Constant) or given[1].value not in _RAISED:
                raise _Fault(node, "an exception that is none of a frozen network's")
            self.value(given[0])
        elif name == "ops.prim.dtype" or (name.startswith("torch.") and name.removeprefix("torch.") in OPERATORS):
            for each in given:
                self.value(each)
        else:
            raise _Fault(node, f"a call of {ast.unparse(node.func)[:100]}, an operator that is not on the list")

    def typed(self, node: ast.Call, name: str) -> None:
        kind = ast.unparse(node.args[0]) if node.args else ""
        if name == "uninitialized" and len(node.args) == 1 and kind == "Tensor":
            return
        if name == "annotate" and len(node.args) == 2 and kind in _TYPES and ast.unparse(node.args[1]) == "[]":
            return
        raise _Fault(node, f"{name} of anything but an empty list or a tensor")


def _dotted(node: ast.expr) -> str:
    # The name as it is written in full; empty where it is no such name.
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (bool, str)
