"""From raw downloads to one prepared folder, and what reads, splits and checks it."""

from .folder import Pair, Split, fingerprint, read_datalist, split_validation, write_prepared_folder
from .synthetic import synthetic_digest, with_synthetic

__all__ = [
    "Pair",
    "Split",
    "fingerprint",
    "read_datalist",
    "split_validation",
    "synthetic_digest",
    "with_synthetic",
    "write_prepared_folder",
]
