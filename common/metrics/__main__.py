"""`python -m common.metrics {quality,recovery,audit,report} …`: are painted images any good, and are they anybody's?"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire

from .. import bundle_folder
from ..columns import align
from ..commands import command
from ..devices import usable_device
from ..errors import InputError
from ..files import check_writable, write_json
from ..provenance import GENERATION, read_record, seen_before
from ..settings import setting_faults
from ..weights import weights_digest
from . import audit as auditing
from . import audit_report, quality, recovery, report
from .clip import ClipFeatures, check_clip_folder
from .features import FeatureExtractor, SegmenterFeatures
from .image_sets import ImageSet, digest_of, read_set, sizes_of
from .inception import InceptionFeatures, find_inception_weights

DEVICE = "cpu"
COPIES_FOUND = 3  # the audit's exit code; 1 is Python's own for what went wrong, 2 for a wrong input
SEEN = {"training": "trained on", "validation": "chosen by"}
NETWORKS = Path(__file__).parents[1] / "baselines" / "configs"


def _segmenter_weights(given: str | None) -> Path:
    path = Path(given or Path(bundle_folder("order_polyps")) / "models" / "model.pt")
    if not path.is_file():
        raise InputError(f"--segmenter: there is no file {path}; give the weights of an ORDER")
    return path


def _check_numbers(**numbers: int | None) -> None:
    # Those of an option that was given; by the least that each may be.
    least = {"resamples": 0, "seed": 0, "size": 1, "images": 2}
    if wrong := [name for name, value in numbers.items() if value is not None and value < least[name]]:
        raise InputError(f"--{wrong[0]} has to be {least[wrong[0]]} or more; it is {numbers[wrong[0]]}")


def _print(rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(align([list(row) for row in rows])))


def _inception(given: str | None, device: str, dimensions: int) -> FeatureExtractor | None:
    # A file that was named has to be there; of one that was not, a line is told, and the rest is measured.
    try:
        return InceptionFeatures(find_inception_weights(given), device, dimensions=dimensions)
    except InputError as error:
        if given is not None:
            raise
        print(f"not measured: {error}", file=sys.stderr)
        return None


@command
def quality_command(
    painted: str,
    real: str,
    *,
    out: str | None = None,
    inception: str | None = None,
    clip: str | None = None,
    segmenter: str | None = None,
    protocol: str | None = None,
    split: str = "training",
    size: int | None = None,
    images: int | None = None,
    dimensions: int = 2048,
    resamples: int = 100,
    seed: int = 0,
    device: str = DEVICE,
) -> None:
    """How like the real images the painted ones are: quality PAINTED REAL [--inception FILE] [--clip FOLDER]

    FID by pytorch-fid, CLIP-I, and a Fréchet distance on the features of ORDER, which needs no weights from elsewhere
    and is no FID. The paper's two protocols: images painted from training masks against the training images, and
    images painted from test masks against the test images (--split test).

    Args:
        painted: a prepared folder of painted images, all its lists; or any folder of images.
        real: a prepared folder, or any folder of images.
        out: a folder for quality.json.
        inception: pytorch-fid's weights; where torch keeps them if not given.
        clip: the folder of a CLIP; CLIP-I is left out if not given.
        segmenter: weights of an ORDER; those of order_polyps if not given.
        protocol: of the real folder; its default if not given.
        split: list of the real folder.
        size: squash both sets to so many pixels first; as they are if not given.
        images: draw so many of each set by chance, for matched counts; all if not given.
        dimensions: of Inception's features: 2048 for FID; 64, 192 or 768.
        resamples: of the bootstrap.
        seed: of draws.
        device: cpu or cuda.
    """
    _check_numbers(resamples=resamples, seed=seed, size=size, images=images)
    usable_device(device)
    prepared = (Path(real) / "dataset.json").is_file()
    sets = read_set(painted).drawn(images, seed), read_set(real, protocol, split if prepared else None)
    own, reference = sets[0], sets[1].drawn(images, seed)
    if clip is not None:
        check_clip_folder(clip)
    extractors: list[FeatureExtractor] = [SegmenterFeatures(_segmenter_weights(segmenter), device=device)]
    if (found := _inception(inception, device, dimensions)) is not None:
        extractors.insert(0, found)
    if out is not None:
        check_writable(out)
    measured: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        for extractor in extractors:
            measured[extractor.name] = quality.frechet(
                own, reference, extractor, size=size, resamples=resamples, seed=seed
            )
    if clip is not None:
        measured["CLIP-I"] = quality.clip_similarity(own, reference, ClipFeatures(clip, device), size=size)
    else:
        print("not measured: CLIP-I needs the folder of a CLIP model; name it with --clip FOLDER", file=sys.stderr)
    print(f"painted {sizes_of(own.paths)}, real {sizes_of(reference.paths)}", end="; ")
    print("as they are" if size is None else f"both squashed to {size} × {size}", end="\n\n")
    _print(quality.table(measured))
    warned = [str(each.message) for each in told]
    for each in warned:
        print(f"warning: {each}")
    if out is not None:
        settings = {"real": real, "protocol": protocol, "split": split, "size": size, "images": images, "seed": seed}
        settings |= {"resamples": resamples, "sizes": [sizes_of(own.paths), sizes_of(reference.paths)]}
        settings |= {"weights": {"segmenter": weights_digest(_segmenter_weights(segmenter))}}
        settings["weights"] |= {} if found is None else {"inception": found.digest}
        settings["weights"] |= {} if clip is None else {"clip": weights_digest(clip)}
        content = {"painted": digest_of(read_set(painted)), "settings": settings, "measured": quality.plain(measured)}
        write_json(Path(out) / "quality.json", {**content, "rows": quality.table(measured), "warnings": warned})


@command
def recovery_command(
    painted: str,
    real: str,
    *,
    out: str,
    bundle: str = "order_polyps",
    network: str | None = None,
    segmenter: str | None = None,
    protocol: str | None = None,
    split: str = "training",
    image_size: int | None = None,
    device: str = DEVICE,
) -> None:
    """Does the lesion lie where the mask says: recovery PAINTED REAL --out OUT [--network unet --segmenter MODEL]

    A frozen segmenter looks for the lesions in the painted images, and in the real images of the same masks, as they
    are and as small as the painted ones: the ceiling. Dice, IoU, and how far the layout drifts.

    Args:
        painted: a prepared folder of painted images.
        real: the prepared folder whose masks they were painted from.
        out: a folder for a report of each.
        bundle: whose evaluate.yaml looks: order_polyps or order_brisc.
        network: an overlay of common/baselines/configs, such as unet; ORDER if not given.
        segmenter: its weights; those that the bundle ships if not given.
        protocol: of the real folder; its default if not given.
        split: its list that was painted from.
        image_size: that the segmenter sees, pixels; the bundle's own if not given.
        device: cpu or cuda.
    """
    usable_device(device)
    if faults := setting_faults({} if image_size is None else {"image_size": image_size}):
        raise InputError(faults[0])
    files = [Path(bundle_folder(bundle)) / "configs" / "evaluate.yaml"]
    files += [] if network is None else [NETWORKS / f"{network}.yaml"]
    if network is not None and segmenter is None:
        raise InputError(f"--network {network} needs weights of its own: give --segmenter MODEL")
    recovery.check_segmenter(files, segmenter)
    own = recovery.items_of(painted)
    reference = recovery.of_the_same_masks(own, recovery.items_of(real, protocol, split))
    check_writable(out)
    seen = seen_before(recovery.shipped_checkpoint(files, segmenter), reference)
    more = {} if image_size is None else {"image_size": image_size}
    size = recovery.size_of(own)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:  # patients' images, which nobody asked to have copied
        data = Path(temporary) / "data"
        small = recovery.write_at_size(data, reference, size)
        for name, items, root in (("painted", own, painted), ("real_at_size", small, data), ("real", reference, real)):
            print(f"\n{name}")
            found[name] = recovery.look_for_lesions(
                files, segmenter, items, Path(out) / name, root=root, device=device, **more
            )
    shown = {"painted": "painted", "real_at_size": f"real, at {size} × {size}", "real": "real, as they are"}
    print()
    rows = recovery.table({shown[name]: each for name, each in found.items()})
    _print(rows)
    if told := [f"was {word} {seen[key]}" for key, word in SEEN.items() if seen.get(key)]:
        print(
            f"warning: the segmenter {' and '.join(told)} of these {len(reference)} real images, which flatters them; "
            "paint from the test list to compare fairly"
        )
    print(f"{out}/real and {out}/real_at_size hold pictures of real images: keep them as you keep those")
    settings = {
        "real": real,
        "protocol": protocol,
        "split": split,
        "configs": list(map(str, files)),
        "segmenter": segmenter,
        "segmenter_sha256": weights_digest(recovery.shipped_checkpoint(files, segmenter)),
        "seen_by_segmenter": seen,
        "image_size": image_size,
    }
    content = {"painted": digest_of(read_set(painted)), "settings": settings, "rows": rows}
    write_json(Path(out) / "recovery.json", {**content, "measured": {name: vars(each) for name, each in found.items()}})


def _looked_through(generation: Path, known: ImageSet, real: str) -> dict[str, int]:
    # How many of the images that the painter was trained on or chosen by are among those that copies are looked for in.
    record = read_record(generation)
    if not (recorded := sum(map(len, record.values()))):
        print("warning: nothing is recorded of what the painter was trained on; that it was this folder is not checked")
        return {}
    found = min(recorded, sum(seen_before(generation, [{"image": path} for path in known.paths]).values()))
    if not found:
        raise InputError(
            f"{real} holds none of the {recorded} images that the painter was trained on or chosen by, so that no copy "
            "could be found; name the folder and --protocol that it was trained under"
        )
    if found < recorded:
        print(
            f"warning: the painter was trained on or chosen by {recorded} images, of which {found} are looked through"
        )
    return {"recorded": recorded, "found": found}


@command
def audit_command(
    painted: str,
    real: str,
    *,
    out: str,
    protocol: str | None = None,
    split: str = "test",
    also: str | None = None,
    segmenter: str | None = None,
    seed: int = 0,
    device: str = DEVICE,
) -> None:
    """Is a painted image a copy of a training image: audit PAINTED REAL --out OUT [--protocol NAME]

    Writes audit.csv, audit.json and closest.png, the closest pairs, to look at. They show training images: keep them
    as you keep those. Exit code 3 if there are copies.

    Args:
        painted: a prepared folder of painted images, all its lists; or any folder of images.
        real: the prepared folder that the model was trained on, all of its training and validation list.
        out: a folder to write to.
        protocol: that it was trained under; the folder's default if not given.
        split: of the real folder, a list of images that were not trained on, to compare with.
        also: further folders, by commas, that were trained on: all images of each, such as those of the image prior.
        segmenter: weights of an ORDER, whose features are compared; those of order_polyps if not given.
        seed: of the bootstrap.
        device: cpu or cuda.
    """
    _check_numbers(seed=seed)
    usable_device(device)
    if split in ("training", "validation"):
        raise InputError(f"--split {split} holds images that were trained on, or chosen by; choose another list")
    own, known = read_set(painted), read_set(real, protocol, ("training", "validation"))
    further = [each for each in (also or "").split(",") if each]
    for each in further:
        known = known.joined(read_set(each, None, None))
    others = read_set(real, protocol, split)
    held_out = others.apart_from(known)
    if len(held_out) < 2:
        raise InputError(f"--split {split}: {len(held_out)} of its images are of other patients; choose another list")
    looked_through = _looked_through(Path(painted) / GENERATION, known, real)
    check_writable(out)
    extractor = SegmenterFeatures(_segmenter_weights(segmenter), device=device)
    size = recovery.common_side(own.paths)
    found = auditing.audit(own, known, held_out, extractor, size=size, seed=seed)
    settings = {"real": str(Path(real).resolve()), "protocol": protocol, "split": split, "seed": seed}
    settings |= {"also": [str(Path(each).resolve()) for each in further]}
    settings |= {
        "looked_through": looked_through,
        "known": len(known),
        "known_sha256": digest_of(known),
        "held_out": len(held_out),
    }
    audit_report.write(Path(out), found, own, known, settings)
    if len(held_out) < len(others):
        print(f"{len(others) - len(held_out)} of {len(others)} held-out images are of patients trained on: left out")
    _print(audit_report.table(found, split))
    print(f"\n{audit_report.sentence(found)}\nlook at {Path(out) / 'closest.png'}")
    if found.verdict == auditing.COPIES:
        raise SystemExit(COPIES_FOUND)


@command
def report_command(painted: str, *, out: str, run: str | None = None, training_images: bool = False) -> None:
    """One page about a trained LAW, which opens offline: report PAINTED --out OUT [--run RUN]

    It shows what quality, recovery and audit left in OUT, and the training's curve and strips.

    Args:
        painted: a prepared folder of painted images.
        out: the folder that the other commands wrote to; report.html goes there.
        run: the output folder of the training.
        training_images: put the closest pairs on the page, which show patients' images.
    """
    check_writable(out)
    print(f"written: {report.write_report(painted, out, run=run, training_images=training_images)}")


if __name__ == "__main__":
    commands = {
        "quality": quality_command,
        "recovery": recovery_command,
        "audit": audit_command,
        "report": report_command,
    }
    fire.Fire(commands, name="python -m common.metrics")
