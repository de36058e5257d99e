"""Code that the bundles share. It imports itself only relatively, so that a packed bundle can carry it renamed."""

from pathlib import Path


def bundle_folder(name: str) -> str:
    """The absolute path of a bundle: the folder `name` beside this package, or, packed, the folder around it."""
    around = Path(__file__).resolve().parent.parent
    return str(around / name if (around / name / "configs").is_dir() else around)
