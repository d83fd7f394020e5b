"""Weights of members by situation, and the errors of what they make together: from hidden cells that they filled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.sequences.pool import CODES, DISTANCES, LEVELS, PLACES, SPANS, Situation, combined

# pseudo-cells that pull the weights of a place toward what each member's own error suggests, and those of a situation toward
# those of its place: many, since cells of one gap err alike
GOOD = 1000.0
ALIKE = 10_000.0
ROUNDS = 4  # of weights and cells' weights in turn
SMALL = 1.0  # of the mean absolute error: smaller ones count as this
HELD = 0.8  # share of a turn's errors that intervals of other turns are to hold
WIDEST = 2.0
USUAL = 50.0  # hidden cells that the usual distribution of errors counts as


class Filled(NamedTuple):
    """Hidden cells: what members said, (cells, M) each; the truth, situation and feature, (cells,), ``scale``, how far its
    series usually moves, so that each series counts alike, and the ``turn`` in which it was cut off, −1 of others."""

    centres: Tensor
    deviations: Tensor
    truth: Tensor
    code: Tensor
    feature: Tensor
    scale: Tensor
    turn: Tensor

    @classmethod
    def of(
        cls,
        said: list[tuple[Tensor, Tensor]],
        truth: Tensor,
        hidden: Tensor,
        code: Tensor,
        scale: Tensor,
        turn: Tensor,
    ) -> Filled:
        """Of the cells marked ``hidden`` of series (N, T, F) of ``scale`` (N, F) and ``turn`` (N,), from what members say of
        these cells."""
        centres, deviations = (torch.stack(parts, 1) for parts in zip(*said, strict=True))
        feature = torch.arange(hidden.shape[2]).expand(hidden.shape)[hidden]
        row = torch.arange(len(hidden))[:, None, None].expand(hidden.shape)[hidden]
        return cls(centres, deviations, truth[hidden], code[hidden], feature, scale[row, feature], turn[row])


def usual_moves(y: Tensor, mask: Tensor, period: int, own: bool) -> Tensor:
    """How far series (N, T, F) move in a season on average, (N, F), each its own or all alike; at least a tenth of the usual.

    >>> usual_moves(torch.tensor([[[0.0], [1.0], [3.0]]]), torch.ones(1, 3, 1).bool(), 1, True)
    tensor([[1.5000]])
    """
    both = mask[:, period:] & mask[:, :-period]
    moved = torch.where(both, (y[:, period:] - y[:, :-period]).abs(), 0.0).sum(1)
    count = both.sum(1)
    if not own:
        moved, count = (v.sum(0, keepdim=True).expand(len(y), -1) for v in (moved, count))
    mean = moved / count.clamp_min(1)
    known = (count > 0) & (mean > 0)
    if not bool(known.any()):
        return torch.ones_like(mean)
    typical = mean[known].median()
    return torch.where(known, mean, typical).clamp_min(0.1 * float(typical))


def weigh(filled: Filled, features: int) -> tuple[Tensor, Tensor]:
    """Weights (situations, F, M) and the quantiles of errors (situations, LEVELS) of what members filled.

    Weights minimise the absolute error: of a place at a span, then of each feature there, then of each distance of the
    feature, each pulled toward those before.  Spans of which nothing was filled take the weights of the nearest that has some.
    """
    m = filled.centres.shape[1]
    shares = torch.full((len(SPANS) + 1, len(PLACES), DISTANCES, features, m), 1 / m, dtype=torch.float64)
    place, _, span = Situation.of_code(filled.code)
    for p in range(len(PLACES)):
        found = {}
        for s in range(len(SPANS) + 1):
            here = (place == p) & (span == s)
            if bool(here.any()):
                found[s] = _of_place(Filled(*(part[here] for part in filled)), features)
        for s in range(len(SPANS) + 1) if found else ():
            shares[s, p] = found[_nearest(s, found)]
    if bool((place == 1).any()):  # who forecasts well backcasts well: members are as good either way
        shares[:, PLACES.index("past")] = shares[:, PLACES.index("future")]
    shares = shares.flatten(0, 2)
    return shares, _errors(filled, shares)


def _nearest(wanted: int, found: Iterable[int]) -> int:
    return min(found, key=lambda other: (abs(other - wanted), -other))


def _of_place(filled: Filled, features: int) -> Tensor:
    """Weights (distances, F, M) from the cells of one place.

    Distances at which the same members have an opinion are weighed together; others take the weights of the nearest of them.
    """
    m = filled.centres.shape[1]
    dist = torch.remainder(filled.code, DISTANCES)
    known = torch.isfinite(filled.centres).double()
    able = torch.zeros(DISTANCES, m, dtype=torch.float64).index_add_(0, dist, known)
    able = able > 0.5 * torch.bincount(dist, minlength=DISTANCES).unsqueeze(1)
    found = dist.unique().tolist()
    able = able[[_nearest(d, found) for d in range(DISTANCES)]]
    own = torch.zeros(DISTANCES, features, m, dtype=torch.float64)
    kinds, kind = able.unique(dim=0, return_inverse=True)
    for k, some in enumerate(kinds):
        here = kind[dist] == k
        weights = _of_able(Filled(*(part[here] for part in filled)), some, features)
        own[kind == k] = weights[kind == k]
    return own


def _of_able(filled: Filled, able: Tensor, features: int) -> Tensor:
    """Weights (distances, F, M) of the members that are ``able`` (M,), from cells; 0 of the others."""
    centres, truth, code, feature, scale = (
        filled.centres,
        filled.truth,
        filled.code,
        filled.feature,
        filled.scale,
    )
    said = centres[:, able] - truth.unsqueeze(1)
    # who has no opinion of a cell errs there as the others do on average
    said = torch.where(torch.isfinite(said), said, said.nanmean(1, keepdim=True)).nan_to_num()
    dist = torch.remainder(code, DISTANCES)
    said, whole = _weighed(said / scale.unsqueeze(1))
    by_feature = simplex(*_grams(said, feature, features), whole.expand(features, -1), ALIKE)
    key = dist * features + feature
    towards = by_feature.repeat(DISTANCES, 1)
    by_both = simplex(*_grams(said, key, DISTANCES * features), towards, ALIKE)
    out = torch.zeros(DISTANCES, features, len(able), dtype=torch.float64)
    out[..., able] = by_both.view(DISTANCES, features, int(able.sum()))
    return out


def _weighed(errors: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (cells, M) by the root of each cell's weight, so that their squares stand for absolute errors, and the members'
    weights (1, M) for all cells.

    A cell counts as one over the absolute error that the weighed members make there together (Lawson 1961), first over the
    mean of theirs: whose errors set the cells' weights would be favoured by them.
    """
    size = errors.abs().mean(1)
    zero = torch.zeros(len(errors), dtype=torch.long)
    scaled, whole = errors, errors.new_zeros(1, errors.shape[1])
    for _ in range(ROUNDS):
        scaled = errors / size.clamp_min(SMALL * float(size.mean()) + 1e-12).sqrt().unsqueeze(1)
        precise = 1 / scaled.square().mean(0, keepdim=True).clamp_min(1e-12)
        precise = (precise / precise.max()).square()
        whole = simplex(*_grams(scaled, zero, 1), precise / precise.sum(), GOOD)
        size = (errors @ whole[0]).abs()
    return scaled, whole


def _errors(filled: Filled, shares: Tensor) -> Tensor:
    """Quantiles of the pool's errors in units of its deviation, by situation."""
    centre, deviation = combined(filled.centres, filled.deviations, shares[filled.code, filled.feature])
    error = (filled.truth - centre) / deviation.clamp_min(1e-9)
    levels = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    usual = torch.special.ndtri(levels)

    def toward(before: Tensor, some: Tensor) -> Tensor:
        some = some[torch.isfinite(some)]
        if not len(some):
            return before
        found = torch.quantile(_picked(some), levels)
        return (len(some) * found + USUAL * before) / (len(some) + USUAL)

    out = usual.repeat(CODES, 1).view(len(SPANS) + 1, len(PLACES), DISTANCES, LEVELS)
    place, dist, span = Situation.of_code(filled.code)
    for p in range(len(PLACES)):
        here = place == p
        known = set(span[here].tolist())
        for s in range(len(SPANS) + 1) if known else ():
            near = here & (span == _nearest(s, known))
            whole = toward(usual, error[near])
            for d in range(DISTANCES):
                out[s, p, d] = toward(whole, error[near & (dist == d)])
    if bool((place == 1).any()):
        out[:, 1] *= widening(error[place == 1], dist[place == 1], filled.turn[place == 1])
        # time turned round: the shape of errors stays, only their sign may differ
        ahead = out[:, 1]
        out[:, 2] = 0.5 * (ahead - ahead.flip(2))
    return out.flatten(0, 2)


def widening(error: Tensor, distance: Tensor, turn: Tensor) -> float:
    """By how much intervals must be wider than errors of known turns say, so that those of a turn not known hold as stated.

    Series that are cut off together may err together, so that the errors of a few turns look more alike than the next ones
    will be.  Each turn is left out once: the factor with which `HELD` of such errors lie in the interval that the others give,
    at least one.

    >>> round(widening(torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.zeros(4).long(), torch.tensor([0, 0, 1, 1])), 2)
    1.25
    """
    known = torch.isfinite(error) & (turn >= 0)
    error, distance, turn = error[known], distance[known], turn[known]
    ends = torch.tensor([0.5 - HELD / 2, 0.5 + HELD / 2], dtype=error.dtype)
    reached = []
    for left_out in turn.unique().tolist():
        for d in distance.unique().tolist():
            here = distance == d
            others, own = _picked(error[here & (turn != left_out)]), _picked(error[here & (turn == left_out)])
            if len(others) and len(own):
                low, high = torch.quantile(others, ends)
                reached.append(torch.where(own < 0, own / low.clamp_max(-1e-9), own / high.clamp_min(1e-9)))
    if not reached:
        return 1.0
    return float(torch.quantile(_picked(torch.cat(reached)), HELD).clamp(1.0, WIDEST))


def _picked(some: Tensor) -> Tensor:
    """Some of many numbers."""
    return some if len(some) <= 2**20 else some[:: len(some) // 2**20 + 1]


def _grams(errors: Tensor, key: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Σ e eᵀ of the members' errors (cells, M) by group, (G, M, M), and how many cells each has (G,)."""
    m = errors.shape[1]
    gram = errors.new_zeros(groups, m, m)
    step = max(1, 2**22 // (m * m))
    for start in range(0, len(errors), step):
        e = errors[start : start + step]
        gram.index_add_(0, key[start : start + step], e.unsqueeze(2) * e.unsqueeze(1))
    return gram, torch.bincount(key, minlength=groups).to(errors)


def simplex(gram: Tensor, count: Tensor, towards: Tensor, prior: float, rounds: int = 400) -> Tensor:
    """Weights w ≥ 0 of sum one that minimise wᵀ G w + pull |w − w₀|², a problem each of (G, M, M); w₀ is ``towards``.

    The pull is that of ``prior`` cells of the best member's error, so that bad members lose their weight on few cells too.
    Accelerated projected gradient (Beck & Teboulle 2009).

    >>> simplex(torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]), torch.ones(1), torch.tensor([[0.5, 0.5]]), 0.0)
    tensor([[0.7500, 0.2500]])
    """
    m = gram.shape[1]
    if m == 1:
        return torch.ones_like(towards)
    pull = prior * gram.diagonal(dim1=1, dim2=2).amin(1) / count.clamp_min(1)
    whole = gram + pull[:, None, None] * torch.eye(m, dtype=gram.dtype)
    steepest = torch.linalg.matrix_norm(whole, 2).clamp_min(1e-300)
    w = ahead = towards.clone()
    pace = 1.0
    for _ in range(rounds):
        slope = (whole @ ahead.unsqueeze(2)).squeeze(2) - pull.unsqueeze(1) * towards
        moved = _projected(ahead - slope / steepest.unsqueeze(1))
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, pace, w = moved + (pace - 1) / faster * (moved - w), faster, moved
    return torch.where((count > 0).unsqueeze(1), w, towards)


def _projected(w: Tensor) -> Tensor:
    """The nearest points with coordinates ≥ 0 of sum one."""
    order = w.sort(1, descending=True).values
    excess = order.cumsum(1) - 1
    k = torch.arange(1, w.shape[1] + 1, dtype=w.dtype)
    last = (order - excess / k > 0).sum(1, keepdim=True) - 1
    return (w - torch.gather(excess / k, 1, last)).clamp_min(0)
