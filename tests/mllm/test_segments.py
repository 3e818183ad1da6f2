import torch

from imgrank.mllm.base import Segment
from imgrank.mllm.segments import follow, side_by_side


def text(length: int) -> Segment:
    positions = torch.arange(length).expand(3, -1)
    return Segment(
        torch.ones(length, 2), torch.zeros(length, dtype=torch.bool), torch.zeros(1, 0, 2), positions, length
    )


def image(cells: list[tuple[int, int]], span: int) -> Segment:
    positions = torch.tensor([(0, row, column) for row, column in cells]).T
    count = len(cells)
    return Segment(
        torch.zeros(count, 2), torch.ones(count, dtype=torch.bool), torch.full((1, count, 2), 5.0), positions, span
    )


def test_what_follows_an_image_starts_after_its_longer_side():
    # Two words, an image of 2 x 3 of which four cells are left, one word: 2 + 3 = 5 is the last word's position.
    joined = follow([text(2), image([(0, 0), (0, 2), (1, 0), (1, 1)], span=3), text(1)])
    assert joined.positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 3, 3, 5],
        [0, 1, 2, 4, 2, 3, 5],
    ]
    assert joined.span == 6
    assert joined.visual.tolist() == [False, False, True, True, True, True, False]
    assert joined.deepstack.shape == (1, 4, 2)


def test_candidates_all_start_where_the_prefix_ended():
    joined = side_by_side([text(2), text(3)], start=10)
    assert joined.positions[0].tolist() == [10, 11, 10, 11, 12]
    assert follow([text(2), text(3)], start=10).positions[0].tolist() == [10, 11, 12, 13, 14]
