"""The memorisation audit: planted copies are found, an independent set is not accused, a set too close is told."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import read_datalist
from common.data.phantoms import prepare_phantoms
from common.data.polyps import prepare_polyps
from common.metrics.__main__ import COPIES_FOUND, audit_command
from common.metrics.audit import CLEAR, CLOSE, COPIES, Audit, audit
from common.metrics.audit_report import sentence
from common.metrics.features import SegmenterFeatures
from common.metrics.image_sets import ImageSet, read_set
from common.metrics.nearest import COPY, Nearest
from common.provenance import GENERATION, training_record, write_record

WEIGHTS = Path(__file__).parents[2] / "order_polyps" / "models" / "model.pt"


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


SPOILED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "exact": lambda image: image,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by half": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "JPEG": jpeg,
    "darker": lambda image: Image.eval(image, lambda value: int(0.8 * value)),
    "brighter": lambda image: Image.eval(image, lambda value: min(255, value + 20)),
}


@pytest.fixture(scope="module")
def extractor() -> SegmenterFeatures:
    return SegmenterFeatures(WEIGHTS, image_size=96)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=40, test_count=24, size=96, progress=False)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn apart from `real`."""
    folder = tmp_path_factory.mktemp("other") / "set"
    prepare_phantoms(folder, count=30, test_count=2, size=96, seed=77, progress=False)
    return folder


def planted(folder: Path, sources: list[Path], how: str) -> ImageSet:
    folder.mkdir()
    for number, path in enumerate(sources):
        SPOILED[how](Image.open(path).convert("RGB")).convert("RGB").save(folder / f"{number:02d}.png")
    return read_set(folder)


@pytest.mark.parametrize("how", SPOILED)
def test_copies_are_found_whatever_was_done_to_them(real, other, tmp_path, extractor, how: str) -> None:
    known, strangers = read_set(real, None, "training"), list(read_set(other, None, "training").paths)
    painted = planted(tmp_path / "copies", [*known.paths[:3], *strangers[:5]], "exact")
    spoiled = planted(tmp_path / "spoiled", list(known.paths[:3]), how)
    mixed = ImageSet((*spoiled.paths, *painted.paths[3:]), (*spoiled.groups, *painted.groups[3:]))
    found = audit(mixed, known, read_set(real, None, "test"), extractor, progress=False)
    assert found.verdict == COPIES
    assert found.copies.tolist() == [True] * 3 + [False] * 5
    assert found.pixels.index[:3].tolist() == [0, 1, 2]


def test_features_see_a_shift_that_pixels_do_not(real, tmp_path, extractor) -> None:
    known = read_set(real, None, "training")
    (tmp_path / "shifted").mkdir()
    for number in range(4):
        moved = np.roll(np.asarray(Image.open(known.paths[number]).convert("RGB")), 3, axis=1)
        Image.fromarray(moved).save(tmp_path / "shifted" / f"{number}.png")
    found = audit(read_set(tmp_path / "shifted"), known, read_set(real, None, "test"), extractor, progress=False)
    assert not (found.pixels.similarity >= COPY).any()  # step 1 is blind to it
    assert found.features.tolist() == [0, 1, 2, 3]
    assert (found.ratio < np.quantile(found.held_out_ratio, 0.05)).all()


def test_a_set_drawn_apart_is_not_accused(real, other, extractor) -> None:
    found = audit(
        read_set(other), read_set(real, None, "training"), read_set(real, None, "test"), extractor, progress=False
    )
    assert found.verdict == CLEAR and not found.copies.any()
    assert found.closer_interval[0] < 0.5 < found.closer_interval[1]


def test_a_set_that_keeps_too_close_is_told_without_a_copy(real, other, tmp_path, extractor) -> None:
    """Training images blended with others: none is a copy, and all are nearer than an image of its own.

    By features they are copies, which is as it should be; the verdict by the set alone is the next test's.
    """
    known, strangers = read_set(real, None, "training"), read_set(other, None, "training")
    (tmp_path / "blended").mkdir()
    for number in range(20):
        pictures = [Image.open(each.paths[number]).convert("RGB") for each in (known, strangers)]
        Image.blend(*pictures, 0.4).save(tmp_path / "blended" / f"{number:02d}.png")
    found = audit(read_set(tmp_path / "blended"), known, read_set(real, None, "test"), extractor, progress=False)
    assert not (found.pixels.similarity >= 0.97).any()
    assert found.closer > 0.7
    assert found.verdict != CLEAR


@pytest.mark.parametrize(
    ("similarity", "ratio", "interval", "verdict"),
    [
        ((0.5, 0.6), (0.9, 1.2), (0.51, 0.7), CLOSE),
        ((0.5, 0.6), (0.9, 1.2), (0.49, 0.7), CLEAR),
        ((0.5, 0.97), (0.9, 1.2), (0.3, 0.4), COPIES),
        ((0.5, 0.6), (0.49, 1.2), (0.3, 0.4), COPIES),
    ],
)
def test_the_verdict_is_by_the_rule_that_is_stated(similarity, ratio, interval, verdict: str) -> None:
    nearest = Nearest(np.zeros(2, int), np.array(similarity), np.zeros(2, int))
    others = Nearest(np.zeros(2, int), np.array([0.3, 0.4], np.float32), np.zeros(2, int))
    found = Audit(nearest, np.zeros(2, int), np.array(ratio), others, np.array([0.8, 0.9]), 0.6, interval)
    assert found.verdict == verdict
    assert (
        sentence(found)
        .split(":")[0]
        .split(",")[0]
        .lower()
        .startswith({CLOSE: "too close", CLEAR: "no sign of copies", COPIES: "copies"}[verdict])
    )


def test_the_lines_give_way_to_real_images_of_other_patients() -> None:
    """A painted head as like a training one as a held-out real head is: no copy. One that is more so: a copy."""
    own = Nearest(np.zeros(3, int), np.array([0.975, 0.98, 0.985], np.float32), np.zeros(3, int))
    others = Nearest(np.zeros(2, int), np.array([0.5, 0.98], np.float32), np.zeros(2, int))
    found = Audit(own, np.zeros(3, int), np.array([0.4, 0.45, 1.0]), others, np.array([0.45, 1.0]), 0.4, (0.3, 0.5))
    assert found.copies.tolist() == [True, False, True]  # by features, by neither, by pixels
    assert "real images of other patients lie beyond the lines" in sentence(found)


def test_all_that_was_trained_on_is_compared_with(real, other, tmp_path, capsys) -> None:
    """A copy of an image of the prior's own set, which the control stage never saw."""
    planted(tmp_path / "painted", [*read_set(other, None, "training").paths[:2]], "mirrored")
    audit_command(str(tmp_path / "painted"), str(real), out=str(tmp_path / "out"))
    assert "no sign of copies" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        audit_command(str(tmp_path / "painted"), str(real), out=str(tmp_path / "out"), also=str(other))
    assert ended.value.code == COPIES_FOUND and "COPIES: 2 of 2" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "audit.json").read_text())["settings"]
    assert told["also"] == [str(other)] and told["known"] > len(read_set(other))


def test_images_of_one_group_count_as_one(real, other, extractor) -> None:
    """Without that, many images of one mask would make chance look like a rule."""
    painted = read_set(other, None, "training")
    one = ImageSet(painted.paths, tuple(str(number // 7) for number in range(len(painted))))
    known, held_out = read_set(real, None, "training"), read_set(real, None, "test")
    alone, together = (audit(each, known, held_out, extractor, progress=False) for each in (painted, one))
    assert alone.closer == together.closer
    assert np.ptp(together.closer_interval) > np.ptp(alone.closer_interval)


@pytest.mark.slow
def test_real_images_of_other_patients_are_not_accused(real_data: Path, tmp_path: Path) -> None:
    """Kvasir's test list, and the images of other hospitals, against what LAW trains on."""
    folder = tmp_path / "polyps"
    prepare_polyps(folder, [real_data / "polyps"], progress=False)
    known = read_set(folder, "law", "training")
    test = read_datalist(folder, "law", "test")
    held_out = ImageSet(*zip(*((Path(item["image"]), item["group"]) for item in test), strict=True))
    elsewhere = [
        i for i in read_datalist(folder, "order", "training") if not i["source"].startswith(("kvasir", "cvc_cl"))
    ]
    kvasir = [item for item in test if item["source"].startswith("kvasir")]
    assert len(kvasir) == 100 and len(elsewhere) > 300
    strangers = ImageSet(*zip(*((Path(i["image"]), i["group"]) for i in (*kvasir, *elsewhere[::8])), strict=True))
    found = audit(strangers, known, held_out, SegmenterFeatures(WEIGHTS), progress=False)
    assert not found.copies.any()
    assert found.verdict == CLEAR


def test_the_command_fails_a_set_with_copies_and_draws_the_closest(real, other, tmp_path, capsys) -> None:
    known, strangers = read_set(real, None, "training"), read_set(other, None, "training")
    planted(tmp_path / "painted", [*known.paths[:2], *strangers.paths[:3]], "exact")
    with pytest.raises(SystemExit) as ended:
        audit_command(str(tmp_path / "painted"), str(real), out=str(tmp_path / "out"))
    assert ended.value.code == COPIES_FOUND == 3
    assert "COPIES: 2 of 5 painted images" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (report["verdict"], report["copies"], report["images"]) == (COPIES, 2, 5)
    assert report["similarity"]["painted"]["1.0"] == pytest.approx(1)
    rows = list(csv.DictReader((tmp_path / "out" / "audit.csv").open()))
    assert [row["copy"] for row in rows] == ["1", "1", "0", "0", "0"]
    assert {row["nearest by pixels"] for row in rows[:2]} == {path.name for path in known.paths[:2]}
    with Image.open(tmp_path / "out" / "closest.png") as picture:
        assert picture.size == (5 * 128, 4 * 128 + 4)


def test_the_command_leaves_a_clean_set_be(real, other, tmp_path, capsys) -> None:
    audit_command(str(other), str(real), out=str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "no sign of copies, by this rule alone" in said and "the rule: a copy: similarity of pixels" in said


def test_a_split_that_was_trained_on_is_refused(real, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        audit_command(str(real), str(real), out=str(tmp_path / "out"), split="training")
    assert "--split training" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_the_painter_was_not_trained_on_clears_nothing(
    real: Path, other: Path, tmp_path: Path, capsys
) -> None:
    """By the record that a painting leaves: none of the images refuses, some of them are told."""
    painted = tmp_path / "painted"
    shutil.copytree(other / "images", painted)
    audit_command(str(painted), str(real), out=str(tmp_path / "a"))
    assert "nothing is recorded of what the painter was trained on" in capsys.readouterr().out
    both = [training_record(folder)["training"] for folder in (real, other)]
    write_record(painted / GENERATION, {"training": both[0] + both[1], "validation": []})
    audit_command(str(painted), str(real), out=str(tmp_path / "b"))
    recorded, found = len(both[0] + both[1]), len(both[0])
    assert f"by {recorded} images, of which {found} are looked through" in capsys.readouterr().out
    told = json.loads((tmp_path / "b" / "audit.json").read_text())["settings"]["looked_through"]
    assert told == {"recorded": recorded, "found": found}
    write_record(painted / GENERATION, {"training": both[1], "validation": []})
    with pytest.raises(SystemExit) as ended:
        audit_command(str(painted), str(real), out=str(tmp_path / "c"))
    assert ended.value.code == 2 and f"holds none of the {len(both[1])} images" in capsys.readouterr().err
    assert not (tmp_path / "c" / "audit.json").exists()
