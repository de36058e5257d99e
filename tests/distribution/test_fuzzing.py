"""No mutation of a zip passes for the original, none makes `verify` fall over, and nothing of any is run."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundles import fuzzing, verifying
from bundles.code_free_config import inference_config
from bundles.fuzzing import fuzz
from bundles.fuzzing_weights import run_each
from bundles.manifest import CODE_FREE
from bundles.sources import collection
from common.errors import InputError
from tests.distribution.built import (
    ZIP,
    Small,
    code_free,
    frozen,
    manifested,
    network,
    rewritten,
    saved,
    write_mini,
    write_zip,
)

MUTATIONS = 5000


@pytest.mark.slow
def test_thousands_of_mutations(tmp_path):
    """Of a small bundle; ``python -m bundles.fuzzing ZIP`` does the same to any."""
    outcome = fuzz(write_mini(tmp_path).read_bytes(), ZIP, MUTATIONS)
    assert outcome.ok, "\n".join(outcome.lines())
    assert outcome.mutations.total() == MUTATIONS and min(outcome.mutations.values()) > MUTATIONS / 10
    # Mutations that reach no check would prove nothing: forged ones pass the archive and the manifest.
    assert 0 < outcome.run < outcome.forged < outcome.mutations["forged"] + outcome.mutations["networks"]


@pytest.mark.slow
def test_thousands_of_mutations_without_code(tmp_path):
    """Of the program, the pickles and the numbers among others; those that are accepted are run."""
    outcome = fuzz(without_code(tmp_path).read_bytes(), ZIP, MUTATIONS)
    assert outcome.ok, "\n".join(outcome.lines())
    assert outcome.mutations.total() == MUTATIONS and min(outcome.mutations.values()) > MUTATIONS / 10
    assert 10 < outcome.run < outcome.mutations["networks"]


def without_code(folder: Path) -> Path:
    """The mini bundle without code."""
    config = inference_config("mini", image_size=64, threshold=0.5, batch_size=1, num_workers=0)
    return write_zip(folder, manifested(code_free(config), CODE_FREE))


def test_networks_that_do_more_are_heard_and_others_are_not(tmp_path):
    """Run without the check, one that writes is found by what it left, one that crashes by its end."""
    writes = rewritten(frozen(Small()), lambda records: _put(records, 'torch.save(image, "written")'))
    found = run_each({"a.ts": frozen(Small()), "b.ts": writes, "c.pt": saved(network().state_dict())})
    assert len(found) == 1 and found[0].startswith("b.ts: ") and "written" in found[0]


def _put(records: dict[str, bytes], line: str) -> None:
    path = next(name for name in records if name.endswith(".py"))
    records[path] = records[path].replace(b" -> Tensor:\n", b" -> Tensor:\n    " + line.encode() + b"\n")


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
