"""Fit a model of the world to episodes: fill their blanks, choose the kind, make its intervals right.

``kind`` is "linear", "process", "ensemble", or "auto": whichever foresees held-out blocks of the data best, up to 25 steps
ahead with the actions that were taken; networks only where they are clearly nearer, since beyond the data a process goes
back to the linear path and plans that lead there come to less harm.  The model that is kept has seen everything.

Blanks of states and actions are filled by the linear-Gaussian world that the complete steps fit, and it is fitted again to
what it filled, :data:`ROUNDS` times; neither process nor ensemble learns from cells that were blank.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from abduce.world.calibration import HORIZONS, Calibration, calibrate, windows
from abduce.world.ensemble_fit import EnsembleTraining, bootstraps, fit_ensemble
from abduce.world.episodes import Episode, Transitions, complete, transitions
from abduce.world.gaussian_process_fit import fit_process
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.rollout import follow
from abduce.world.transitions import Transition

KINDS = "linear", "process", "ensemble"
FOLDS = 3
BLOCK = 40  # steps of a block that is held out, at least
TINY = 1e-20  # errors below are none
NEARER = 2.0  # times, in squared error
SHARE = 0.5  # of the updates, where a model only judges
ROUNDS = 3
Show = Callable[[str, float], None]


@dataclass(frozen=True)
class Learnt:
    """The ``transition`` that is kept, the ``linear`` one that fills blanks, the ``calibration`` of rollouts, and mean squared
    errors of held-out rollouts by kind, in units of the states' variance."""

    transition: Transition
    linear: LinearGaussian
    calibration: Calibration
    errors: dict[str, float]


def learn(
    found: Sequence[Episode],
    kind: str,
    training: EnsembleTraining,
    seed: int,
    judged: bool = True,
    show: Show | None = None,
    tied: Callable[[Transition], Transition] = lambda model: model,
) -> Learnt:
    """Fit to episodes; without ``judged`` nothing is held out: "auto" is a process, and spreads are as they come.  ``tied``
    makes of a model of states one that keeps to what is known of them."""
    whole, linear = completed(found)
    steps = transitions(list(whole))
    told = transitions(list(found))
    steps = steps._replace(after=torch.where(told.after.isnan(), torch.nan, steps.after))
    held: dict[str, list[tuple[Transition, list[Episode]]]] = {}
    errors: dict[str, float] = {}
    parts = cut(found) if judged else []
    if len(parts) >= 2:
        wholes = cut(whole)
        kinds = KINDS if kind == "auto" else (kind,)
        for name in kinds:
            models = _folded(name, wholes, parts, training, seed, show)
            held[name] = [(tied(m), parts[i::FOLDS]) for i, m in enumerate(models)]
            errors[name] = _error(held[name])
    if kind == "auto":
        kind = _chosen(errors)
    match kind:
        case "linear":
            kept: Transition = linear
        case "process":
            kept = fit_process(steps, seed, _part(show, "fit"))
        case _:
            kept = fit_ensemble(steps, training, seed, show=_part(show, "fit"))
    size = steps.state.shape[1]
    calibration = calibrate(held[kind], size, seed) if held else Calibration.none(size)
    return Learnt(tied(kept), linear, calibration, errors)


def completed(found: Sequence[Episode]) -> tuple[list[Episode], LinearGaussian]:
    """Episodes with their blanks filled, and the linear-Gaussian world that filled them."""
    steps = transitions(list(found))
    s, a = steps.state.shape[1], steps.action.shape[1]
    known = complete(steps)
    if len(known.state) < min(s + a + 2, len(steps.state)):
        raise ValueError(
            f"episodes have {len(known.state)} steps without blanks, at least {s + a + 2} are needed to learn from"
        )
    linear = LinearGaussian(s, a).fit(known)
    out = list(found)
    torn = [i for i, e in enumerate(found) if np.isnan(e.observations).any() or np.isnan(e.actions).any()]
    for _ in range(ROUNDS if torn else 0):
        for i in torn:
            e = found[i]
            filled = linear.fill(torch.from_numpy(e.observations)[None], torch.from_numpy(e.actions)[None])
            out[i] = replace(e, observations=filled.states[0].numpy(), actions=filled.actions[0].numpy())
        linear = LinearGaussian(s, a).fit(transitions(out)).load(noise=linear.noise)
    return out, linear


def cut(found: Sequence[Episode]) -> list[Episode]:
    """Episodes in blocks of at least :data:`BLOCK` steps where they are longer, so that some can be held out."""
    out = []
    for e in found:
        pieces = max(1, len(e) // BLOCK)
        ends = np.linspace(0, len(e), pieces + 1).round().astype(int)
        out += [
            replace(e, observations=e.observations[i : j + 1], actions=e.actions[i:j])
            for i, j in itertools.pairwise(ends)
        ]
    return out


def _folded(
    kind: str,
    wholes: Sequence[Episode],
    parts: Sequence[Episode],
    training: EnsembleTraining,
    seed: int,
    show: Show | None,
) -> list[Transition]:
    """Models that have not seen every third block, one for each third."""
    steps = transitions(list(wholes))
    told = transitions(list(parts))
    fold = steps.episode % FOLDS
    count = min(FOLDS, len(parts))
    if kind == "linear":
        s, a = steps.state.shape[1], steps.action.shape[1]
        return [LinearGaussian(s, a).fit(Transitions(*(v[fold != k] for v in steps))) for k in range(count)]
    steps = steps._replace(after=torch.where(told.after.isnan(), torch.nan, steps.after))
    if kind == "process":
        return [
            fit_process(Transitions(*(v[fold != k] for v in steps)), seed, _part(show, "judge", k, count))
            for k in range(count)
        ]
    generator, m = Generator().manual_seed(seed), training.members
    weights = bootstraps(count * m, len(fold), generator).view(count, m, -1)
    weights *= (fold != torch.arange(count).view(-1, 1, 1)).to(weights)
    judging = replace(training, members=count * m, updates=max(1, round(SHARE * training.updates)))
    model = fit_ensemble(steps, judging, seed, weights.flatten(0, 1), _part(show, "judge"))
    return [model.some(slice(k * m, (k + 1) * m)) for k in range(count)]


def _chosen(errors: dict[str, float]) -> str:
    """The kind with the least error, of which networks have to be :data:`NEARER`; a process where nothing was held out."""
    weighed = {kind: error * (NEARER if kind == "ensemble" else 1.0) for kind, error in errors.items()}
    return min(weighed, key=weighed.__getitem__) if weighed else "process"


def _error(held: Sequence[tuple[Transition, Sequence[Episode]]]) -> float:
    """Mean squared error of held-out rollouts in units of the states' variance, the geometric mean over horizons: the
    longest alone would decide an arithmetic one."""
    found: list[Tensor] = []
    for h in HORIZONS:
        gaps, truths = [], []
        for model, blocks in held:
            states, actions = windows(blocks, h)
            if len(states):
                gaps.append((follow(model, states[:, 0], actions)[:, -1] - states[:, -1]).square())
                truths.append(states[:, -1])
        if gaps:
            truth = torch.cat(truths)
            spread = truth.var(0, correction=0).clamp_min(1e-12)
            found.append((torch.cat(gaps).mean(0) / spread).mean())
    return float(torch.stack(found).clamp_min(TINY).log().mean().exp()) if found else float("inf")


def _part(show: Show | None, stage: str, k: int = 0, count: int = 1) -> Callable[[float], None] | None:
    """What tells of the k-th of several parts of a stage."""
    return None if show is None else lambda share: show(stage, (k + share) / count)
