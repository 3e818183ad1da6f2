"""Shorten candidates as the token cache does: DivPrune looks at their visual tokens and keeps the most diverse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from imgrank.mllm.keypoint_network import Connector
from imgrank.tokens.prune import most_diverse
from imgrank.training.pairs import Groups


@torch.no_grad()
def shortened(connector: Connector, groups: Groups, keep: int) -> Groups:
    """Return groups whose candidates have at most `keep` tokens each, those that differ most after the connector."""
    g, k, n = groups.candidates.shape[:3]
    if keep >= n:
        return groups
    device = next(connector.parameters()).device
    vectors = connector(torch.from_numpy(groups.candidates).to(device)).float().cpu().numpy()
    rows = np.stack([most_diverse(one, keep) for one in vectors.reshape(g * k, n, -1)]).reshape(g, k, keep)
    return replace(
        groups,
        candidates=np.take_along_axis(groups.candidates, rows[..., None], axis=2),
        match=np.take_along_axis(groups.match, rows, axis=2),
    )
