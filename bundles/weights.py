"""The files of weights in a packed bundle: that each holds numbers and loads without running anything."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from safetensors import SafetensorError, deserialize

from .archives import Refused, first_line
from .pickles import read_state_dict
from .strict_json import parse_json
from .torchscript import check_torchscript

_LONGEST_HEADER = 8 << 20
_LARGEST_ONNX = 2 << 20  # ten times ours; what it is parsed to takes two hundred times as many
_CLASSES = frozenset({"AutoencoderKL", "ControlNetModel", "DDIMScheduler", "DDPMScheduler", "UNet2DConditionModel"})
_PRIVATE_KEYS = frozenset({"_class_name", "_diffusers_version", "_name_or_path"})


def check_weights(path: str, content: bytes) -> str | None:
    """Make sure that a file below ``models/`` is what its suffix says, without loading it.

    Returns:
        What could not be looked at because a package is missing; None where all was.

    Raises:
        Refused: naming the file and the cause.
    """
    if path.endswith(".pt"):
        read_state_dict(content, path)
    elif path.endswith(".ts"):
        check_torchscript(content, path)
    elif path.endswith(".safetensors"):
        _check_safetensors(content, path)
    elif path.endswith(".onnx"):
        return _check_onnx(content, path)
    elif path.endswith(".json"):
        _check_description(parse_json(content, path), path)
    else:
        raise Refused(f"{path} is no kind of weights that is known here")
    return None


def _check_safetensors(content: bytes, name: str) -> None:
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else len(content)
    if length > min(_LONGEST_HEADER, len(content) - 8):
        raise Refused(f"{name} is no safetensors file: its header is longer than the file, or than what is read")
    header = parse_json(content[8 : 8 + length], f"{name}, its header")
    if not isinstance(header, dict):
        raise Refused(f"{name} is no safetensors file: its header is no object")
    try:
        deserialize(content)  # the format's own reader: offsets, shapes and types fit, and leave no gap
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise Refused(f"{name} is no safetensors file: {error}") from None


def _check_description(value: Any, name: str) -> None:
    # What diffusers reads beside weights names the class of a network; some keys would fetch code for it.
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("auto_map", "trust_remote_code", "custom_pipeline"):
                raise Refused(f"{name} has the key {key!r}, by which libraries load code")
            if key == "_class_name" and inner not in _CLASSES:
                raise Refused(f"{name} names the class {inner!r}; known are {', '.join(sorted(_CLASSES))}")
            if key.startswith("_") and key not in _PRIVATE_KEYS:
                raise Refused(f"{name} has the key {key!r}, which is not known here")
            _check_description(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_description(inner, name)


def _check_onnx(content: bytes, name: str) -> str | None:
    if len(content) > _LARGEST_ONNX:
        raise Refused(f"{name} has {len(content):,} bytes; at most {_LARGEST_ONNX:,} of ONNX are read")
    try:
        import onnx
    except ImportError:
        return f"{name} was not looked into: the package onnx is not installed"
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own has no common class
        raise Refused(f"{name} is no ONNX model: {first_line(error)}") from None
    domains = {each.domain for each in model.opset_import} | {each.domain for each in model.functions}
    if foreign := sorted(domains - {"", "ai.onnx"}):
        raise Refused(f"{name} has operators of {foreign[0]!r}; only ONNX's own are known")
    for message in _messages(model):
        if message.DESCRIPTOR.name == "TensorProto" and (message.external_data or message.data_location):
            raise Refused(f"{name} reads numbers from another file ({message.name or 'a tensor'})")
        if message.DESCRIPTOR.name == "NodeProto" and message.domain not in ("", "ai.onnx"):
            raise Refused(f"{name} has an operator of {message.domain!r}; only ONNX's own are known")
    try:
        onnx.checker.check_model(model)  # last: with numbers in other files it would look for these
    except Exception as error:
        raise Refused(f"{name} is no ONNX model: {first_line(error)}") from None
    return None


def _messages(message: Any) -> Iterator[Any]:
    # The message and all those in it; protobuf has limited their depth when it read them.
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)
