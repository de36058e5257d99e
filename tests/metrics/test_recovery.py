"""Mask recovery: the figures are those of `evaluate`, the ceiling is of the same masks, drift is measured beside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import Pair, Split, read_datalist, write_prepared_folder
from common.data.phantoms import prepare_phantoms
from common.errors import InputError
from common.metrics.__main__ import recovery_command
from common.metrics.recovery import items_of, look_for_lesions, of_the_same_masks, size_of, write_at_size
from common.provenance import training_record, write_record

REPOSITORY = Path(__file__).resolve().parents[2]
EVALUATE = REPOSITORY / "order_polyps" / "configs" / "evaluate.yaml"
SIDE = 64


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=20, test_count=10, size=96, progress=False)
    return folder


def paint(folder: Path, items: list[dict], shift: int = 0) -> Path:
    """A folder as LAW leaves it: each real image, small, for its own mask, moved to the right by some pixels."""

    def pairs() -> Iterator[Pair]:
        for item in items:
            image = Image.open(item["image"]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            mask = np.array(Image.open(item["label"]).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 127
            stem, name = f"{Path(item['label']).stem}_0", Path(item["label"]).name
            moved = np.roll(np.array(image), shift, axis=1)
            yield Pair(moved, mask, "law", item["group"], stem, extra={"source_mask": name})

    names = [f"law_{Path(item['label']).stem}_0" for item in items]
    split = Split(names[2:], [], names[:2])
    write_prepared_folder(folder, pairs(), {"painted": split}, name="law", licence="none", progress=False)
    return folder


def test_of_real_images_with_their_own_masks_it_is_the_dice_of_evaluate(real: Path, tmp_path: Path) -> None:
    """The command's own figure, from a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", str(EVALUATE)]
    command += ["--dataset_dir", str(real), "--output_dir", str(tmp_path / "command")]
    subprocess.run(command, check=True, capture_output=True)
    told = json.loads((tmp_path / "command" / "summary.json").read_text())["all_images"]
    found = look_for_lesions([EVALUATE], None, read_datalist(real, None, "test"), tmp_path / "own", root=real)
    assert found.images == 10
    assert found.dice == (told["dice"]["mean"], told["dice"]["by_image"])
    assert found.iou[0] == told["iou"]["mean"]
    assert (tmp_path / "own" / "per_image.csv").read_bytes() == (tmp_path / "command" / "per_image.csv").read_bytes()


def test_the_ceiling_is_of_the_masks_that_were_painted_from(real: Path, tmp_path: Path) -> None:
    items = read_datalist(real, None, "training")
    painted = items_of(paint(tmp_path / "painted", items[3:8]))
    assert len(painted) == 5 and size_of(painted) == SIDE
    same = of_the_same_masks(painted, items)
    assert [item["label"] for item in same] == [item["label"] for item in items[3:8]]
    small = {Path(item["label"]).name.split("_", 1)[1]: item for item in write_at_size(tmp_path / "small", same, SIDE)}
    assert small.keys() == {item["source_mask"] for item in painted}
    for own in painted:  # painted without a shift, they are one and the same
        for key in ("image", "label"):
            reference = small[own["source_mask"]][key]
            np.testing.assert_array_equal(np.array(Image.open(own[key])), np.array(Image.open(reference)))


def test_masks_of_another_folder_are_told(real: Path, tmp_path: Path) -> None:
    painted = items_of(paint(tmp_path / "painted", read_datalist(real, None, "training")[:4]))
    with pytest.raises(InputError, match="4 masks that were painted from are not in the real list"):
        of_the_same_masks(painted, read_datalist(real, None, "test"))


def test_the_command_measures_what_lies_beside_its_mask(real: Path, tmp_path: Path, capsys) -> None:
    """Painted a quarter of the image too far right: the ceiling finds the lesions, and the painted ones are off."""
    items = read_datalist(real, None, "training")[:8]
    painted = paint(tmp_path / "painted", items, shift=SIDE // 4)
    for _ in range(2):  # the second takes the place of the first
        recovery_command(str(painted), str(real), out=str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "recovery.json").read_text())["measured"]
    assert {name: each["images"] for name, each in report.items()} == {"painted": 8, "real_at_size": 8, "real": 8}
    assert report["painted"]["dice"][0] < report["real_at_size"]["dice"][0] - 0.2
    assert report["painted"]["drift"]["centroid"]["mean"] > report["real_at_size"]["drift"]["centroid"]["mean"] + 0.05
    said = capsys.readouterr().out.splitlines()
    assert not any("warning" in line for line in said)  # drawn images, which the shipped weights never saw
    assert "hold pictures of real images" in said[-1]
    table = said[-5:-1]
    assert [line.split("  ")[0] for line in table[1:]] == ["painted", f"real, at {SIDE} × {SIDE}", "real, as they are"]
    assert not (tmp_path / "out" / "real_at_size" / "data").exists()  # no copy of the real images stays
    for name in ("painted", "real_at_size", "real"):
        assert (tmp_path / "out" / name / "drift.csv").read_text().count("\n") == 9


def test_a_segmenter_that_knows_the_real_images_is_told(real: Path, tmp_path: Path, capsys) -> None:
    """The ceiling is too high then; here weights with the record of a training on these very images."""
    shutil.copyfile(REPOSITORY / "order_polyps" / "models" / "model.pt", tmp_path / "model.pt")
    write_record(tmp_path / "model.pt", training_record(real))
    painted = paint(tmp_path / "painted", read_datalist(real, None, "training")[:4])
    options = {"segmenter": str(tmp_path / "model.pt"), "image_size": "64"}
    recovery_command(str(painted), str(real), out=str(tmp_path / "out"), **options)
    assert "was trained on 4 of these 4 real images" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "recovery.json").read_text())["settings"]
    assert settings["seen_by_segmenter"]["training"] == 4 and settings["image_size"] == 64


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network": "unet"}, "needs weights of its own: give --segmenter MODEL"),
        ({"bundle": "order_lungs"}, "there is no"),
        ({"image_size": "100"}, "--image_size has to be a multiple of 32"),
        ({"segmenter": "no.pt"}, "no checkpoint at no.pt"),
    ],
)
def test_what_cannot_look_is_told_before_work(real: Path, tmp_path: Path, capsys, options: dict, told: str) -> None:
    painted = paint(tmp_path / "painted", read_datalist(real, None, "training")[:4])
    with pytest.raises(SystemExit) as ended:
        recovery_command(str(painted), str(real), out=str(tmp_path / "out"), **options)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_law_did_not_paint_are_told(real: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        recovery_command(str(real), str(real), out=str(tmp_path / "out"))
    assert "were not painted by LAW: no mask of theirs is recorded" in capsys.readouterr().err
