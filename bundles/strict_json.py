"""JSON that every reader understands alike: UTF-8, no key twice, only numbers that are numbers, not too deep."""

from __future__ import annotations

import json
import math
from typing import Any

from .archives import Refused

LONGEST, DEEPEST = 8 << 20, 60  # bytes, as a record of a hundred thousand training images has; levels of nesting


def parse_json(content: bytes, name: str, most: int = LONGEST) -> Any:
    """What a JSON file says, where it has not more than `most` bytes.

    Raises:
        Refused: naming the file, if it is no JSON, or not to be read in one way only.
    """
    if len(content) > most:
        raise Refused(f"{name} has {len(content):,} bytes; at most {most:,} of JSON are read there")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not UTF-8 (byte {error.start})") from None
    try:
        parsed = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except Refused as error:
        raise Refused(f"{name} has {error}") from None
    except RecursionError:
        raise Refused(f"{name} is nested too deeply to be read") from None
    except ValueError as error:  # also a whole number of thousands of digits
        raise Refused(f"{name} is no JSON: {error}") from None
    _check_values(parsed, name)
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refused(f"the key {key!r} twice in one object")
        found[key] = value
    return found


def _no_constant(text: str) -> float:
    raise Refused(f"{text}, which is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise Refused(f"the number {text[:30]}, which is too large")
    return value


def _check_values(parsed: Any, name: str) -> None:
    level = [parsed]
    for _ in range(DEEPEST):
        texts = [each for each in level if isinstance(each, str)]
        texts += [key for each in level if isinstance(each, dict) for key in each]
        if any(not _is_text(text) for text in texts):
            raise Refused(f"{name} has half a character (a lone surrogate) or a control character in a text")
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise Refused(f"{name} is nested deeper than {DEEPEST} levels")


def _is_text(text: str) -> bool:
    return text.isprintable() or not any(
        "\ud800" <= each <= "\udfff" or (each < " " and each not in "\n\t") or each == "\x7f" for each in text
    )
