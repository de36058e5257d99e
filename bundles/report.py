"""What `verify` found: something to read, and something to act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"
CATALOGUE, SIGNATURE = "catalogue", "signature"
_UNPROVEN = "consistent, origin unproven: whoever packed it may have written the manifest to fit"


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: `ERROR` (the bundle is refused), `WARNING` (look at it) or `NOTE` (know it).
        text: one line that names the file and the cause.
    """

    level: str
    text: str


@dataclass(frozen=True)
class Report:
    """All that was found of one bundle.

    Attributes:
        subject: the zip or folder, as it was given.
        sha256: of the zip; None of a folder.
        name, version, kind: as its manifest says; None where that could not be read.
        origin: what proves where it comes from: `CATALOGUE`, `SIGNATURE` or None.
        findings: in the order of the checks.
        python: the Python files that it brings and would run, below its folder.
        targets, expressions: all that its configs name and evaluate, sorted.
    """

    subject: str
    sha256: str | None = None
    name: str | None = None
    version: str | None = None
    kind: str | None = None
    origin: str | None = None
    findings: tuple[Finding, ...] = ()
    python: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found that speaks against it; where it comes from is another question (`origin`)."""
        return not self.errors

    @property
    def errors(self) -> tuple[str, ...]:
        """The lines of the errors."""
        return tuple(each.text for each in self.findings if each.level == ERROR)

    @property
    def verdict(self) -> str:
        """In one line."""
        if not self.ok:
            count = len(self.errors)
            return f"REFUSED: {count} error{'s' * (count > 1)}"
        if self.origin == CATALOGUE:
            return "accepted: its hash is the one given, or the catalogue's"
        return "accepted: its signature is by the given key" if self.origin == SIGNATURE else _UNPROVEN

    def as_json(self) -> dict[str, Any]:
        """All of it, for `json.dump`."""
        return {
            "subject": self.subject,
            "sha256": self.sha256,
            "name": self.name,
            "version": self.version,
            "kind": self.kind,
            "ok": self.ok,
            "origin": self.origin,
            "verdict": self.verdict,
            "findings": [{"level": each.level, "text": _shown(each.text)} for each in self.findings],
            "python": list(self.python),
            "targets": list(self.targets),
            "expressions": list(self.expressions),
        }

    def lines(self) -> list[str]:
        """All of it, to be read: verdict, findings, and what it would run, where the hash of a catalogue or a signature
        does not vouch for that.
        """
        known = _shown(f"{self.name} {self.version} ({self.kind})") if self.name else "no bundle"
        lines = [f"{self.subject}: {known}", f"sha256 {self.sha256}"] if self.sha256 else [f"{self.subject}: {known}"]
        ranked = sorted(self.findings, key=lambda each: (ERROR, WARNING, NOTE).index(each.level))
        lines += [f"{each.level}: {_shown(each.text)}" for each in ranked]
        if self.python and self.origin is None:
            lines += [f"It would run its own Python, {len(self.python)} files:", *(f"  {path}" for path in self.python)]
        if self.targets or self.expressions:
            count = f"{len(self.targets)} names and {len(self.expressions)} expressions"
            lines.append(f"Its configs execute {count}; --json lists them, and so does its MANIFEST.json.")
        elif self.ok:
            lines.append("Its configs execute nothing.")
        return [*lines, self.verdict]


def _shown(text: str) -> str:
    # What a bundle says of itself is shown on a terminal: no control sequences.
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
