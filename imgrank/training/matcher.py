"""Train the built-in model on groups of pairs: its losses and its forward pass for many groups at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, scaled_dot_product_attention

from imgrank.arrays import Floats
from imgrank.mllm.keypoint_network import COLOURS, DESCRIPTOR, GEOMETRY, KeypointConfig, KeypointNetwork
from imgrank.training.pairs import NO_MATCH, UNKNOWN, Groups

QUERY, CANDIDATE, READERS, ZERO, ONE = 1, 2, tuple(range(3, 11)), 11, 12  # token ids; 0 stands for a photo
VOCABULARY = 16
MATCH_HEADS = 3  # heads of the first layer that begin as matchers


@dataclass(frozen=True)
class Shape:
    """Of the network."""

    hidden: int = 192
    layers: int = 5
    heads: int = 4
    head_dim: int = 64
    mlp: int = 512
    connector: int = 256


@dataclass(frozen=True)
class _Plan:
    """Rows are [1 + m of the query | 1 + n + readers of candidate 1 | ...]."""

    query: int  # tokens
    tokens: int  # of a candidate
    candidates: int

    @property
    def prefix(self) -> int:
        return 1 + self.query

    @property
    def suffix(self) -> int:
        return 1 + self.tokens + len(READERS)


def new_network(shape: Shape, mean: Floats, basis: Floats, seed: int) -> KeypointNetwork:
    """Return a network whose first layer matches equal descriptors.

    Args:
        shape: of the network.
        mean: (128,) of unit RootSIFT vectors.
        basis: (128, k) of their principal directions, scaled to be partly whitened.
        seed: of all that is random.
    """
    torch.manual_seed(seed)
    config = KeypointConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.head_dim,
            "intermediate_size": shape.mlp,
            "initializer_range": 0.04,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        connector_size=shape.connector,
    )
    network = KeypointNetwork(config)
    _start_as_matcher(network, mean, basis)
    return network


@torch.no_grad()
def _start_as_matcher(network: KeypointNetwork, mean: Floats, basis: Floats) -> None:
    """Lay out tokens as [descriptor | colours | geometry | free]; let heads of the first layer compare parts of them."""
    connector, layer = network.model.connector, network.model.language_model.layers[0]
    kept = basis.shape[1]
    straight = connector.straight.weight
    straight.mul_(0.1)
    straight[: kept + COLOURS + GEOMETRY] = 0
    straight[:kept, :DESCRIPTOR] = torch.from_numpy(basis.T / np.sqrt(DESCRIPTOR))
    connector.straight.bias[:kept] = torch.from_numpy(-(mean @ basis))
    for at in range(COLOURS):
        straight[kept + at, DESCRIPTOR + at] = 0.7
    for at in range(GEOMETRY):
        straight[kept + COLOURS + at, DESCRIPTOR + COLOURS + at] = 1.0
    connector.down.weight.mul_(0.2)
    attention = layer.self_attn
    dim = attention.head_dim
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[: MATCH_HEADS * dim].mul_(0.1)
        for head, first in enumerate(np.linspace(0, kept - dim, MATCH_HEADS - 1).astype(int)):
            for at in range(dim):
                projection.weight[head * dim + at, first + at] = 1.0
        head = MATCH_HEADS - 1  # with colours
        for at in range(dim - COLOURS):
            projection.weight[head * dim + at, at] = 1.0
        for at in range(COLOURS):
            projection.weight[head * dim + dim - COLOURS + at, kept + at] = 1.0
    attention.q_norm.weight.fill_(1.6)
    attention.k_norm.weight.fill_(1.6)


class Matcher(nn.Module):
    """A network and what it needs only while it learns."""

    def __init__(self, network: KeypointNetwork) -> None:
        super().__init__()
        self.network = network
        self._through = _through
        self.inlier = nn.Linear(network.config.text_config.hidden_size, 1)

    def compile_layers(self) -> None:
        """Compile what a layer does; each new shape of a batch takes a while at its first step."""
        torch._dynamo.config.recompile_limit = 64
        self._through = torch.compile(_through, dynamic=False)

    def forward(self, query: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run g queries (g, m, INPUTS) with k candidates each (g, k, n, INPUTS).

        Returns:
            logit differences (g, k); of each candidate's token, whether it has a match (g, k, n); and how the matching
            heads of the first layer weigh the query's tokens for it, (g, k, heads, n, 1 + m), the first for none.
        """
        body = self.network.model
        decoder = body.language_model
        count, k, n = candidates.shape[:3]
        plan = _Plan(query.shape[1], n, k)
        embed = decoder.embed_tokens.weight
        own = torch.cat([embed[QUERY].expand(count, 1, -1), body.connector(query)], dim=1)
        theirs = body.connector(candidates)
        first = embed[CANDIDATE].expand(count, k, 1, -1)
        readers = embed[list(READERS)].expand(count, k, -1, -1)
        suffixes = torch.cat([first.to(theirs), theirs, readers.to(theirs)], dim=2)
        hidden = torch.cat([own.to(theirs), suffixes.flatten(1, 2)], dim=1).float()
        weights = self._first_weights(hidden, plan)
        for number, layer in enumerate(decoder.layers):
            if number == len(decoder.layers) - 1:
                seen = hidden[:, plan.prefix :].unflatten(1, (k, plan.suffix))[:, :, 1 : 1 + n]
                inlier = self.inlier(seen)[..., 0]
            hidden = self._through(layer, hidden, plan)
        ends = hidden[:, plan.prefix :].unflatten(1, (k, plan.suffix))[:, :, -1]
        rows = self.network.lm_head.weight
        logits = (decoder.norm(ends).float() * (rows[ONE] - rows[ZERO]).float()).sum(dim=-1)
        return logits, inlier.float(), weights

    def _first_weights(self, hidden: torch.Tensor, plan: _Plan) -> torch.Tensor:
        layer = self.network.model.language_model.layers[0]
        attention = layer.self_attn
        states = layer.input_layernorm(hidden)
        shape = (*states.shape[:-1], -1, attention.head_dim)
        dim = attention.head_dim
        queries = (states @ attention.q_proj.weight[: MATCH_HEADS * dim].T).view(shape)
        keys = (states[:, : plan.prefix] @ attention.k_proj.weight[: MATCH_HEADS * dim].T).view(*shape[:1], plan.prefix, -1, dim)
        queries = attention.q_norm(queries)[:, plan.prefix :].unflatten(1, (plan.candidates, plan.suffix))
        queries = queries[:, :, 1 : 1 + plan.tokens]
        return torch.einsum("bknhd,bmhd->bkhnm", queries, attention.k_norm(keys)) / np.sqrt(dim)


def _through(layer: Any, hidden: torch.Tensor, plan: _Plan) -> torch.Tensor:
    """Run a layer of transformers' decoder where all rotary positions are 0, so that nothing is turned."""
    attention = layer.self_attn
    states = _norm(layer.input_layernorm, hidden)
    shape = (*states.shape[:-1], -1, attention.head_dim)
    query = _norm(attention.q_norm, attention.q_proj(states).view(shape)).transpose(1, 2)
    key = _norm(attention.k_norm, attention.k_proj(states).view(shape)).transpose(1, 2)
    value = attention.v_proj(states).view(shape).transpose(1, 2)
    seen = _attend(query.to(value.dtype), key.to(value.dtype), value, plan)
    hidden = hidden + attention.o_proj(seen.flatten(2))
    return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))


def _norm(module: Any, states: torch.Tensor) -> torch.Tensor:
    return nn.functional.rms_norm(states, states.shape[-1:], module.weight, module.variance_epsilon)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: _Plan) -> torch.Tensor:
    """Attend as the packed engine does: photos both ways, text causally, each candidate after the query alone.

    query, key, value: (g, heads, rows, dim). Returns (g, rows, heads, dim).
    """
    scaling = query.shape[-1] ** -0.5
    prefix, k = plan.prefix, plan.candidates

    def ours(states: torch.Tensor) -> torch.Tensor:
        return states[:, :, prefix:].unflatten(2, (k, plan.suffix)).transpose(1, 2).flatten(0, 1)

    def shared(states: torch.Tensor) -> torch.Tensor:
        return states[:, None, :, :prefix].expand(-1, k, -1, -1, -1).flatten(0, 1)

    start = value[:, :, :1]
    seen = scaled_dot_product_attention(query[:, :, 1:prefix], key[:, :, :prefix], value[:, :, :prefix], scale=scaling)
    asked = ours(query)
    keys, values = (torch.cat([shared(states), ours(states)], dim=2) for states in (key, value))
    photo = 1 + plan.tokens
    middle = scaled_dot_product_attention(
        asked[:, :, 1:photo], keys[:, :, : prefix + photo], values[:, :, : prefix + photo], scale=scaling
    )
    rows = torch.cat([asked[:, :, :1], asked[:, :, photo:]], dim=2)
    places = torch.tensor([0, *range(photo, plan.suffix)], device=rows.device)
    mask = torch.arange(keys.shape[2], device=rows.device) <= prefix + places[:, None]
    text = scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scaling)
    suffixes = torch.cat([text[:, :, :1], middle, text[:, :, 1:]], dim=2)
    suffixes = suffixes.unflatten(0, (-1, k)).transpose(1, 2).flatten(2, 3)
    return torch.cat([start, seen, suffixes], dim=2).transpose(1, 2)


@dataclass(frozen=True)
class LossWeights:
    """Of the parts of the loss."""

    order: float = 0.5
    inlier: float = 0.5
    match: float = 0.3


def losses(matcher: Matcher, groups: Groups, weights: LossWeights, device: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of groups, and its parts and the logits for the record."""
    query, candidates, same, match = (
        torch.from_numpy(part).to(device) for part in (groups.query, groups.candidates, groups.same, groups.match)
    )
    logits, inlier, first = matcher(query, candidates)
    pair = binary_cross_entropy_with_logits(logits, same)
    # The candidates of one query against each other: the mean over its positives, each against all negatives.
    rest = (logits - 1e4 * same).logsumexp(dim=1, keepdim=True)
    order = (nn.functional.softplus(rest - logits) * same).sum() / same.sum().clamp(min=1)
    known = match != UNKNOWN
    is_match = (match >= 0).float()
    token = binary_cross_entropy_with_logits(inlier[known], is_match[known])
    matched = match >= 0
    choice = first.transpose(2, 3)[matched]  # (matches, heads, 1 + m)
    target = (match[matched] + 1)[:, None].expand(-1, choice.shape[1])
    first_loss = cross_entropy(choice.flatten(0, 1).float(), target.flatten()) if len(choice) else logits.sum() * 0
    total = pair + weights.order * order + weights.inlier * token + weights.match * first_loss
    parts = {"pair": pair, "order": order, "inlier": token, "match": first_loss, "logits": logits}
    return total, {name: part.detach() for name, part in parts.items()}
