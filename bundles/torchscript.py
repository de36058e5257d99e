"""TorchScript files, read as text: which operators their programs use, and that their pickles build nothing else.

A TorchScript program is no Python, but its operators reach further than tensors: some read and write files. Accepted
are programs made of a list of operators that only compute.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from .archives import Refused, inner_limits, read_archive
from .pickles import GLOBALS, orders

_LARGEST = 4 << 20  # bytes of all programs in a file
# What a scripted or traced segmenter of this collection uses, and nothing that reads, writes, waits or calls back.
_NAMES = """
    __contains__ __is__ __isnot__ __not__ _convolution _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add add_ amax append batch_norm cat channel_shuffle
    contiguous conv2d dim div eq flatten flip floor format ge gt hardtanh hardtanh_ le len lt max_pool2d mean mul ne
    relu relu_ remainder reshape rsqrt scaled_dot_product_attention sigmoid size softmax square stack sub to transpose
    unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d view
"""
OPERATORS = frozenset(_NAMES.split())
_PRIMITIVES = frozenset({"ops.prim.NumToTensor", "ops.prim.RaiseException", "ops.prim.dtype"})
_BUILTINS = frozenset({"annotate", "bool", "float", "getattr", "int", "len", "range", "str"})
_BUILTINS |= {"unchecked_cast", "uninitialized"}
_NODES = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.AugAssign,
    ast.Expr, ast.If, ast.For, ast.While, ast.Pass, ast.Break, ast.Continue, ast.Return, ast.Call, ast.keyword,
    ast.Attribute, ast.Name, ast.Load, ast.Store, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice,
    ast.UnaryOp, ast.USub, ast.UAdd, ast.Not, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot,
    ast.In, ast.NotIn, ast.IfExp,
)  # fmt: skip
_CODES = """
    PROTO STOP MARK GLOBAL NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS APPEND APPENDS BINPUT LONG_BINPUT BINGET LONG_BINGET
    BINPERSID REDUCE NEWOBJ BUILD
"""
_ORDERS = frozenset(_CODES.split())
_BUILDERS = {f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_GLOBALS = GLOBALS | _BUILDERS | {"torch.jit._pickle restore_type_tag"}
_OWN_TYPE = re.compile(r"__torch__(\.\w+)* \w+", re.ASCII)
_PLACES = re.compile(
    r"(data|constants|traced_inputs)(\.pkl|/\d+)|code/__torch__(/\w+)*\.py(\.debug_pkl)?|version|byteorder"
    r"|\.data/serialization_id|\.format_version|\.storage_alignment",
    re.ASCII,
)


def check_torchscript(content: bytes, name: str) -> None:
    """Make sure that a TorchScript file only computes. Nothing of it is loaded.

    Raises:
        Refused: naming what in it is anything else.
    """
    if not content.startswith(b"PK"):
        raise Refused(f"{name} is no archive of torch.jit.save")
    try:
        members = read_archive(content, inner_limits(content), torch=True)
    except Refused as error:
        raise Refused(f"{name}: {error}") from None
    if len({path.partition("/")[0] for path in members}) != 1:
        raise Refused(f"{name} has more than one folder at its top")
    files = {path.partition("/")[2]: each for path, each in members.items()}
    if unknown := sorted(path for path in files if not _PLACES.fullmatch(path)):
        raise Refused(f"{name} has {unknown[0]!r} in it, which torch.jit.save writes nowhere")
    if "data.pkl" not in files or not any(path.startswith("code/") for path in files):
        raise Refused(f"{name} has no data.pkl or no code; it is no TorchScript")
    if (size := sum(len(each) for path, each in files.items() if path.startswith("code/"))) > _LARGEST:
        raise Refused(f"{name} has {size:,} bytes of programs; at most {_LARGEST:,} are read")
    for path, each in files.items():
        if path.endswith("pkl"):
            _check_pickle(each, f"{name}, {path}")
    trees = {path: _parsed(each, f"{name}, {path}") for path, each in files.items() if path.endswith(".py")}
    for fault in program_faults(trees):
        raise Refused(f"{name}, {fault}")


def _check_pickle(content: bytes, name: str) -> None:
    for code, argument in orders(content, name):
        if code not in _ORDERS:
            raise Refused(f"{name}: the order {code} is none that TorchScript is written with")
        if code == "GLOBAL" and argument not in _GLOBALS and not _OWN_TYPE.fullmatch(argument):
            raise Refused(f"{name}: it names {argument.replace(' ', '.')[:200]!r}, which no TorchScript needs")


def _parsed(content: bytes, name: str) -> ast.Module:
    try:
        return ast.parse(content.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{name} can not be read: {str(error)[:100]}") from None


def program_faults(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """What in the text of TorchScript programs, by path, is not on the lists of this module."""
    methods = {
        node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    } - _BUILTINS
    for path, tree in trees.items():
        roots = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for node in ast.walk(tree):
            if fault := _node_fault(node, methods, names, roots):
                yield f"{path}, line {getattr(node, 'lineno', 0)}: {fault}"


def _node_fault(node: ast.AST, methods: set[str], names: set[str], roots: set[int]) -> str | None:
    if not isinstance(node, _NODES):
        return f"a {type(node).__name__}, which TorchScript is not written with"
    if isinstance(node, ast.Name):
        if node.id in ("torch", "ops") and (id(node) not in roots or not isinstance(node.ctx, ast.Load)):
            return f"the name {node.id} by itself"
    elif isinstance(node, ast.Attribute):
        return _attribute_fault(node)
    elif isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name) and called.id not in _BUILTINS | names | methods:
            return f"a call of {called.id}"
        # A method of a tensor is an operator too.
        if isinstance(called, ast.Attribute) and not _is_known(called, methods):
            return f"a call of .{called.attr}, an operator that is not on the list"
        if not isinstance(called, ast.Name | ast.Attribute):
            return "a call of something computed"
    return None


def _is_known(called: ast.Attribute, methods: set[str]) -> bool:
    if called.attr in methods | OPERATORS:
        return True
    root = called.value
    known = isinstance(root, ast.Attribute) and isinstance(root.value, ast.Name)
    return known and f"{root.value.id}.{root.attr}.{called.attr}" in _PRIMITIVES


def _attribute_fault(node: ast.Attribute) -> str | None:
    root = node.value
    if isinstance(root, ast.Name) and root.id == "torch" and node.attr not in OPERATORS:
        return f"the operator torch.{node.attr}, which is not on the list"
    if isinstance(root, ast.Name) and root.id == "ops":
        return None if node.attr == "prim" else f"operators of {node.attr}"
    if isinstance(root, ast.Attribute) and isinstance(root.value, ast.Name) and root.value.id == "ops":
        whole = f"ops.{root.attr}.{node.attr}"
        return None if whole in _PRIMITIVES else f"the operator {whole}, which is not on the list"
    return None
