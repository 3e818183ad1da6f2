"""Joins the stretches of a prompt into one sequence with running position ids.

Knows nothing of what the stretches mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from imgrank.mllm.base import Segment


def follow(segments: Sequence[Segment], start: int = 0) -> Segment:
    """Join segments one after the other: each begins at the position where the one before it ended.

    Args:
        segments: at least one.
        start: position of the first.
    """
    shifted = []
    position = start
    for segment in segments:
        shifted.append(segment.positions + position)
        position += segment.span
    return _joined(segments, shifted, position - start)


def side_by_side(segments: Sequence[Segment], start: int) -> Segment:
    """Join segments that all begin at the same position, as the candidates after one prefix do."""
    return _joined(segments, [segment.positions + start for segment in segments], max(s.span for s in segments))


def _joined(segments: Sequence[Segment], positions: list[torch.Tensor], span: int) -> Segment:
    return Segment(
        inputs=torch.cat([segment.inputs for segment in segments]),
        visual=torch.cat([segment.visual for segment in segments]),
        deepstack=torch.cat([segment.deepstack for segment in segments], dim=1),
        positions=torch.cat(positions, dim=1),
        span=span,
    )
