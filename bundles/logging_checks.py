"""``logging.conf``, by which a bundle could run anything: `logging.config.fileConfig` evaluates what stands in it."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator

LOGGING = "configs/logging.conf"
# Of every bundle of the collection, and of one without Python to the letter: a test holds the files to it.
STANDARD = b"""[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s %(levelname)s %(name)s: %(message)s
"""

_LONGEST = 1 << 16
# MONAI's reader ends a line at a carriage return as well, where what it hides would begin a section; and what is
# logged goes to a terminal.
_OTHER_LETTER = re.compile(rb"[^\n -~]")
_LISTS = ("loggers", "handlers", "formatters")
_SECTIONS = {
    "logger": {"level", "handlers", "qualname", "propagate"},
    "handler": {"class", "level", "formatter", "args"},
    "formatter": {"format", "datefmt", "style"},
}
_VALUES = {
    "class": {"StreamHandler"},
    "args": {"(sys.stdout,)", "(sys.stderr,)", "()"},
    "level": {"NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"},
    "propagate": {"0", "1"},
    "style": {"%"},
}
# Read as they are; in every other value a % puts in what stands elsewhere.
_PLAIN = ("format", "datefmt")


def logging_faults(content: bytes, code_free: bool = False) -> Iterator[str]:
    """What of ``logging.conf`` is anything but streams of the console, each as a line.

    Args:
        content: of the file.
        code_free: whether the bundle has no Python of its own, so that the file has to be `STANDARD`.
    """
    if code_free:
        if content != STANDARD:
            yield f"{LOGGING} is not the one that all bundles without Python have"
        return
    if len(content) > _LONGEST:
        yield f"{LOGGING} has {len(content):,} bytes; at most {_LONGEST:,} are read"
        return
    if match := _OTHER_LETTER.search(content):
        line = content.count(b"\n", 0, match.start()) + 1
        yield f"{LOGGING}, line {line}: it has {match[0]!r}; printable ASCII is read, and lines that end with \\n"
        return
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(content.decode("ascii"))
    except configparser.Error as error:
        yield f"{LOGGING} can not be read: {str(error).splitlines()[0]}"
        return
    if parser.defaults():
        yield f"{LOGGING} has a section [DEFAULT], whose options would be every section's"
    for section in (*_LISTS, "logger_root"):
        if not parser.has_section(section):
            yield f"{LOGGING} has no section [{section}], without which nothing can log"
    for section in parser.sections():
        yield from _section_faults(section, parser.items(section))


def _section_faults(section: str, options: list[tuple[str, str]]) -> Iterator[str]:
    kind = section.partition("_")[0]
    if section in _LISTS:
        known = {"keys"}
    elif "_" in section and kind in _SECTIONS:
        known = _SECTIONS[kind]
    else:
        yield f"{LOGGING} has a section [{section}]"
        return
    for option, value in options:
        if option not in known:
            yield f"{LOGGING}, [{section}]: the option {option!r} is not allowed"
        elif option in _VALUES and value not in _VALUES[option]:
            allowed = ", ".join(sorted(_VALUES[option]))
            yield f"{LOGGING}, [{section}]: {option} = {value[:100]!r} could run code; allowed: {allowed}"
        elif "%" in value and option not in _PLAIN and option not in _VALUES:
            yield f"{LOGGING}, [{section}]: {option} = {value[:100]!r} would put in what stands elsewhere"
