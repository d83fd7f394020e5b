"""From an energy to a probability: log Z, by the first rung of a ladder that holds.

    closed form     the family knows its integral
    enumeration     binary cells, at most 20, or a Boltzmann machine with a side that small: all states summed
    importance      bounded weights from a law that can be drawn from (k-means under its soft mixture)
    quadrature      up to three real cells: a grid; the error is what changes on a finer and wider one
    smc             everything else: tempered sequential Monte Carlo from a base fitted to the data

Estimates come from several populations that never meet.  A pilot population finds temperatures and step sizes; those that
count use them as they are, so each Ẑ_r is unbiased for Z: E[log Ẑ_r] ≤ log Z, and a model's log p is *over*stated on average
unless the spread is taken into account.  Near its limit log Ẑ_r is normal, N(log Z − s²/2, s²), hence with R populations

    value = mean(log Ẑ_r) + s²/2,        value ± t_{R−1} · √(s²/R + s⁴ / (2 (R − 1)))

The last square root is the standard error of mean + s²/2 (Cox's method for the mean of a log-normal).  What populations have
in common, a mode that none of them found, no spread shows: that is what the diagnostics are for.

Sources: Salakhutdinov & Murray 2008, On the quantitative analysis of deep belief networks; Grosse, Ghahramani & Adams 2015
(arXiv:1511.02543) on what the direction of the bias means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from scipy import stats
from torch import Generator, Tensor

from abduce.checks import check_choice
from abduce.inference.energy import Diverged, LogZ
from abduce.inference.flips import ENUMERABLE
from abduce.inference.integration import log_z_by_enumeration, log_z_by_quadrature
from abduce.inference.paths import Density, path_to
from abduce.inference.tempering import Particles, temper
from abduce.inference.weights import effective_sample_size

RUNGS = ("closed form", "enumeration", "importance", "quadrature", "smc")
METHODS = ("auto", *RUNGS, "ais")
POPULATIONS = 8
LEVEL = 0.9  # probability with which the interval is to hold log Z
ARRIVED = 1000  # temperatures in which a path that the particles choose must have its end
LEAST = 0.02  # acceptance of chains that move at all
NEAR = 0.02  # of the log of the mean energy, to that of the data
ROUNDS = 12  # of the search for the inverse temperature


def log_z(density: Density, method: str = "auto", populations: int = POPULATIONS, **sampler: Any) -> LogZ:
    """log Z of a density, nats, with a 90 % interval and how it came about.

    ``method`` "auto" takes the first rung that holds; a rung that does not hold raises ValueError saying why.  ``populations``
    and the other arguments are those of :func:`estimate`.  Raises ValueError where the integral is infinite,
    :class:`~abduce.inference.energy.Diverged` where chains run away.
    """
    check_choice("method", method, METHODS)
    if populations < 2:
        raise ValueError(
            f"populations must be an int >= 2, for their spread is the error, got {populations!r}"
        )
    check_finite(density)
    sampler["populations"] = populations
    for rung in RUNGS if method == "auto" else [method]:
        found = _climb(density, rung, sampler)
        if found is not None:
            return found
    why = {
        "closed form": "its log Z has no closed form",
        "enumeration": f"enumeration needs binary cells, at most {ENUMERABLE} of them",
        "quadrature": "quadrature needs at most 3 real cells",
        "importance": "it has no law that can be drawn from",
    }[method]
    raise ValueError(f"method={method!r} does not fit {type(density.model).__name__} here: {why}")


def check_finite(density: Density) -> None:
    """Refuse an energy that stays low for ever."""
    if density.model.support != "binary" and not density.model.proper and density.base is None:
        raise ValueError(
            f"the partition function of {type(density.model).__name__} is infinite: its energy stays low along some "
            "direction for ever; give a base measure, base='normal' or 'box'"
        )


def _climb(density: Density, rung: str, sampler: dict[str, Any]) -> LogZ | None:
    model, beta, base = density.model, density.beta, density.base
    if rung == "closed form":
        with torch.no_grad():
            value = model.log_z(beta, base)
        return None if value is None else LogZ.exact(float(value), rung)
    if rung == "enumeration":
        if model.support != "binary" or model.n_cells > ENUMERABLE:
            return None
        with torch.no_grad():
            return LogZ.exact(float(log_z_by_enumeration(model, beta, base)), rung)
    if rung == "quadrature":
        if model.support != "real" or model.n_cells > 3:
            return None
        return log_z_by_quadrature(model, base, beta)
    if rung == "importance":
        law: Any = model.law(beta, base)
        return law.log_z() if hasattr(law, "log_z") else None
    return estimate(density, rung, **sampler)[0]


def estimate(
    density: Density,
    method: str = "smc",
    particles: int = 128,
    populations: int = POPULATIONS,
    share: float = 0.95,
    refine: int = 1,
    seed: int = 0,
    show: Callable[[float], None] | None = None,
) -> tuple[LogZ, Particles]:
    """log Z by tempered SMC or annealed importance sampling, and the particles, which are draws from the density.

    ``particles``, ``populations`` and ``share`` are those of :func:`abduce.inference.tempering.temper`; ``refine`` cuts each
    step of temperature into as many.
    """
    path = path_to(density)
    pilot = temper(path, particles, 1, seed, share)
    check_arrival(pilot)
    plan = pilot.plan.finer(refine)
    done = temper(path, particles, populations, seed + 1, plan=plan, resampling=method == "smc", show=show)
    check_mixing(done)
    value, half = interval(done.log_z)
    wider = temper(path_to(density.widened()), particles, 1, seed + 2, share)
    diagnostics = {
        "method": method,
        "temperatures": len(done.plan.t) - 1,
        "particles": particles,
        "populations": populations,
        "evaluations": pilot.evaluations + done.evaluations + wider.evaluations,
        "spread": float(done.log_z.std()),
        "effective_sample_size": float(effective_sample_size(done.log_w).mean()),
        "acceptance": float(done.acceptance.mean()),
        "lowest_acceptance": float(done.lowest.min()),
        "ancestors": float(done.ancestors.double().mean()),
        "from_a_wider_base": float(wider.log_z[0]),
    }
    return LogZ(value, value - half, value + half, "estimate", diagnostics), done


def interval(log_estimates: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """log Z and half the width of its interval from unbiased estimates log Ẑ_r ``(R,)``, nats."""
    r = len(log_estimates)
    variance = float(log_estimates.var())
    value = float(log_estimates.mean()) + 0.5 * variance
    error = math.sqrt(variance / r + variance**2 / (2 * (r - 1)))
    return value, float(stats.t.ppf(0.5 + 0.5 * level, r - 1)) * error


def check_arrival(pilot: Particles) -> None:
    """Refuse a path whose temperatures, chosen by the particles, had no end, and one on which they hardly moved."""
    if len(pilot.plan.t) > ARRIVED:
        raise Diverged(
            f"annealing did not arrive in {ARRIVED} temperatures: the energy falls without bound, or is far too steep for "
            "its scale; give a base measure, a smaller beta, or train with a stronger penalty"
        )
    check_mixing(pilot)


def check_mixing(particles: Particles) -> None:
    """Refuse an answer of chains that hardly moved."""
    lowest = float(particles.acceptance.min())
    if lowest < LEAST:
        raise Diverged(
            f"chains are stuck: of their moves {lowest:.1%} were accepted; the energy changes too "
            "abruptly for these steps: give more particles, or train with a smoother energy"
        )


# ------------------------------------------------------------------ temperature


def fit_beta(density: Density, mean_energy: float, seed: int = 0) -> float:
    """Find the inverse temperature at which the model's mean energy is that of held-out data: the maximum likelihood β.

    d/dβ of the held-out log p is E_{p_β}[E] − ``mean_energy``, which falls as β rises, so there is one root; it is found by
    secants in log β, each mean under p_β from exact draws where the family has them, else from tempered SMC.
    """
    if not mean_energy > 0:
        raise ValueError(
            f"beta cannot be fitted: the mean energy of held-out data is {mean_energy:g}, not above 0 (the model "
            "reconstructs them perfectly); give beta= yourself"
        )
    cells = density.model.n_cells
    low, high = -math.inf, math.inf  # brackets of log β
    log_beta = math.log(0.5 * cells / mean_energy)  # what a quadratic energy in all cells would have
    trace: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        gap = math.log(mean_under(replace(density, beta=math.exp(log_beta)), seed=seed) / mean_energy)
        trace.append((log_beta, gap))
        if abs(gap) < NEAR:
            break
        if gap > 0:
            low = log_beta
        else:
            high = log_beta
        step = 0.8 * gap  # E ∝ 1/β nearly: a slope of −1
        if len(trace) > 1:
            (b0, g0), (b1, g1) = trace[-2:]
            slope = (g1 - g0) / (b1 - b0) if b1 != b0 else -1.0
            if slope < -1e-3:
                step = -gap / slope
        new = log_beta + max(-1.5, min(1.5, step))
        if not low < new < high:
            new = 0.5 * (low + high)
        log_beta = new
    return math.exp(log_beta)


@torch.no_grad()
def mean_under(density: Density, particles: int = 256, seed: int = 0) -> float:
    """E[E(x)] under the density."""
    law = density.model.law(density.beta, density.base)
    if law is not None:
        return float(density.model.energy(law.sample(4096, Generator().manual_seed(seed))).mean())
    done = temper(path_to(density), particles, 1, seed)
    return float((done.log_w.exp() * density.model.energy(done.x).double()).sum(0).mean())
