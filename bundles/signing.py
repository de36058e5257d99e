"""Signatures of zips by a key: sigstore's package model-signing, without its network services.

A signature says that who has the private key has signed these bytes. Keys are on the elliptic curves P-256, P-384 or
P-521, as ``openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`` makes them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import write_atomically

from .archives import Refused, first_line
from .opening import read_limited

_LONGEST = 1 << 20  # of a key or a signature
# What is signed is always called so: a zip may be renamed, and the name within it is verified.
_SIGNED_AS = "bundle.zip"


def sign(path: str | Path, private_key: str | Path, *, password: str | None = None) -> Path:
    """Sign a zip; the signature is written beside it.

    Args:
        path: of the zip.
        private_key: PEM file.
        password: of the key, where it has one.

    Returns:
        The signature, ``<zip>.sig``: a sigstore bundle, JSON.

    Raises:
        InputError: if model-signing is not installed, or a file can not be read or is no such key.
    """
    library = _library()
    path = Path(path)
    data, key = read_limited(path), read_limited(private_key, _LONGEST)
    with tempfile.TemporaryDirectory() as folder:
        copies = _copies(Path(folder), zip=data, key=key)
        try:
            signer = library.signing.Config().use_elliptic_key_signer(
                private_key=copies["key"], password=None if password is None else password.encode()
            )
            signer.sign(copies["zip"], copies["zip"].with_name("signature"))
        except AttributeError:  # of a key on no curve
            raise InputError(f"{private_key} is a key of another kind; it has to be a private EC key, PEM") from None
        except Exception as error:  # cryptography's and protobuf's own have no common class
            raise InputError(
                f"{private_key} can not sign: {first_line(error)}; it has to be a private EC key, PEM"
            ) from None
        signature = copies["zip"].with_name("signature").read_bytes()
    written = path.with_name(f"{path.name}.sig")
    write_atomically(written, signature)
    return written


def check_signature(data: bytes, name: str, signature: str | Path, public_key: str | Path) -> None:
    """Make sure that a zip was signed by a key.

    Args:
        data: the zip, as it was read; it is not read again.
        name: of the zip, for messages.
        signature: file by `sign`.
        public_key: PEM file.

    Raises:
        Refused: if it was not; if a file is none that is needed, or model-signing is not installed.
    """
    try:
        library = _library()
    except InputError as error:
        raise Refused(str(error)) from None
    proof, key = read_limited(signature, _LONGEST), read_limited(public_key, _LONGEST)
    with tempfile.TemporaryDirectory() as folder:
        copies = _copies(Path(folder), zip=data, key=key, signature=proof)
        verifier = _verifier(library, public_key, copies["key"])
        try:
            verifier.verify(copies["zip"], copies["signature"])
        except Exception as error:
            # Its own line of a hash that differs is a list of bytes.
            why = "another content was signed" if "mismatch: [" in str(error) else first_line(error)
            raise Refused(f"{signature} is no signature of {name} by {public_key}: {why}") from None


def check_public_key(path: str | Path) -> None:
    """Make sure that a file is a public key that signatures can be checked by.

    Raises:
        InputError: if it is none, or model-signing is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        _verifier(_library(), path, _copies(Path(folder), key=read_limited(path, _LONGEST))["key"])


def _verifier(library: Any, public_key: str | Path, copy: Path) -> Any:
    try:
        return library.verifying.Config().use_elliptic_key_verifier(public_key=copy)
    except Exception as error:  # cryptography's own have no common class
        raise Refused(f"{public_key} is no public EC key in PEM: {first_line(error)}") from None


def _library() -> Any:
    try:
        import model_signing
    except ImportError:
        raise InputError(
            "signatures need the package model-signing; pip install -c constraints.txt -e '.[signing]'"
        ) from None
    return model_signing


def _copies(folder: Path, **contents: bytes) -> dict[str, Path]:
    # The library reads files: it gets copies of what was read, which nobody else can change.
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / (_SIGNED_AS if name == "zip" else name)
        paths[name].write_bytes(content)
    return paths
