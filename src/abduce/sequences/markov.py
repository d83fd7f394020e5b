"""Markov chains of classes, several at once: exact inference under any blanks, draws, and counts for expectation-maximisation.

Chain m of series n goes from class i to class j of a step in phase φ of its season with probability

    p_m(j | i, φ, n) = stay_m [i = j] + own_m f_n(j) + table_m[φ, i, j]

f_n being frequencies of the series' own; each row sums to one, and a chain has either f or a table.  A cell is seen exactly
or not at all.  Forward, p(x_t | what was seen before); backward, b_t(i) ∝ p(what is seen later | x_t = i).  Their product is
the law of a cell given all *others*, which of a blank cell is its posterior.  Steps are a loop; chains and series are batched
in it.

Sources: Baum, Petrie, Soules & Weiss 1970 (forward and backward); Scott 2002 (draws).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

LEAST = 1e-12


class Chains(NamedTuple):
    """``stay`` and ``own`` (M,), ``usual`` f (N or 1, K), ``table`` (M, P, K, K), and ``start`` (M, P, K), the law of a
    cell of which nothing near was seen, without the part of ``own``.

    >>> moves = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).double().view(1, 1, 2, 2)
    >>> chain = Chains(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), moves, settled(moves))
    >>> codes, mask = torch.tensor([[1, 0, 1]]), torch.tensor([[True, False, True]])
    >>> inferred(chain, codes, mask, torch.zeros(1, 3).long()).chances[0, 0, 1]
    tensor([0.0577, 0.9423], dtype=torch.float64)
    """

    stay: Tensor
    own: Tensor
    usual: Tensor
    table: Tensor
    start: Tensor

    def moved(self, law: Tensor, phase: Tensor) -> Tensor:
        """The law (M, N, K) of a step in ``phase`` (N,) from that of the step before."""
        table = self.table[:, 0].unsqueeze(1) if self.table.shape[1] == 1 else self.table[:, phase]
        ahead = (law.unsqueeze(2) @ table).squeeze(2)
        ahead = ahead + self.stay[:, None, None] * law
        return ahead + self.own[:, None, None] * self.usual * law.sum(2, keepdim=True)

    def moved_back(self, later: Tensor, phase: Tensor) -> Tensor:
        """Σ_j p(j | i) later_j, (M, N, K), of a step in ``phase`` (N,) and the one before it."""
        table = self.table[:, 0].unsqueeze(1) if self.table.shape[1] == 1 else self.table[:, phase]
        back = (table @ later.unsqueeze(3)).squeeze(3) + self.stay[:, None, None] * later
        return back + self.own[:, None, None] * (self.usual * later).sum(2, keepdim=True)

    def into(self, classes: Tensor, phase: Tensor) -> Tensor:
        """p(classes | i) for all i, (n, M, N, K), of classes (n, M, N) drawn at a step in ``phase`` (N,)."""
        k = self.table.shape[2]
        chain = torch.arange(len(self.table)).view(-1, 1)
        which = phase if self.table.shape[1] > 1 else torch.zeros_like(phase)
        there = self.table.mT[chain, which, classes]
        same = torch.nn.functional.one_hot(classes, k).to(there)
        usual = self.usual.expand(len(phase), -1)[torch.arange(len(phase)), classes]
        return there + self.stay[:, None, None] * same + self.own[:, None, None] * usual.unsqueeze(3)


class Inferred(NamedTuple):
    """``chances`` (M, N, T, K) of each cell given all other cells of its series, ``log_prob`` (M, N, T) of what was seen of
    each step given those before, nats, and the ``filtered`` laws (M, N, T, K), of each step given it and those before."""

    chances: Tensor
    log_prob: Tensor
    filtered: Tensor


def inferred(chains: Chains, codes: Tensor, mask: Tensor, phase: Tensor) -> Inferred:
    """Infer the classes of series (N, T) with their mask, whose steps are in ``phase`` (N, T)."""
    n, steps = codes.shape
    m, k = len(chains.table), chains.table.shape[2]
    seen = evidence(codes, mask, k)
    ahead = torch.empty(m, n, steps, k, dtype=torch.float64)
    filtered, log_prob = torch.empty_like(ahead), torch.empty(m, n, steps, dtype=torch.float64)
    law = chains.start[:, phase[:, 0] % chains.start.shape[1]]
    law = law + (chains.own > 0)[:, None, None] * chains.usual  # what stays or falls back to f settles to f
    for t in range(steps):
        if t:
            law = chains.moved(law, phase[:, t])
        ahead[:, :, t] = law
        law = law * seen[:, t]
        total = law.sum(2, keepdim=True).clamp_min(LEAST)
        law = law / total
        filtered[:, :, t], log_prob[:, :, t] = law, total.squeeze(2).log()
    later = torch.ones(m, n, k, dtype=torch.float64)
    chances = ahead
    for t in reversed(range(steps)):
        both = chances[:, :, t] * later
        chances[:, :, t] = both / both.sum(2, keepdim=True).clamp_min(LEAST)
        if t:
            later = chains.moved_back(later * seen[:, t], phase[:, t])
            later = later / later.amax(2, keepdim=True).clamp_min(LEAST)
    return Inferred(chances, torch.where(mask, log_prob, 0.0), filtered)


def drawn(
    chains: Chains, filtered: Tensor, codes: Tensor, mask: Tensor, phase: Tensor, n: int, generator: Generator
) -> Tensor:
    """Draw whole series of classes given what was seen, (n, M, N, T): the last step first, each given the one after it."""
    m, rows, steps, _ = filtered.shape
    out = torch.empty(n, m, rows, steps, dtype=torch.long)
    for t in reversed(range(steps)):
        law = filtered[:, :, t].expand(n, -1, -1, -1)
        if t < steps - 1:
            law = law * chains.into(out[..., t + 1], phase[:, t + 1])
        share = torch.rand(n, m, rows, 1, generator=generator, dtype=law.dtype)
        below = law.cumsum(3)
        picked = (below < share * below[..., -1:]).sum(3).clamp_max(law.shape[3] - 1)
        out[..., t] = torch.where(mask[:, t], codes[:, t], picked)
    return out


def moves(chains: Chains, codes: Tensor, mask: Tensor, phase: Tensor) -> Tensor:
    """Expected numbers of moves from class to class into each phase, (M, P, K, K): the E-step."""
    found = inferred(chains, codes, mask, phase)
    m, n, steps, k = found.filtered.shape
    seen = evidence(codes, mask, k)
    later = torch.ones(m, n, k, dtype=torch.float64)
    periods = chains.table.shape[1]
    out = torch.zeros(m, periods, k, k, dtype=torch.float64)
    for t in range(steps - 1, 0, -1):
        told = later * seen[:, t]
        at = phase[:, t] if periods > 1 else torch.zeros(n, dtype=torch.long)
        whole = chains.table[:, at] + chains.stay[:, None, None, None] * torch.eye(k, dtype=torch.float64)
        whole = whole + (chains.own[:, None, None] * chains.usual).unsqueeze(2)
        pair = found.filtered[:, :, t - 1].unsqueeze(3) * whole * told.unsqueeze(2)
        pair = pair / pair.sum((2, 3), keepdim=True).clamp_min(LEAST)
        out.index_add_(1, at, pair)
        later = chains.moved_back(told, phase[:, t])
        later = later / later.amax(2, keepdim=True).clamp_min(LEAST)
    return out


def evidence(codes: Tensor, mask: Tensor, levels: int) -> Tensor:
    """One where a class may be and zero where it is not, (N, T, K)."""
    one = torch.nn.functional.one_hot(torch.where(mask, codes, 0), levels).double()
    return torch.where(mask.unsqueeze(2), one, 1.0)


def settled(table: Tensor) -> Tensor:
    """The laws (M, P, K) that chains with these moves (M, P, K, K) settle to in each phase, whatever they begin with; of no
    moves at all zeros."""
    periods = table.shape[1]
    cycle = table[:, 0]
    for phase in range(1, periods):
        cycle = cycle @ table[:, phase]
    for _ in range(40):
        cycle = cycle @ cycle
        cycle = cycle / cycle.sum(2, keepdim=True).clamp_min(LEAST)
    law = cycle.mean(1)  # rows are alike unless classes never lead to one another
    out = [law]
    for phase in range(periods - 1):
        out.append((out[-1].unsqueeze(1) @ table[:, phase]).squeeze(1))
    return torch.stack(out, 1).roll(-1, 1)  # the first was that of the last phase
