"""CLIP's embeddings from a local folder, and CLIP-I in its two readings."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.metrics.clip import (
    ClipFeatures,
    rows_of_origins,
    similarity_in_pairs,
    similarity_to_set,
    similarity_within,
)
from tests.metrics.weights import save_clip

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for number, size in enumerate(((40, 40), (64, 48), (30, 90))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def unit(rows: list[list[float]]) -> np.ndarray:
    values = np.array(rows, dtype=float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_embeddings_are_those_of_transformers_and_of_length_one(folder: Path, images: list[Path]) -> None:
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    found = ClipFeatures(folder, batch_size=2)(images, progress=False)
    shown = [Image.open(path).convert("RGB") for path in images]
    pixels = CLIPImageProcessor.from_pretrained(folder)(images=shown, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        whole = CLIPModel.from_pretrained(folder).eval()(input_ids=torch.tensor([[1, 2]]), pixel_values=pixels)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(found, whole.image_embeds.numpy(), atol=1e-5)


def test_it_sees_the_flip_that_is_asked_for(folder: Path, images: list[Path], tmp_path: Path) -> None:
    Image.open(images[1]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    extractor = ClipFeatures(folder)
    flipped = extractor(images[1:2], flip=(1,), progress=False)
    np.testing.assert_allclose(flipped, extractor([tmp_path / "mirrored.png"], progress=False), atol=1e-9)


def test_to_a_set_is_the_mean_over_all_pairs() -> None:
    painted, real = unit([[1, 0], [0, 1]]), unit([[1, 0], [1, 1], [0, -1]])
    every = painted @ real.T
    np.testing.assert_allclose(similarity_to_set(painted, real), every.mean(axis=1))


def test_within_leaves_an_image_itself_out() -> None:
    real = unit([[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(similarity_within(real), [0.5, 0.5, 0.0], atol=1e-12)


def test_in_pairs_takes_the_image_of_the_mask() -> None:
    masks = [Path("masks/b.png"), Path("masks/a.png")]
    rows = rows_of_origins(["a.png", "b.png", "a.png"], masks)
    assert rows == [1, 0, 1]
    real = unit([[1, 0], [0, 1]])
    np.testing.assert_allclose(similarity_in_pairs(unit([[0, 1], [0, 1], [1, 0]]), real[rows]), [1, 0, 0], atol=1e-12)
    assert rows_of_origins(["a.png", "c.png"], masks) is None
    assert rows_of_origins([], masks) is None


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_told_by_its_name(folder: Path, tmp_path: Path, lost: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "clip")
    (copy / lost).unlink()
    with pytest.raises(InputError) as told:
        ClipFeatures(copy)
    assert lost in str(told.value) and "\n" not in str(told.value)


def test_weights_that_lack_a_part_are_refused(folder: Path, tmp_path: Path) -> None:
    """transformers would draw what is missing by chance, and every figure with it."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "clip")
    weights = load_file(copy / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights, such as visual_projection\.weight"):
        ClipFeatures(copy)


def test_weights_that_are_cut_short_are_told(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "clip")
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be read .*; copy it again"):
        ClipFeatures(copy)
