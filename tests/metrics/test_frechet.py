"""The Fréchet distance: against its closed form and pytorch-fid's own command; its interval, limit and floor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.phantoms import prepare_phantoms
from common.errors import InputError
from common.metrics.frechet import fid, frechet_distance, measure
from common.metrics.image_sets import read_set
from common.metrics.inception import SHA256, InceptionFeatures, find_inception_weights, import_pytorch_fid
from tests.metrics.weights import save_inception

pytest.importorskip("pytorch_fid")
OWN_COMMAND = (
    "from common.vision_operators import make_torchvision_importable as make; make();"
    "from pytorch_fid.fid_score import main; main()"
)


def drawn(count: int, seed: int, mean: float = 0.0, scale: float = 1.0, dimensions: int = 5) -> np.ndarray:
    return mean + scale * np.random.default_rng(seed).standard_normal((count, dimensions))


def test_the_distance_is_that_of_the_normal_distributions() -> None:
    """Of N(μ, σ²) in each of d dimensions: d·((μ₁ − μ₂)² + (σ₁ − σ₂)²)."""
    found = frechet_distance(drawn(200_000, 0, 1.0, 2.0), drawn(200_000, 1, 3.0, 0.5))
    assert found == pytest.approx(5 * (4.0 + 2.25), rel=0.01)


@pytest.mark.parametrize(("first", "second"), [(300, 200), (300, 20), (20, 300), (20, 15)])
def test_it_is_that_of_the_moments_whatever_the_rank(first: int, second: int) -> None:
    """By the eigenvalues of Σ₁Σ₂, which need no root of a matrix either."""
    a, b = drawn(first, 0, dimensions=40), drawn(second, 1, 0.3, 1.5, dimensions=40)
    eigenvalues = np.linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    expected = np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + traces - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)


def test_it_is_symmetric_and_nothing_of_a_set_to_itself() -> None:
    a, b = drawn(100, 0), drawn(80, 1, 0.5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert fid(a, b) == pytest.approx(frechet_distance(a, b), abs=1e-8)


def test_few_images_raise_it_and_the_limit_does_not() -> None:
    """Two samples of one distribution: the distance is above 0 by the bias alone."""
    names = [str(number) for number in range(400)]
    found = measure(drawn(400, 0, dimensions=20), drawn(400, 1, dimensions=20), (names, names), resamples=20)
    assert found.distance > 0.2
    assert found.limit is not None and found.limit < found.distance / 4
    assert found.halves is not None and found.halves > found.distance  # half as many images
    assert found.interval[0] <= found.distance <= found.interval[1]
    assert not found.too_few


def test_no_more_images_than_features_warns_and_has_no_limit() -> None:
    names = [str(number) for number in range(30)]
    with pytest.warns(UserWarning, match="30 images are no more than the 40 features"):
        found = measure(drawn(30, 0, dimensions=40), drawn(30, 1, dimensions=40), (names, names), resamples=0)
    assert found.too_few and found.limit is None


def test_images_of_one_group_are_drawn_together() -> None:
    """Five values, each a hundred times: the images are 500, what is known is 5."""
    features = np.repeat(drawn(5, 0), 100, axis=0) + drawn(500, 2, scale=1e-3)
    each, groups = [str(number) for number in range(500)], [str(number // 100) for number in range(500)]
    alone, together = (
        measure(features, drawn(500, 1), (names, each), resamples=50).interval for names in (each, groups)
    )
    assert together[1] - together[0] > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (drawn(1, 0), drawn(9, 0), "two images of each set"),
        (drawn(9, 0), drawn(9, 0, dimensions=4), "5 and 4 features"),
        (np.full((9, 5), np.nan), drawn(9, 0), "not finite"),
    ],
)
def test_what_has_no_distance_is_told(first: np.ndarray, second: np.ndarray, told: str) -> None:
    with pytest.raises(InputError, match=told):
        frechet_distance(first, second)


# ---- Inception ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch_home")
    save_inception(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "set"
    prepare_phantoms(folder, count=90, test_count=70, size=64, progress=False)
    return folder


@pytest.fixture(scope="module")
def sides(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The training and the test images in plain folders."""
    folders = []
    for split in ("training", "test"):
        folder = tmp_path_factory.mktemp(split)
        for path in read_set(images, None, split).paths:
            (folder / path.name).write_bytes(path.read_bytes())
        folders.append(folder)
    return folders[0], folders[1]


def own(torch_home: Path, folders: tuple[Path, Path], dimensions: int) -> float:
    """What pytorch-fid's own command prints."""
    command = [sys.executable, "-W", "ignore", "-c", OWN_COMMAND, *map(str, folders), "--device", "cpu"]
    command += ["--num-workers", "0", "--dims", str(dimensions)]
    environment = {**os.environ, "TORCH_HOME": str(torch_home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(re.search(r"FID:\s+(\S+)", done.stdout)[1])


@pytest.mark.parametrize("dimensions", [64, pytest.param(2048, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_fid_is_that_of_its_own_command(torch_home: Path, sides: tuple[Path, Path], dimensions: int) -> None:
    weights = find_inception_weights(torch_home / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth")
    extractor = InceptionFeatures(weights, dimensions=dimensions)
    features = [extractor(read_set(folder).paths, progress=False) for folder in sides]
    assert fid(*features) == pytest.approx(own(torch_home, sides, dimensions), abs=1e-6)


def test_a_set_grows_away_from_itself_as_noise_is_added(torch_home: Path, sides: tuple[Path, Path], tmp_path) -> None:
    extractor = InceptionFeatures(find_inception_weights(next(torch_home.rglob("*.pth"))), dimensions=64)
    clean = extractor(read_set(sides[0]).paths, progress=False)
    assert fid(clean, clean) == pytest.approx(0, abs=1e-6)
    distances = []
    generator = np.random.default_rng(0)
    for level in (4, 8, 16, 32):
        noisy = tmp_path / str(level)
        noisy.mkdir()
        for path in read_set(sides[0]).paths:
            pixels = np.asarray(Image.open(path).convert("RGB"), dtype=float)
            spoiled = np.clip(pixels + generator.normal(0, level, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(spoiled).save(noisy / f"{path.stem}.png")
        distances.append(fid(extractor(read_set(noisy).paths, progress=False), clean))
    assert distances == sorted(distances) and distances[0] > 1e-4


def test_images_of_several_sizes_are_measured_each_as_it_is(
    torch_home: Path, sides: tuple[Path, Path], tmp_path
) -> None:
    """Batched or one by one; pytorch-fid's command wants one size, or batches of 1."""
    paths = []
    for number, side in enumerate((40, 64, 299, 310)):
        paths.append(tmp_path / f"{number}.png")
        Image.open(read_set(sides[0]).paths[number]).resize((side, side)).save(paths[-1])
    extractor = InceptionFeatures(next(torch_home.rglob("*.pth")), dimensions=192)
    together = extractor(paths, progress=False)
    alone = np.concatenate([extractor([path], progress=False) for path in paths])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_missing_weights_are_one_line_that_says_all(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as told:
        find_inception_weights(None)
    line = str(told.value)
    assert "\n" not in line and SHA256 in line and "pt_inception-2015-12-05-6726825d.pth" in line
    assert str(tmp_path / "hub" / "checkpoints") in line


def test_weights_of_another_network_and_unknown_features_are_told(torch_home: Path, repository: Path) -> None:
    with pytest.raises(InputError, match="does not hold pytorch-fid's Inception"):
        InceptionFeatures(repository / "order_polyps" / "models" / "model.pt")
    with pytest.raises(InputError, match="choose one of 64, 192, 768, 2048"):
        InceptionFeatures(next(torch_home.rglob("*.pth")), dimensions=100)


def test_importing_leaves_pytorch_fid_as_it_was(torch_home: Path) -> None:
    """The network is filled from the file that was read; what fetches weights is put back."""
    from pytorch_fid import inception

    before = inception.load_state_dict_from_url
    with warnings.catch_warnings(action="error"):
        InceptionFeatures(next(torch_home.rglob("*.pth")), dimensions=64)
    assert inception.load_state_dict_from_url is before


def test_where_pytorch_fid_finds_no_root_the_distance_is_measured_without_one(monkeypatch) -> None:
    """As it can with fewer images than features."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(6, 20)), generator.normal(1, 2, size=(6, 20))

    def fails(*moments: object) -> float:
        raise ValueError("Imaginary component 0.1")

    monkeypatch.setattr(import_pytorch_fid("fid_score"), "calculate_frechet_distance", fails)
    with pytest.warns(UserWarning, match="Imaginary component 0.1"):
        assert fid(first, second) == frechet_distance(first, second)
