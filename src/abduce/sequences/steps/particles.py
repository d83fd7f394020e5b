"""Missing cells of a sequence of steps by sequential Monte Carlo: particles are weighed by what is seen later.

    x_missing^s ~ Π_missing p(x_ti | what precedes it),   w_s ∝ Π_seen p(x_ti | what precedes it in particle s)

A cell that is seen weighs the particles by its probability, also within a step, so that Σ_t log mean w estimates log p of what
is seen, and its exponential is unbiased.  Where weights are uneven, below half of the particles in effect, they are resampled.
The law looks back M steps: stretches of blanks that lie farther apart are independent given what is between them, and each has
particles of its own, which end M steps after its last blank.  How many draws the answer is worth is counted by distinct
ancestors: 1 / Σ_a (Σ_{s of a} w_s)², the least over the steps that have blanks.

Sources: Gordon, Salmond & Smith 1993; Del Moral, Doucet & Jasra 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.inference.weights import effective_sample_size, resample
from abduce.sequences.steps.network import ChainNet
from abduce.sequences.steps.training import Windows, step_log_p

UNEVEN = 0.5  # share of the particles below which they are resampled


@dataclass
class BlankSteps:
    """Particles (S, steps, D) of the steps with blanks of a sequence from ``start`` on, their log weights and worth."""

    start: int
    paths: Tensor
    log_w: Tensor
    ess: float


@dataclass
class Completed:
    """A sequence (T, D), its stretches of blanks, and log p of what is seen of each step given those before it, (T,)."""

    x: np.ndarray
    step_log_p: np.ndarray
    stretches: list[BlankSteps] = field(default_factory=list)

    @property
    def ess(self) -> float:
        """Draws that the answer is worth: of its hardest stretch; infinite where nothing is missing."""
        return min((s.ess for s in self.stretches), default=math.inf)

    def chances(self, levels: int) -> np.ndarray:
        """Probability of each value of each cell, (T, D, K): ones and zeros where it was seen."""
        out = np.eye(levels)[np.maximum(self.x, 0)]
        for s in self.stretches:
            w = torch.softmax(s.log_w, 0)
            found = torch.nn.functional.one_hot(s.paths, levels).double()
            out[s.start : s.start + s.paths.shape[1]] = torch.einsum("s,stdk->tdk", w, found).numpy()
        return out

    def draws(self, n: int, generator: Generator) -> list[np.ndarray]:
        """``n`` copies, whole, drawn by the weights."""
        out = [self.x.copy() for _ in range(n)]
        for s in self.stretches:
            chosen = resample(s.log_w[:, None], n, generator)[:, 0]
            chosen = chosen[torch.randperm(n, generator=generator)]
            for copy, path in zip(out, s.paths[chosen], strict=True):
                copy[s.start : s.start + len(path)] = path.numpy()
        return out


def complete(net: ChainNet, x: np.ndarray, particles: int, generator: Generator) -> Completed:
    """What is missing of a sequence (T, D) of values, −1 where there is none."""
    blank = np.asarray((x < 0).any(1))
    whole = ~blank
    known = Windows([np.maximum(x, 0)], net.shape.memory)
    log_p = np.zeros(len(x))
    found = Completed(x, log_p)
    spans = stretches(blank, net.shape.memory)
    for start, stop, end in spans:
        whole[start:end] = False
        found.stretches.append(_stretch(net, x, known, (start, stop, end), particles, generator, log_p))
    apart = np.flatnonzero(whole)
    if len(apart):
        log_p[apart] = step_log_p(net, known, torch.from_numpy(apart)).double().sum(1).numpy()
    return found


def stretches(blank: np.ndarray, memory: int) -> list[tuple[int, int, int]]:
    """First step with blanks, the one after the last, and the one after the last step that these bear on.

    >>> stretches(np.array([0, 1, 0, 1, 0, 0, 0, 1, 0]) > 0, memory=2)
    [(1, 4, 6), (7, 8, 9)]
    """
    at = np.flatnonzero(blank)
    if not len(at):
        return []
    cut = np.flatnonzero(np.diff(at) > memory)
    firsts, lasts = at[np.r_[0, cut + 1]], at[np.r_[cut, len(at) - 1]] + 1
    ends = np.minimum(lasts + memory, len(blank))
    return [(int(a), int(b), int(c)) for a, b, c in zip(firsts, lasts, ends, strict=True)]


def _stretch(
    net: ChainNet,
    x: np.ndarray,
    known: Windows,
    span: tuple[int, int, int],
    particles: int,
    generator: Generator,
    log_p: np.ndarray,
) -> BlankSteps:
    """Particles of one stretch; log p of what is seen of its steps goes into ``log_p``."""
    net.eval()
    (start, stop, end), m, n = span, net.shape.memory, particles
    paths = known.frames[start : end + m].long().expand(n, -1, -1).clone()  # row m + k is step start + k
    given = torch.from_numpy(x[start:end].astype(np.int64))
    log_w, lineage = torch.zeros(n, dtype=torch.float64), torch.zeros(n, stop - start, dtype=torch.long)
    blank = (given < 0).any(1)
    for k in range(end - start):
        window, t = paths[:, k : k + m], torch.full((n,), start + k)
        before = torch.logsumexp(log_w, 0)
        if blank[k]:
            paths[:, m + k], gained = drawn(net, window, t, given[k].expand(n, -1), generator)
            lineage[:, k] = torch.arange(n)
        else:
            with torch.no_grad():
                log_each = net(window, t, paths[:, m + k])
            gained = log_each.gather(2, paths[:, m + k, :, None])[..., 0].double().sum(1)
        log_w = log_w + gained
        log_p[start + k] = float(torch.logsumexp(log_w, 0) - before)
        if k + 1 < end - start and float(effective_sample_size(log_w[:, None])) < UNEVEN * n:
            kept = resample(log_w[:, None], n, generator)[:, 0]
            paths, lineage, log_w = paths[kept], lineage[kept], torch.zeros_like(log_w)
    w = torch.softmax(log_w, 0)
    worth = math.inf
    for k in torch.nonzero(blank)[:, 0].tolist():
        worth = min(
            worth, 1 / float(torch.zeros(n, dtype=w.dtype).index_add(0, lineage[:, k], w).square().sum())
        )
    return BlankSteps(start, paths[:, m : m + stop - start], log_w, worth)


def drawn(
    net: ChainNet, window: Tensor, t: Tensor, given: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Steps (B, D) whose cells are ``given``, or drawn where that is −1; and log p of those that were given, (B,)."""
    gained = torch.zeros(len(window), dtype=torch.float64)

    def pick(i: int, log_p: Tensor) -> Tensor:
        seen = given[:, i] >= 0
        if bool(seen.all()):
            value = given[:, i]
        else:
            share = torch.rand(len(log_p), 1, generator=generator)
            value = (log_p.exp().cumsum(1)[:, :-1] < share).sum(1)
            value = torch.where(seen, given[:, i], value)
        gained.add_(torch.where(seen, log_p.gather(1, value[:, None])[:, 0].double(), 0.0))
        return value

    return net.walk(window, t, pick), gained


def go_on(net: ChainNet, ends: list[np.ndarray], steps: int, copies: int, generator: Generator) -> np.ndarray:
    """``copies`` futures of each sequence (T, D), which may be of no steps: (copies, N, steps, D)."""
    net.eval()
    m, d, n = net.shape.memory, net.shape.cells, len(ends)
    window = torch.zeros(n, m + steps, d, dtype=torch.long)
    for row, x in zip(window, ends, strict=True):
        last = torch.from_numpy(x[-m:].astype(np.int64))
        row[m - len(last) : m] = last
    window = window.repeat(copies, 1, 1)
    t = torch.tensor([len(x) for x in ends]).repeat(copies)
    nothing = torch.full((copies * n, d), -1)
    for k in range(steps):
        window[:, m + k], _ = drawn(net, window[:, k : k + m], t + k, nothing, generator)
    return window[:, m:].reshape(copies, n, steps, d).numpy()
