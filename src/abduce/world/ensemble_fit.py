"""Fit an ensemble of Gaussian networks to transitions, all members at once.

Each member has a bootstrap of its own: weights of steps, drawn with replacement.  The linear path is fixed first; then Adam
climbs the Gaussian log-likelihood of differences on all steps, with a rate that falls to zero by half a cosine.  Steps are at
most :data:`MOST` at a time.

Networks say anything where nothing was seen, and a plan may lead there.  Where most steps follow the linear path exactly, but
for walls, it is a law that holds elsewhere too, and networks are pulled to it, ½ PULL · mean f_m(z)², at inputs drawn evenly
from the box of those seen.  (Hafner, Tran, Lillicrap, Irpan & Davidson 2019, arXiv:1807.09289, put priors on what networks say
of inputs drawn at random.)

σ is that of steps which a member has not seen (a third of them, its bootstrap left out), as the members fit their own
more closely than they fit the world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from abduce.gaussians.em import heed
from abduce.world.ensemble import Ensemble
from abduce.world.episodes import Transitions
from abduce.world.linear_path import differences, exact, linear_path

MOST = 2048  # steps in one update
FLOOR = 1e-3  # σ in units of the usual step, at least
MARGIN = 0.02  # by which the box is wider than the data, in units of their range
CLIP = 10.0  # of the gradient's norm
PULL = 3.0  # of networks to a linear path that is a law; steps weigh 1 / σ²
ASKED = 4  # steps for each random input


@dataclass(frozen=True)
class EnsembleTraining:
    """``members`` networks of ``hidden`` units, ``updates`` of Adam at ``rate``, with weights that ``decay``."""

    members: int = 5
    hidden: tuple[int, ...] = (64, 64)
    updates: int = 1000
    rate: float = 1e-2
    decay: float = 0.1


def fit_ensemble(
    steps: Transitions,
    training: EnsembleTraining,
    seed: int,
    weights: Tensor | None = None,
    show: Callable[[float], None] | None = None,
) -> Ensemble:
    """Fit to steps whose states and actions are whole; cells of ``after`` that are NaN do not count.

    ``weights`` (M, N) are used in place of bootstraps.  ``show`` is told now and then which share is done.
    """
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        s, a = steps.state.shape[1], steps.action.shape[1]
        model = Ensemble(s, a, training.members, training.hidden)
    moved, seen = differences(steps)
    for name, value in linear_path(steps, moved, seen, MARGIN).items():
        model.get_buffer(name).copy_(value)
    joined = torch.cat([steps.state, steps.action], 1).to(model.scale)
    z = (joined - model.centre) / model.scale
    target = (moved / model.step).to(z)
    n = len(z)
    if weights is None:
        weights = bootstraps(training.members, n, generator)
    weight = (weights.unsqueeze(2) * seen).to(z)  # (M, N, S)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1.0)
    optimizer = torch.optim.AdamW(model.parameters(), training.rate, weight_decay=training.decay, fused=True)
    lowest, highest = z.amin(0), z.amax(0)
    rest = target - (z @ model.path.mT + model.offset)
    laws = [j for j in range(s) if exact(rest[seen[:, j], j])]
    for turn in range(training.updates):
        heed()
        for group in optimizer.param_groups:
            group["lr"] = training.rate * (1 + math.cos(math.pi * turn / training.updates)) / 2
        x, y, w = z, target, weight
        if n > MOST:
            some = torch.randint(n, (MOST,), generator=generator)
            x, y, w = z[some], target[some], weight[:, some] * (n / MOST)
        gap = y - model.differences(x)
        log_sigma = F.softplus(model.log_sigma - math.log(FLOOR)) + math.log(FLOOR)  # never below the floor
        log_sigma = log_sigma.unsqueeze(1)
        loss = (w * (0.5 * (gap / log_sigma.exp()).square() + log_sigma)).sum(1).mean(1).sum()
        if laws:
            asked = torch.rand(len(x) // ASKED + 1, s + a, generator=generator).to(z)
            added = model.beside(lowest + (highest - lowest) * asked)[..., laws]
            loss = loss + 0.5 * PULL * added.square().mean((0, 1)).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if show is not None and turn % 50 == 0:
            show(turn / training.updates)
    with torch.no_grad():
        gap = (target - model.differences(z)).square()
        out = ((weights == 0).unsqueeze(2) & seen).to(z)  # not seen by a member
        if bool((out.sum(1) < 10).any()):
            out = seen.to(z).expand_as(out)
        model.log_sigma.copy_(((gap * out).sum(1) / out.sum(1).clamp_min(1)).sqrt().clamp_min(FLOOR).log())
    return model.requires_grad_(False).eval()


def bootstraps(members: int, n: int, generator: Generator) -> Tensor:
    """How often each of n steps was drawn, with replacement, for each member, (M, N)."""
    drawn = torch.randint(n, (members, n), generator=generator)
    return torch.zeros(members, n).scatter_add_(1, drawn, torch.ones(members, n))
