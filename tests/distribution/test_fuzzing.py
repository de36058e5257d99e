"""No mutation of a zip passes for the original, none makes `verify` fall over, and nothing of any is run."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import pytest

from bundles import fuzzing, verifying
from bundles.fuzzing import fuzz
from bundles.sources import collection
from common.errors import InputError
from tests.distribution.built import ZIP, write_mini

MUTATIONS = 5000


@pytest.mark.slow
def test_thousands_of_mutations(tmp_path):
    """Of a small bundle; ``python -m bundles.fuzzing ZIP`` does the same to any."""
    outcome = fuzz(write_mini(tmp_path).read_bytes(), ZIP, MUTATIONS)
    assert outcome.ok, "\n".join(outcome.lines())
    assert outcome.mutations.total() == MUTATIONS and min(outcome.mutations.values()) > MUTATIONS / 10
    # Mutations that reach no check would prove nothing: forged ones pass the archive and the manifest.
    assert 0 < outcome.forged < outcome.mutations["forged"]


def test_what_should_not_be_is_counted(tmp_path, monkeypatch):
    """With the checks taken out one by one, the fuzzer says what got through."""
    data = write_mini(tmp_path).read_bytes()

    def read_loosely(given, *_):
        with zipfile.ZipFile(io.BytesIO(given)) as archive:
            files = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        return verifying.Contents("mini", files)

    with monkeypatch.context() as patched:
        patched.setattr(verifying, "open_zip", read_loosely)
        assert fuzz(data, ZIP, 300).failed  # zipfile raises errors of many kinds
    with monkeypatch.context() as patched:
        patched.setattr(verifying, "_CHECKS", ())
        assert fuzz(data, ZIP, 300).differing
    with monkeypatch.context() as patched:
        patched.setattr(verifying.hmac, "compare_digest", lambda *_: True)
        assert fuzz(data, ZIP, 300).accepted
    with monkeypatch.context() as patched:
        patched.setattr(
            fuzzing, "examine_bytes", lambda *given, **options: _popens(verifying.examine_bytes, given, options)
        )
        assert fuzz(data, ZIP, 3).executed
    assert fuzz(data, ZIP, 300).ok


def _popens(examine, given, options):
    subprocess.run([sys.executable, "-c", ""], check=True)
    return examine(*given, **options)


def test_what_does_not_verify_is_not_mutated(tmp_path):
    with pytest.raises(InputError, match="before it is changed"):
        fuzz(write_mini(tmp_path, {"x.py": b""}).read_bytes(), ZIP, 10)


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "bundles.fuzzing", str(write_mini(tmp_path)), "--mutations", "60", "--seed", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=collection(), check=True)
    assert "against the hash of the original: 0 accepted" in ended.stdout
