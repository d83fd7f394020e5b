"""Annealing from a base to a target: tempered sequential Monte Carlo and annealed importance sampling along any path.

A *path* of densities f_t, t from 0 to 1, leads from a normalised base f_0 that is easy to draw from to the unnormalised
target f_1.  Particles x ~ f_0 are weighted and moved along 0 = t_0 < t_1 < ... < t_T = 1,

    log w += log f_{t_k}(x) − log f_{t_{k−1}}(x),      then x moves by a kernel that leaves f_{t_k} invariant,

and E[w] = ∫ f_1.  Never resampled this is annealed importance sampling; resampled where the effective sample size of a
population falls below half it is sequential Monte Carlo, whose estimate is the product of the average increments.  With the
schedule given, both are unbiased for Z, so that E[log Ẑ] ≤ log Z; without, each population chooses its next t so that the
conditional effective sample size, N (Σ W u)² / Σ W u² with u the increments' exponentials, is a given share of its particles.

Several populations that never meet run side by side; their spread says how far to trust the answer.

Source: Neal 2001 (arXiv:physics/9803008); Del Moral, Doucet & Jasra 2006; Zhou, Johansen & Aston 2016 (arXiv:1303.3123).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from abduce.inference import hmc
from abduce.inference.energy import Diverged
from abduce.inference.kernels import LogDensity, State, start
from abduce.inference.weights import effective_sample_size, resample, take

TARGET = 0.65  # acceptance that step sizes aim at: where an HMC step moves farthest for its cost (Beskos et al. 2013)
GAIN = 0.3  # how far the log of a step size follows the acceptance, less the target, of one move
FIRST_SIZE = 0.3  # step size before any move
FARTHEST = 1e3  # cells of model space are of the order of one


class Path(Protocol):
    """Densities f_t over rows of cells; x is ``(particles, populations, dim)``, t ``(populations,)``."""

    def draw(self, particles: int, populations: int, generator: Generator, /) -> Tensor:
        """Draw from f_0."""
        ...

    def statistic(self, x: Tensor) -> Tensor:
        """What increments need of x; its first two axes are (particles, populations)."""
        ...

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        """log f_new(x) − log f_t(x), ``(particles, populations)``."""
        ...

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Move once by step sizes ``size`` (populations,), f_t invariant: x, and the acceptance (particles, populations)."""
        ...


class Plan(NamedTuple):
    """A schedule that was found useful: t ``(T + 1,)`` and the step sizes at each, ``(T + 1,)``; None: they adapt."""

    t: Tensor
    sizes: Tensor | None

    @classmethod
    def even(cls, steps: int) -> Plan:
        """Equal steps of t; step sizes adapt."""
        return cls(torch.linspace(0, 1, steps + 1, dtype=torch.float64), None)

    def finer(self, parts: int) -> Plan:
        """Each step cut into ``parts`` equal ones, and into up to four times as many near t = 1, where chains mix slowest."""
        if parts == 1:
            return self
        cut = (parts * (1 + 3 * self.t[1:] ** 8)).round().long()
        step = torch.repeat_interleave(torch.arange(len(cut)), cut)
        within = torch.cat([torch.arange(1, int(n) + 1) / int(n) for n in cut]).double()
        t = torch.lerp(self.t[:-1][step], self.t[1:][step], within)
        sizes = None if self.sizes is None else torch.cat([self.sizes[:1], self.sizes[1:][step]])
        return Plan(torch.cat([self.t[:1], t]), sizes)


class Particles(NamedTuple):
    """Where particles ended, and how they got there; P particles in R populations."""

    log_z: Tensor  # log Ẑ of each population, (R,), nats, float64
    x: Tensor  # (P, R, dim)
    log_w: Tensor  # what weights are left, normalised over P, (P, R)
    acceptance: Tensor  # mean over the moves, (R,)
    lowest: Tensor  # lowest acceptance at any temperature, (R,)
    ancestors: Tensor  # how many of the first particles have descendants, (R,)
    plan: Plan  # of the first population, where it chose its own
    evaluations: int  # moves of single particles

    def draws(self, n: int, generator: Generator) -> Tensor:
        """Draw n of the particles of each population by their weights, in random order: ``(n, R, dim)``."""
        index = resample(self.log_w, n, generator)
        order = torch.rand(index.shape, generator=generator, device=index.device).argsort(0)
        return take(self.x, index.gather(0, order))


class Tempered(NamedTuple):
    """Particles on their way, P in each of R populations."""

    t: Tensor  # where they are on the path, (R,), float64
    x: Tensor  # (P, R, dim)
    statistic: Tensor  # the path's, of x
    log_w: Tensor  # normalised over P, (P, R), float64
    log_z: Tensor  # log of ∫ f_t, as estimated so far, (R,), float64
    log_size: Tensor  # step size that the acceptance so far asks for, (R,)
    ancestor: Tensor  # which of the first particles each comes from, (P, R)


def advance(
    path: Path,
    state: Tempered,
    t: Tensor,
    generator: Generator,
    size: Tensor | None,
    resampling: bool,
    shared: bool,
) -> tuple[Tempered, Tensor]:
    """Weigh the particles for f_t, resample where few carry the weight, and move them by step sizes ``size`` (R,) or their
    own: the new state, and the mean acceptance (R,).
    """
    particles = len(state.x)
    log_w = state.log_w + path.increment(state.statistic, state.t, t).double()
    gain = torch.logsumexp(log_w, 0)
    if not bool(torch.isfinite(gain).all()):
        raise Diverged(
            f"annealing broke down at t = {float(t.max()):.3g}: all particles of a population have weight zero or "
            "their energy is not finite; start from a wider base, or check that the energy rises away from the data"
        )
    x, log_w, ancestor = state.x, log_w - gain, state.ancestor
    if resampling:
        # every population draws every time, so that none's random numbers depend on another's need
        index = resample(log_w, particles, generator, shared=shared)
        poor = effective_sample_size(log_w) < 0.5 * particles
        x = torch.where(poor.view(1, -1, 1), take(x, index), x)
        ancestor = torch.where(poor, ancestor.gather(0, index), ancestor)
        log_w = torch.where(poor, -math.log(particles), log_w)
    x, accepted = path.move(x, t.to(x), state.log_size.exp() if size is None else size, generator)
    rate = accepted.mean(0)
    log_size = state.log_size + GAIN * (rate - TARGET)
    moved = Tempered(t, x, path.statistic(x), log_w, state.log_z + gain, log_size, ancestor)
    return moved, rate


@torch.no_grad()
def temper(
    path: Path,
    particles: int = 64,
    populations: int = 1,
    seed: int = 0,
    share: float = 0.9,
    most: int = 1000,
    plan: Plan | None = None,
    resampling: bool = True,
    shared: bool = False,
    show: Callable[[float], None] | None = None,
) -> Particles:
    """Run particles along ``path``, by the ``plan`` or, without one, as the particles themselves ask for.

    ``share`` is the conditional effective sample size of each step, as a share of the particles; after ``most`` steps a
    population goes to t = 1 at once.  Without ``resampling`` this is annealed importance sampling.  With ``shared`` all
    populations resample by the same random numbers (the path sees to its own moves).  ``show`` is called with t of the
    slowest population.
    """
    generator = Generator().manual_seed(seed)
    x = path.draw(particles, populations, generator)
    zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    log_w = zero.expand(particles, -1) - math.log(particles)
    log_size = x.new_full((x.shape[1],), FIRST_SIZE).log()
    ancestor = torch.arange(particles, device=x.device).unsqueeze(1).repeat(1, x.shape[1])
    state = Tempered(zero, x, path.statistic(x), log_w, zero, log_size, ancestor)
    total, count, lowest = torch.zeros_like(state.t), torch.zeros_like(state.t), torch.ones_like(state.t)
    trace, sizes, steps = [state.t[0]], [state.log_size[0]], 0
    last = most if plan is None else len(plan.t) - 1
    for i in range(last):
        going = state.t < 1
        if not bool(going.any()):
            break
        given = None if plan is None else plan.sizes
        size = None if given is None else given[i + 1].expand_as(state.t).to(state.x)
        if plan is not None:
            t = plan.t[i + 1].expand_as(state.t).to(state.t)
        else:
            t = torch.ones_like(state.t) if i == most - 1 else _next(path, state, share)
        state, rate = advance(path, state, t, generator, size, resampling, shared)
        total += torch.where(going, rate.double(), 0.0)
        lowest = torch.where(going, torch.minimum(lowest, rate.double()), lowest)
        count += going
        steps += 1
        if plan is None and bool(going[0]):
            trace.append(state.t[0])
            sizes.append(state.log_size[0])
        if i % 16 == 0:
            check_range(state.x)
        if show is not None:
            show(float(state.t.min()))
    check_range(state.x)
    acceptance, moves = total / count.clamp_min(1), steps * state.log_w.numel()
    ancestors = (torch.nn.functional.one_hot(state.ancestor, particles).sum(0) > 0).sum(-1)
    plan = plan or Plan(torch.stack(trace), smooth(torch.stack(sizes)).exp())
    return Particles(state.log_z, state.x, state.log_w, acceptance, lowest, ancestors, plan, moves)


def check_range(x: Tensor) -> None:
    """Refuse particles that ran away."""
    if not bool(torch.isfinite(x).all()) or float(x.abs().amax()) > FARTHEST:
        raise Diverged(
            f"a chain ran away (|x| beyond {FARTHEST:g} standard deviations of the data): the energy does not rise far from "
            "the data, so it has no finite partition function; give a base measure, or train with a stronger penalty"
        )


def _next(path: Path, state: Tempered, share: float) -> Tensor:
    """The largest t up to 1 whose conditional effective sample size is ``share``, by bisection, ``(populations,)``."""
    low, high = state.t, torch.ones_like(state.t)

    def enough(new: Tensor) -> Tensor:
        u = path.increment(state.statistic, state.t, new).double()
        size = 2 * torch.logsumexp(state.log_w + u, 0) - torch.logsumexp(state.log_w + 2 * u, 0)
        return size.exp() >= share

    whole = enough(high)
    for _ in range(20):  # a millionth of the way is fine enough
        middle = 0.5 * (low + high)
        fits = enough(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(whole, 1.0, high)


def smooth(log_sizes: Tensor, half: int = 4) -> Tensor:
    """Average over neighbouring temperatures, (T, ...): a few particles' acceptance is noisy."""
    padded = torch.cat([log_sizes[:1]] * half + [log_sizes] + [log_sizes[-1:]] * half)
    return padded.unfold(0, 2 * half + 1, 1).mean(-1)


@dataclass(eq=False)
class GeometricPath:
    """log f_t = (1 − t) log b(x) + t log f(x) for real x, moved by Hamiltonian Monte Carlo.

    ``scale`` ``(populations or 1, dim)`` is the unit of step sizes; a cell of scale zero is clamped.  ``draw(particles,
    populations, generator)`` draws from b; with ``shared`` all populations use the same random numbers.
    """

    base: LogDensity
    target: LogDensity
    scale: Tensor
    draw: Callable[[int, int, Generator], Tensor]
    leapfrogs: int = 5
    shared: bool = False

    def statistic(self, x: Tensor) -> Tensor:
        """The log ratio of target and base."""
        return (self.target(x) - self.base(x)).double()

    def increment(self, statistic: Tensor, t: Tensor, new: Tensor) -> Tensor:
        return (new - t) * statistic

    def log_density(self, t: Tensor) -> LogDensity:
        """log f_t, up to a constant in t."""
        return lambda x: torch.lerp(self.base(x), self.target(x), t.expand(x.shape[:-1]))

    def at(self, x: Tensor, t: Tensor) -> tuple[State, Tensor]:
        """The chain's state on f_t at x, and the log ratio there, ``(particles, populations)``, both from one evaluation."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            base, target = self.base(x), self.target(x)
            (d_base,) = torch.autograd.grad(base.sum(), x)
            (d_target,) = torch.autograd.grad(target.sum(), x)
        value = torch.lerp(base, target, t.expand(base.shape)).detach()
        gradient = torch.lerp(d_base, d_target, t.unsqueeze(-1).expand(x.shape))
        return State(x.detach(), value, gradient), (target - base).detach()

    def step(self, state: State, t: Tensor, size: Tensor, generator: Generator) -> tuple[State, Tensor]:
        """One step of Hamiltonian Monte Carlo on f_t."""
        step_size = size.view(1, -1, 1) * self.scale
        return hmc.step(state, self.log_density(t), step_size, generator, self.leapfrogs, self.shared)

    def move(self, x: Tensor, t: Tensor, size: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        state, acceptance = self.step(start(x, self.log_density(t)), t, size, generator)
        return state.x, acceptance
