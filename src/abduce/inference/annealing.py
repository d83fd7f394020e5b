"""Annealing from a distribution that is easy to draw from to the posterior: log p(x) where importance draws are too few.

A path of unnormalised densities leads from a start q0, the prior or the encoder's posterior, to p(z, x_obs):

    π_β(z) ∝ q0(z)^{1−β} p(z, x_obs)^β,      0 = β_0 < β_1 < ... < β_T = 1.

*Annealed importance sampling* (:func:`anneal`): a chain starts at z_0 ~ q0, and z_t moves by Hamiltonian Monte Carlo on
π_{β_t}; with r(z) = log p(z, x_obs) − log q0(z),

    log w = Σ_t (β_t − β_{t−1}) r(z_{t−1}),     E[w] = p(x_obs),

so that multi_sample(log_w) over the chains is a stochastic lower bound on log p(x_obs), close to it where chains mix.  Run in
*reverse*, from β = 1 at an exact posterior draw, E[1/w] = 1/p(x_obs): −multi_sample(−log_w) is a stochastic upper bound.
Exact draws exist for data simulated from the model, where the two bounds sandwich the truth (:func:`bidirectional`).

A few pilot chains run first with random numbers of their own and adapt each row's step size to the acceptance at the
temperature before; the chains that count use the pilot's sizes as they are, so the estimate stays exactly unbiased.

*Tempered sequential Monte Carlo* (:mod:`abduce.inference.tempering`) runs along the same path, each row a population.  Sizes
and temperatures adapt as its particles go: the estimate is consistent in their number, but not exactly unbiased.

Source: Neal 2001 (arXiv:physics/9803008); Wu et al. 2017 (arXiv:1611.04273); Grosse et al. 2015 (arXiv:1511.02543).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.checks import check_choice
from abduce.inference.importance import Evidence, by_pattern, in_precision, shared_noise
from abduce.inference.latent import LatentVariableModel
from abduce.inference.tempering import FIRST_SIZE, GAIN, TARGET, GeometricPath, smooth, temper
from abduce.inference.weights import multi_sample

STARTS = ("posterior", "prior")
PILOTS = 4  # chains that only find step sizes
ISLANDS = 4  # populations of SMC that never meet: their spread is the standard error
STEEPNESS = 4.0  # δ of the schedule


class AnnealedChains(NamedTuple):
    """Where chains ended: log weights ``(chains, batch)``, z ``(chains, batch, latent)``, mean acceptance ``(batch,)``."""

    log_w: Tensor
    z: Tensor
    acceptance: Tensor


class Bounds(NamedTuple):
    """Stochastic bounds on log p(x) of simulated rows, nats, each ``(n,)``, and the rows."""

    lower: Tensor
    upper: Tensor
    x: Tensor


def schedule(temperatures: int) -> Tensor:
    """Inverse temperatures 0 = β_0 < ... < β_T = 1, β_t ∝ σ(δ (2t/T − 1)), finer at both ends; ``(T + 1,)``, float64.

    >>> schedule(2).tolist()
    [0.0, 0.5, 1.0]
    """
    t = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    curve = torch.sigmoid(STEEPNESS * (2 * t - 1))
    return (curve - curve[0]) / (curve[-1] - curve[0])


@torch.no_grad()
def path(
    model: LatentVariableModel,
    x: Tensor,
    observed: Tensor | None,
    start: str = "posterior",
    shared: bool = True,
    leapfrogs: int = 5,
) -> GeometricPath:
    """Lay the path of one chunk from the encoder's ``"posterior"`` or the ``"prior"``.

    With ``shared`` all rows use the same random numbers: a row's chains do not depend on which rows come along, but errors of
    rows do not average out.
    """
    check_choice("start", start, STARTS)
    rows = 1 if shared else len(x)

    def joint(z: Tensor) -> Tensor:
        return model.log_joint(z, x, observed)

    if start == "posterior":
        q = model.posterior(x, observed)

        def draw(n: int, _: int, generator: Generator) -> Tensor:
            noise = torch.randn(n, rows, model.noise_dim, generator=generator, dtype=x.dtype, device=x.device)
            return q.transport(noise)

        spread = q.transport(shared_noise(256, model.noise_dim, 0, x)).std(0, keepdim=True)
        return GeometricPath(q.log_prob, joint, spread[0], draw, leapfrogs, shared)

    def draw_prior(n: int, _: int, generator: Generator) -> Tensor:
        z = model.prior.sample(n * rows, generator, dtype=x.dtype, device=x.device).to(x.dtype)
        return z.view(n, rows, -1).repeat(1, len(x) // rows, 1)

    generator = Generator(device=x.device).manual_seed(0)
    z = model.prior.sample(256, generator, dtype=x.dtype, device=x.device).to(x.dtype)
    scale = z.std(0).repeat(len(x), 1)
    return GeometricPath(model.prior.log_prob, joint, scale, draw_prior, leapfrogs, shared)


@torch.no_grad()
def pilot(way: GeometricPath, betas: Tensor, seed: int) -> Tensor:
    """Find step sizes for the temperatures ``betas`` (T + 1,), in units of the path's scale: ``(T + 1, batch)``.

    The logarithm of each row's size moves by the pilot chains' acceptance, less the target, at the temperature before.
    """
    generator = Generator(device=way.scale.device).manual_seed(seed)
    z = way.draw(PILOTS, len(way.scale), generator)
    log_size = z.new_full((z.shape[1],), FIRST_SIZE).log()
    sizes = [log_size]
    for beta in betas[1:]:
        z, accepted = way.move(z, beta.to(z).expand(z.shape[1]), log_size.exp(), generator)
        log_size = log_size + GAIN * (accepted.mean(0) - TARGET)
        sizes.append(log_size)
    return smooth(torch.stack(sizes)).exp()  # what was found at β_t serves β_t


@torch.no_grad()
def anneal(
    way: GeometricPath,
    betas: Tensor,
    sizes: Tensor,
    chains: int = 16,
    seed: int = 0,
    exact: Tensor | None = None,
) -> AnnealedChains:
    """Run annealed importance sampling along ``way`` with fixed step sizes ``(T + 1, batch)``.

    With ``exact``, posterior draws ``(1 or chains, batch, latent)``, the chains run in reverse, from β = 1 to 0; their weights
    then say 1/E[1/w] = p(x).
    """
    generator = Generator(device=way.scale.device).manual_seed(seed)
    reverse = exact is not None
    z = exact.repeat(chains // len(exact), 1, 1) if reverse else way.draw(chains, len(way.scale), generator)
    steps = range(len(betas) - 1, 0, -1) if reverse else range(1, len(betas))
    log_w = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
    rates = []
    # a weight's term at z, then a move to the next temperature; where both want π_β at the same z it is evaluated once
    for t in steps:
        beta = betas[t - 1 if reverse else t].to(z).expand(z.shape[1])
        state, ratio = way.at(z, beta)
        log_w += (betas[t] - betas[t - 1]).to(log_w.device) * ratio.double()
        if t == steps[-1]:  # the weight is complete
            break
        at = t - 1 if reverse else t
        state, accepted = way.step(state, beta, sizes[at], generator)
        z = state.x
        rates.append(accepted.mean(0))
    acceptance = torch.stack(rates).mean(0) if rates else z.new_full((z.shape[1],), torch.nan)
    return AnnealedChains(log_w, z, acceptance)


def log_prob(
    model: LatentVariableModel,
    x: Tensor,
    observed: Tensor,
    method: str = "ais",
    samples: int = 16,
    temperatures: int = 100,
    start: str = "posterior",
    leapfrogs: int = 5,
    seed: int = 0,
    precision: str = "double",
) -> tuple[Evidence, Tensor]:
    """Estimate log p(x_obs) of each row by annealing: the evidence and the chains' mean acceptance, ``(n,)``.

    ``"ais"``: ``samples`` chains through ``temperatures`` steps.  ``"smc"``: ``samples`` particles in four separate
    populations, temperatures chosen by each row, at most 10 ``temperatures``; the standard error is of the populations'
    spread, and there is no tail to fit (Pareto k is NaN).
    """
    betas = schedule(temperatures).to(x.device)
    model, dtype = in_precision(model, precision)

    def run(xs: Tensor, os: Tensor | None) -> tuple[Tensor, ...]:
        way = path(model, xs, os, start, True, leapfrogs)
        if method == "ais":
            sizes = pilot(way, betas, seed + 1)
            done = anneal(way, betas, sizes, samples, seed)
            return (*Evidence.of(done.log_w), done.acceptance.double())
        each = max(2, samples // ISLANDS)
        runs = [
            temper(way, each, len(xs), seed + i, most=10 * temperatures, shared=True) for i in range(ISLANDS)
        ]
        acceptance = torch.stack([r.acceptance for r in runs]).mean(0)
        return (*Evidence.of(torch.stack([r.log_z for r in runs])), acceptance.double())

    none = [x.new_empty(0, dtype=torch.float64)] * 5
    *evidence, acceptance = by_pattern(run, x.to(dtype), observed) if len(x) else none
    count = samples if method == "ais" else ISLANDS
    return Evidence(*evidence).unless_empty(model, observed, count), acceptance


@torch.no_grad()
def bidirectional(
    model: LatentVariableModel,
    n: int,
    chains: int = 16,
    temperatures: int = 100,
    start: str = "posterior",
    seed: int = 0,
) -> Bounds:
    """Simulate ``n`` rows with their z from the model and bound each log p(x) from both sides: :class:`Bounds`.

    z is an exact posterior draw given its x, so reverse annealing from it bounds log p(x) from above: in expectation
    lower ≤ log p(x) ≤ upper, and the gap says how far annealing is from the truth on data like the model's own.
    """
    parameter = next(model.parameters())
    generator = Generator(device=parameter.device).manual_seed(seed)
    z = model.prior.sample(n, generator, dtype=parameter.dtype, device=parameter.device).to(parameter.dtype)
    x = model.likelihood(z).sample(generator)
    betas = schedule(temperatures).to(x.device)
    k, seeds = z.shape[1], itertools.count(seed + 1)

    def run(both: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
        exact, xs = both[:, :k], both[:, k:]
        # the rows' mean is what counts: let their errors average
        way = path(model, xs, None, start, False)
        sizes = pilot(way, betas, next(seeds))
        forward = anneal(way, betas, sizes, chains, next(seeds))
        back = anneal(way, betas, sizes, chains, next(seeds), exact.unsqueeze(0))
        return multi_sample(forward.log_w), -multi_sample(-back.log_w)

    both = torch.cat([z, x], 1)
    lower, upper = by_pattern(run, both, torch.ones_like(both, dtype=torch.bool))
    return Bounds(lower, upper, x)
