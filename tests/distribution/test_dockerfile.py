"""The Dockerfile passes hadolint. It is not built here: no test has a base image or a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bundles.contract import REPOSITORY

DOCKERFILE = REPOSITORY / "bundles" / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")


def _found(text: str) -> list[dict]:
    ended = subprocess.run([HADOLINT, "--format", "json", "-"], input=text, capture_output=True, text=True, check=False)
    return json.loads(ended.stdout)


def test_hadolint_finds_nothing_and_would_find_something() -> None:
    text = DOCKERFILE.read_text()
    assert _found(text) == []
    assert "hadolint ignore" not in text
    assert {each["code"] for each in _found(text.replace("WORKDIR /bundle", "WORKDIR bundle"))} == {"DL3000"}


def test_what_it_copies_is_what_the_page_has_one_prepare() -> None:
    page = (REPOSITORY / "docs" / "hospital.md").read_text()
    copied = {line.split()[-2] for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY")}
    assert copied == {"requirements.lock", "/opt/environment", "${BUNDLE}"}
    assert all(f"CONTEXT/{name}" in page for name in ("requirements.lock", "wheelhouse", "order_polyps"))
