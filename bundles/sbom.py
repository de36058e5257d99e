"""A bill of materials (CycloneDX 1.6, JSON) of a packed bundle: its weights, and every Python package that it needs."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from common.errors import InputError

from .manifest import json_bytes
from .pins import CONSTRAINTS, closure, installed_version, licence_of, read_pins
from .sources import collection

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SUFFIX = ".cdx.json"  # beside a zip: <name>_v<version>.cdx.json
_WEIGHTS = (".pt", ".ts", ".onnx", ".pt2", ".safetensors")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "law-order-bundle/1")


def sbom(manifest: Mapping[str, Any], zip_sha256: str, pins: Mapping[str, str] | None = None) -> bytes:
    """The bill of materials of a packed bundle.

    The bundle itself, with the hash of its zip and the licences of code and weights; each file of weights with its
    hash; each package that the manifest requires, exactly, and what these bring, as `pins` pins it and as far as the
    packages installed here tell (`closure`); who needs whom. Serial number and content come from the arguments and the
    environment alone: no time and nothing random is in it.

    Args:
        manifest: the content of the bundle's ``MANIFEST.json``.
        zip_sha256: of the zip, hexadecimal.
        pins: exact versions by canonical name; by default the collection's ``constraints.txt``.

    Raises:
        InputError: if the library is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.license import DisjunctiveLicense
        from packageurl import PackageURL
    except ImportError as error:
        raise InputError(
            f"a bill of materials needs {error.name}; pip install -c constraints.txt -e '.[packages]'"
        ) from None
    pins = read_pins(collection() / CONSTRAINTS) if pins is None else pins
    name, version = manifest["name"], manifest["version"]
    purl = PackageURL("generic", None, name, version, {"checksum": f"sha256:{zip_sha256}"})
    bundle = Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=f"bundle:{name}@{version}",
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=zip_sha256)],
        licenses=[DisjunctiveLicense(id=manifest["licence"]["code"]), _terms(manifest)],
        properties=[
            Property(name="law-order:kind", value=manifest["kind"]),
            Property(name="law-order:python", value=manifest["requires"]["python"]),
            Property(name="law-order:source", value=manifest["source"]["commit"] or "unknown"),
        ],
    )
    versions, needs = closure(manifest["requires"]["packages"], pins)
    packages = {each: _package(each, versions[each], known=needs[each] is not None) for each in versions}
    weights = [_weights(path, told, manifest) for path, told in sorted(manifest["files"].items()) if _weighs(path)]
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, zip_sha256), components=[*weights, *packages.values()])
    bom.metadata.component = bundle
    bom.metadata.timestamp = datetime(1980, 1, 1, tzinfo=UTC)  # the library wants one; it is taken out below
    bom.metadata.properties = [Property(name="law-order:resolved-for", value=_machine())]
    direct = {each for each in versions if each in _canonical(manifest["requires"]["packages"])}
    bom.register_dependency(bundle, [*weights, *(packages[each] for each in sorted(direct))])
    for each, below in needs.items():
        bom.register_dependency(packages[each], [packages[other] for other in below or []])
    return _plain(bom)


def _plain(bom: Any) -> bytes:
    # Sorted keys and no time: the same bytes for the same bill.
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    content = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    del content["metadata"]["timestamp"]
    return json_bytes(content)


def _weighs(path: str) -> bool:
    return path.startswith("models/") and path.endswith(_WEIGHTS)


def _weights(path: str, told: Mapping[str, Any], manifest: Mapping[str, Any]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=f"{manifest['name']}/{path}",
        version=manifest["version"],
        bom_ref=f"file:{path}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=told["sha256"])],
        licenses=[_terms(manifest)],
    )


def _terms(manifest: Mapping[str, Any]) -> Any:
    from cyclonedx.model import AttachedText
    from cyclonedx.model.license import DisjunctiveLicense

    return DisjunctiveLicense(
        name="terms of the weights (docs/data_license.txt)", text=AttachedText(content=manifest["licence"]["data"])
    )


def _package(name: str, version: str, known: bool) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    licence = licence_of(name) if known and installed_version(name) == version else None
    purl = PackageURL("pypi", None, name, version)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LicenseExpression(licence)] if licence else [],
        properties=[] if known else [Property(name="law-order:dependencies", value="unknown: not installed here")],
    )


def _canonical(names: Mapping[str, str]) -> set[str]:
    from packaging.utils import canonicalize_name

    return {canonicalize_name(name) for name in names}


def _machine() -> str:
    return f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}, {platform.system()}"
