"""Drawn objects: every kind draws, the number decides the bits, and cut-outs are cut out."""

import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.training.noise import fractal, relief
from imgrank.training.objects import KINDS, SETTINGS, draw_object
from imgrank.training.regions import Regions, paint, scatter, sizes, thrown_shadow
from imgrank.training.scenes import SCENES, draw_background


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_a_textured_cut_out_of_the_size_asked_for(kind):
    for seed in range(4):
        drawn = draw_object(seed, kind=kind, longer_side=200)
        assert drawn.kind == kind
        assert drawn.rgba.dtype == np.uint8
        assert drawn.rgba.shape[2] == 4
        # An ornament is square; every other kind reaches its longer side exactly.
        assert max(drawn.rgba.shape[:2]) == 200
        opaque = drawn.rgba[..., 3] == 255
        assert opaque.mean() > 0.12
        assert drawn.rgba[opaque][:, :3].std() > 8


@pytest.mark.parametrize("kind", ["bottle", "ornament", "figure", "natural"])
def test_kinds_with_a_silhouette_leave_part_of_the_sheet_empty(kind):
    alpha = draw_object(3, kind=kind, longer_side=200).rgba[..., 3]
    assert (alpha == 0).mean() > 0.02
    assert ((alpha > 0) & (alpha < 255)).any()  # the edge is soft


def test_equal_numbers_give_equal_bits_and_other_numbers_do_not():
    first, again, other = draw_object(11), draw_object(11), draw_object(12)
    np.testing.assert_array_equal(first.rgba, again.rgba)
    assert first.rgba.shape != other.rgba.shape or (first.rgba != other.rgba).any()


def test_the_seed_reaches_every_kind_and_the_promised_sizes():
    drawn = [draw_object(seed) for seed in range(60)]
    assert {d.kind for d in drawn} == set(KINDS)
    assert all(320 <= max(d.rgba.shape[:2]) <= 512 for d in drawn)


@pytest.mark.parametrize("kind", ["package", "poster", "facade"])
def test_a_sibling_keeps_kind_and_shape_but_not_content(kind):
    thing, sibling = (draw_object(5, kind=kind, longer_side=160, sibling=s) for s in (0, 1))
    assert thing.rgba.shape == sibling.rgba.shape
    assert (thing.rgba[..., :3] != sibling.rgba[..., :3]).mean() > 0.3


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 0, "sibling": -1}, {"seed": 0, "kind": "cloud"}, {"seed": 0, "longer_side": 8}]
)
def test_unusable_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        draw_object(**arguments)


def test_every_setting_of_a_kind_is_a_scene_that_exists():
    assert set(SETTINGS) == set(KINDS)
    assert {scene for scenes in SETTINGS.values() for scene in scenes} <= set(SCENES)


@pytest.mark.parametrize("scene", list(SCENES))
def test_every_scene_fills_the_frame_and_repeats(scene):
    for seed, (height, width) in enumerate([(96, 128), (131, 77)]):
        pixels = draw_background(seed, height, width, scene=scene)
        assert pixels.shape == (height, width, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 4
        np.testing.assert_array_equal(pixels, draw_background(seed, height, width, scene=scene))


@pytest.mark.parametrize("arguments", [(-1, 64, 64), (0, 8, 64), (0, 64, 10_000)])
def test_unusable_frames_are_refused(arguments):
    with pytest.raises(InputError):
        draw_background(*arguments)
    with pytest.raises(InputError, match="unknown scene"):
        draw_background(0, 64, 64, scene="moon")


@pytest.mark.parametrize("slope", [0.6, 1.0, 1.5])
def test_fractal_fields_have_the_spectrum_asked_for(slope):
    # Amplitude per radius of the mean of several fields, on log-log axes.
    power = np.zeros((128, 128))
    window = np.hanning(128)[:, None] * np.hanning(128)
    for seed in range(12):
        field = fractal(np.random.default_rng(seed), 128, 128, slope=slope)
        assert abs(float(field.mean())) < 1e-3
        assert abs(float(field.std()) - 1) < 1e-3
        power += np.abs(np.fft.fft2(field * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128)).round().astype(int)
    mean = np.bincount(radius.ravel(), power.ravel()) / np.bincount(radius.ravel())
    frequencies = np.arange(4, 40)
    fitted = np.polyfit(np.log(frequencies), 0.5 * np.log(mean[frequencies]), 1)[0]
    assert abs(fitted + slope) < 0.3


def test_sizes_follow_the_power_law():
    # Of density r^-3 on [1, 10], the share above 2 is (1/4 - 1/100) / (1 - 1/100).
    radii = sizes(np.random.default_rng(0), 20_000, 1.0, 10.0, power=3.0)
    assert radii.min() >= 1.0
    assert radii.max() <= 10.0 + 1e-4
    assert abs((radii > 2).mean() - 0.24 / 0.99) < 0.01


def test_a_flat_surface_is_lit_evenly_and_a_slope_by_its_direction():
    flat = np.zeros((6, 6), np.float32)
    np.testing.assert_allclose(relief(flat, 1.0, 0.5), 1.0)
    rising = np.arange(6, dtype=np.float32)[None, :] + flat  # 1 pixel up per pixel to the right
    np.testing.assert_allclose(relief(rising, 0.0, 0.5), 0.5)  # light from the right grazes it: 1 - 0.5 * 1
    np.testing.assert_allclose(relief(rising, np.pi, 0.5), 1.5, rtol=1e-6)


def test_only_what_lies_behind_is_shadowed():
    labels = np.zeros((40, 40), np.int32)
    labels[10:20, 10:20] = 1
    shadow = thrown_shadow(labels, 4.0)
    assert shadow[21, 21] > 0.3  # behind, to the lower right
    assert shadow[:6, :6].max() == pytest.approx(0, abs=1e-3)
    assert thrown_shadow(np.zeros((40, 40), np.int32), 4.0).max() == 0


def test_paint_without_light_and_texture_gives_the_colours_themselves():
    labels = np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    regions = Regions(labels, np.zeros((2, 2), np.float32), np.ones(2, np.float32))
    colours = np.array([[10, 20, 30], [200, 100, 50]], np.float32)
    image = paint(np.random.default_rng(0), regions, colours, texture=0, tilt=0, shadow=0)
    np.testing.assert_allclose(image, colours[labels])


def test_scattered_regions_number_their_own_table():
    regions = scatter(np.random.default_rng(1), 50, 70, ("disc", "card"), count=40, smallest=3, largest=20)
    assert regions.labels.shape == (50, 70)
    assert regions.count == 41
    assert 0 <= regions.labels.min()
    assert 5 < len(np.unique(regions.labels))
    assert regions.labels.max() <= 40
