"""The Muon optimizer for many small matrices on a CPU: those of one shape are orthogonalized together.

torch.optim.Muon takes one matrix after the other, in bfloat16; for the matrices of the built-in model that was a third
of a training step on two cores, and this is a twentieth.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the scale of the step is that of Liu et al.
2025, arXiv:2502.16982, so that the learning rate of AdamW serves for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are replaced by the nearest matrices with singular values near 1.

    Args:
        matrices: parameters of two dimensions.
        lr: size of a number's step is about 0.2 of it, whatever the shape.
        momentum: share of the past that is kept.
        weight_decay: as in AdamW.
    """

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # a closure is never evaluated
        """Change all matrices that have a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    rows, columns = matrix.shape
                    shapes.setdefault((min(rows, columns), max(rows, columns)), []).append(matrix)
            for (short, long), matrices in shapes.items():
                ahead = []
                for matrix in matrices:
                    assert matrix.grad is not None  # by the choice above
                    past = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    past.lerp_(matrix.grad, 1 - group["momentum"])
                    nesterov = matrix.grad.lerp(past, group["momentum"])
                    ahead.append(nesterov if matrix.shape[0] == short else nesterov.T)
                steps = orthogonalized(torch.stack(ahead))
                size = group["lr"] * 0.2 * long**0.5
                for matrix, change in zip(matrices, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.sub_(change if matrix.shape[0] == short else change.T, alpha=size)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of (n, rows, columns) matrices, rows <= columns, near 1, by Newton-Schulz rounds."""
    a, b, c = _COEFFICIENTS
    found = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(_ROUNDS):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found
