"""The report handler on a real evaluator: drawn images on disk, a real network, one process and two."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from common.errors import InputError
from common.evaluation.records import read_records
from common.evaluation.report import SegmentationReport
from common.evaluation.summary import summarise
from tests.evaluation.drawn import draw_set, evaluator

COUNTS = {"kvasir_seg": 8, "etis": 5}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    root = tmp_path_factory.mktemp("drawn") / "set"
    return root, draw_set(root, COUNTS, empty=(3,))


def report(output: Path, root: Path | None, **options) -> SegmentationReport:
    return SegmentationReport(output, root, **{"bootstrap": 100, "cases": 0, "show": lambda table: None} | options)


@pytest.fixture(scope="module")
def evaluated(drawn, tmp_path_factory) -> tuple[Path, dict[str, float], list[str]]:
    """One evaluation of the drawn set, with warnings as errors: its folder, metrics and printed tables."""
    root, items = drawn
    output, shown = tmp_path_factory.mktemp("report"), []
    engine = evaluator(items, [report(output, root, cases=2, show=shown.append)])
    with warnings.catch_warnings():
        for kind in (UserWarning, FutureWarning, RuntimeWarning):  # others stem from what is imported on the way
            warnings.simplefilter("error", kind)
        engine.run()
    return output, dict(engine.state.metrics), shown


def test_every_image_is_measured_once_with_its_source_and_group(drawn, evaluated):
    root, items = drawn
    records = {record.image: record for record in read_records(evaluated[0] / "per_image.csv")}
    assert records.keys() == {Path(item["image"]).relative_to(root).as_posix() for item in items}
    for item in items:
        record = records[Path(item["image"]).relative_to(root).as_posix()]
        assert (record.source, record.group, record.height) == (item["source"], item["group"], 64)
        truth = np.asarray(Image.open(item["label"])) > 127
        assert record.area == pytest.approx(truth.mean(), abs=1e-8)
        assert record.label_empty == (not truth.any())
        assert 0.5 <= record.confidence <= 1  # a mean over pixels that were called lesion at 0.5


def test_numbers_agree_with_the_metrics_and_the_file(evaluated):
    output, metrics, shown = evaluated
    summary = json.loads((output / "summary.json").read_text())
    assert summary["all_images"]["dice"]["mean"] == pytest.approx(metrics["val_mean_dice"], abs=1e-6)
    assert summary["all_images"]["iou"]["mean"] == pytest.approx(metrics["val_mean_iou"], abs=1e-6)
    assert 0.3 < metrics["val_mean_dice"] < 0.99  # a network that is sometimes wrong, or the test shows nothing
    records = read_records(output / "per_image.csv")
    settings = summary["bootstrap"]
    assert settings == {"resamples": 100, "seed": 0, "confidence": 0.95}
    report_again = summarise(records, bootstrap=report(output, None).settings)
    assert json.loads(json.dumps(report_again)) == summary
    assert len(shown) == 1 and "mean of sources" in shown[0] and str(output) in shown[0]


def test_pictures_are_drawn_for_each_source(evaluated):
    names = {path.name for path in evaluated[0].iterdir()}
    pictures = {"cases_kvasir_seg.png", "cases_etis.png", "dice_by_size.png"}
    assert names == pictures | {"per_image.csv", "summary.json"}
    for name in pictures:
        with Image.open(evaluated[0] / name) as picture:
            assert picture.width > 400 and len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_order_and_batches_do_not_matter(drawn, evaluated, tmp_path):
    root, items = drawn
    shuffled = random.Random(0).sample(items, len(items))
    evaluator(shuffled, [report(tmp_path, root)], batch_size=5).run()
    for name in ("per_image.csv", "summary.json"):
        assert (tmp_path / name).read_bytes() == (evaluated[0] / name).read_bytes()


def test_a_second_run_starts_afresh(drawn, tmp_path):
    root, items = drawn
    engine = evaluator(items[:4], [report(tmp_path, root)])
    engine.run(1)
    first = (tmp_path / "per_image.csv").read_bytes()
    engine.run(2)
    assert (tmp_path / "per_image.csv").read_bytes() == first


def test_images_outside_the_root_keep_their_whole_path(drawn, tmp_path):
    _, items = drawn
    evaluator(items[:2], [report(tmp_path, tmp_path / "elsewhere")]).run()
    names = {record.image for record in read_records(tmp_path / "per_image.csv")}
    assert names == {Path(item["image"]).as_posix() for item in items[:2]}


def test_an_items_kinds_are_reported_where_it_has_them(drawn, tmp_path):
    root, items = drawn
    told = [item | ({"plane": "axial" if i else "coronal"} if i < 5 else {}) for i, item in enumerate(items)]
    evaluator(told[:5], [report(tmp_path / "told", root, kinds=("plane", "class"))]).run()
    records = read_records(tmp_path / "told" / "per_image.csv")
    assert sorted(record.kinds["plane"] for record in records) == ["axial"] * 4 + ["coronal"]
    summary = json.loads((tmp_path / "told" / "summary.json").read_text())
    assert {plane: row["images"] for plane, row in summary["kinds"]["plane"].items()} == {"axial": 4, "coronal": 1}
    evaluator(items[:5], [report(tmp_path / "untold", root)]).run()
    untold = read_records(tmp_path / "untold" / "per_image.csv")
    assert [(r.image, r.dice) for r in untold] == [(r.image, r.dice) for r in records]
    for wrong in (["dice"], "plane"):
        with pytest.raises(InputError, match="kinds"):
            report(tmp_path, root, kinds=wrong)


def test_two_processes_write_what_one_writes(drawn, evaluated, tmp_path):
    # 13 images on two ranks: the sampler repeats one to fill up, and it must not count twice
    root, _ = drawn
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2"}
    repository = Path(__file__).resolve().parents[2]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.evaluation.drawn", str(root), str(tmp_path)],
            cwd=repository,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert [out.strip().splitlines()[-1] for out, _ in outputs] == [repr(evaluated[1]["val_mean_dice"])] * 2
    for name in ("per_image.csv", "summary.json", "cases_etis.png", "dice_by_size.png"):
        assert (tmp_path / name).read_bytes() == (evaluated[0] / name).read_bytes(), name


def one_item(**changes) -> list[dict]:
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:9, 4:9] = 1
    image = MetaTensor(torch.rand(3, 16, 16), meta={"filename_or_obj": "/data/images/a.png"})
    item = {"image": image, "label": mask, "pred": mask.clone(), "probability": 0.8 * mask}
    return [{key: value for key, value in (item | changes).items() if value is not None}]


def run_on(output: Path, items: list[dict], batch: list[dict] | None = None, **options) -> SegmentationReport:
    engine, handler = Engine(lambda engine, _: items), report(output, None, **options)
    handler.attach(engine)
    engine.run([batch or [{} for _ in items]])
    return handler


def test_what_the_evaluator_leaves_out_has_a_default(tmp_path):
    run_on(tmp_path, one_item(probability=None))
    (record,) = read_records(tmp_path / "per_image.csv")
    assert (record.source, record.group, record.dice, record.hd95) == ("all", "/data/images/a.png", 1.0, 0.0)
    assert np.isnan(record.confidence)
    run_on(tmp_path, one_item())
    assert read_records(tmp_path / "per_image.csv")[0].confidence == pytest.approx(0.8)


def test_keys_can_be_renamed(tmp_path):
    item = one_item()[0]
    items = [{"picture": item["image"], "truth": item["label"], "mask": item["pred"]}]
    keys = {"image_key": "picture", "label_key": "truth", "pred_key": "mask", "source_key": "from", "group_key": "case"}
    run_on(tmp_path, items, [{"from": "etis", "case": "7"}], **keys)
    (record,) = read_records(tmp_path / "per_image.csv")
    assert (record.source, record.group, record.dice) == ("etis", "7", 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred": None}, r"/data/images/a\.png: the evaluator's output has no 'pred'"),
        ({"pred": torch.full((1, 16, 16), 0.7)}, r"/data/images/a\.png: the prediction holds values other than"),
        ({"pred": torch.zeros(1, 8, 8)}, r"/data/images/a\.png: masks must be \(B, 1, H, W\) and alike"),
        (
            {"probability": torch.full((1, 16, 16), torch.nan)},
            r"/data/images/a\.png: the network's output is not finite",
        ),
        ({"image": torch.rand(3, 16, 16)}, "no file name: 'image' must be a MetaTensor"),
    ],
)
def test_an_unfit_item_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_on(tmp_path, one_item(**changes))
    assert not list(tmp_path.iterdir())


def test_a_forgotten_threshold_is_named(drawn, tmp_path):
    root, items = drawn
    with pytest.raises(InputError, match="AsDiscreted"):
        evaluator(items[:2], [report(tmp_path, root)], discrete=False).run()


@pytest.mark.parametrize("wrong", [{"bootstrap": 0}, {"tolerance": -1}, {"confidence": 1.0}, {"bins": (0.5, 0.1)}])
def test_wrong_arguments_fail_at_once(tmp_path, wrong):
    with pytest.raises(InputError):
        report(tmp_path, None, **wrong)


def test_a_folder_that_cannot_be_written_fails_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write to .*inside"):
        report(tmp_path / "file" / "inside", None)
