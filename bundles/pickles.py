"""Pickles of torch, read as the list of orders that they are: what they would build is worked out, nothing is built.

A pickle is a program for a small stack machine; some of its orders call whatever it names. `read_state_dict` runs the
few orders that a state dict is written with on placeholders, so that a file is accepted for what it holds, not for what
it does not do. Every other order is refused before anything else is done.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .archives import Refused, inner_limits, read_archive

_LONGEST, _MOST_ORDERS, _MOST_SIDES = 16 << 20, 250_000, 16
ITEM_BYTES = {
    "torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2, "torch BFloat16Storage": 2,
    "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2, "torch CharStorage": 1,
    "torch ByteStorage": 1, "torch BoolStorage": 1,
}  # fmt: skip
_ORDERED, _TENSOR, _PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)
GLOBALS = frozenset({_ORDERED, _TENSOR, _PARAMETER, *ITEM_BYTES})
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXTS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "INT", "FLOAT"}
)


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that tensors are views of: the name of their record, the bytes of one, how many, and their device."""

    key: str
    item: int
    count: int
    device: str


@dataclass(frozen=True)
class Tensor:
    """A tensor that a pickle would build: its shape, and the bytes of an element."""

    shape: tuple[int, ...]
    item: int


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)


def orders(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    """The orders of a pickle and their arguments, one after the other; the last is STOP, with nothing behind it.

    Raises:
        Refused: if it is cut off, damaged, too long, or bytes follow it.
    """
    if len(content) > _LONGEST:
        raise Refused(f"{name} has {len(content):,} bytes; at most {_LONGEST:,} of a pickle are read")
    code, last = "", -1
    try:
        for number, (order, argument, position) in enumerate(pickletools.genops(content)):
            if number >= _MOST_ORDERS:
                raise Refused(f"{name} has more than {_MOST_ORDERS:,} orders; no more are read")
            code, last = order.name, position
            yield code, argument
    except Refused:
        raise
    except Exception as error:  # pickletools raises ValueError, and others on numbers that are none
        raise Refused(f"{name} is no whole pickle: {str(error)[:100]}") from None
    if code != "STOP" or last != len(content) - 1:
        raise Refused(f"{name} has bytes behind its end")


def read_state_dict(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a ``model.pt``, a plain state dict as `torch.save` writes it, without loading it.

    Args:
        content: of the file.
        name: for messages.

    Raises:
        Refused: if it is in the older form without an archive, or would call anything, or holds anything but tensors
            by name, or a tensor's numbers are not all there.
    """
    files = records(content, name, "torch.save")
    if "data.pkl" not in files:
        raise Refused(f"{name} has no data.pkl; it is no archive of torch.save")
    if unknown := sorted(path for path in files if not _belongs_to_state_dict(path)):
        raise Refused(f"{name} has {unknown[0]!r} in it, which torch.save writes nowhere")
    built, storages = run_pickle(files["data.pkl"], f"{name}, data.pkl")
    check_numbers(storages, files, "data", name)
    if not isinstance(built, dict) or not all(
        isinstance(key, str) and isinstance(each, Tensor) for key, each in built.items()
    ):
        raise Refused(f"{name} is no plain state dict: it holds something that is no tensor")
    return built


def records(content: bytes, name: str, form: str) -> dict[str, bytes]:
    """The records of an archive of torch, by their paths below its one folder.

    Args:
        content: of the file.
        name: for messages.
        form: what writes such files, for messages.

    Raises:
        Refused: if it is none, or its numbers are in another order of bytes.
    """
    if not content.startswith(b"PK"):
        raise Refused(f"{name} is no archive of {form}; the older form, a bare pickle, is not read: save it anew")
    try:
        members = read_archive(content, inner_limits(content), torch=True)
    except Refused as error:
        raise Refused(f"{name}: {error}") from None
    if len({path.partition("/")[0] for path in members}) != 1:
        raise Refused(f"{name} has more than one folder at its top")
    files = {path.partition("/")[2]: each for path, each in members.items()}
    if files.get("byteorder", b"little") != b"little":
        raise Refused(f"{name} is not in little-endian order")
    return files


def check_numbers(storages: Mapping[str, Storage], files: Mapping[str, bytes], folder: str, name: str) -> None:
    """Make sure that each storage has its record of just the length that it says; nothing is read beyond an end.

    Args:
        storages: by key, of `run_pickle`.
        files: records by path.
        folder: of the records.
        name: for messages.

    Raises:
        Refused: naming the storage.
    """
    for storage in storages.values():
        raw = files.get(f"{folder}/{storage.key}")
        if raw is None or len(raw) != storage.count * storage.item:
            raise Refused(f"{name}: the numbers of storage {storage.key!r} are missing, or more or fewer than it says")


def _belongs_to_state_dict(path: str) -> bool:
    named = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
    return path in named or (path.startswith("data/") and path.removeprefix("data/").isdigit())


def run_pickle(content: bytes, name: str) -> tuple[Any, dict[str, Storage]]:
    """What a pickle of tensors would build, with a `Tensor` in each one's place, and the storages of its numbers.

    Args:
        content: of the pickle.
        name: for messages.

    Raises:
        Refused: if it would call anything else, is damaged, or has a tensor beyond the end of its storage.
    """
    machine = _Machine()
    built: Any = None
    for code, argument in orders(content, name):  # to its end, where it looks for what is behind that
        try:
            if not _run(machine, code, argument):
                built = machine.stack.pop()
        except Refused as error:
            raise Refused(f"{name}: {error}") from None
        except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise Refused(f"{name}: its order {code} has nothing to work on; it is damaged") from None
    return built, machine.storages


def _run(machine: _Machine, code: str, argument: Any) -> bool:
    # One order, on placeholders; False at the end.
    stack = machine.stack
    if code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code in _NUMBERS_AND_TEXTS:
        stack.append(argument)
    elif code == "GLOBAL":
        if argument not in GLOBALS:
            raise Refused(f"it would call {argument.replace(' ', '.')[:200]!r}, code that no state dict needs")
        stack.append(_Global(argument))
    elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        place = len(machine.memo) if argument is None else argument
        if place > len(machine.memo):  # a reader makes room for all the places before it
            raise Refused(f"it would remember something at place {place:,}")
        machine.memo[place] = stack[-1]
    elif code in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif code == "MARK":
        stack.append(_MARK)
    elif code in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[code]())
    elif code in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        count = len(stack) - 1 - _last_mark(stack) if code == "TUPLE" else int(code[-1])
        taken = tuple(_popped(stack, count))
        if code == "TUPLE":
            stack.pop()
        stack.append(taken)
    elif code in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
        _fill(stack, code)
    elif code == "BINPERSID":
        stack.append(_storage(machine, stack.pop()))
    elif code == "REDUCE":
        arguments = stack.pop()
        stack.append(_called(stack.pop(), arguments))
    elif code == "BUILD":
        _described(stack.pop(), stack[-1])
    elif code != "PROTO":
        return _ended(code)
    return True


def _ended(code: str) -> bool:
    if code != "STOP":
        raise Refused(f"the order {code} is none that torch writes a state dict with; it may run code")
    return False


def _last_mark(stack: list[Any]) -> int:
    for place in reversed(range(len(stack))):
        if stack[place] is _MARK:
            return place
    raise IndexError


def _popped(stack: list[Any], count: int) -> list[Any]:
    if count > len(stack):
        raise IndexError
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _fill(stack: list[Any], code: str) -> None:
    several = code.endswith("S")
    count = len(stack) - 1 - _last_mark(stack) if several else (2 if code == "SETITEM" else 1)
    taken = _popped(stack, count)
    if several:
        stack.pop()
    if code.startswith("SET"):
        for key, value in zip(taken[::2], taken[1::2], strict=True):
            # A key that is a tuple of tuples of … takes for ever to hash.
            if not isinstance(key, str) or key in stack[-1]:
                raise Refused("it sets a key twice, or one that is no text")
            stack[-1][key] = value
    else:
        stack[-1].extend(taken)


def _storage(machine: _Machine, told: Any) -> Storage:
    word, kind, key, device, count = told
    texts = isinstance(key, str) and isinstance(device, str)
    if word != "storage" or not texts or type(count) is not int or count < 0:
        raise Refused("it asks for a storage in a form that torch does not write")
    found = Storage(key, ITEM_BYTES[kind.name], count, device)
    if machine.storages.setdefault(key, found) != found:
        raise Refused(f"it describes the storage {key!r} in two ways")
    return found


def _called(function: Any, arguments: tuple) -> Any:
    if not isinstance(function, _Global):
        raise Refused("it would call something that it has built")
    if function.name == _ORDERED:
        if arguments:
            raise Refused("it would build a dictionary from what it has computed")
        return {}
    if function.name == _PARAMETER:
        return arguments[0]
    if function.name != _TENSOR:
        raise Refused(f"it would call {function.name.replace(' ', '.')!r}")
    storage, offset, shape, strides, _gradient, hooks = arguments[:6]
    counts = (offset, *shape, *strides)
    if len(arguments) != 6 or hooks or not all(type(each) is int and 0 <= each < 1 << 63 for each in counts):
        raise Refused("it would build a tensor in a form that torch does not write")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # Also one that repeats its numbers: a copy would be larger than the file, up to where the size overflows.
    numbers = math.prod(shape)
    if len(shape) > _MOST_SIDES or numbers > storage.count or (last if numbers else offset - 1) >= storage.count:
        raise Refused("it would build a tensor beyond the end of its numbers")
    return Tensor(tuple(shape), storage.item)


def _described(state: Any, target: Any) -> None:
    # torch sets `_metadata`, versions of layers, on the ordered dictionary that state_dict() gives.
    if not isinstance(target, dict) or not isinstance(state, dict) or set(state) != {"_metadata"}:
        raise Refused("it would set attributes other than _metadata of the state dict")
