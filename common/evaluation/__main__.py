"""`python -m common.evaluation compare A/per_image.csv B/per_image.csv …` and `… summarise per_image.csv`."""

from __future__ import annotations

import fire

from ..commands import command
from ..errors import InputError
from ..files import write_json
from .comparison import compare_models
from .intervals import Bootstrap
from .records import read_records
from .summary import summarise as summary_of
from .tables import comparison_table, summary_table


def _settings(bootstrap: int, seed: int) -> Bootstrap:
    for name, value, least in (("--bootstrap", bootstrap, 1), ("--seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be a whole number of at least {least}; it is {value!r}")
    return Bootstrap(bootstrap, seed)


@command
def compare(*files: str, out: str | None = None, bootstrap: int = 2000, seed: int = 0) -> None:
    """Compare models on the same images: the first file is A, every other one is a B.

    Args:
        files: two or more `per_image.csv`, each written by an evaluation.
        out: also write the figures to this JSON file.
        bootstrap: number of resamples of the intervals.
        seed: seed of the resampling.
    """
    if len(files) < 2:
        raise InputError("compare needs two or more files: compare A/per_image.csv B/per_image.csv")
    settings = _settings(bootstrap, seed)
    first, *others = [(str(file), read_records(str(file))) for file in files]
    results = [compare_models(first[1], b, names=(first[0], name), bootstrap=settings) for name, b in others]
    if out is not None:
        write_json(str(out), {"comparisons": results})
    print("\n\n".join(comparison_table(result) for result in results))


@command
def summarise(file: str, *, bootstrap: int = 2000, seed: int = 0) -> None:
    """Print the table of an evaluation again.

    Args:
        file: a `per_image.csv`.
        bootstrap: number of resamples of the intervals.
        seed: seed of the resampling.
    """
    settings = _settings(bootstrap, seed)
    print(summary_table(summary_of(read_records(str(file)), bootstrap=settings)))


if __name__ == "__main__":
    fire.Fire({"compare": compare, "summarise": summarise}, name="python -m common.evaluation")
