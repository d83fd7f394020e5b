"""Train a deep Kalman model on windows of series, from an autoregression and never below it.

First by expectation-maximisation with particles: draw paths z given each window, then climb log p(z, y) of them, whose mean
gradient over the posterior is that of log p(y).  All steps of all paths are then independent examples, and a round costs a
tenth of one that differentiates through a filter.  Then the filtering bound itself is climbed, which teaches the proposal too.
What no line explains the autoregression takes for noise, and paths drawn from it hide every bend: so EM begins with a tenth of
its R, and gives R back once the networks have seen what was observed.

A part of the windows is held out.  After each round the bound on these is measured, with the look ahead of the linear path at
full strength, by half, or not at all, whichever serves; the best state is kept.  A model that in the end does not beat the
autoregression's exact log p of the held out windows, by more than the standard error of the difference, does not bend: the
autoregression stays.

Sources: Dempster, Laird & Rubin 1977, Wei & Tanner 1990 (EM with draws); Maddison et al. 2017 (arXiv:1705.09279).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from abduce.fit.bounds import FIVO
from abduce.gaussians.em import heed
from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.kalman import smoothed
from abduce.sequences.particles import backward
from abduce.sequences.var import FLOOR, VectorAutoregression

STRENGTHS = (1.0, 0.5, 0.0)
TRUST = 10.0  # by which R is divided for the first quarter of EM's rounds
AGAIN = 0.25  # of the rounds, and of the rate, where a fit goes on to other cells
LEAP = 1.5  # by which EM's steps of log R, which are slow, are stretched
WINDOWS = 256  # that a round of EM draws paths of


@dataclass(frozen=True)
class DeepTraining:
    """How long and how.

    There are ``rounds`` of EM, each of ``steps`` of Adam on ``examples`` steps of ``paths`` paths, then ``climbs`` rounds of
    as many steps on the bound of ``batch`` windows with ``samples`` particles.  ``rate`` is Adam's, a third of it that of the
    linear path and on the bound; it falls to zero by half a cosine.  At most ``judged`` windows with ``judges`` particles are
    held out.
    """

    rounds: int = 24
    climbs: int = 1
    steps: int = 40
    examples: int = 2048
    paths: int = 4
    batch: int = 32
    samples: int = 8
    rate: float = 0.01
    judged: int = 64
    judges: int = 32
    hidden: tuple[int, ...] = (32,)


TRAINING = DeepTraining()


def fit_deep(
    y: Tensor,
    mask: Tensor,
    start: VectorAutoregression,
    seed: int = 0,
    training: DeepTraining = TRAINING,
    before: DeepKalman | None = None,
) -> DeepKalman:
    """Fit to windows (N, T, F) in order of time with their mask, from an autoregression; with ``before``, from there on."""
    model = DeepKalman.of(start, training.hidden, seed) if before is None else copy.deepcopy(before)
    learnt, held = split(mask)
    if not len(learnt) or not len(held) or y.shape[1] <= model.lags:  # nothing to learn steps from
        return model.bending(False)
    held = held[torch.linspace(0, len(held) - 1, min(len(held), training.judged)).round().long()]
    model.linear.load_state_dict(start.state_dict())
    model.requires_grad_(True)
    judged = y[held], mask[held]
    fitting = _DeepFitting(model, y[learnt], mask[learnt], training, Generator().manual_seed(seed))
    best, state = _judge(model, *judged, training, seed)
    if before is None:
        model.set_noise(start.noise, start.spread / TRUST)
    share = 1.0 if before is None else AGAIN
    for rounds, learn, rate in (
        (round(share * training.rounds), fitting.expect, share * training.rate),
        (training.climbs, fitting.climb, share * training.rate / 3),
    ):
        optimizer = _optimizer(model)
        for turn in range(rounds):
            if before is None and learn == fitting.expect and turn == rounds // 4:
                model.set_noise(start.noise, start.spread)
            _set_rate(optimizer, rate * (1 + math.cos(math.pi * turn / rounds)) / 2)
            try:
                learn(optimizer)
                found, reached = _judge(model, *judged, training, seed)
            except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
                # paths ran off to where no covariance is positive
                model.load_state_dict(state)
                continue
            if bool(found.mean() > best.mean()):
                best, state = found, reached
            elif not bool(torch.isfinite(found).all()):
                model.load_state_dict(state)
        model.load_state_dict(state)
    gain = best - smoothed(start.space, *judged).log_prob.sum(1)
    doubt = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
    return model.requires_grad_(False).bending(float(gain.mean()) > doubt + 1e-6)


def split(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which windows are learnt from and which held out, of those in which anything was seen: a fifth, in runs of at most 4."""
    some = mask.flatten(1).any(1).nonzero().squeeze(1)
    run = max(1, min(4, len(some) // 10))
    held = torch.div(torch.arange(len(some)), run, rounding_mode="floor") % 5 == 4
    return some[~held], some[held]


@torch.no_grad()
def _judge(
    model: DeepKalman, y: Tensor, mask: Tensor, training: DeepTraining, seed: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The bound of each held out window at the best strength of the look ahead, which is kept, and the model's state."""
    heed()
    objective, found = FIVO(training.judges), {}
    for strength in STRENGTHS:
        found[strength] = model.bound(y, mask, objective, Generator().manual_seed(seed), strength=strength)
    means = {s: float(v.mean()) if bool(torch.isfinite(v).all()) else -torch.inf for s, v in found.items()}
    best = max(means, key=means.__getitem__)
    model.strength.fill_(best)
    return found[best], copy.deepcopy(model.state_dict())


def _optimizer(model: DeepKalman) -> torch.optim.Optimizer:
    """Adam, gentler on the linear path, which is already fitted."""
    path = model.transition.linear
    assert path is not None
    linear = [*path.parameters(), model.root, model.log_spread]
    names = {id(p) for p in linear}
    networks = [p for p in model.parameters() if id(p) not in names]
    return torch.optim.Adam([{"params": networks, "share": 1.0}, {"params": linear, "share": 1 / 3}])


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


class _DeepFitting:
    """Rounds of a fit to windows y (N, T, F) with their mask."""

    def __init__(
        self, model: DeepKalman, y: Tensor, mask: Tensor, training: DeepTraining, generator: Generator
    ):
        self.model, self.y, self.mask, self.generator = model, y, mask, generator
        self.training = training

    def _some(self, count: int, of: int) -> Tensor:
        return torch.randperm(of, generator=self.generator)[:count]

    def expect(self, optimizer: torch.optim.Optimizer) -> None:
        """A round of EM: paths of some windows, and steps that climb log p(z, y) of them."""
        model, training = self.model, self.training
        rows = self._some(WINDOWS, len(self.y))
        y, mask = self.y[rows], self.mask[rows]
        with torch.no_grad():
            found, twist = model.filtered(y, mask, FIVO(2 * training.samples), self.generator)
            z = backward(model, found, twist, training.paths, self.generator)  # (n, B, T, F)
        f, lags = z.shape[3], model.lags
        states = z.unfold(2, lags, 1).flip(4).transpose(3, 4).flatten(3)  # (n, B, T - p + 1, S), newest first
        before, after = states[:, :, :-1].flatten(0, 2), z[:, :, lags:].flatten(0, 2)
        z, y, mask = z.flatten(0, 2), y.expand(z.shape).flatten(0, 2), mask.expand(z.shape).flatten(0, 2)
        with torch.no_grad():
            root, spread, _ = model.parts()
        inverse = torch.linalg.solve_triangular(root, torch.eye(f, dtype=y.dtype), upper=False)
        for _ in range(training.steps):
            heed()
            i, j = self._some(training.examples, len(after)), self._some(training.examples, len(z))
            news = (after[i] - model.mean(before[i])) @ inverse.mT
            gap = ((y[j] - model.cells(z[j])).square() / spread) * mask[j]
            _step(model, optimizer, 0.5 * (news.square().sum(1).mean() + gap.sum(1).mean()) / f)
        with torch.no_grad():  # Q and R have their optimum in closed form
            news, gap = after - model.mean(before), torch.where(mask, y - model.cells(z), 0.0)
            least = FLOOR * torch.eye(f, dtype=y.dtype)
            found = (gap.square().sum(0) / mask.sum(0).clamp_min(1)).clamp_min(FLOOR)
            model.set_noise(news.mT @ news / len(news) + least, spread * (found / spread) ** LEAP)

    def climb(self, optimizer: torch.optim.Optimizer) -> None:
        """A round on the filtering bound."""
        training = self.training
        for _ in range(training.steps):
            heed()
            some = self._some(training.batch, len(self.y))
            y, mask = self.y[some], self.mask[some]
            bound = self.model.bound(y, mask, FIVO(training.samples), self.generator)
            _step(self.model, optimizer, -bound.sum() / mask.sum())


def _step(model: DeepKalman, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step downhill, of bounded size; none where the slope is not finite."""
    optimizer.zero_grad()
    loss.backward()
    if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))):
        optimizer.step()
