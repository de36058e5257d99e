"""`python -m common.data prepare {polyps,brisc,kits19,pairs,phantoms} …` and `python -m common.data verify DIR`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import fire

from ..columns import align
from ..commands import command
from ..errors import InputError
from .brisc import prepare_brisc
from .folder import KEYS, Prepared
from .integrity import Report
from .integrity import verify as verify_folder
from .kits19 import LEVEL, MIN_PIXELS, WINDOW, prepare_kits19
from .pairs import prepare_pairs
from .phantoms import prepare_phantoms
from .polyps import prepare_polyps


def _table(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    # Pairs by source and list.
    sources = sorted({source for own in counts.values() for source in own})
    rows = [(source, [counts[key].get(source, 0) for key in counts]) for source in sources]
    if len(rows) > 1:
        rows.append(("all", [sum(counts[key].values()) for key in counts]))
    return align([["", *counts], *([source, *(f"{number:,}" for number in own)] for source, own in rows)])


def _tables(report: Report) -> list[str]:
    # The default protocol in full, of the others the sums.
    lines = []
    for place, (protocol, counts) in enumerate(report.counts.items()):
        if place == 0:
            lines += [f"protocol {protocol} (default)", *_table(counts)]
        else:
            numbers = ", ".join(f"{sum(counts[key].values()):,} {key}" for key in KEYS if key in counts)
            lines.append(f"protocol {protocol}: {numbers}")
    return lines


def _after_prepare(out: str, prepared: Prepared) -> None:
    report = verify_folder(out)
    report.raise_errors()
    others = tuple(f"{name}: " for name in list(prepared.lists)[1:])
    said = [line for line in report.warnings if not line.startswith(others)]
    print("\n".join([f"prepared {out}", *_tables(report), *prepared.notes, *(f"warning: {line}" for line in said)]))
    if len(said) < len(report.warnings):
        print(f"of the other protocols: python -m common.data verify {out}")


@command
def polyps(
    *folders_and_out: str,
    seed: int = 0,
    kvasir_seg: str | None = None,
    cvc_clinicdb: str | None = None,
    cvc_colondb: str | None = None,
    etis: str | None = None,
    cvc_300: str | None = None,
) -> None:
    """Prepare the polyp sets: prepare polyps FOLDER [FOLDER …] OUT [--seed N] [--kvasir_seg FOLDER …]

    FOLDER is searched for Kvasir-SEG, CVC-ClinicDB, CVC-ColonDB, ETIS and CVC-300, as released or as PraNet's
    TrainDataset and TestDataset; whichever are there are taken. Where a folder's name does not tell which set it is,
    say it with --kvasir_seg, --cvc_clinicdb, --cvc_colondb, --etis or --cvc_300. OUT is a new folder. Protocols:
    order (the default), law, pranet, grouped. --seed is that of the validation lists; test lists never move.
    """
    given = {"kvasir_seg": kvasir_seg, "cvc_clinicdb": cvc_clinicdb, "cvc_colondb": cvc_colondb, "etis": etis}
    named = {source: folder for source, folder in {**given, "cvc_300": cvc_300}.items() if folder}
    if len(folders_and_out) < (1 if named else 2):
        raise InputError("name the folders of the sets and, last, the new folder: prepare polyps FOLDER … OUT")
    *folders, out = folders_and_out
    _after_prepare(out, prepare_polyps(out, folders, named=named, seed=seed))


@command
def brisc(folder: str, out: str, *, seed: int = 0) -> None:
    """Prepare BRISC 2025: prepare brisc FOLDER OUT [--seed N]

    FOLDER is the release, or holds {train,test}/{images,masks,no_tumor}; images without a tumour get an empty mask.
    OUT is a new folder. Protocols: order (all images, the default), law (those with a tumour); training has no copy
    of a validation or test image there, and every copy in order_released and law_released. --seed is that of the
    validation lists; test lists never move.
    """
    _after_prepare(out, prepare_brisc(out, folder, seed=seed))


@command
def kits19(
    folder: str,
    out: str,
    *,
    window: float = WINDOW,
    level: float = LEVEL,
    min_pixels: int = MIN_PIXELS,
    seed: int = 0,
) -> None:
    """Prepare KiTS19: prepare kits19 FOLDER OUT [--window 500] [--level 50] [--min_pixels 50] [--seed N]

    FOLDER holds case_00000/ … with imaging.nii.gz and segmentation.nii.gz, in any orientation, or images/ and masks/
    of slices cut before (masks 0, 1, 2). Of the CT values, --window HU around --level become 0 to 255; axial slices
    with at least --min_pixels of tumour are taken. OUT is a new folder. Protocol: law, split by case; the 21 test
    cases never move, --seed is that of the validation list.
    """
    prepared = prepare_kits19(out, folder, window=window, level=level, min_pixels=min_pixels, seed=seed)
    _after_prepare(out, prepared)


@command
def pairs(
    images: str,
    masks: str,
    out: str,
    *,
    name: str | None = None,
    label: str = "lesion",
    licence: str = "not stated",
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    seed: int = 0,
    groups: str | None = None,
    label_value: int | None = None,
) -> None:
    """Prepare any images and masks: prepare pairs IMAGES MASKS OUT [--test_fraction 0.1] [--validation_fraction 0.1]
    [--seed N] [--groups CSV] [--label_value N] [--name NAME] [--label WORD] [--licence TEXT]

    Masks are matched to images by name; theirs may end in _mask, _segmentation, _seg, _label, _groundtruth or _gt.
    The lesion is what is > 127 in a mask (or > 0 where the largest value is 1), or equals --label_value. --groups is
    a CSV of stem,group: a group (patient, sequence) stays on one side, as near-identical images do in any case.
    """
    prepared = prepare_pairs(
        images, masks, out, name=name, label=label, licence=licence, test_fraction=test_fraction,
        validation_fraction=validation_fraction, seed=seed, groups=groups, label_value=label_value,
    )  # fmt: skip
    _after_prepare(out, prepared)


@command
def phantoms(
    out: str, *, count: int = 400, size: int = 256, seed: int = 0, test_count: int = 50, empty_fraction: float = 0.0
) -> None:
    """Draw a set: prepare phantoms OUT [--count 400] [--size 256] [--seed N] [--test_count 50] [--empty_fraction 0.0]

    Colonoscopy pictures with exact masks, for whoever has no real ones. --count is of training and validation
    together; --size is a side in pixels, a multiple of 32; --empty_fraction is of pictures without a polyp.
    """
    prepared = prepare_phantoms(
        out, count=count, size=size, seed=seed, test_count=test_count, empty_fraction=empty_fraction
    )  # fmt: skip
    _after_prepare(out, prepared)


@command
def verify(directory: str) -> None:
    """Check a prepared folder: verify DIR. Prints every error and warning; exit code 1 if there is an error."""
    report = verify_folder(directory)
    lines = [*(f"error: {line}" for line in report.errors), *(f"warning: {line}" for line in report.warnings)]
    print("\n".join([*_tables(report), *lines]))
    print(f"{directory}: {len(report.errors)} errors, {len(report.warnings)} warnings")
    if not report.sound:
        sys.exit(1)


def main() -> None:
    """Run the command that the arguments name."""
    sets = {"polyps": polyps, "brisc": brisc, "kits19": kits19, "pairs": pairs, "phantoms": phantoms}
    commands = {"prepare": sets, "verify": verify}
    try:
        fire.Fire(commands, name="python -m common.data")
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
