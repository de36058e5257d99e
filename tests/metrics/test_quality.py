"""The command that measures quality: all of it with weights, what it can without, and one line for what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.phantoms import prepare_phantoms
from common.errors import InputError
from common.metrics.__main__ import quality_command
from common.metrics.features import SegmenterFeatures
from common.metrics.image_sets import read_set
from common.metrics.inception import SHA256, InceptionFeatures, _name
from tests.metrics.weights import save_clip, save_inception

WEIGHTS = Path(__file__).parents[2] / "order_polyps" / "models" / "model.pt"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=24, test_count=12, size=64, progress=False)
    return folder


@pytest.fixture(scope="module")
def noisy(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    generator = np.random.default_rng(0)
    for path in read_set(real, None, "training").paths:
        pixels = np.asarray(Image.open(path).convert("RGB"), float)
        spoiled = np.clip(pixels + generator.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(spoiled).save(folder / f"{path.stem}.png")
    return folder


def test_without_weights_from_elsewhere_orders_distance_is_measured(real, noisy, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    quality_command(str(noisy), str(real), out=str(tmp_path / "out"), resamples=10)
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("not measured: ")]
    assert len(lines) == 2 and SHA256 in lines[0] and "--clip FOLDER" in lines[1]
    assert "ORDER's features" in told.out and "FID" not in told.out
    measured = json.loads((tmp_path / "out" / "quality.json").read_text())["measured"]
    assert measured.keys() == {"ORDER's features"}
    own = measured["ORDER's features"]
    assert own["distance"] > 0 and own["interval"][0] <= own["distance"] <= own["interval"][1]
    assert own["dimensions"] == 84 and "warning: " in told.out  # fewer images than features


def test_with_weights_everything_is_measured(real, noisy, tmp_path, capsys) -> None:
    weights, clip = save_inception(tmp_path / "torch"), save_clip(tmp_path / "clip")
    options = {"inception": str(weights), "clip": str(clip), "dimensions": "64", "resamples": "0"}
    quality_command(str(noisy), str(real), out=str(tmp_path / "out"), **options)
    said = capsys.readouterr().out
    measured = json.loads((tmp_path / "out" / "quality.json").read_text())["measured"]
    assert measured.keys() == {"Inception's 64 features, other weights", "ORDER's features", "CLIP-I"}
    assert measured["ORDER's features"]["interval"] is None  # without resamples
    told = json.loads((tmp_path / "out" / "quality.json").read_text())["settings"]
    assert told["weights"].keys() == {"segmenter", "inception", "clip"} and told["resamples"] == 0
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in told["weights"].values())
    assert "CLIP-I" in said and "64 × 64" in said
    assert measured["CLIP-I"]["in_pairs"] is None  # these were not painted from masks
    assert all(-1 <= measured["CLIP-I"][name]["mean"] <= 1 for name in ("to_set", "real"))


def test_a_file_that_was_named_has_to_be_there(real, noisy, tmp_path, capsys) -> None:
    for options in ({"inception": str(tmp_path / "no.pth")}, {"clip": str(tmp_path)}, {"segmenter": "no.pt"}):
        with pytest.raises(SystemExit) as ended:
            quality_command(str(noisy), str(real), out=str(tmp_path / "out"), **options)
        assert ended.value.code == 2
        assert next(iter(options)) in capsys.readouterr().err
    assert not (tmp_path / "out" / "quality.json").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resamples": "-1"}, "--resamples has to be 0 or more; it is -1"),
        ({"seed": "-1"}, "--seed has to be 0 or more"),
        ({"size": "0"}, "--size has to be 1 or more"),
        ({"images": "1"}, "--images has to be 2 or more"),
        ({"device": "abacus"}, "--device abacus cannot be used here"),
        ({"split": "tests"}, "no list 'tests'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_told(real, noisy, tmp_path, capsys, options: dict, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        quality_command(str(noisy), str(real), out=str(tmp_path / "out"), **options)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_distance_by_other_weights_is_not_called_fid(tmp_path) -> None:
    weights = save_inception(tmp_path)
    assert InceptionFeatures(weights, dimensions=2048).name == "Inception's 2048 features, other weights"
    assert _name(2048, published=True) == "FID" and _name(768, published=True) == "Inception's 768 features"


def test_matched_counts_are_drawn_by_chance_and_told(real, noisy, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    quality_command(str(noisy), str(real), images=10, resamples=0)
    assert "10 and 10" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        quality_command(str(noisy), str(real), images=100)
    assert f"there are {len(read_set(noisy))}" in capsys.readouterr().err


def test_orders_features_are_the_means_of_its_encoder(real) -> None:
    """Of the network itself, stage by stage; the same one by one and together; mirrored where that is asked for."""
    import torch

    paths = read_set(real, None, "test").paths[:3]
    extractor = SegmenterFeatures(WEIGHTS, image_size=64)
    together = extractor(paths, progress=False)
    assert together.shape == (3, 84) and together.dtype == np.float64
    np.testing.assert_allclose(together, np.concatenate([extractor([p], progress=False) for p in paths]), atol=1e-5)
    pixels = np.asarray(Image.open(paths[0]).convert("RGB"), np.float32) / 255
    seen = []
    hooks = [block.register_forward_hook(lambda *args: seen.append(args[-1])) for block in extractor.network.encoder]
    with torch.no_grad():
        extractor.network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    means = torch.cat([torch.nn.functional.max_pool2d(each, 2).mean(dim=(2, 3)) for each in seen], dim=1)[0]
    np.testing.assert_allclose(together[0], means.numpy(), atol=1e-5)
    flipped = extractor(paths[:1], flip=(1,), progress=False)
    assert not np.allclose(flipped, together[:1], atol=1e-4)


def test_a_set_is_of_all_lists_or_of_one(real, noisy) -> None:
    assert len(read_set(real)) == len(read_set(real, None, "training")) + len(read_set(real, None, "test")) + len(
        read_set(real, None, "validation")
    )
    plain = read_set(noisy)
    assert plain.masks == () and len(plain.groups) == len(plain)


def test_drawn_images_keep_their_groups_and_masks(real) -> None:
    whole = read_set(real, None, "training")
    some = whole.drawn(7, seed=3)
    assert len(some) == 7 and some == whole.drawn(7, seed=3) and some != whole.drawn(7, seed=4)
    place = {path: number for number, path in enumerate(whole.paths)}
    for path, group, mask in zip(some.paths, some.groups, some.masks, strict=True):
        assert (group, mask) == (whole.groups[place[path]], whole.masks[place[path]])


@pytest.mark.parametrize("wrong", ["nothing", "empty", "one"])
def test_folders_without_images_are_told(tmp_path: Path, wrong: str) -> None:
    folder = tmp_path / wrong
    if wrong != "nothing":
        folder.mkdir()
    if wrong == "one":
        Image.new("RGB", (8, 8)).save(folder / "a.png")
    with pytest.raises(InputError, match=r"there is no folder|images to measure"):
        read_set(folder)
