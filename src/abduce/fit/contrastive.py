"""Contrastive objectives: push the energy down at the data and up at chosen other places.

With f_i(x) = E(x with cell i flipped) − E(x) for binary cells, σ the logistic function and s(u) = log(1 + e^u):

    contrastive divergence       E(x) − E(x_k),  x_k a draw k steps of a sampler away, through which no gradient goes:
                                 started at x (CD-k), or at where the last step left it (persistent, PCD)
    noise-contrastive            s(−G(x)) + Σ_j s(G(y_j)),  y_1..y_ν draws of a noise p_n,
                                 G = −E − c − log p_n − log ν: is it data?  c is learnt and becomes log Z
    minimum probability flow     Σ_i exp(−½ f_i(x)): how fast probability leaves the data for their neighbours
    pseudo-likelihood            Σ_i s(−f_i(x)) = −Σ_i log p(x_i | the other cells)
    ratio matching               Σ_i σ(−f_i(x))²

The last three need no sampler and no log Z; at the true parameters their gradients vanish in expectation.  Probability flow
counts all neighbours, those that are data themselves too: without them data that have every state would give no loss at all.

Sources: Hinton 2002, CD; Tieleman 2008, PCD; Gutmann & Hyvärinen 2010 and 2012 (JMLR 13), NCE; Sohl-Dickstein, Battaglino &
DeWeese 2011, MPF (arXiv:0906.4779); Besag 1975, pseudo-likelihood; Hyvärinen 2007, ratio matching; Du & Mordatch 2019,
chains that start anew (arXiv:1903.08689).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from abduce.checks import check_choice, check_count, check_number
from abduce.fit.loss import EnergyObjective, Loss, RowObjective
from abduce.fit.noise import Noise, fit_noise
from abduce.inference.energy import Diverged, Energy
from abduce.inference.flips import flip_energies
from abduce.inference.kernels import Kernel
from abduce.together import ALONE, mine, total, within

STEEP = 20.0  # largest exponent of a probability flow: from there on the exponential goes on as its tangent
CHAINS = 100
FAR = 1e3  # standard deviations from the data: a chain there has run away
DRAWS = 2000  # of the noise, for a first guess of c


@dataclass(frozen=True)
class ContrastiveDivergence(EnergyObjective):
    """Minimise E(x) − E(x_k), x_k ``k`` steps of the kernel away from x; with ``persistent``, from where ``chains`` are.

    The gradient is that of the likelihood but for draws that have not mixed; the value says nothing about progress.
    ``chains`` (None: 100) and ``restart``, the probability at each step that a chain starts anew from a wide noise fitted to
    the data, matter for persistent chains only.  Needs a ``kernel`` bound to the model.  Chains that run away raise
    :class:`~abduce.inference.energy.Diverged`.

    >>> ContrastiveDivergence(k=0)
    Traceback (most recent call last):
    ValueError: k must be an int >= 1, got 0
    """

    k: int = 1
    persistent: bool = False
    chains: int | None = None
    restart: float = 0.0

    def __post_init__(self):
        check_count("k", self.k)
        check_number("restart", self.restart, 0, 1)
        if self.chains is not None:
            check_count("chains", self.chains)
        if not self.persistent and (self.chains is not None or self.restart):
            raise ValueError(
                f"chains and restart need persistent=True, got chains={self.chains!r}, restart={self.restart!r}"
            )

    def bind(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None) -> Loss:
        if kernel is None:
            raise self.illegal(model, f"a sampler for its {model.support} cells; pass kernel=")
        own = getattr(kernel, "model", model)
        if own is not model:
            other = f"a kernel bound to it, and this one is bound to another {type(own).__name__}"
            raise self.illegal(model, other)
        if not self.persistent:
            return FreshChains(model, kernel, self.k)
        pick = torch.randint(len(x), (self.chains or CHAINS,), generator=generator, device=x.device)
        name = "rates" if model.support == "binary" else "normal"
        noise = fit_noise(name, x, generator) if self.restart else None
        return PersistentChains(model, kernel, self.k, x[pick].clone(), self.restart, noise)


@torch.no_grad()
def _run(kernel: Kernel, x: Tensor, steps: int, generator: Generator | None) -> Tensor:
    """Where chains from x (n, D) are after some steps."""
    state = kernel.init(x)
    for _ in range(steps):
        state, _ = kernel.step(state, generator)
    if not bool(torch.isfinite(state.x).all()) or float(state.x.abs().amax()) > FAR:
        raise Diverged(
            "chains of ContrastiveDivergence ran away: the energy falls without bound, or the kernel's step is too "
            "large; lower the learning rate or the step size, or take an energy that rises far from the data"
        )
    return state.x


class FreshChains(Loss):
    """CD-k: a chain from each row."""

    comparable: ClassVar[bool] = False

    def __init__(self, model: Energy, kernel: Kernel, k: int):
        super().__init__(model)
        self.kernel, self.k = kernel, k

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.model.energy(x) - self.model.energy(self.states(x, generator))

    def states(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return _run(self.kernel, x, self.k, generator)


class PersistentChains(FreshChains):
    """PCD: chains that go on from step to step, in the buffer ``chains`` (m, D); in evaluation they stay where they are."""

    chains: Tensor

    def __init__(
        self, model: Energy, kernel: Kernel, k: int, chains: Tensor, restart: float, noise: Noise | None
    ):
        super().__init__(model, kernel, k)
        self.restart, self.noise = restart, noise
        self.register_buffer("chains", chains)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        if self.training:
            start = self.chains
            if self.noise is not None:
                u = torch.rand(len(start), 1, generator=generator, dtype=start.dtype, device=start.device)
                start = torch.where(u < self.restart, self.noise.sample(len(start), generator), start)
            with within(ALONE):  # every process moves all chains, to the same places
                self.chains = _run(self.kernel, start, self.k, generator)
        return self.model.energy(x) - self.model.energy(self.chains).mean()

    def states(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return self.chains


@dataclass(frozen=True)
class NCE(EnergyObjective):
    """Tell the data from ``ratio`` times as many draws of a noise fitted to them; learns log Z on the way.

    ``noise``: "normal", "mixture" (of Gaussians, with a wide part) for real cells, "rates" (independent cells) for binary;
    "auto" is the mixture or the rates.  Afterwards the loss's ``c`` is log Z where the noise has mass: E + c is normalised.
    """

    noise: str = "auto"
    ratio: int = 5

    def __post_init__(self):
        check_choice("noise", self.noise, ("auto", "normal", "mixture", "rates"))
        check_count("ratio", self.ratio)

    def bind(self, model: Energy, x: Tensor, generator: Generator, kernel: Kernel | None) -> Classifier:
        legal = {"binary": ("rates",), "real": ("mixture", "normal")}.get(model.support, ())
        needed = f"a noise with a density for {model.support} cells"
        if not legal:
            raise self.illegal(model, f"{needed}, and there is none")
        name = legal[0] if self.noise == "auto" else self.noise
        if name not in legal:
            raise self.illegal(model, f"{needed}: noise={' or '.join(map(repr, legal))}, got {name!r}")
        noise = fit_noise(name, x, generator)
        with torch.no_grad():
            y = noise.sample(DRAWS, generator)
            c = torch.logsumexp(-model.energy(y) - noise.log_prob(y), 0) - math.log(DRAWS)
        return Classifier(model, noise, self.ratio, c)


class Classifier(Loss):
    """Logistic regression of data against noise; ``c`` is a parameter, started at an importance-sampling estimate of log Z."""

    def __init__(self, model: Energy, noise: Noise, ratio: int, c: Tensor):
        super().__init__(model)
        self.noise, self.ratio = noise, ratio
        self.c = nn.Parameter(c)

    def log_odds(self, x: Tensor) -> Tensor:
        """G(x) = −E − c − log p_n − log ν: log odds that a row is data, (..., D) -> (...)."""
        return -self.model.energy(x) - self.c - self.noise.log_prob(x) - math.log(self.ratio)

    def forward(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        noise = self.noise.sample(self.ratio * total(len(x)), generator).unflatten(0, (self.ratio, -1))
        against = softplus(self.log_odds(mine(noise, 1))).sum(0)
        return softplus(-self.log_odds(x)) + against


class _Flips(RowObjective):
    """An objective of what flipping each cell costs: binary cells, and nothing else."""

    @abc.abstractmethod
    def cost(self, flips: Tensor) -> Tensor:
        """Loss of each cell, (..., D), by f_i = E(x flipped at i) − E(x)."""

    def check(self, model: Energy) -> None:
        self.check_support(model, "binary", "ScoreMatching or DenoisingScoreMatching")

    def loss(self, model: Energy, x: Tensor, generator: Generator | None) -> Tensor:
        return self.cost(flip_energies(model, x)).sum(-1)


@dataclass(frozen=True)
class MinimumProbabilityFlow(_Flips):
    """Minimise Σ_i exp ½(E(x) − E(x flipped at i)); convex where E is linear in its parameters.

    From an exponent of 20 on the exponential goes on as its tangent there: finite, convex, with a gradient everywhere.
    """

    def cost(self, flips: Tensor) -> Tensor:
        u = -0.5 * flips
        below = u.clamp_max(STEEP)
        return torch.exp(below) * (1 + u - below)


@dataclass(frozen=True)
class PseudoLikelihood(_Flips):
    """Minimise −Σ_i log p(x_i | the other cells); convex where E is linear in its parameters."""

    def cost(self, flips: Tensor) -> Tensor:
        return softplus(-flips)


@dataclass(frozen=True)
class RatioMatching(_Flips):
    """Minimise Σ_i σ(E(x) − E(x flipped at i))²."""

    def cost(self, flips: Tensor) -> Tensor:
        return torch.sigmoid(-flips).square()
