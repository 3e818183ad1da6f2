"""How sure a mean over queries is, and a difference of two: by resampling, with a fixed seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SAMPLES = 10_000
_BLOCK = 500  # samples at a time: memory stays flat with many queries


def bootstrap_interval(
    values: npt.ArrayLike, *, level: float = 0.95, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean.

    Args:
        values: (q,) one for each query, or the differences of two runs.
        level: share of resampled means inside.
        samples: resamplings.
        seed: same seed, same interval.

    Source:
        Efron, 1979. Queries are resampled, as in Sakai, SIGIR 2006.
    """
    numbers = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, _BLOCK):
        places = rng.integers(0, len(numbers), (min(_BLOCK, samples - start), len(numbers)))
        means.append(numbers[places].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def randomization_p(differences: npt.ArrayLike, *, samples: int = SAMPLES, seed: int = 0) -> float:
    """Return the two-sided p-value of a paired randomization test: that two runs differ so much by chance.

    If the runs were alike, each query's difference could as well have the other sign. Up to 2^14 ways to choose signs
    are all tried; of more, `samples` are drawn, and the observed one counts as one of them.

    Args:
        differences: (q,) of a measure, for the same queries.
        samples: drawn.
        seed: same seed, same number.

    Source:
        Smucker, Allan and Carterette, CIKM 2007.
    """
    numbers = np.asarray(differences, dtype=np.float64)
    observed = abs(numbers.sum())
    slack = 1e-12 * max(1.0, float(np.abs(numbers).sum()))  # sums in another order
    numbers = numbers[numbers != 0]  # their sign changes nothing
    if not len(numbers):
        return 1.0
    if len(numbers) <= 14:
        ways = np.arange(2 ** len(numbers))[:, None] >> np.arange(len(numbers)) & 1
        sums = (np.where(ways, 1.0, -1.0) * numbers).sum(axis=1)
        return float(np.mean(np.abs(sums) >= observed - slack))
    rng = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, samples, _BLOCK):
        signs = rng.choice([-1.0, 1.0], (min(_BLOCK, samples - start), len(numbers)))
        beyond += int(np.count_nonzero(np.abs(signs @ numbers) >= observed - slack))
    return (beyond + 1) / (samples + 1)
