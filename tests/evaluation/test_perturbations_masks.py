"""A mask says where the object is, pixel by pixel; a box is a mask that is a rectangle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from imgrank.errors import InputError
from imgrank.evaluation.canvas import cleared
from imgrank.evaluation.perturbations import MOST_OCCLUSION, PERTURBATIONS, perturb
from tests.evaluation.test_perturbations import (
    BOX,
    HEIGHT,
    IN_BOX,
    NAMES,
    STRENGTHS,
    WIDTH,
    differing,
    drawn,
    each,
    flat,
)

AROUND = sorted(name for name, perturbation in PERTURBATIONS.items() if perturbation.around)
RED = (200, 20, 20)


def empty(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.zeros((height, width), bool)


def rectangle() -> np.ndarray:
    mask = empty()
    mask[IN_BOX] = True
    return mask


def disc(radius: float = 20) -> np.ndarray:
    """In the middle of the box, and as wide."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (y - 29.5) ** 2 + (x - 49.5) ** 2 < radius**2


def ring() -> np.ndarray:
    return disc() & ~disc(12)


def cross() -> np.ndarray:
    """From edge to edge, so that its box is the whole photo."""
    mask = empty()
    mask[25:35], mask[:, 40:50] = True, True
    return mask


shapes = pytest.mark.parametrize("mask", [disc(), ring(), cross()], ids=["disc", "ring", "cross"])
others = pytest.mark.parametrize("other", [None, drawn(1, 50, 40)], ids=["patterns", "other photo"])


# All of them


@each
@others
def test_a_box_is_a_mask_that_is_a_rectangle(name: str, other: np.ndarray | None) -> None:
    for strength in (0, 0.3, 1):
        by_box = perturb(name, drawn(), BOX, strength, seed=4, other=other)
        np.testing.assert_array_equal(perturb(name, drawn(), rectangle(), strength, seed=4, other=other), by_box)


@each
@shapes
def test_strength_0_is_a_copy_of_the_photo(name: str, mask: np.ndarray) -> None:
    photo = drawn()
    same = perturb(name, photo, mask, 0)
    np.testing.assert_array_equal(same, photo)
    assert not np.shares_memory(same, photo)


@each
def test_equal_arguments_give_equal_bytes_and_none_is_changed(name: str) -> None:
    photo, mask, other = drawn(), ring(), drawn(1, 50, 40)
    one = perturb(name, photo, mask, 0.7, seed=5, other=other)
    np.testing.assert_array_equal(one, perturb(name, photo, mask, 0.7, seed=5, other=other))
    assert not np.array_equal(one, photo)
    for given_array, as_made in ((photo, drawn()), (mask, ring()), (other, drawn(1, 50, 40))):
        np.testing.assert_array_equal(given_array, as_made)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"background-scaling", "clutter", "occlusion", "rotation"}))
def test_what_changes_the_whole_photo_does_not_ask_where_the_object_is(name: str) -> None:
    np.testing.assert_array_equal(perturb(name, drawn(), cross(), 0.6), perturb(name, drawn(), BOX, 0.6))


def test_rotation_turns_about_the_middle_of_the_mask() -> None:
    turned = perturb("rotation", drawn(), disc(), 0.5)
    np.testing.assert_array_equal(turned, perturb("rotation", drawn(), BOX, 0.5))


@each
@settings(max_examples=25, deadline=None)
@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)), data=st.data())
def test_any_mask_will_do(name: str, mask: np.ndarray, data: st.DataObject) -> None:
    mask[data.draw(st.integers(0, len(mask) - 1)), data.draw(st.integers(0, mask.shape[1] - 1))] = True
    photo, strength = drawn(0, *mask.shape), data.draw(st.floats(0, 1))
    other = data.draw(st.sampled_from([None, drawn(1, 7, 1)]))
    if name in AROUND and mask.all():
        with pytest.raises(InputError, match="whole photo"):
            perturb(name, photo, mask, strength)
        return
    perturbed = perturb(name, photo, mask, strength, seed=data.draw(st.integers(0, 99)), other=other)
    assert (perturbed.shape, perturbed.dtype) == (photo.shape, np.uint8)
    if name == "clutter":
        np.testing.assert_array_equal(perturbed[mask], photo[mask])
    if name == "occlusion":
        np.testing.assert_array_equal(perturbed[~mask], photo[~mask])


# Those that ask


@shapes
@others
def test_clutter_comes_up_to_the_mask_and_stays_off_it(mask: np.ndarray, other: np.ndarray | None) -> None:
    photo = drawn()
    cluttered = perturb("clutter", photo, mask, 1, seed=3, other=other)
    np.testing.assert_array_equal(cluttered[mask], photo[mask])
    changed = differing(cluttered, photo)
    assert changed[~mask].mean() > 0.5
    assert changed[IN_BOX][~mask[IN_BOX]].any()


@shapes
@pytest.mark.parametrize("strength", STRENGTHS)
def test_occlusion_covers_its_share_of_the_mask_and_nothing_else(mask: np.ndarray, strength: float) -> None:
    covered = differing(perturb("occlusion", flat(128), mask, strength, other=flat(7)), flat(128))
    assert covered[mask].sum() == round(MOST_OCCLUSION * strength * mask.sum())
    assert not covered[~mask].any()


@pytest.mark.parametrize("name", ["clutter", "occlusion"])
@pytest.mark.parametrize("region", [BOX, ring(), cross()], ids=["box", "ring", "cross"])
def test_what_is_covered_stays_so_at_more_strength(name: str, region: object) -> None:
    before, areas = empty(), []
    for strength in STRENGTHS:
        perturbed = perturb(name, flat(128), region, strength, seed=9, other=flat(7))
        covered = differing(perturbed, flat(128))
        assert (perturbed[covered] == 7).all()
        assert covered[before].all()
        areas.append(covered.sum())
        before = covered
    assert areas == sorted(set(areas))


@shapes
@pytest.mark.parametrize("strength", [0.5, 1])
def test_background_scaling_shrinks_the_mask_alone(mask: np.ndarray, strength: float) -> None:
    photo = flat(60)
    photo[:, WIDTH // 2 :] = 100
    photo[mask] = RED
    scaled = perturb("background-scaling", photo, mask, strength).astype(int)
    # The two greys have equal channels, so the share of red is what red has over green.
    cover = (scaled[..., 0] - scaled[..., 1]) / 180
    assert cover.sum() == pytest.approx(mask.sum() * 0.25 ** (2 * strength), rel=0.1)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    by_rows, by_columns = (np.flatnonzero((cover > 0).any(axis=axis)) for axis in (1, 0))
    for small, whole in ((by_rows, rows), (by_columns, columns)):
        assert np.ptp(small) + 1 == round((np.ptp(whole) + 1) * 0.25**strength)
        assert abs(small.mean() - whole.mean()) <= 1
    background = cover == 0
    untouched = background & ~mask
    np.testing.assert_array_equal(scaled[untouched], photo[untouched])
    filled = scaled[background & mask]
    assert filled.min() >= 60  # from the two greys around, without any of the red
    assert filled.max() <= 100


def test_background_scaling_keeps_what_shows_through_a_hole() -> None:
    photo = drawn()
    scaled = perturb("background-scaling", photo, ring(), 1)
    # At a quarter the ring is 10 pixels wide and lies in its own hole, 24 wide; between them is the photo as it was.
    between = disc(12) & ~disc(8)
    np.testing.assert_array_equal(scaled[between], photo[between])
    np.testing.assert_array_equal(scaled[~disc()], photo[~disc()])


def test_a_hole_is_filled_from_what_is_near() -> None:
    photo = flat(10)
    photo[:, 50:] = 210
    filled = cleared(photo, BOX, disc()[IN_BOX])
    np.testing.assert_array_equal(filled[~disc()], photo[~disc()])
    assert filled[30, 32, 0] < 50
    assert filled[30, 67, 0] > 170
    assert (np.diff(filled[30, 30:70, 0].astype(int)) >= -1).all()
    np.testing.assert_array_equal(cleared(flat(77), BOX, disc()[IN_BOX]), flat(77))


# Bad input


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (empty(), "mask is empty"),
        (empty(WIDTH, HEIGHT), r"mask is bool \(90, 60\); expected bool \(60, 90\)"),
        (rectangle().astype(np.uint8), "mask is uint8"),
        (rectangle()[..., None], r"mask is bool \(60, 90, 1\)"),
    ],
)
def test_refuses_what_is_no_mask_of_the_photo(mask: np.ndarray, reason: str) -> None:
    for name in ("occlusion", "blur"):
        with pytest.raises(InputError, match=reason):
            perturb(name, drawn(), mask, 0.5)


@pytest.mark.parametrize("name", AROUND)
def test_refuses_a_mask_that_leaves_nothing_around_the_object(name: str) -> None:
    with pytest.raises(InputError, match="whole photo"):
        perturb(name, drawn(), ~empty(), 0.5)
