"""A VAE over time: a latent a step whose dynamics are linear-Gaussian beside a network.

    z_t = A s_{t−1} + f(s_{t−1}) + w,   w ~ N(0, Q),   s_t = (z_t, …, z_{t−p+1})
    y_t = z_t + g(z_t) + e,                 e ~ N(0, diag R)

A, Q and R start at a fitted :class:`~abduce.sequences.var.VectorAutoregression`, and f and g at zero: the model starts exactly
there.  :mod:`abduce.sequences.deep_fit` trains it through blanks anywhere, by the bound of a particle filter,
:class:`~abduce.fit.bounds.FIVO`.  One that does not beat the autoregression on windows held out does not bend (``bends`` is
False), and the autoregression answers, exactly.

Sources: Krishnan, Shalit & Sontag 2015, 2017 (deep Kalman filters, arXiv:1511.05121, arXiv:1609.09869); Maddison et al. 2017
(arXiv:1705.09279).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from abduce.answers.answer import EFFORT, Effort
from abduce.data.seen import Seen
from abduce.fit.bounds import FIVO
from abduce.inference.weights import sequential
from abduce.nets.mlp import MLP
from abduce.sequences import particles
from abduce.sequences.paths import Paths, SequenceModel
from abduce.sequences.twist import Twist, look_ahead
from abduce.sequences.var import VectorAutoregression

PATHS = 64  # that moments are taken over
BUDGET = 2**24  # numbers of particles that one block of series keeps


class DeepKalman(SequenceModel):
    """``transition`` is A s + f(s), ``emission`` g, ``proposal`` the network that moves particles, ``root`` of Q (its diagonal
    as logarithms) and ``log_spread`` of R; ``linear`` is the autoregression that it started from, ``strength`` how much of its
    look ahead guides particles.

    >>> start = VectorAutoregression(1, 1).load(coefficients=torch.tensor([[0.5]]), noise=torch.tensor([[0.75]]))
    >>> model = DeepKalman.of(start.load(start.coefficients, start.noise, torch.tensor([0.1])), seed=0)
    >>> seen = Seen(torch.tensor([[[2.0], [0.0], [1.0]]]).double(), torch.tensor([[[True], [False], [True]]]))
    >>> model.bound(seen.y, seen.mask, FIVO(1), Generator()) - model.linear.answer(seen).log_evidence < 1e-9
    tensor([True])
    """

    memory = 256
    strength: Tensor

    def __init__(self, features: int, lags: int, hidden: Sequence[int] = (32,), bends: bool = False):
        super().__init__(features)
        self.lags, self.bends = lags, bends
        self.config = {"features": features, "lags": lags, "hidden": list(hidden), "bends": bends}
        f, s = features, lags * features
        self.linear = VectorAutoregression(features, lags)
        self.transition = MLP(s, hidden, f, linear_path=True)
        self.emission = MLP(f, hidden, f, zero_start=True)
        self.proposal = MLP(s + 2 * f, hidden, 2 * f, zero_start=True)
        self.root = nn.Parameter(torch.zeros(f, f))
        self.log_spread = nn.Parameter(torch.zeros(f))
        self.register_buffer("strength", torch.ones(()))
        self.double()

    @classmethod
    def of(cls, start: VectorAutoregression, hidden: Sequence[int] = (32,), seed: int = 0) -> DeepKalman:
        """The model that equals an autoregression, its networks ready to be trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls(start.n_cells, start.lags, hidden)
        return model.restart(start)

    @torch.no_grad()
    def restart(self, start: VectorAutoregression) -> DeepKalman:
        """Take the linear parts of an autoregression."""
        self.linear.load_state_dict(start.state_dict())
        path = self.transition.linear
        assert path is not None
        path.weight.copy_(start.coefficients)
        path.bias.zero_()
        return self.set_noise(start.noise, start.spread)

    @torch.no_grad()
    def set_noise(self, noise: Tensor, spread: Tensor) -> DeepKalman:
        """Set Q and R."""
        root = torch.linalg.cholesky(noise)
        self.root.copy_(root.tril(-1) + torch.diag(root.diagonal().log()))
        self.log_spread.copy_(spread.clamp_min(1e-6).log())
        return self

    def bending(self, bends: bool) -> DeepKalman:
        """The same, answered by particles, or by the autoregression that it started from."""
        self.bends = self.config["bends"] = bends
        return self

    # ------------------------------------------------------------------ what a filter asks

    def mean(self, states: Tensor) -> Tensor:
        return self.transition(states)

    def cells(self, z: Tensor) -> Tensor:
        return z + self.emission(z)

    def moved(self, states: Tensor, gap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        d, c = self.proposal(torch.cat([states, gap, mask.to(gap)], -1)).chunk(2, -1)
        return d, 0.5 * torch.tanh(c)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        root = self.root.tril(-1) + torch.diag(self.root.diagonal().clamp(-7.0, 3.0).exp())
        values, vectors = torch.linalg.eigh(self.linear.first)
        return root, self.log_spread.clamp(-14.0, 6.0).exp(), vectors * values.clamp_min(0.0).sqrt()

    # ------------------------------------------------------------------ ask

    def filtered(
        self,
        y: Tensor,
        mask: Tensor,
        objective: FIVO,
        generator: Generator,
        alike: bool = False,
        strength: float | None = None,
    ) -> tuple[particles.Filtered, Twist]:
        """A run of the particle filter over series (B, T, F), and the twist that guided it."""
        twist = look_ahead(self.linear.space, y, mask, float(self.strength) if strength is None else strength)
        found = particles.run(self, y, mask, twist, objective.samples, objective, generator, alike)
        return found, twist

    def bound(
        self, y: Tensor, mask: Tensor, objective: FIVO, generator: Generator, strength: float | None = None
    ) -> Tensor:
        """The filter's bound on log p of what was seen of each series, nats, (B,)."""
        found, _ = self.filtered(y, mask, objective, generator, strength=strength)
        return objective(found.log_w, found.resampled)

    @torch.no_grad()
    def step_log_prob(self, seen: Seen, effort: Effort = EFFORT) -> Tensor:
        """Estimates of log p of what was seen of each step given the steps before alone, nats, (B, T)."""
        if not self.bends:
            found = self.linear.answer(seen, effort).step_log_prob
            assert found is not None
            return found
        generator = Generator().manual_seed(effort.seed)
        run, _ = self.filtered(seen.y, seen.mask, FIVO(effort.particles), generator, True, 0.0)
        return sequential(run.log_w, run.resampled).mT

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        if not self.bends:
            return self.linear.answer(seen, effort)
        parts = [
            self._asked(seen.y[rows], seen.mask[rows], PATHS, effort.seed, effort)
            for rows in self._blocks(seen, effort)
        ]
        asked = SmoothedCells(*(torch.cat(p) for p in zip(*parts, strict=True)))

        def draw(n: int, generator: Generator) -> Tensor:
            seed = int(torch.randint(2**31 - 1, (), generator=generator))
            parts = []
            for i, rows in enumerate(self._blocks(seen, effort)):
                drawn = self._paths(seen.y[rows], seen.mask[rows], n, seed + i, effort, False)[0]
                own = Generator().manual_seed(seed - i - 1 & 0x7FFFFFFF)
                noise = torch.randn(drawn.shape, generator=own, dtype=drawn.dtype)
                parts.append(drawn + noise * self.parts()[1].sqrt().detach())
            return torch.where(seen.mask, seen.y, torch.cat(parts, 1))

        return ParticlePaths(seen, asked, draw)

    def _blocks(self, seen: Seen, effort: Effort) -> list[slice]:
        """Some series at a time."""
        n, steps, f = seen.y.shape
        size = max(1, BUDGET // (steps * max(effort.particles, PATHS) * (self.lags + 1) * f))
        return [slice(i, i + size) for i in range(0, n, size)]

    @torch.no_grad()
    def _paths(
        self, y: Tensor, mask: Tensor, n: int, seed: int, effort: Effort, alike: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paths z + g(z) drawn given series, (n, B, T, F), with log p and effective number of particles (B,)."""
        generator, objective = Generator().manual_seed(seed), FIVO(effort.particles)
        found, twist = self.filtered(y, mask, objective, generator, alike)
        drawn = self.cells(particles.backward(self, found, twist, n, generator, alike))
        return drawn, objective(found.log_w, found.resampled), found.ess

    def _asked(self, y: Tensor, mask: Tensor, n: int, seed: int, effort: Effort) -> SmoothedCells:
        drawn, log_p, ess = self._paths(y, mask, n, seed, effort, True)
        variance = drawn.var(0) + self.parts()[1].detach()
        return SmoothedCells(drawn.mean(0), variance.sqrt(), log_p, ess)


class SmoothedCells(NamedTuple):
    """Means and deviations of cells (B, T, F), log p of what was seen and the effective number of particles (B,)."""

    centre: Tensor
    deviation: Tensor
    log_p: Tensor
    ess: Tensor


class ParticlePaths(Paths):
    """The answer by particles: an estimate, with the effective number of particles at each series' poorest step."""

    def __init__(self, seen: Seen, asked: SmoothedCells, draw):
        super().__init__(seen, asked.centre, asked.deviation, None, draw, "estimate")
        self._log_p, self._ess = asked.log_p, asked.ess

    @property
    def log_evidence(self) -> Tensor:
        return self._log_p

    @property
    def ess(self) -> Tensor:
        return self._ess
