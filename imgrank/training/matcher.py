"""Train the built-in model on groups of pairs: its losses and its forward pass for many groups at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, scaled_dot_product_attention

from imgrank.arrays import Floats
from imgrank.mllm.keypoint_network import (
    COLOURS,
    DESCRIPTOR,
    GEOMETRY,
    PHASES,
    ROPE_THETA,
    STEP,
    VERSION,
    KeypointConfig,
    KeypointNetwork,
)
from imgrank.training.pairs import UNKNOWN, Groups

QUERY, CANDIDATE, READERS, ZERO, ONE = 1, 2, tuple(range(3, 11)), 11, 12  # token ids; 0 stands for a photo
VOCABULARY = 16
MATCH_HEADS = 3  # heads of the first layer that begin as matchers
_NONE = 4  # dimensions of such a head that weigh having no match
_FIXED = 3  # last dimensions of a token: whether it has no match, the mark of none, a constant
# Phases of the geometry that the first layer begins by comparing: x and y at the lower frequencies, sizes, angles.
COMPARED = (0, 1, 2, 4, 5, 6, 8, 9, 10, 11)


@dataclass(frozen=True)
class Shape:
    """Of the network."""

    hidden: int = 192
    layers: int = 4
    heads: int = 4
    head_dim: int = 64
    mlp: int = 384
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
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        connector_size=shape.connector,
        version=VERSION,
    )
    network = KeypointNetwork(config)
    _start_as_matcher(network, mean, basis)
    return network


@torch.no_grad()
def _start_as_matcher(network: KeypointNetwork, mean: Floats, basis: Floats) -> None:
    """Lay out tokens as [descriptor | colours | geometry | free | fixed]; let the first layer compare parts of them."""
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
    straight[-_FIXED:] = 0
    connector.down.weight[-_FIXED:] = 0
    connector.straight.bias[-1] = 1.0  # a constant
    embeddings = network.model.language_model.embed_tokens.weight
    embeddings[:, -_FIXED:] = 0
    embeddings[QUERY] = 0
    embeddings[QUERY, -2] = 1.0  # marks the token that stands for no match
    _match(layer.self_attn, kept)
    _bring(layer.self_attn, kept)
    _compare(layer.mlp, kept)


def _match(attention: Any, kept: int) -> None:
    """Let a descriptor attend to equal ones of the other photo, or to the token before it where none is near enough.

    Projections of queries and keys have opposite signs, which the half turn between the photos undoes; so a token does
    not find itself.
    """
    dim = attention.head_dim
    constant, none = attention.q_proj.in_features - 1, attention.q_proj.in_features - 2
    least = 0.7 * np.sqrt(dim - _NONE)  # cosine at which none and a match weigh the same
    queries, keys = attention.q_proj.weight, attention.k_proj.weight
    for projection in (queries, keys):
        projection[: MATCH_HEADS * dim].mul_(0.1)
    for head, first in enumerate(np.linspace(0, kept - dim + _NONE, MATCH_HEADS).astype(int)):
        colours = COLOURS if head == MATCH_HEADS - 1 else 0
        places = [*range(first, first + dim - _NONE - colours), *range(kept, kept + colours)]
        for at, place in enumerate(places):
            queries[head * dim + at, place] = -1.0
            keys[head * dim + at, place] = 1.0
        for at in range(dim - _NONE, dim):
            queries[head * dim + at, constant] = -least / np.sqrt(_NONE)
            keys[head * dim + at, none] = 1.0
    attention.q_norm.weight.fill_(1.8)
    attention.k_norm.weight.fill_(1.8)


def _bring(attention: Any, kept: int) -> None:
    """Let a token receive, beside its own, the geometry and the colours of what it matches."""
    dim, free = attention.head_dim, kept + COLOURS + GEOMETRY
    heads = slice(0, MATCH_HEADS * dim)
    attention.v_proj.weight[heads].mul_(0.5)
    attention.o_proj.weight[:, heads].mul_(0.5)
    attention.o_proj.weight[-_FIXED] = 0
    for head in range(MATCH_HEADS):
        for at in range(GEOMETRY):
            attention.v_proj.weight[head * dim + at, kept + COLOURS + at] = 1.0
            attention.o_proj.weight[free + at, head * dim + at] = 1.0 / MATCH_HEADS
        for at in range(COLOURS):
            attention.v_proj.weight[head * dim + GEOMETRY + at, kept + at] = 1.0
            attention.o_proj.weight[free + GEOMETRY + at, head * dim + GEOMETRY + at] = 1.0 / MATCH_HEADS
        lost = head * dim + GEOMETRY + COLOURS
        attention.v_proj.weight[lost] = 0
        attention.v_proj.weight[lost, -2] = 0.2
        attention.o_proj.weight[-_FIXED, lost] = 1.0 / MATCH_HEADS


def _compare(mlp: Any, kept: int) -> None:
    """Let the first layer compute by how much places, sizes and angles of a match differ.

    cos(a - b) = cos a cos b + sin a sin b, and silu(x) y - silu(-x) y = x y: two units make a product.
    """
    own = kept + COLOURS
    matched, out = own + GEOMETRY, own + 2 * GEOMETRY + COLOURS
    unit = 0
    for phase in COMPARED:
        cosine, sine = phase, PHASES + phase
        for parts in (((cosine, cosine, 1.0), (sine, sine, 1.0)), ((sine, cosine, 1.0), (cosine, sine, -1.0))):
            for a, b, sign in parts:
                for half in (1.0, -1.0):
                    mlp.gate_proj.weight[unit] *= 0.1
                    mlp.up_proj.weight[unit] *= 0.1
                    mlp.down_proj.weight[:, unit] *= 0.1
                    mlp.gate_proj.weight[unit, own + a] = half
                    mlp.up_proj.weight[unit, matched + b] = 1.0
                    mlp.down_proj.weight[out, unit] = sign * half
                    unit += 1
            out += 1


class Matcher(nn.Module):
    """A network and what it needs only while it learns."""

    def __init__(self, network: KeypointNetwork) -> None:
        super().__init__()
        self.network = network
        self._through = _through
        text = network.config.text_config
        self.inlier = nn.ModuleList(nn.Linear(text.hidden_size, 1) for _ in range(text.num_hidden_layers - 1))

    def compile_layers(self) -> None:
        """Compile what a layer does; each new shape of a batch takes a while at its first step."""
        torch._dynamo.config.recompile_limit = 64
        self._through = torch.compile(_through, dynamic=False)

    def forward(self, query: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run g queries (g, m, INPUTS) with k candidates each (g, k, n, INPUTS).

        Returns:
            logit differences (g, k); after each layer but the last, of each candidate's token, whether it has a match
            (layers - 1, g, k, n); and how the matching heads of the first layer weigh the query's tokens for it,
            (g, k, heads, n, 1 + m), the first for none.
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
        turns = _turns(plan, hidden.device)
        inlier = []
        for number, layer in enumerate(decoder.layers):
            if number:
                seen = hidden[:, plan.prefix :].unflatten(1, (k, plan.suffix))[:, :, 1 : 1 + n]
                seen = nn.functional.rms_norm(seen, seen.shape[-1:])
                inlier.append(self.inlier[number - 1](seen)[..., 0])
            hidden = self._through(layer, hidden, turns, plan)
        ends = hidden[:, plan.prefix :].unflatten(1, (k, plan.suffix))[:, :, -1]
        rows = self.network.lm_head.weight
        logits = (decoder.norm(ends).float() * (rows[ONE] - rows[ZERO]).float()).sum(dim=-1)
        return logits, torch.stack(inlier).float(), weights

    def _first_weights(self, hidden: torch.Tensor, plan: _Plan) -> torch.Tensor:
        layer = self.network.model.language_model.layers[0]
        attention = layer.self_attn
        states = layer.input_layernorm(hidden)
        shape = (*states.shape[:-1], -1, attention.head_dim)
        dim = attention.head_dim
        queries = (states @ attention.q_proj.weight[: MATCH_HEADS * dim].T).view(shape)
        keys = (states[:, : plan.prefix] @ attention.k_proj.weight[: MATCH_HEADS * dim].T).view(
            *shape[:1], plan.prefix, -1, dim
        )
        queries = attention.q_norm(queries)[:, plan.prefix :].unflatten(1, (plan.candidates, plan.suffix))
        angle = torch.tensor(float(STEP))
        queries = _turned(queries[:, :, 1 : 1 + plan.tokens], angle.cos(), angle.sin())
        return torch.einsum("bknhd,bmhd->bkhnm", queries, attention.k_norm(keys)) / np.sqrt(dim)


def _through(layer: Any, hidden: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], plan: _Plan) -> torch.Tensor:
    """Run a layer of transformers' decoder on many groups at once."""
    attention = layer.self_attn
    states = _norm(layer.input_layernorm, hidden)
    shape = (*states.shape[:-1], -1, attention.head_dim)
    query = _turned(_norm(attention.q_norm, attention.q_proj(states).view(shape)), *turns).transpose(1, 2)
    key = _turned(_norm(attention.k_norm, attention.k_proj(states).view(shape)), *turns).transpose(1, 2)
    value = attention.v_proj(states).view(shape).transpose(1, 2)
    seen = _attend(query.to(value.dtype), key.to(value.dtype), value, plan)
    hidden = hidden + attention.o_proj(seen.flatten(2))
    return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))


def _turns(plan: _Plan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows, 1, 1) cosines and sines of the rotary angle of each row: one for all dimensions."""
    suffix = [STEP] * (1 + plan.tokens) + [2 * STEP] * len(READERS)
    angles = torch.tensor([0] * plan.prefix + suffix * plan.candidates, device=device)[:, None, None]
    return angles.cos(), angles.sin()


def _turned(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cosine.to(states) + torch.cat([-second, first], dim=-1) * sine.to(states)


def _norm(module: Any, states: torch.Tensor) -> torch.Tensor:
    return nn.functional.rms_norm(states, states.shape[-1:], module.weight.to(states.dtype), module.variance_epsilon)


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


def losses(
    matcher: Matcher, groups: Groups, weights: LossWeights, device: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
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
    by_layer = [binary_cross_entropy_with_logits(one[known], is_match[known]) for one in inlier]
    token = torch.stack(by_layer).mean()
    choice = first.transpose(2, 3)[known]  # (tokens, heads, 1 + m)
    target = (match[known] + 1)[:, None].expand(-1, choice.shape[1])  # NO_MATCH + 1 is the token for none
    each = cross_entropy(choice.flatten(0, 1).float(), target.flatten(), reduction="none")
    share = is_match[known][:, None].expand(-1, choice.shape[1]).flatten()
    share = share / share.sum().clamp(min=1) + 0.5 * (1 - share) / (1 - share).sum().clamp(min=1)
    first_loss = (each * share).sum()
    total = pair + weights.order * order + weights.inlier * token + weights.match * first_loss
    parts = {"pair": pair, "order": order, "inlier": by_layer[-1], "match": first_loss, "logits": logits}
    return total, {name: part.detach() for name, part in parts.items()}
