"""Training on the lists that MONAI Label puts into a config, as it does that; tests/label asks a real server."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from common.data import read_datalist
from common.data.integrity import verify
from common.errors import InputError
from common.files import release_folder
from common.label import DATA, RETRAINED, WORK, adopt_label_lists, prepare_lists
from common.order import OrderNet
from common.provenance import read_record, training_record
from common.weights import load_weights
from tests.bundles.drawn import draw_prepared

WIDTH, HEIGHT = 48, 40
# On four drawn images of 64 pixels, which the weights that ship know nothing of.
EPOCHS, FAST = 20, {"image_size": 64, "optimizer#lr": 0.01}


def _write(folder: Path, stem: str, *, size: tuple[int, int] = (WIDTH, HEIGHT), turned: bool = False) -> dict[str, str]:
    # An item as MONAI Label lists it; the lesion is the upper left quarter of the label.
    random = np.random.default_rng(len(stem))
    exif = Image.Exif()
    if turned:
        exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{stem}.png", exif=exif)
    mask = np.zeros(size[::-1], np.uint8)
    mask[: size[1] // 2, : size[0] // 2] = 255
    (folder / "labels").mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / "labels" / f"{stem}.png")
    return {"image": str(folder / f"{stem}.png"), "label": str(folder / "labels" / f"{stem}.png")}


def test_lists_become_a_sound_folder_with_the_lists_kept(tmp_path):
    items = [_write(tmp_path, stem) for stem in ("a", "bb", "ccc")]
    prepare_lists(tmp_path / "data", items[:2], items[2:])
    assert verify(tmp_path / "data").errors == []
    stems = {key: [Path(item["image"]).stem for item in read_datalist(tmp_path / "data", None, key)]
             for key in ("training", "validation", "test")}  # fmt: skip
    assert stems == {"training": ["label_a", "label_bb"], "validation": ["label_ccc"], "test": []}


def test_without_validation_the_training_images_choose_the_model(tmp_path, caplog):
    prepare_lists(tmp_path / "data", [_write(tmp_path, "a")], [])
    lists = [read_datalist(tmp_path / "data", None, key) for key in ("training", "validation")]
    assert lists[0] == lists[1] and len(lists[0]) == 1
    assert "no image is left for validation" in caplog.text


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH)], ids=["as stored", "as shown"])
def test_a_label_lies_on_its_image_as_it_was_drawn(tmp_path, size):
    """A mask is answered in the frame of the stored pixels; a viewer that turns the image draws in the other."""
    prepare_lists(tmp_path / "data", [_write(tmp_path, "a", size=size, turned=True)], [])
    (item,) = read_datalist(tmp_path / "data", None, "training")
    image, mask = Image.open(item["image"]), np.asarray(Image.open(item["label"]))
    assert image.size == size
    assert (mask > 0).nonzero()[0].max() == size[1] // 2 - 1 and (mask > 0).nonzero()[1].max() == size[0] // 2 - 1


def test_every_unusable_pair_is_told_at_once_and_nothing_is_left(tmp_path):
    items = [_write(tmp_path, "a"), _write(tmp_path, "bb", size=(7, 9)), _write(tmp_path, "ccc")]
    Path(items[0]["label"]).write_bytes(b"no image")
    Path(items[2]["image"]).unlink()
    with pytest.raises(InputError) as raised:
        prepare_lists(tmp_path / "data", items, [])
    assert [name for name in ("a.png", "label_bb", "ccc.png") if name in str(raised.value)] == [
        "a.png",
        "label_bb",
        "ccc.png",
    ]
    assert not (tmp_path / "data").exists()


def test_nothing_to_train_on_is_said(tmp_path):
    with pytest.raises(InputError, match="no labelled image"):
        prepare_lists(tmp_path / "data", [], [])


def test_outside_of_a_running_config_there_is_nothing_to_do():
    assert adopt_label_lists() is None


@pytest.fixture(scope="module")
def bundle(repository, tmp_path_factory) -> Path:
    """A copy of a bundle, for what is written into it."""
    folder = tmp_path_factory.mktemp("label") / "order_polyps"
    shutil.copytree(repository / "order_polyps", folder)
    return folder


def _train(bundle: Path, training: list[dict], validation: list[dict], epochs: int, **overrides) -> None:
    # What `BundleTrainTask` of MONAI Label 0.8.5 overrides.
    config_file = bundle / "configs" / "train.yaml"
    handlers = monai.bundle.ConfigParser.load_config_file(config_file)["train"]["handlers"]
    weights, place = str(bundle / "models" / "model.pt"), {"model": "$@network"}
    loader = {"_target_": "CheckpointLoader", "load_path": weights, "load_dict": place, "strict": False}
    monai.bundle.run(
        run_id="run",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(config_file),
        **{
            "bundle_root": str(bundle),
            "device": "cpu",
            "train#trainer#max_epochs": epochs,
            "train#dataset#data": training,
            "validate#dataset#data": validation,
            "train#handlers": [loader, *handlers],
            **overrides,
        },
    )
    release_folder(bundle / "models" / WORK)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_it_trains_from_what_ships_and_leaves_that(bundle, tmp_path):
    """Weights beside those that ship; the record of both; no image left; and the next one begins anew."""
    drawn = draw_prepared(tmp_path / "drawn")
    training, validation = (read_datalist(drawn, None, key) for key in ("training", "validation"))
    pairs = [[{role: item[role] for role in ("image", "label")} for item in each] for each in (training, validation)]
    models = bundle / "models"
    shipped = {name: _digest(models / name) for name in ("model.pt", "model.trained_on.json")}
    _train(bundle, *pairs, EPOCHS, **FAST)
    assert {name: _digest(models / name) for name in shipped} == shipped
    assert not (models / WORK / DATA).exists()
    assert len(list(csv.DictReader((models / WORK / "history.csv").open()))) == EPOCHS
    before, after = (
        torch.cat([each.flatten() for each in load_weights(OrderNet(), models / name).parameters()]).detach()
        for name in ("model.pt", RETRAINED)
    )
    # Away from what ships; another start would be as far from it as it is long, or farther.
    assert 0 < (after - before).norm() < 0.5 * before.norm()
    record, own = read_record(models / RETRAINED), training_record(drawn)
    known = read_record(models / "model.pt")
    assert all({*own[key], *known[key]} == {*record[key]} for key in record)

    first = _digest(models / RETRAINED)
    _train(bundle, *pairs, EPOCHS, **FAST)
    assert _digest(models / RETRAINED) == first


@pytest.mark.slow
def test_what_is_no_better_is_not_kept(bundle, tmp_path):
    """Labels that the weights which ship answer with themselves: nothing can be better, and what was there stays."""
    drawn = draw_prepared(tmp_path / "drawn")
    network = load_weights(OrderNet(), bundle / "models" / "model.pt").eval()
    items = [{role: item[role] for role in ("image", "label")} for item in read_datalist(drawn, None, "training")]
    for item in items:
        image = torch.from_numpy(np.array(Image.open(item["image"]))).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            Image.fromarray(np.uint8(255) * (network(image)[0, 0] > 0).numpy()).save(item["label"])
    kept = bundle / "models" / RETRAINED
    kept.write_bytes(b"what was there before")
    _train(bundle, items, items, 2, image_size=64)
    assert kept.read_bytes() == b"what was there before"
    assert not (bundle / "models" / WORK / DATA).exists()


@pytest.mark.slow
def test_a_training_that_fails_leaves_no_image_and_changes_nothing(bundle, tmp_path):
    drawn = draw_prepared(tmp_path / "drawn")
    items = [{role: item[role] for role in ("image", "label")} for item in read_datalist(drawn, None, "training")]
    kept = bundle / "models" / RETRAINED
    kept.write_bytes(b"what was there before")
    # A rate beyond all bounds: the loss is no number at once, and the training stops itself with an error.
    with pytest.raises((Exception, SystemExit)):
        _train(bundle, items, items, 2, image_size=64, **{"optimizer#lr": 1e30})
    release_folder(bundle / "models" / WORK)
    assert (bundle / "models" / WORK).is_dir() and not (bundle / "models" / WORK / DATA).exists()
    assert kept.read_bytes() == b"what was there before"


@pytest.mark.slow
def test_a_training_on_a_prepared_folder_knows_nothing_of_it(bundle, tmp_path):
    """Lists beside a folder are MONAI's business: the run goes where its options say."""
    drawn = draw_prepared(tmp_path / "drawn")
    monai.bundle.run(
        run_id="run",
        config_file=str(bundle / "configs" / "train.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        dataset_dir=str(drawn),
        output_dir=str(tmp_path / "run"),
        epochs=1,
        image_size=64,
        device="cpu",
    )
    assert (tmp_path / "run" / "model.pt").is_file()
    assert json.loads((tmp_path / "run" / "model.trained_on.json").read_text())["training"]
