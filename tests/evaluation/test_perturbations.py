"""Perturbations begin at nothing, do what their description says, and grow with their strength."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.evaluation.perturbations import PERTURBATIONS, perturb

HEIGHT, WIDTH = 60, 90
BOX = (30, 10, 70, 50)  # 40 x 40
IN_BOX = np.s_[10:50, 30:70]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = sorted(PERTURBATIONS)

each = pytest.mark.parametrize("name", NAMES)


def drawn(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A photo with structure at several sizes, and no two places alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (height // 6 + 1, width // 6 + 1, 3))
    spots = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1)[:height, :width]
    return (spots + rng.integers(-15, 16, spots.shape)).astype(np.uint8)


def flat(value: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def outside(pixels: np.ndarray) -> np.ndarray:
    mask = np.ones(pixels.shape[:2], bool)
    mask[IN_BOX] = False
    return pixels[mask]


def differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other).any(axis=-1)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


# All of them


def test_the_ten_of_the_study() -> None:
    assert NAMES == sorted(
        "contrast brightness rotation scale background-scaling blur tiling noise clutter occlusion".split()
    )
    assert all(perturbation.extreme for perturbation in PERTURBATIONS.values())


@each
def test_strength_0_is_a_copy_of_the_photo(name: str) -> None:
    photo = drawn()
    same = perturb(name, photo, BOX, 0)
    np.testing.assert_array_equal(same, photo)
    assert not np.shares_memory(same, photo)


@each
@pytest.mark.parametrize("other", [None, drawn(1, 50, 40)], ids=["patterns", "other photo"])
def test_equal_arguments_give_equal_bytes_and_leave_the_photo_alone(name: str, other: np.ndarray | None) -> None:
    photo, before = drawn(), None if other is None else other.copy()
    for strength in STRENGTHS[1:]:
        one = perturb(name, photo, BOX, strength, seed=5, other=other)
        np.testing.assert_array_equal(one, perturb(name, photo, BOX, strength, seed=5, other=other))
        assert one.shape == photo.shape
        assert one.dtype == np.uint8
        assert not np.array_equal(one, photo)
    np.testing.assert_array_equal(photo, drawn())
    np.testing.assert_array_equal(other, before)


@each
@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (1, 300, (100, 0, 140, 1)),
        (300, 1, (0, 299, 1, 300)),
        (240, 40, (0, 10, 40, 90)),
        (2, 2, (1, 1, 2, 2)),
        (50, 70, (69, 0, 70, 1)),
    ],
    ids=["row", "column", "portrait", "four pixels", "one pixel in a corner"],
)
def test_odd_shapes(name: str, height: int, width: int, box: tuple[int, int, int, int]) -> None:
    photo = drawn(0, height, width)
    for other in (None, drawn(1, 1, 1), drawn(1, 5, 400)):
        np.testing.assert_array_equal(perturb(name, photo, box, 0, other=other), photo)
        one = perturb(name, photo, box, 1, seed=5, other=other)
        assert (one.shape, one.dtype) == (photo.shape, np.uint8)
        np.testing.assert_array_equal(one, perturb(name, photo, box, 1, seed=5, other=other))
        x0, y0, x1, y1 = box
        inside = np.zeros((height, width), bool)
        inside[y0:y1, x0:x1] = True
        if name in ("background-scaling", "occlusion"):
            np.testing.assert_array_equal(one[~inside], photo[~inside])
        elif name == "clutter":
            np.testing.assert_array_equal(one[inside], photo[inside])
            assert differing(one, photo).any()


@pytest.mark.parametrize("name", ["tiling", "noise", "clutter", "occlusion"])
def test_another_seed_gives_another_photo(name: str) -> None:
    assert not np.array_equal(perturb(name, drawn(), BOX, 1, seed=1), perturb(name, drawn(), BOX, 1, seed=2))


@each
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_photo_and_any_box_inside_it_will_do(name: str, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    photo = drawn(0, height, width)
    strength = data.draw(st.floats(0, 1))
    if PERTURBATIONS[name].around and box == (0, 0, width, height):
        with pytest.raises(InputError, match="whole photo"):
            perturb(name, photo, box, strength)
    else:
        assert perturb(name, photo, box, strength, seed=data.draw(st.integers(0, 99))).shape == photo.shape


@pytest.mark.parametrize("name", ["contrast", "brightness", "blur", "noise", "clutter", "occlusion"])
def test_distance_to_the_photo_grows_with_strength(name: str) -> None:
    photo = drawn()
    for seed in range(4):
        distances = [distance(perturb(name, photo, BOX, strength, seed=seed), photo) for strength in STRENGTHS]
        assert distances == sorted(set(distances))


# Each of them


def test_contrast_shrinks_about_the_mean_grey() -> None:
    photo = flat(100)
    photo[:, : WIDTH // 2] = 200  # mean grey 150
    half = perturb("contrast", photo, BOX, 0.5)  # factor 1 - 0.95 / 2 = 0.525: 150 -+ 26.25
    assert sorted(np.unique(half)) == [124, 176]
    assert sorted(np.unique(perturb("contrast", photo, BOX, 1))) == [148, 152]  # 150 -+ 2.5, to the even


def test_brightness_multiplies_or_divides_as_the_seed_decides() -> None:
    photo = flat(16)
    full = {int(perturb("brightness", photo, BOX, 1, seed=seed)[0, 0, 0]) for seed in range(20)}
    assert full == {2, 128}
    third = {int(perturb("brightness", photo, BOX, 1 / 3, seed=seed)[0, 0, 0]) for seed in range(20)}
    assert third == {8, 32}
    assert {int(perturb("brightness", flat(200), BOX, 1, seed=seed)[0, 0, 0]) for seed in range(20)} == {25, 255}


def test_half_a_turn_of_the_whole_photo_is_exact() -> None:
    photo = drawn()
    np.testing.assert_array_equal(perturb("rotation", photo, (0, 0, WIDTH, HEIGHT), 1), photo[::-1, ::-1])


def test_a_quarter_turn_is_counterclockwise_about_the_middle_of_the_box() -> None:
    photo = drawn()
    turned = perturb("rotation", photo, BOX, 0.5)
    np.testing.assert_array_equal(turned[IN_BOX], np.rot90(photo[IN_BOX]))
    # The photo is 60 high and its middle row is 30, so columns from 50 - 30 to 50 + 30 show it.
    mean = np.rint(photo.mean(axis=(0, 1)))
    assert (turned[:, :15] == mean).all()
    assert (turned[:, -5:] == mean).all()


def test_scale_leaves_a_small_photo_in_the_middle_of_its_mean_colour() -> None:
    photo = flat(90)
    photo[:, : WIDTH // 3] = 180
    quarter = perturb("scale", photo, BOX, 1)
    mean = round(photo.mean())
    small = (quarter != mean).all(axis=-1)
    rows, columns = np.flatnonzero(small.any(axis=1)), np.flatnonzero(small.any(axis=0))
    assert (rows[0], rows[-1]) == (22, 36)  # 15 of 60 rows
    assert (columns[0], columns[-1]) == (34, 55)  # 22 of 90 columns
    np.testing.assert_array_equal(quarter[24, 35], [180] * 3)
    np.testing.assert_array_equal(quarter[24, 54], [90] * 3)
    half = perturb("scale", photo, BOX, 0.5)
    assert (half != mean).all(axis=-1).any(axis=1).sum() == 30


def test_background_scaling_shrinks_the_object_and_leaves_the_background() -> None:
    photo = flat(60)
    photo[:, WIDTH // 2 :] = 100
    photo[IN_BOX] = (200, 20, 20)
    scaled = perturb("background-scaling", photo, BOX, 0.5)
    np.testing.assert_array_equal(outside(scaled), outside(photo))
    small = (scaled == (200, 20, 20)).all(axis=-1)
    assert small.sum() == 20 * 20
    assert small[20:40, 40:60].all()
    filled = scaled[IN_BOX][~small[IN_BOX]]
    assert filled.min() >= 60  # from the two greys around, without any of the red
    assert filled.max() <= 100
    assert scaled[30, 31, 0] < 70 < 90 < scaled[30, 68, 0]


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_tiling_moves_every_tile_and_loses_no_pixel(strength: float) -> None:
    across = 1 + round(7 * strength)
    side = 3 * across
    numbers = np.repeat(np.repeat(np.arange(across**2).reshape(across, across), 3, axis=0), 3, axis=1)
    photo = np.stack([numbers, numbers, numbers], axis=-1).astype(np.uint8)
    shuffled = perturb("tiling", photo, (0, 0, side, side), strength)
    assert (shuffled != photo).all()
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(photo, axis=None))
    tiles = shuffled.reshape(across, 3, across, 3, 3).swapaxes(1, 2).reshape(across**2, -1)
    assert (tiles == tiles[:, :1]).all()


def test_blur_of_a_dot_is_a_gaussian_of_the_width_it_should_have() -> None:
    photo = flat(0, 301, 301)
    photo[140:161, 140:161] = 255
    blurred = perturb("blur", photo, (0, 0, 301, 301), 1)[..., 0].astype(float)
    profile = blurred.sum(axis=0)
    variance = (profile * (np.arange(301) - 150) ** 2).sum() / profile.sum()
    own = (21**2 - 1) / 12  # of the uniform square
    assert np.sqrt(variance - own) == pytest.approx(0.02 * 301, rel=0.03)
    np.testing.assert_array_equal(perturb("blur", flat(77), BOX, 1), flat(77))  # also at the edges


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_noise_has_the_deviation_it_should_have(strength: float) -> None:
    noise = perturb("noise", flat(128, 200, 200), BOX, strength).astype(float) - 128
    assert abs(noise.mean()) < 1
    if strength <= 0.5:  # beyond, values of 0 and 255 cut some of it off
        assert noise.std() == pytest.approx(80 * strength, rel=0.03)


@pytest.mark.parametrize("other", [None, drawn(1)], ids=["patterns", "other photo"])
def test_clutter_surrounds_the_box_and_leaves_it(other: np.ndarray | None) -> None:
    photo = drawn()
    before = np.zeros((HEIGHT, WIDTH), bool)
    shares = []
    for strength in STRENGTHS:
        cluttered = perturb("clutter", photo, BOX, strength, seed=3, other=other)
        np.testing.assert_array_equal(cluttered[IN_BOX], photo[IN_BOX])
        changed = differing(cluttered, photo)
        assert changed[before].mean() > 0.98 if before.any() else True  # but for colours that are equal by chance
        shares.append(outside(changed).mean())
        before = changed
    assert shares == sorted(set(shares))
    assert 0.5 < shares[-1] < 0.95


def test_clutter_shows_parts_of_the_other_photo() -> None:
    cluttered = perturb("clutter", flat(128), BOX, 1, other=flat(7))
    assert set(np.unique(cluttered)) == {7, 128}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_occlusion_covers_its_share_of_the_box_and_nothing_else(strength: float) -> None:
    photo = flat(128)
    occluded = perturb("occlusion", photo, BOX, strength, other=flat(7))
    assert (occluded[IN_BOX] == 7).all(axis=-1).mean() == pytest.approx(0.8 * strength, abs=1e-3)
    np.testing.assert_array_equal(outside(occluded), outside(photo))


def test_what_is_occluded_stays_so_at_more_strength() -> None:
    before = np.zeros((HEIGHT, WIDTH), bool)
    for strength in STRENGTHS:
        covered = differing(perturb("occlusion", flat(128), BOX, strength, seed=9, other=flat(7)), flat(128))
        assert covered[before].all()
        before = covered


# Bad input


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan"), float("inf")])
def test_refuses_a_strength_outside_0_to_1(strength: float) -> None:
    with pytest.raises(InputError, match="strength"):
        perturb("blur", drawn(), BOX, strength)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 10), (5, 5, 5, 9), (-1, 0, 10, 10), (0, 0, WIDTH + 1, 10), (0, 0, 10, HEIGHT + 1), (0, 0, 9.5, 9)]
)
def test_refuses_a_box_outside_the_photo(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match="box"):
        perturb("occlusion", drawn(), box, 0.5)


@pytest.mark.parametrize("photo", [drawn().astype(np.float32), drawn()[..., 0], drawn()[:0], drawn()[..., :2]])
def test_refuses_what_is_no_photo(photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="the photo is"):
        perturb("blur", photo, BOX, 0.5)
    with pytest.raises(InputError, match="the other photo is"):
        perturb("clutter", drawn(), BOX, 0.5, other=photo)


def test_refuses_an_unknown_name_and_a_negative_seed() -> None:
    with pytest.raises(InputError, match="known: contrast, "):
        perturb("sepia", drawn(), BOX, 0.5)
    with pytest.raises(InputError, match="seed"):
        perturb("noise", drawn(), BOX, 0.5, seed=-1)
