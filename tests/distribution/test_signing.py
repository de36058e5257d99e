"""Signatures by a key prove who signed, of these bytes and no others; no network is asked."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bundles import signing
from bundles.installing import install
from bundles.report import CATALOGUE, SIGNATURE
from bundles.signing import sign
from bundles.verifying import verify
from common.errors import InputError
from tests.distribution.built import ZIP, write_mini

pytest.importorskip("model_signing")


def write_keys(folder, name: str, key=None, password: bytes | None = None):
    """A pair of keys in PEM; paths of the private and the public one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(pem, form, lock))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signed_zip_has_its_origin(tmp_path, curve):
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a", ec.generate_private_key(curve))
    written = sign(path, private)
    assert written == tmp_path / f"{ZIP}.sig"
    for proof in ({"public_key": public}, {"public_key": public, "signature": written}):
        report = verify(path, **proof)
        assert report.ok and report.origin == SIGNATURE and "signature" in report.verdict
    assert verify(path, public_key=public, sha256=report.sha256).origin == CATALOGUE
    assert install(path, tmp_path / "dest", public_key=public)[0] is not None


def test_a_key_with_a_password(tmp_path):
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a", password=b"secret")
    sign(path, private, password="secret")
    assert verify(path, public_key=public).ok
    for wrong in (None, "other"):
        with pytest.raises(InputError, match="can not sign"):
            sign(path, private, password=wrong)


def test_it_stays_with_the_bytes_not_with_the_name(tmp_path):
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a")
    proof = sign(path, private)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(path, moved / ZIP)
    assert verify(moved / ZIP, signature=proof, public_key=public).origin == SIGNATURE


def test_other_bytes_another_key_or_another_signature_are_refused(tmp_path):
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a")
    _, other = write_keys(tmp_path, "b")
    proof = sign(path, private)
    told = json.loads(proof.read_text())

    def refusal(**options) -> str:
        report = verify(path, **options)
        assert not report.ok and report.origin is None and len(report.errors) == 1
        return report.errors[0]

    assert "no signature of mini" in refusal(public_key=other)
    assert "no public EC key" in refusal(public_key=private)
    assert "no public EC key" in refusal(public_key=write_keys(tmp_path, "c", rsa.generate_private_key(65537, 2048))[1])
    assert "--public_key" in refusal(signature=proof)
    assert "cannot read" in refusal(public_key=tmp_path / "nothing.pub")
    assert "cannot read" in refusal(public_key=public, signature=tmp_path / "nothing.sig")
    for bad in (b"", b"{}", b"[]", b"\xff", b"[" * 100_000, json.dumps({**told, "dsseEnvelope": {}}).encode()):
        proof.write_bytes(bad)
        assert "no signature of mini" in refusal(public_key=public)
    for place in range(0, len(raw := base64.b64decode(told["dsseEnvelope"]["signatures"][0]["sig"])), 7):
        changed = base64.b64encode(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]).decode()
        envelope = {**told["dsseEnvelope"], "signatures": [{"sig": changed, "keyid": ""}]}
        proof.write_text(json.dumps({**told, "dsseEnvelope": envelope}))
        assert "no signature of mini" in refusal(public_key=public)
    proof.write_text(json.dumps(told))
    assert verify(path, public_key=public).ok
    write_mini(tmp_path, {"docs/README.md": b"another"})
    assert "another content was signed" in refusal(public_key=public)


def test_a_payload_that_was_changed_is_refused(tmp_path):
    """The digest within it made to fit another zip: what was signed is the payload."""
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a")
    told = json.loads(sign(path, private).read_text())
    before = verify(path).sha256
    write_mini(tmp_path, {"docs/README.md": b"another"})
    payload = base64.b64decode(told["dsseEnvelope"]["payload"]).decode()
    assert before in payload or base64.b64encode(bytes.fromhex(before)).decode() in payload or "digest" in payload
    told["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(before, verify(path).sha256).encode()).decode()
    (tmp_path / f"{ZIP}.sig").write_text(json.dumps(told))
    assert not verify(path, public_key=public).ok


def test_what_can_not_sign_is_one_line_and_writes_nothing(tmp_path):
    path = write_mini(tmp_path)
    _, public = write_keys(tmp_path, "a")
    (tmp_path / "text.pem").write_text("no key")
    for key in (public, tmp_path / "text.pem", write_keys(tmp_path, "c", rsa.generate_private_key(65537, 2048))[0]):
        with pytest.raises(InputError, match="has to be a private EC key"):
            sign(path, key)
    with pytest.raises(InputError, match="cannot read"):
        sign(path, tmp_path / "nothing.pem")
    assert not (tmp_path / f"{ZIP}.sig").exists()


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    path = write_mini(tmp_path)
    private, public = write_keys(tmp_path, "a")
    sign(path, private)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(InputError, match=r"\[signing\]"):
        signing.sign(path, private)
    report = verify(path, public_key=public)
    assert not report.ok and "[signing]" in report.errors[0]
