"""The cache: what is in it, that nothing stale can be found, and that no encoder stays in memory."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common.errors import InputError
from common.law.cache import CachedLatents, cache_latents, cache_prompts
from common.law.codec import AutoencoderCodec
from common.law.loading import Parts, load_sd15
from tests.law.small import (
    PROMPT,
    SIDE,
    draw_pairs,
    left_over,
    no_file_larger_than,
    pixel_parts,
    save_stable_diffusion,
)
from tests.network_contract import assert_close, seeded

COUNT = 5


class Watched(Parts):
    """Parts that note which encoders were opened, and whether any is still alive."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.preset, parts.denoiser, parts.scheduler, parts.encoders, parts.prompt)
        self.opened: list[weakref.ref] = []

    def open_codec(self, device="cpu"):
        codec = super().open_codec(device)
        self.opened.append(weakref.ref(getattr(codec, "autoencoder", codec)))
        return codec

    def open_text(self, device="cpu"):
        text = super().open_text(device)
        self.opened.append(weakref.ref(getattr(text, "model", text)))
        return text


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd15")


@pytest.fixture
def latent_space(hub: Path, tmp_path: Path) -> Watched:
    return Watched(load_sd15(shutil.copytree(hub, tmp_path / "sd15"), image_size=64))


@pytest.fixture
def pixel_space() -> Watched:
    return Watched(pixel_parts(control=False))


@pytest.fixture(params=["latent_space", "pixel_space"])
def parts(request: pytest.FixtureRequest) -> Watched:
    return request.getfixturevalue(request.param)


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, str]]:
    return draw_pairs(tmp_path / "pairs", COUNT)


def cached(items, parts: Parts, folder: Path, **options) -> CachedLatents:
    return cache_latents(items, parts, folder, progress=False, **options)


def resized(item: dict[str, str], size: int) -> np.ndarray:
    return np.asarray(Image.open(item["image"]).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


# What is in it


def test_in_pixel_space_the_latents_are_the_images(pixel_space: Watched, items, tmp_path: Path) -> None:
    found = cached(items, pixel_space, tmp_path / "cache")
    assert found.latents.shape == (COUNT, 3, SIDE, SIDE)
    for latents, item in zip(found.latents, items, strict=True):
        expected = resized(item, SIDE).transpose(2, 0, 1) / 255 * 2 - 1
        assert_close(latents, torch.from_numpy(expected), 1e-6)


def test_in_latent_space_they_are_the_scaled_mean_of_the_posterior(latent_space, items, tmp_path: Path) -> None:
    found = cached(items, latent_space, tmp_path / "cache")
    autoencoder = latent_space.open_codec().autoencoder
    images = torch.stack([torch.from_numpy(resized(item, 64).transpose(2, 0, 1) / 127.5 - 1).float() for item in items])
    with torch.no_grad():
        expected = autoencoder.encode(images).latent_dist.mode() * 0.18215
    assert found.latents.shape == (COUNT, 4, 8, 8)
    assert_close(found.latents, expected, 1e-6)


def test_masks_are_binary_squashed_and_in_place(parts: Watched, items, tmp_path: Path) -> None:
    found = cached(items, parts, tmp_path / "cache")
    size = parts.preset.image_size
    assert found.masks.shape == (COUNT, 1, size, size)
    for mask, item in zip(found.masks[:, 0], items, strict=True):
        drawn = np.asarray(Image.open(item["label"])) > 127
        rows, columns = (np.floor((np.arange(size) + 0.5) * side / size).astype(int) for side in drawn.shape)
        assert torch.equal(mask.bool(), torch.from_numpy(drawn[np.ix_(rows, columns)]))


def test_a_loader_makes_batches_of_it(parts: Watched, items, tmp_path: Path) -> None:
    found = cached(items, parts, tmp_path / "cache")
    batch = next(iter(DataLoader(found, batch_size=2)))
    size = parts.preset.image_size
    assert batch["latents"].shape == (2, *found.latents.shape[1:])
    assert (batch["mask"].shape, batch["mask"].dtype) == ((2, 1, size, size), torch.float32)
    assert batch["index"].tolist() == [0, 1]
    assert found.items == items


def test_the_batch_of_encoding_makes_no_difference(parts: Watched, items, tmp_path: Path) -> None:
    one = cached(items, parts, tmp_path / "one", batch_size=1)
    other = cached(items, parts, tmp_path / "other", batch_size=3)
    assert_close(one.latents, other.latents, 1e-6)
    assert torch.equal(one.masks, other.masks)


def test_prompts_are_the_text_encoder_s(parts: Watched, tmp_path: Path) -> None:
    found = cache_prompts(PROMPT, parts, tmp_path / "cache")
    assert torch.equal(torch.cat(found), parts.open_text().encode([PROMPT, ""]))
    assert found.given.shape == found.dropped.shape
    assert not torch.equal(*found)


# That it is used, and that nothing stale is


def test_the_second_time_no_encoder_is_read(parts: Watched, items, tmp_path: Path) -> None:
    first = cached(items, parts, tmp_path / "cache"), cache_prompts(PROMPT, parts, tmp_path / "cache")
    assert len(parts.opened) == 2
    second = cached(items, parts, tmp_path / "cache"), cache_prompts(PROMPT, parts, tmp_path / "cache")
    assert len(parts.opened) == 2
    assert torch.equal(first[0].latents, second[0].latents)
    assert torch.equal(first[0].masks, second[0].masks)
    assert all(map(torch.equal, first[1], second[1]))


def test_no_encoder_stays_in_memory(latent_space: Watched, items, tmp_path: Path) -> None:
    cached(items, latent_space, tmp_path / "cache")
    cache_prompts(PROMPT, latent_space, tmp_path / "cache")
    gc.collect()
    assert [one() for one in latent_space.opened] == [None, None]


def test_files_that_move_are_the_same_files(parts: Watched, items, tmp_path: Path) -> None:
    """What counts is content: neither paths nor what a datalist says of them."""
    cached(items, parts, tmp_path / "cache")
    moved = draw_pairs(tmp_path / "elsewhere", COUNT)
    cached([item | {"sha256": "0"} for item in moved], parts, tmp_path / "cache")
    assert len(parts.opened) == 1


def change_image(parts, items):
    pixels = np.array(Image.open(items[2]["image"]))
    pixels[0, 0, 0] ^= 255
    Image.fromarray(pixels).save(items[2]["image"])
    return items


def change_mask(parts, items):
    pixels = np.array(Image.open(items[2]["label"]))
    Image.fromarray(255 - pixels).save(items[2]["label"])
    return items


def change_order(parts, items):
    return items[::-1]


def change_number(parts, items):
    return items[:-1]


def change_pairing(parts, items):
    return [items[0] | {"label": items[1]["label"]}, *items[1:]]


def change_size(parts, items):
    parts.preset = parts.preset.at(2 * parts.preset.image_size)
    return items


def change_scale(parts, items):
    path = parts.encoders / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    return items


def change_weights(parts, items):
    autoencoder = AutoencoderCodec(parts.open_codec().autoencoder).autoencoder
    parts.opened.clear()
    with seeded(5), torch.no_grad():
        for one in autoencoder.parameters():
            one.add_(0.1 * torch.randn_like(one))
    autoencoder.save_pretrained(parts.encoders / "vae")
    return items


OF_ANY = [change_image, change_mask, change_order, change_number, change_pairing, change_size]


@pytest.mark.parametrize("change", [*OF_ANY, change_scale, change_weights])
def test_whatever_changes_is_encoded_again(latent_space: Watched, items, tmp_path: Path, change) -> None:
    cached(items, latent_space, tmp_path / "cache")
    latent_space.opened.clear()
    items = change(latent_space, items)
    found = cached(items, latent_space, tmp_path / "cache")
    assert len(latent_space.opened) == 1
    fresh = cached(items, latent_space, tmp_path / "fresh")
    assert torch.equal(found.latents, fresh.latents)
    assert torch.equal(found.masks, fresh.masks)


def test_pixel_space_and_latent_space_share_a_folder(latent_space, pixel_space, items, tmp_path: Path) -> None:
    pixel_space.preset = pixel_space.preset.at(64)
    assert cached(items, latent_space, tmp_path / "cache").latents.shape[1] == 4
    assert cached(items, pixel_space, tmp_path / "cache").latents.shape[1] == 3


def test_another_prompt_and_another_text_encoder_are_encoded_again(latent_space: Watched, tmp_path: Path) -> None:
    first = cache_prompts(PROMPT, latent_space, tmp_path / "cache")
    other = cache_prompts("A photo.", latent_space, tmp_path / "cache")
    assert not torch.equal(first.given, other.given)
    assert torch.equal(first.dropped, other.dropped)
    shutil.rmtree(latent_space.encoders)
    save_stable_diffusion(latent_space.encoders, seed=8)
    assert not torch.equal(cache_prompts(PROMPT, latent_space, tmp_path / "cache").given, first.given)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "renamed"])
def test_a_damaged_file_is_made_again(pixel_space: Watched, items, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    expected = cached(items, pixel_space, folder)
    path = next(folder.iterdir())
    content = bytearray(path.read_bytes())
    if damage == "renamed":  # one that holds something else
        cached(items[:2], pixel_space, folder)
        other = next(one for one in folder.iterdir() if one != path)
        other.replace(path)
    else:
        content[-50] ^= 1
        path.write_bytes({"cut": content[:-50], "flipped": content, "empty": b""}[damage])
    found = cached(items, pixel_space, folder)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.masks, expected.masks)


# What is wrong is one line


def test_an_image_and_a_mask_of_two_sizes_are_told(parts: Watched, items, tmp_path: Path) -> None:
    Image.new("L", (31, 30)).save(items[3]["label"])
    with pytest.raises(InputError, match=r"image_3\.png is 40×30, its mask .*mask_3\.png 31×30"):
        cached(items, parts, tmp_path / "cache")
    assert left_over(tmp_path / "cache", []) == []


def test_a_missing_and_a_broken_image_are_told(pixel_space: Watched, items, tmp_path: Path) -> None:
    Path(items[1]["image"]).write_bytes(Path(items[1]["image"]).read_bytes()[:200])
    with pytest.raises(InputError, match=r"image_1\.png: unreadable or cut short"):
        cached(items, pixel_space, tmp_path / "cache")
    Path(items[1]["image"]).unlink()
    with pytest.raises(InputError, match=r"image_1\.png: no such file"):
        cached(items, pixel_space, tmp_path / "cache")


def test_no_images_are_told(pixel_space: Watched, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        cached([], pixel_space, tmp_path / "cache")


def test_a_full_disk_is_one_line_and_leaves_nothing(pixel_space: Watched, items, tmp_path: Path) -> None:
    with no_file_larger_than(2000), pytest.raises(InputError, match=r"cannot write .*make room") as error:
        cached(items, pixel_space, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert left_over(tmp_path / "cache", []) == []


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_encoded(parts, items, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot write to the folder"):
        cached(items, parts, tmp_path / "cache")
    assert parts.opened == []


@pytest.mark.parametrize("prompt", ["", "  ", None])
def test_a_prompt_that_says_nothing_is_told(parts: Watched, tmp_path: Path, prompt: object) -> None:
    with pytest.raises(InputError, match="says nothing"):
        cache_prompts(prompt, parts, tmp_path / "cache")


def test_a_prompt_that_clip_cannot_hold_is_told(latent_space: Watched, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompt: \d+ tokens, and CLIP reads 77"):
        cache_prompts("polyp " * 80, latent_space, tmp_path / "cache")
