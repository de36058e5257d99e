"""Laws of reading volumes: any orientation is the same volume, in little memory, in Hounsfield units."""

import tracemalloc
from functools import partial
from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from common.data import volumes
from common.data.volumes import open_volume, read_blocks, read_slices, window_8bit
from tests.data.drawn_volumes import RELEASED, draw_ct, draw_segmentation, save_volume

TURNS = ["".join(code) for axes in permutations(("LR", "AP", "IS")) for code in product(*axes)]


@pytest.mark.parametrize("code", TURNS)
def test_a_volume_in_any_orientation_is_the_same(tmp_path, code):
    values = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    volume = open_volume(save_volume(values, tmp_path / "v.nii", code))
    assert volume.shape == values.shape
    assert np.allclose(volume.affine, RELEASED, atol=1e-5)
    whole = np.zeros_like(values)
    for box, block in read_blocks(volume):
        whole[box] = block
    assert np.array_equal(whole, values)


@pytest.mark.parametrize("code", ["IPL", "RAS", "SAL", "PIR"])
def test_small_blocks_read_the_same(tmp_path, monkeypatch, code):
    values = draw_ct(draw_segmentation(0), 0)
    volume = open_volume(save_volume(values, tmp_path / "v.nii.gz", code))
    monkeypatch.setattr(volumes, "_BLOCK_BYTES", 2000)
    assert len(list(read_blocks(volume))) >= 9
    wanted = [1, 4, 8]
    images = read_slices(volume, wanted, partial(window_8bit, window=400, level=40))
    assert np.array_equal(images, window_8bit(values[wanted], 400, 40))


def test_memory_is_a_few_blocks_whatever_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_BLOCK_BYTES", 2**20)
    volume = open_volume(save_volume(np.zeros((160, 256, 256), np.int16), tmp_path / "v.nii.gz"))  # 20 MiB
    tracemalloc.start()
    read_slices(volume, [5, 9], partial(window_8bit, window=500, level=50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_stored_values_are_scaled_to_hounsfield(tmp_path, kind):
    values = draw_ct(draw_segmentation(0), 0)
    image = nibabel.Nifti1Image(values.astype(kind), RELEASED)
    image.header.set_slope_inter(0.5, -100)  # what is stored is taken as it is
    nibabel.save(image, tmp_path / "v.nii.gz")
    for box, block in read_blocks(open_volume(tmp_path / "v.nii.gz")):
        assert np.allclose(block, values[box] * 0.5 - 100)


def test_the_window_is_linear_between_its_ends():
    values = np.array([-1000, -200, -75, 50, 175, 300, 3000])
    assert window_8bit(values, 500, 50).tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert window_8bit(np.linspace(0, 255, 256), 255, 127.5).tolist() == list(range(256))
