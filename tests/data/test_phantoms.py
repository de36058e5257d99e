"""Phantoms: pure functions of their seed, whose masks are what is drawn."""

import io
import json
import random
from dataclasses import astuple, replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.data import phantoms_optics as optics
from common.data import phantoms_surface as surfaces
from common.data import phantoms_texture as texture
from common.data.integrity import verify
from common.data.phantoms import draw_phantom, prepare_phantoms, render, sample_phantom
from common.data.phantoms_scene import Frame, Lobe
from common.errors import InputError

FULL = Frame("full", 1.0, 1.0, 0.0, None, (), 0.0)


def sampled(seed, size=128):
    return sample_phantom(np.random.default_rng(seed), size)


def area(seed):
    """Fraction of the picture under the mask, from the geometry alone."""
    parameters = sampled(seed, 64)
    opening = optics.frame_opening(parameters.frame, 64)
    return float(((surfaces.surface(parameters).owner >= 0) & opening).mean()), parameters


@pytest.fixture(scope="module")
def areas():
    return [area(seed) for seed in range(80)]


def test_the_seed_alone_decides():
    first = draw_phantom(3, 96)
    surfaces.coarse_wall.cache_clear()
    draw_phantom(4, 64)
    second = draw_phantom(3, 96)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert first.parameters == second.parameters


def test_parameters_alone_decide_the_drawing():
    drawn = draw_phantom(5, 64)
    again = render(drawn.parameters)
    assert np.array_equal(drawn.image, again.image)
    assert np.array_equal(drawn.mask, again.mask)


def test_seeds_differ():
    pictures = [draw_phantom(seed, 64).image for seed in range(6)]
    for number, one in enumerate(pictures):
        for other in pictures[:number]:
            assert np.abs(one.astype(int) - other).mean() > 5


def test_global_generators_are_left_alone():
    def states():
        return random.getstate(), np.random.get_state(legacy=True)[1].tolist()  # noqa: NPY002

    before = states()
    draw_phantom(1, 64)
    assert states() == before


@pytest.mark.parametrize("size", [64, 96, 160, 288])
def test_every_size_shows_the_same_scene(size):
    drawn, reference = draw_phantom(11, size), draw_phantom(11, 128)
    assert drawn.image.shape == (size, size, 3) and drawn.mask.shape == (size, size)
    assert drawn.image.dtype == drawn.mask.dtype == np.uint8
    assert set(np.unique(drawn.mask)) == {0, 255}
    assert replace(drawn.parameters, size=128) == reference.parameters
    assert (drawn.mask > 0).mean() == pytest.approx((reference.mask > 0).mean(), rel=0.15)
    small = np.asarray(Image.fromarray(drawn.image).resize((32, 32), Image.Resampling.BOX)).astype(int)
    other = np.asarray(Image.fromarray(reference.image).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(small - other).mean() < 12


@pytest.mark.parametrize("size", [0, 32, 100, -64])
def test_a_wrong_size_is_named(size):
    with pytest.raises(InputError, match=f"size {size} .*multiple of 32"):
        draw_phantom(0, size)


def test_polyps_are_of_every_size_small_ones_foremost(areas):
    fractions = np.array([fraction for fraction, parameters in areas if len(parameters.polyps) == 1])
    assert fractions.min() > 0.001 and fractions.max() < 0.24
    assert 0.012 < np.median(fractions) < 0.045
    assert (fractions < 0.01).mean() > 0.2
    assert (fractions > 0.08).mean() > 0.08


def test_every_kind_of_polyp_occurs_and_some_scenes_show_two(areas):
    polyps = [polyp for _, parameters in areas for polyp in parameters.polyps]
    assert {polyp.kind for polyp in polyps} == {"sessile", "pedunculated", "flat"}
    assert 0.03 < np.mean([len(parameters.polyps) == 2 for _, parameters in areas]) < 0.3
    assert all(fraction > 0 for fraction, _ in areas)


@pytest.mark.parametrize("seed", range(8))
def test_without_its_polyps_a_picture_changes_only_near_the_mask(seed):
    drawn = draw_phantom(seed, 128)
    bare = render(replace(drawn.parameters, polyps=()))
    assert not bare.mask.any()
    changed = (drawn.image != bare.image).any(2)
    inside = drawn.mask > 0
    blur = drawn.parameters.optics
    # Compression works in blocks of 16 pixels, so up to a diagonal away; blur and the wall's rise reach further.
    rise = max(polyp.fillet * polyp.reach / 2 for polyp in drawn.parameters.polyps)
    reach = 16 * np.sqrt(2) + 64 * (3 * blur.defocus + np.hypot(*blur.motion) + rise) + 2
    away = ndimage.distance_transform_edt(~inside)
    assert away[changed].max() <= reach
    assert changed[inside].mean() > 0.9


def test_the_box_of_a_polyp_holds_all_of_it(areas):
    grid = surfaces.image_grid(64)
    for _, parameters in areas:
        for polyp in parameters.polyps:
            met = np.isfinite(surfaces.polyp_distance(polyp, parameters.camera, *grid))
            met[surfaces.polyp_box(polyp, 64)] = False
            assert not met.any()


def with_sphere(parameters, depth, radius):
    """The scene with nothing but one sphere straight ahead, and no frame."""
    camera = parameters.camera
    centre = np.asarray(camera.origin) + depth * np.asarray(camera.axes[2])
    lobe = Lobe(tuple(centre), (radius,) * 3, camera.axes)
    reach = 1.5 * radius / (depth * camera.tangent)
    polyp = replace(parameters.polyps[0], lobes=(lobe,), waves=(), centre=(0.0, 0.0), reach=reach, radius=radius)
    return replace(parameters, polyps=(polyp,), frame=FULL)


def test_the_mask_of_a_sphere_is_the_cone_of_rays_that_meet_it():
    parameters = sampled(2)
    ahead = surfaces.coarse_wall(parameters.tube, parameters.camera)[23:25, 23:25].min()
    depth, radius = 0.6 * float(ahead), 0.15 * float(ahead)
    mask = render(with_sphere(parameters, depth, radius)).mask > 0
    x, y = surfaces.image_grid(128)
    off_axis = np.arctan(parameters.camera.tangent * np.hypot(x, y))
    assert np.array_equal(mask, off_axis < np.arcsin(radius / depth))


def test_a_polyp_behind_the_wall_is_not_in_the_mask():
    parameters = sampled(2)
    behind = surfaces.coarse_wall(parameters.tube, parameters.camera)[16:32, 16:32].max()
    assert not render(with_sphere(parameters, 1.5 * float(behind), 0.2)).mask.any()


def test_frame_and_box_cover_the_mask():
    parameters = replace(sampled(2), frame=replace(FULL, inset=(1.0, 1.0, (0.0, 0.0, 0.0))))
    covered = with_sphere(parameters, 0.3, 0.1)
    drawn = render(replace(covered, frame=parameters.frame))
    whole = render(covered)
    corner = (slice(64, None), slice(None, 64))
    assert whole.mask[corner].any() and not drawn.mask[corner].any()
    assert np.array_equal(np.delete(drawn.mask, slice(0, 64), 1), np.delete(whole.mask, slice(0, 64), 1))


@pytest.mark.parametrize("seed", range(3))
def test_the_wall_is_the_first_place_where_a_ray_leaves_the_lumen(seed):
    parameters = sampled(seed)
    rays = surfaces.camera_rays(parameters.camera, *surfaces.image_grid(128)).reshape(3, -1)
    distance = surfaces.wall_distance(parameters.tube, parameters.camera, 128).ravel()
    wall = surfaces.Wall(parameters.tube)
    met = distance < surfaces.FARTHEST
    assert np.median(np.abs(wall.along(parameters.camera, rays, distance))[met]) < 1e-3
    early = np.zeros(distance.shape, bool)
    for part in np.linspace(0.02, 0.97, 60, dtype=np.float32):
        early |= wall.along(parameters.camera, rays, part * distance) < 0
    assert early.mean() < 0.01


def test_brightness_of_the_wall_does_not_depend_on_polyps():
    drawn = draw_phantom(9, 96)
    bare = render(replace(drawn.parameters, polyps=()))
    far = ndimage.distance_transform_edt(drawn.mask == 0) > 40
    assert far.any() and np.array_equal(drawn.image[far], bare.image[far])


def test_smooth_minimum_is_the_minimum_beyond_its_width():
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 500), np.float32)
    apart = np.abs(a - b) >= 0.1
    a[:9], b[4:13] = np.inf, np.inf
    apart[:13] = True
    rounded, exact = surfaces.smooth_minimum(a, b, 0.1), np.minimum(a, b)
    assert np.array_equal(rounded[apart], exact[apart])
    assert (rounded[~apart] < exact[~apart]).all() and (exact[~apart] - rounded[~apart]).max() <= 0.1 / 4


def test_tiles_wrap_around_and_are_read_linearly():
    tiles = np.random.default_rng(0).random((texture.TILE, texture.TILE, 2), np.float32)
    u, v = (np.arange(5, dtype=np.float32) * step - 3 for step in (97, 61))
    read = texture.look_up(tiles, u, v)
    assert np.array_equal(read, tiles[v.astype(int) % texture.TILE, u.astype(int) % texture.TILE].T)
    assert np.allclose(texture.look_up(tiles, u + 0.25 + texture.TILE, v), texture.look_up(tiles, u + 0.25, v))
    assert np.allclose(texture.look_up(tiles, u + 0.5, v), (read + texture.look_up(tiles, u + 1, v)) / 2, atol=1e-6)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_compression_is_that_of_jpeg(quality):
    # Of a grey picture: decoders differ in how they enlarge the colour channels.
    grey = draw_phantom(6, 128).image[..., 1] + np.random.default_rng(0).normal(20, 12, (128, 128))
    picture = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    reference = np.asarray(Image.open(stream)).astype(float)
    ours = optics.compress(np.moveaxis(picture, -1, 0).astype(np.float32), quality)
    loss = np.abs(reference - picture).mean()
    # Ties of rounding fall either way, and the decoder rounds to whole numbers.
    assert np.abs(np.clip(np.moveaxis(ours, 0, -1), 0, 255) - reference).mean() < 0.1 * loss + 0.35
    assert loss > 1


def test_no_polyps_where_none_are_asked_for():
    assert not draw_phantom(7, 64, empty_fraction=1.0).mask.any()
    shown = [bool(sample_phantom(np.random.default_rng(s), 64, empty_fraction=0.5).polyps) for s in range(40)]
    assert 0.2 < np.mean(shown) < 0.8


def test_parameters_are_finite_plain_numbers():
    def leaves(value):
        if isinstance(value, tuple):
            for part in value:
                yield from leaves(part)
        else:
            yield value

    for value in leaves(astuple(sampled(8))):
        assert value is None or type(value) in (str, int, float, bool)
        assert not isinstance(value, float) or np.isfinite(value)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "data"
    prepare_phantoms(out, 20, 64, seed=2, test_count=3, progress=False)
    return out


def test_prepared_folder_is_sound(prepared):
    report = verify(prepared)
    assert report.sound and not report.warnings
    content = json.loads((prepared / "dataset.json").read_text())
    assert content["protocol"] == "phantoms" and content["seed"] == 2
    assert [content[f"num{key}"] for key in ("Training", "Validation", "Test")] == [18, 2, 3]
    items = content["training"] + content["validation"] + content["test"]
    assert len({item["group"] for item in items}) == 23
    assert {item["source"] for item in items} == {"phantom"}


def test_prepared_pixels_are_those_of_the_seed_in_the_group(prepared):
    item = json.loads((prepared / "dataset.json").read_text())["test"][1]
    drawn = draw_phantom(int(item["group"].removeprefix("phantom_")), 64)
    assert np.array_equal(np.asarray(Image.open(prepared / item["image"])), drawn.image)
    assert np.array_equal(np.asarray(Image.open(prepared / item["label"])), drawn.mask)


def test_test_pictures_do_not_depend_on_how_many_there_are_to_train_on(prepared, tmp_path):
    lists = prepare_phantoms(tmp_path / "data", 4, 64, seed=2, test_count=2, progress=False).lists["phantoms"]
    before = json.loads((prepared / "dataset.json").read_text())
    assert lists["test"] == before["test"][:2]
    assert {item["sha256"] for item in lists["training"]} <= {
        item["sha256"] for item in before["training"] + before["validation"]
    }


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"count": 0}, "count"), ({"test_count": -1}, "test_count"), ({"size": 70}, "size 70"), ({"seed": -1}, "seed"),
     ({"empty_fraction": 1.5}, "empty_fraction")],
)  # fmt: skip
def test_wrong_numbers_are_named_and_nothing_is_written(tmp_path, wrong, named):
    with pytest.raises(InputError, match=named):
        prepare_phantoms(tmp_path / "data", **{"count": 2, "size": 64, "test_count": 1, "progress": False, **wrong})
    assert not list(tmp_path.iterdir())
