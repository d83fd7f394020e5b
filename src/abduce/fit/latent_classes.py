"""Fit latent classes to tables of classes with blanks, by expectation-maximisation over the observed cells.

    E    r_ik ∝ π_k Π_{j observed} p_j(x_ij | k)
    M    π_k ∝ Σ_i r_ik + a,        p_j(l | k) ∝ Σ_{i: j observed} r_ik 1[x_ij = l] + α m_jl

a and α are pseudo-rows, Dirichlet priors: each component has seen α rows with the column's own shares m_jl, in which every
level has occurred.  Each step raises Σ_i log p(x_i) + Σ_jkl α m_jl log p_j(l | k) + a Σ_k log π_k.  EM climbs to the nearest
top, so that several starts run side by side for some steps, of which the best goes on.

Sources: Goodman 1974; Dempster, Laird & Rubin 1977; Biernacki, Celeux & Govaert 2003 (short runs, then the best one).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.mixture import BUDGET as BLOCK
from abduce.models.latent_classes import LatentClassesEnergy, Levels

PSEUDO_ROWS = 6.0  # α; from 3 to 12 predict hidden cells of tables of many makes about as well
WEIGHT_ROWS = 1.0  # a
STARTS = 8  # runs side by side, at most
TOGETHER = 64  # components of all runs, where they are more than one
SHORT = 15  # steps of each
SOME = 5000  # rows of short runs, and of the choice of components
KEPT = 2**25  # numbers of indicators that are kept in memory
HIDDEN = 0.1  # share of observed cells hidden to choose how many components
MOST = 128  # components that are chosen by themselves
PATIENCE = 2  # doublings that predict no better, and the choice is made


def fit_latent_classes(
    x: Tensor,
    observed: Tensor | None,
    levels: Sequence[int],
    components: int | str = "auto",
    seed: int = 0,
    pseudo_rows: float = PSEUDO_ROWS,
) -> LatentClassesEnergy:
    """Fit K latent classes to codes x (n, D) of cells that have ``levels`` (D,) each; blank cells may hold anything.

    ``components`` K, or "auto": 1, 2, 4, ... up to what predicts a tenth of the cells best, hidden from the fit, by log loss.
    ``pseudo_rows`` α > 0 pulls each component to the columns' shares.
    """
    if not pseudo_rows > 0:
        raise ValueError(f"pseudo_rows must be above 0, got {pseudo_rows!r}")
    seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    generator = torch.Generator().manual_seed(seed)
    places = Levels(levels)
    start = None
    if components == "auto":
        start = _chosen(x, seen, places, pseudo_rows, generator)
    elif isinstance(components, str) or not 1 <= components <= len(x):
        raise ValueError(
            f"components must be 'auto' or an int from 1 to the number of rows, {len(x)}, got {components!r}"
        )
    table = ClassTable(x, seen, places, pseudo_rows)
    start = start or short_runs(table, int(components), STARTS, generator)
    return climb(table, start, 200, 3e-6).model(places)


class Runs(NamedTuple):
    """S mixtures side by side: log π (S, K), log p (S, K, ΣL), and the objective of each (S,) before the last step."""

    log_weights: Tensor
    log_p: Tensor
    value: Tensor

    def best(self) -> Runs:
        """The run that came highest, alone."""
        i = self.value.argmax().view(1)
        return Runs(*(t[i] for t in self))

    def model(self, levels: Levels) -> LatentClassesEnergy:
        """The best of them as an energy."""
        best = self.best()
        return LatentClassesEnergy.of(levels.sizes.tolist(), best.log_weights[0], best.log_p[0])


class ClassTable:
    """Indicators of rows (n, D), a block at a time, and the prior that goes with them."""

    def __init__(self, x: Tensor, observed: Tensor, levels: Levels, pseudo_rows: float):
        self.x, self.observed, self.levels = x.double(), observed, levels
        self.rows = len(x)
        self._kept = list(self._made()) if len(x) * len(levels.cells) <= KEPT else None
        # of levels in each column, (ΣL,), as if each level had occurred half a time more
        count = sum((h.sum(0) for h in self), self.x.new_zeros(len(levels.cells))) + 0.5
        self.shares = count / levels.totals(count)[levels.cells]
        self.prior = pseudo_rows * self.shares

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._made() if self._kept is None else self._kept)

    def _made(self) -> Iterator[Tensor]:
        size = max(1, BLOCK // len(self.levels.cells))
        for x, observed in zip(self.x.split(size), self.observed.split(size), strict=True):
            yield self.levels.indicators(x, observed)

    def of(self, rows: Tensor) -> ClassTable:
        """Some of the rows, with the prior of all."""
        part = ClassTable(self.x[rows], self.observed[rows], self.levels, 1.0)
        part.shares, part.prior = self.shares, self.prior
        return part

    def step(self, runs: Runs) -> Runs:
        """One step of EM for every run, and the objective of what it was given."""
        s, k, total = runs.log_p.shape
        size, counts = runs.log_p.new_zeros(s, k), runs.log_p.new_zeros(s * k, total)
        value = (self.prior * runs.log_p).sum((1, 2)) + WEIGHT_ROWS * runs.log_weights.sum(1)
        flat = runs.log_p.view(s * k, total)
        for h in self:
            joint = (h @ flat.mT).view(-1, s, k) + runs.log_weights
            norm = torch.logsumexp(joint, 2, keepdim=True)
            r = (joint - norm).exp()
            value = value + norm.sum((0, 2))
            size += r.sum(0)
            counts += r.view(-1, s * k).mT @ h
        counts = counts.view(s, k, total) + self.prior
        size = size + WEIGHT_ROWS
        log_p = self.levels.log_normalised(counts.log())
        return Runs((size / size.sum(1, keepdim=True)).log(), log_p, value)


def climb(table: ClassTable, runs: Runs, iterations: int, tolerance: float) -> Runs:
    """Steps of EM, at most ``iterations``, until no run's objective rises by more than ``tolerance`` nats an observed cell."""
    before, least = None, tolerance * float(table.observed.sum())
    for _ in range(iterations):
        runs = table.step(runs)
        if before is not None and bool((runs.value - before <= least).all()):
            break
        before = runs.value
    return runs


def short_runs(table: ClassTable, components: int, starts: int, generator: torch.Generator) -> Runs:
    """The best of some short runs on some of the rows, each from as many rows taken at random as it has components.

    A component starts half way from the columns' shares to its row.
    """
    some = torch.randperm(table.rows, generator=generator)[: max(SOME, components)]
    part = table.of(some)
    s = max(1, min(starts, TOGETHER // components)) if components > 1 else 1
    rows = torch.stack([torch.randperm(len(some), generator=generator)[:components] for _ in range(s)])
    x, observed = part.x[rows], part.observed[rows]
    given = observed[..., table.levels.cells]
    p = torch.where(given, 0.5 * (table.levels.indicators(x, observed) + table.shares), table.shares)
    weights = p.new_full((s, components), -math.log(components))
    return climb(part, Runs(weights, p.log(), p.new_full((s,), -math.inf)), SHORT, 0.0).best()


def _chosen(x: Tensor, seen: Tensor, levels: Levels, pseudo_rows: float, generator: torch.Generator) -> Runs:
    """A mixture of the number of components that predicts hidden cells best, fitted to the others."""
    some = torch.randperm(len(x), generator=generator)[:SOME]
    x, seen = x[some].double(), seen[some]
    hidden = seen & (torch.rand(x.shape, generator=generator) < HIDDEN)
    table = ClassTable(x, seen & ~hidden, levels, pseudo_rows)
    truth = levels.indicators(x, hidden)
    best, highest, size, worse = None, -math.inf, 1, 0
    while best is None or (size <= min(MOST, len(x) // 2) and worse < PATIENCE):
        runs = climb(table, short_runs(table, size, STARTS, generator), 100, 5e-5)
        said = runs.model(levels).law()
        assert said is not None
        found = float(torch.xlogy(truth, said.probabilities(Seen(x, table.observed))).sum())
        if found > highest:
            best, highest, worse = runs, found, 0
        else:
            worse += 1
        size *= 2
    return best
