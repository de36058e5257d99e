"""Laws of matching by name, of likeness, and of splitting by group."""

import io
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.grouping import join_groups, take_groups
from common.data.likeness import Signature, clusters, identical_pairs, near_pairs, signature
from common.data.matching import match, part_mixed


def paths(*names):
    return [Path(name) for name in names]


@pytest.mark.parametrize("form", ["{}", "{}_mask", "{}-mask", "{}_segmentation", "{}_gt", "p{}", "mask_{}"])
def test_masks_are_found_by_the_usual_names(form):
    images = paths("i/1.jpg", "i/Case_2.JPG")
    masks = paths(*(f"m/{form.format(stem)}.PNG" for stem in ("1", "case_2")))
    assert match(images, masks) == ([("1", images[0], masks[0]), ("Case_2", images[1], masks[1])], [])


def test_the_very_stem_goes_before_a_shortened_one():
    images = paths("a.png", "a_mask.png")
    masks = paths("m/a.png", "m/a_mask.png")
    assert match(images, masks)[0] == [("a", images[0], masks[0]), ("a_mask", images[1], masks[1])]


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (["a.png", "b.png"], ["m/a.png"], "b.png: an image without a mask"),
        (["a.png"], ["m/a.png", "m/b.png"], "b.png: a mask without an image"),
        (["a.png", "a.tif"], ["m/a.png"], "a.tif: there is a.png beside it"),
        (["a.png"], ["m/a.png", "m/a_mask.png"], "a_mask.png: a second mask of a.png"),
    ],
)
def test_each_fault_is_reported_alone(images, masks, said):
    pairs, faults = match(paths(*images), paths(*masks))
    assert [stem for stem, _, _ in pairs] == ["a"]
    assert len(faults) == 1
    assert said in faults[0]


def test_a_folder_of_both_is_parted():
    assert part_mixed(paths("1.bmp", "2.bmp", "p1.bmp", "p2.bmp")) == (
        paths("1.bmp", "2.bmp"),
        paths("p1.bmp", "p2.bmp"),
    )
    assert part_mixed(paths("a.png", "b.png")) == (paths("a.png", "b.png"), [])


def reencoded(image, quality):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def test_likeness_sees_the_same_picture_and_no_other(drawn):
    pictures = [Image.fromarray(drawn(i, (96, 120))[0]) for i in range(12)]
    others = [
        reencoded(pictures[0], 60),
        pictures[1].resize((80, 64)),
        Image.fromarray(np.minimum(np.asarray(pictures[2]).astype(int) + 5, 255).astype(np.uint8)),
        pictures[3].copy(),
    ]
    signed = [signature(one) for one in pictures + others]
    assert near_pairs(signed) == [(0, 12), (1, 13), (2, 14), (3, 15)]
    assert identical_pairs(signed) == [(3, 15)]


def test_same_bytes_in_another_shape_are_not_identical():
    flat = np.zeros((4, 6, 3), np.uint8)
    assert not identical_pairs([signature(Image.fromarray(flat)), signature(Image.fromarray(flat.reshape(6, 4, 3)))])


def test_near_pairs_in_blocks_equal_brute_force():
    generator = np.random.default_rng(0)
    signed = []
    for i in range(1100):  # more than two blocks; clusters of similar ones
        base = np.random.default_rng(i // 3)
        gradient = base.integers(0, 256, 8, dtype=np.uint8)
        gradient[0] ^= generator.integers(0, 256, dtype=np.uint8)
        gradient[1] ^= generator.integers(0, 256, dtype=np.uint8)
        thumbnail = base.integers(0, 200, 768) + generator.integers(0, 45, 768)
        signed.append(Signature(bytes([i % 256]), gradient, thumbnail.astype(np.uint8)))
    bits = np.unpackbits(np.stack([one.gradient for one in signed]), axis=1).astype(int)
    colours = np.stack([one.thumbnail for one in signed]).astype(float)
    signs = (bits[:, None] != bits[None]).sum(-1)
    expected = [
        (i, j)
        for i, j in np.argwhere(np.triu(signs <= 10, 1)).tolist()
        if np.sqrt(((colours[i] - colours[j]) ** 2).mean()) <= 18
    ]
    assert 100 < len(expected) < 1100
    assert sorted(near_pairs(signed, 10, 18.0)) == expected


def test_clusters_are_chains():
    labels = clusters(6, [(0, 1), (1, 2), (4, 5)])
    assert labels[0] == labels[1] == labels[2]
    assert labels[4] == labels[5]
    assert len({labels[0], labels[3], labels[4]}) == 3
    assert len(set(clusters(3, []))) == 3


def random_groups(seed):
    draw = random.Random(seed)
    groups = {f"n{i:03}": f"g{draw.randrange(40)}" for i in range(150)}
    links = [tuple(draw.sample(sorted(groups), 2)) for _ in range(10)]
    return groups, links


@pytest.mark.parametrize("seed", range(5))
def test_joined_groups_keep_all_that_belongs_together(seed):
    groups, links = random_groups(seed)
    joined = join_groups(groups, links)
    where = {name: place for place, group in enumerate(joined) for name in group}
    assert sorted(where) == sorted(groups)
    assert sum(map(len, joined)) == len(groups)
    for a, b in combinations(groups, 2):
        if groups[a] == groups[b]:
            assert where[a] == where[b]
    assert all(where[a] == where[b] for a, b in links)


@pytest.mark.parametrize("seed", range(5))
def test_taken_groups_are_whole_and_fit(seed):
    joined = join_groups(*random_groups(seed))
    for count in (0, 1, 15, 60, 150):
        taken = set(take_groups(joined, count, seed))
        assert len(taken) <= count
        assert all(taken.issuperset(group) or taken.isdisjoint(group) for group in joined)
        left = [group for group in joined if taken.isdisjoint(group)]
        assert all(len(taken) + len(group) > count for group in left), "a group that fits was left"


def test_a_further_group_does_not_stir_the_others():
    singles = [[f"n{i}"] for i in range(200)]
    before, after = set(take_groups(singles, 20, 0)), set(take_groups([*singles, ["z"]], 20, 0))
    assert len(before - after) <= 1
    assert before != set(take_groups(singles, 20, 1))
