"""Laws of the per-image table and its summary."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from common.errors import InputError
from common.evaluation.intervals import Bootstrap
from common.evaluation.records import METRICS, ImageRecord, in_order, read_records, write_records
from common.evaluation.summary import size_bins, summarise
from common.evaluation.tables import summary_table

QUICK = Bootstrap(resamples=200)


def record(image: str, dice: float, source: str = "a", area: float = 0.05, **changes) -> ImageRecord:
    empty = area == 0
    values = {
        "group": image, "height": 256, "width": 256, "pred_area": 0.04, "iou": dice / (2 - dice),
        "hd95": math.nan if empty else 10 * (1 - dice), "nsd": dice, "nsd_tolerance": 2.0, "confidence": 0.8,
    }  # fmt: skip
    return ImageRecord(image=image, source=source, area=area, dice=dice, **(values | changes))


def some_records(n: int = 30) -> list[ImageRecord]:
    rng = np.random.default_rng(0)
    return [
        record(f"{i:03}.png", round(float(rng.beta(4, 1)), 6), "ab"[i % 3 == 0], round(float(rng.uniform(0, 0.2)), 6),
               group=str(i // 2))
        for i in range(n)
    ]  # fmt: skip


def test_file_holds_every_record(tmp_path):
    records = [*some_records(), record('empty, "quoted".png', 1.0, area=0.0, pred_area=0.0, confidence=math.nan)]
    write_records(tmp_path / "per_image.csv", records)
    back = read_records(tmp_path / "per_image.csv")
    assert [repr(r) for r in back] == [repr(r) for r in in_order(records)]  # repr: a NaN is not equal to itself
    assert summarise(back, bootstrap=QUICK) == summarise(records, bootstrap=QUICK)


def test_order_does_not_matter():
    records = some_records()
    shuffled = random.Random(1).sample(records, len(records))
    assert shuffled != records
    assert json.dumps(summarise(shuffled, bootstrap=QUICK)) == json.dumps(summarise(records, bootstrap=QUICK))


def test_means_are_those_of_the_records():
    records = some_records()
    summary = summarise(records, bootstrap=QUICK)
    for metric in METRICS:
        means = {source: np.mean([getattr(r, metric) for r in records if r.source == source]) for source in ("a", "b")}
        for source, mean in means.items():
            assert summary["sources"][source][metric]["mean"] == pytest.approx(mean)
        assert summary["mean_over_sources"][metric]["mean"] == pytest.approx(np.mean(list(means.values())))
        assert summary["all_images"][metric]["mean"] == pytest.approx(np.mean([getattr(r, metric) for r in records]))


def test_every_lesion_is_in_one_bin_and_an_edge_belongs_to_the_larger():
    areas = [1e-5, 0.0099, 0.01, 0.0249, 0.025, 0.05, 0.0999, 0.10, 0.7, 1.0, 0.0]
    records = [record(f"{i}.png", 0.9, area=area) for i, area in enumerate(areas)]
    sizes = summarise(records, bootstrap=QUICK)["sizes"]
    assert [part["name"] for part in sizes] == ["< 1 %", "1–2.5 %", "2.5–5 %", "5–10 %", "≥ 10 %"]
    assert [part["images"] for part in sizes] == [2, 2, 1, 2, 3]


def test_bins_that_do_not_rise_are_refused():
    for wrong in ((0.1, 0.05), (0.0, 0.1), (0.5, 1.0), (0.1, 0.1)):
        with pytest.raises(InputError, match="rise strictly"):
            size_bins(wrong)


def test_images_without_lesion_are_counted_and_taken_out():
    lesions = [record("1.png", 0.8), record("2.png", 0.6, pred_area=0.1), record("3.png", 0.0, pred_area=0.0)]
    quiet, alarm = record("4.png", 1.0, area=0, pred_area=0.0), record("5.png", 0.0, area=0, pred_area=0.01)
    summary = summarise([*lesions, quiet, alarm], bootstrap=QUICK)
    assert summary["images_without_lesion"] == 2
    assert summary["all_images"]["dice"]["mean"] == pytest.approx((0.8 + 0.6 + 0 + 1 + 0) / 5)
    assert summary["without_empty"]["all_images"]["dice"]["mean"] == pytest.approx(1.4 / 3)
    assert (summary["all_images"]["missed"], summary["all_images"]["false_alarms"]) == (1, 1)
    assert summary["all_images"]["hd95"]["undefined"] == 2
    only = summarise(lesions, bootstrap=QUICK)
    assert summary["without_empty"]["all_images"] == only["all_images"] == only["without_empty"]["all_images"]


def test_each_kind_of_image_has_its_own_figures(tmp_path):
    records = [
        record("1.png", 0.8, kinds={"class": "glioma", "plane": "axial"}),
        record("2.png", 0.6, kinds={"class": "glioma", "plane": "coronal"}),
        record("3.png", 0.1, kinds={"class": "pituitary", "plane": "coronal"}),
        record("4.png", 1.0, area=0, pred_area=0.0, kinds={"class": "none", "plane": "axial"}),
    ]
    write_records(tmp_path / "per_image.csv", records)
    summary = summarise(read_records(tmp_path / "per_image.csv"), bootstrap=QUICK)
    found, lesions = (
        {
            kind: {value: (row["images"], row["dice"]["mean"]) for value, row in values.items()}
            for kind, values in section["kinds"].items()
        }
        for section in (summary, summary["without_empty"])
    )
    tumours = {"glioma": (2, pytest.approx(0.7)), "pituitary": (1, 0.1)}
    assert found["class"] == tumours | {"none": (1, 1.0)} and lesions["class"] == tumours
    assert found["plane"] == {"axial": (2, pytest.approx(0.9)), "coronal": (2, pytest.approx(0.35))}
    assert lesions["plane"] == {"axial": (1, 0.8), "coronal": (2, pytest.approx(0.35))}
    every, without = summary_table(summary).split("without the images that have no lesion")
    assert all(text in part for part in (every, without) for text in ("by class", "by plane", "pituitary", "axial"))
    assert "none" in every and "none" not in without
    assert summarise(some_records(), bootstrap=QUICK)["kinds"] == {}


def test_equal_group_names_of_two_sources_are_two_groups():
    records = [record(f"{s}{i}.png", 0.5 + i / 10, s, group="seq_1") for s in "ab" for i in range(3)]
    summary = summarise(records, bootstrap=QUICK)
    assert summary["all_images"]["dice"]["groups"] == 2
    assert summary["sources"]["a"]["dice"]["by_group"] is None  # one group: nothing to resample


def test_summary_is_plain_json_and_the_table_shows_it():
    summary = summarise([*some_records(), record("empty.png", 1.0, area=0.0, pred_area=0.0)], bootstrap=QUICK)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    table = summary_table(summary)
    mean = summary["mean_over_sources"]["dice"]
    low, high = mean["by_group"]
    assert f"{100 * mean['mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in table
    assert "whole groups" in table and "1 images have no lesion" in table
    heads = next(line for line in table.splitlines() if "Dice %" in line)
    assert all(len(line) <= 120 for line in table.splitlines()) and "NSD 2 px %" in heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "holds no image"),
        (lambda text: text.replace("hd95", "hausdorff"), "no column hd95"),
        (lambda text: text.replace("0.05,", "five,", 1), "line 2: area is 'five'"),
        (lambda text: text + text.splitlines()[1] + "\n", "names 1.png twice"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, change, message):
    path = tmp_path / "per_image.csv"
    write_records(path, [record("1.png", 0.5), record("2.png", 0.6)])
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


def test_nothing_evaluated_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no image"):
        summarise([])
    with pytest.raises(InputError, match="No such file"):
        read_records(tmp_path / "none.csv")
