"""The name of a bundle's Python is that of its name and its content, or the bundle is refused."""

from __future__ import annotations

import re

import pytest

from bundles.manifest import NAME
from bundles.naming import named_anew, package_fault, package_name, placeholder
from bundles.verifying import verify
from tests.distribution.built import PACKAGE, manifested, mini, write_zip


def test_every_packed_bundle_is_named_after_its_content(packages):
    for name, packed in packages.packed.items():
        files = {path: content for path, content in packed.files.items() if path != NAME}
        assert package_fault(name, packed.package, files) is None
        assert named_anew(name, packed.package, files) == (packed.package, files)
        for path in (sorted(files)[0], "models/model.pt", f"{packed.package}/__init__.py"):
            assert package_fault(name, packed.package, {**files, path: files[path] + b"x"}), path


def test_the_name_tells_names_contents_and_borders_of_files_apart():
    found = {
        package_name(name, files)
        for name in ("a", "b")
        for files in ({"x": b"yz"}, {"xy": b"z"}, {"x": b"y", "z": b""}, {"x": b"y"}, {})
    }
    assert len(found) == 10
    assert all(re.fullmatch(r"law_order_[ab]_[0-9a-f]{12}", name) for name in found)


OTHERS = {
    "another bundle's": "law_order_other_" + PACKAGE[-12:],
    "another build's": "law_order_mini_0123456789ab",
    "a longer bundle's": "law_order_mini_mini_" + PACKAGE[-12:],
    "none yet": placeholder("mini"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_code_under_another_name_is_refused(kind, tmp_path):
    """All else fits it: paths, contents, manifest."""
    other = OTHERS[kind]

    assert verify(write_zip(tmp_path, manifested(mini(), package=PACKAGE))).errors == ()
    content = {
        path.replace(PACKAGE, other): each.replace(PACKAGE.encode(), other.encode()) for path, each in mini().items()
    }
    errors = verify(write_zip(tmp_path, manifested(content, package=other))).errors
    assert len(errors) == 1 and errors[0].startswith(f"{NAME}: "), errors


def test_a_name_that_is_computed_as_if_it_stood_elsewhere_is_refused(tmp_path):
    """The placeholder in a file would count as the name: two contents would have one name."""
    files = {**mini(), "docs/README.md": f"# {placeholder('mini')}\n".encode()}
    assert any(
        "stands in it" in error for error in verify(write_zip(tmp_path, manifested(files, package=PACKAGE))).errors
    )
