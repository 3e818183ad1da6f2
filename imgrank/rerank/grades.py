"""One number for what a model says in grades of how sure it is.

Knows no model and no words.
"""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats


def match_logits(grade_logits: Floats) -> Floats:
    """Return the logit of the probability of "same" from the logits of all grades.

    The probability is the expected grade over the softmax of the grades' logits, divided by the highest grade G (for
    text rankers: Zhuang et al., arXiv:2310.14122). Its logit is log(p / (1 - p)) = log sum_i i e^(z_i) -
    log sum_i (G - i) e^(z_i), computed as it stands here: a probability would round to 0 or 1 first. Of two grades it
    is z_1 - z_0 to the bit (Nogueira et al., arXiv:2003.06713).

    Args:
        grade_logits: (n, G + 1) float32, G at least 1, column i the logit of grade i.

    Returns:
        (n,) float32; finite for logits between -1e38 and 1e38.
    """
    z = grade_logits.astype(np.float64)  # two roundings of a difference, to 53 and to 24 bits, are as one to 24
    z -= z.max(axis=1, keepdims=True)  # else logarithms of grades would be lost beside large logits
    grades = np.arange(z.shape[1], dtype=np.float64)
    logits: Floats = (_log_sum(z[:, 1:], grades[1:]) - _log_sum(z[:, :-1], grades[:0:-1])).astype(np.float32)
    return logits


def _log_sum(z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the (n,) logarithms of sum_i w_i e^(z_i) for (n, k) z and (k,) positive weights."""
    most = z.max(axis=1)
    # Not a matrix product: its last bits would depend on how many rows there are.
    return np.asarray(most + np.log((np.exp(z - most[:, None]) * weights).sum(axis=1)))
