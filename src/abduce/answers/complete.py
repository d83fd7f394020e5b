"""Blanks, noise and coarse pixels under any energy: the posterior over whole rows given what was seen of them.

Where the family has an exact law, conditionals are exact.  Elsewhere particles of each row are annealed from the data's base
given its observed cells to the energy with these clamped, as for a partition function; the weights' mean is the marginal
exp(−F(x_obs)), so the same run scores a row with blanks, F = −log ∫ exp(−β E) b over the blank cells.

    Blanks        cells clamped
    Linear        y = A x + σ · noise: start and target are both multiplied by N(y; A x, σ²)
    Flips         binary cells: a field of ± log((1 − ε)/ε) on each

Particles move in single precision.  Rows run in padded chunks of one shape with shared random numbers: a row's answer does
not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.answers.observation import Blanks, Flips, Linear, Observation
from abduce.data.seen import CELLS, Seen, Unanswerable
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.energy import Law
from abduce.inference.importance import chunks
from abduce.inference.paths import Density, path_given
from abduce.inference.tempering import GeometricPath, Particles, Path, Plan, temper
from abduce.inference.weights import effective_sample_size

PARTICLES = 64
STEPS = 16  # temperatures: from the base given what was seen the way is short
LEAPFROGS = 3
EXACT = 4096  # rows of which an exact law gives the means at once


class Answer(NamedTuple):
    """Rows of one chunk given what was seen: their mean, how to draw them, and how far to trust it."""

    mean: Tensor  # (rows, D)
    draw: Callable[[int, torch.Generator], Tensor]  # -> (n, rows, D)
    ess: Tensor  # effective sample size of the particles; infinite where exact; (rows,)


def answers(
    density: Density,
    y: Tensor,
    seen: Tensor,
    observation: Observation | None = None,
    particles: int = PARTICLES,
    seed: int = 0,
) -> Iterator[tuple[slice, Answer]]:
    """Answer all rows, a chunk at a time; the slice says which rows the chunk's first ones are."""
    observation = observation or Blanks()
    law = density.model.law(density.beta, density.base)
    single = density.float() if law is None else density
    for part, ys, ss in chunks(y, seen):
        if law is not None:
            yield part, _exact(law, observation, ys, ss)
        else:
            yield part, _annealed(single, observation, ys.float(), ss, particles, seed)


def means(
    density: Density, y: Tensor, seen: Tensor, observation: Observation | None = None, seed: int = 0
) -> Tensor:
    """E[x | what was seen] of all rows, (n, D).

    An exact law draws nothing and needs no padding: it takes rows by the thousand, so that those with the same blanks share
    a factorisation, and one row by itself.  There a row's neighbours show in the last bits at most.
    """
    law = density.model.law(density.beta, density.base)
    if law is None:
        parts = answers(density, y, seen, observation, seed=seed)
        return torch.cat([answer.mean[: part.stop - part.start] for part, answer in parts])
    blocks = zip(y.split(EXACT), seen.split(EXACT), strict=True)
    return torch.cat([_exact(law, observation or Blanks(), ys, ss).mean for ys, ss in blocks])


@torch.no_grad()
def free_energy(
    density: Density, x: Tensor, observed: Tensor, particles: int = PARTICLES, seed: int = 0
) -> Tensor:
    """F = −log ∫ exp(−β E) b over the blank cells of each row, nats ``(n,)``; where nothing is blank, the energy itself."""
    out = torch.empty(len(x), dtype=torch.float64)
    law = density.model.law(density.beta, density.base)
    if law is not None:
        parts = [law.log_prob(Seen(xs, os))[: part.stop - part.start] for part, xs, os in chunks(x, observed)]
        return -torch.cat(parts).double() if parts else out
    whole = observed.all(1)
    single = density.float()

    def marginal(xs: Tensor, os: Tensor) -> Tensor:
        return _run(_path(single, Blanks(), xs.float(), os), len(xs), particles, seed).log_z

    for which, value in ((whole, lambda xs, _: -density(xs)), (~whole, lambda xs, os: -marginal(xs, os))):
        index = which.nonzero().squeeze(1)
        for part, xs, os in chunks(x[index], observed[index]):
            out[index[part]] = value(xs, os)[: part.stop - part.start].double()
    return out


def _run(path: Path, rows: int, particles: int, seed: int) -> Particles:
    return temper(path, particles, rows, seed, plan=Plan.even(STEPS), shared=True)


def _exact(law: Law, observation: Observation, y: Tensor, seen: Tensor) -> Answer:
    sure = torch.full((len(y),), math.inf, dtype=torch.float64)
    given = Seen(y, seen, observation if isinstance(observation, Linear) else CELLS)
    return Answer(law.mean(given), lambda n, generator: law.draws(given, n, generator), sure)


@torch.no_grad()
def _annealed(
    density: Density, observation: Observation, y: Tensor, seen: Tensor, particles: int, seed: int
) -> Answer:
    done = _run(_path(density, observation, y, seen), len(y), particles, seed)
    mean = torch.einsum("pr,prd->rd", done.log_w.exp().to(done.x), done.x)
    if isinstance(observation, Blanks):
        mean = torch.where(seen, y, mean)  # weights add up to one but for rounding
    return Answer(mean.double(), lambda n, g: done.draws(n, g).double(), effective_sample_size(done.log_w))


def _path(density: Density, observation: Observation, y: Tensor, seen: Tensor) -> Path:
    if isinstance(observation, Blanks):
        return path_given(density, y, seen, leapfrogs=LEAPFROGS)
    width = density.model.n_cells
    nothing = torch.zeros(len(y), width, dtype=torch.bool)
    blank = torch.zeros(len(y), width, dtype=y.dtype)
    if isinstance(observation, Flips):
        return path_given(density, blank, nothing, field=observation.field(y, seen))
    assert isinstance(observation, Linear)
    noise = observation.spread(y)

    def likelihood(x: Tensor) -> Tensor:
        off = (y - observation.apply(x)) / noise
        return -0.5 * (off.square() * seen).sum(-1)

    if density.model.support == "binary":
        return path_given(density, blank, nothing, likelihood)
    # from the base's own posterior given y, which is exact: only the energy is left to anneal
    start = density.start
    if not hasattr(start, "covariance"):
        return path_given(density, blank, nothing, likelihood)
    base = GaussianMixtureLaw.gaussian(start.mean, start.covariance)

    def draw(n: int, _: int, generator: torch.Generator) -> Tensor:
        return base.draws(Seen(y, seen, observation), n, generator, shared=True)

    scale = draw(256, len(y), torch.Generator().manual_seed(0)).std(0)
    return GeometricPath(
        lambda x: start.log_prob(x) + likelihood(x),
        lambda x: density(x) + likelihood(x),
        scale,
        draw,
        LEAPFROGS,
        shared=True,
    )


def evidence(density: Density, y: Tensor, seen: Tensor, observation: Observation) -> Tensor | None:
    """log p(y) of each row under a linear observation, nats ``(n,)``; None where the family has no exact law of y."""
    law = density.model.law(density.beta, density.base)
    if law is None or not isinstance(observation, Linear):
        return None
    try:
        return law.log_prob(Seen(y, seen, observation))
    except Unanswerable:
        return None
