"""Drawn CT volumes with exact segmentations, stored in any orientation."""

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from common.data.volumes import AXIAL

RELEASED = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1.0]])
TEST, OTHERS = 3, (0, 1, 2, 4)  # case 3 is one of the 21


def draw_segmentation(number, shape=(9, 40, 36)):
    """A kidney 1 and in it a tumour 2 that grows from slice to slice: 0, 0, 4, 16, 36, 64 … pixels."""
    segmentation = np.zeros(shape, np.uint8)
    segmentation[1:, 5:35, 4 + number % 5 : 30 + number % 5] = 1
    for place in range(2, shape[0]):
        side = 2 * (place - 1)
        segmentation[place, 8 : 8 + side, 10 : 10 + side] = 2
    return segmentation


def draw_ct(segmentation, number):
    """HU of air, soft tissue, an enhanced kidney and a tumour, with noise; int16 of the segmentation's shape."""
    generator = np.random.default_rng(number)
    values = np.array([40, 180, 90], np.int16)[segmentation] + generator.integers(-30, 30, segmentation.shape)
    values[:, :3] = -1000
    values[:, -1] = 1500
    return values.astype(np.int16)


def save_volume(values, path, code="IPL", affine=RELEASED):
    """Save an axial volume with its axes stored in the order of `code`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = ornt_transform(axcodes2ornt(AXIAL), axcodes2ornt(tuple(code)))
    image = nibabel.Nifti1Image(apply_orientation(values, turn), affine @ inv_ornt_aff(turn, values.shape))
    nibabel.save(image, path)
    return path
