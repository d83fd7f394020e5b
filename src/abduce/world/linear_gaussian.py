"""The linear-Gaussian world: exact prediction, and exact answers to any blanks of a trajectory, actions among them.

    s_{t+1} = A s_t + B a_t + c + w,   w ~ N(0, Q),      a_t ~ N(m, C),      s_0 ~ N(m₀, P₀)

A trajectory is a series of cells (s_t, a_t), all jointly Gaussian.  So :meth:`LinearGaussian.fill` is one pass of a Kalman
smoother over that series, whatever is blank: later states (prediction), actions between a start and a goal (planning), one
action (explanation).  A cell may be seen with a ``spread``, its standard deviation.  Then cost and probability are one thing:
seeing the states as 0 with the variance λ/2q, where actions have the variance λ/2r, weighs each sequence of actions by
exp(−cost/λ) with the cost Σ q s² + r a².  Where nothing is random (Q = 0) the mean of the actions is Riccati's control,
whatever λ, and log p of what was seen is −value/λ plus a constant.  In a noisy world that mean is optimistic: given success,
the noise is expected to have helped.  There the least expected cost is still Riccati's, which knows no noise.

Units are the states' own; all is float64.  Sources: Kalman 1960; Todorov 2008, Kappen, Gómez & Opper 2012 (arXiv:0901.0633),
control as inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.sequences.kalman import StateSpace, draws, smoothed
from abduce.world.episodes import Transitions
from abduce.world.transitions import Transition

FLOOR = 1e-10  # of the variance of noise, in units of that of the states: what is exact still has a density
RIDGE = 1e-9  # of the prior on coefficients, which scaled inputs have


class Trajectories(NamedTuple):
    """Blanks filled: ``states`` (N, T+1, S) and ``actions`` (N, T, A) at their means, their standard deviations, log p of what
    was seen, nats (N,), and ``draw(n, generator)`` -> states (n, N, T+1, S), actions (n, N, T, A)."""

    states: Tensor
    actions: Tensor
    states_deviation: Tensor
    actions_deviation: Tensor
    log_evidence: Tensor
    draw: Callable[[int, Generator], tuple[Tensor, Tensor]]


class LinearGaussian(Transition):
    """``a`` (S, S), ``b`` (S, A), ``c`` (S,), ``noise`` Q (S, S); ``action_mean`` and ``action_covariance`` say what actions
    are before anything is seen, ``first_mean`` and ``first_covariance`` the first state.

    >>> world = LinearGaussian(1, 1)
    >>> world = world.load(a=torch.eye(1), b=torch.eye(1), noise=torch.zeros(1, 1))
    >>> states = torch.tensor([[[0.0], [float("nan")], [2.0]]])
    >>> world.fill(states, torch.full((1, 2, 1), float("nan"))).actions.flatten()
    tensor([1.0, 1.0], dtype=torch.float64)
    """

    members = 1
    exact = True
    a: Tensor
    b: Tensor
    c: Tensor
    noise: Tensor
    action_mean: Tensor
    action_covariance: Tensor
    first_mean: Tensor
    first_covariance: Tensor

    def __init__(self, observation_size: int, action_size: int):
        super().__init__()
        self.observation_size, self.action_size = observation_size, action_size
        s, a = observation_size, action_size
        self.config = {"observation_size": s, "action_size": a}
        parts = {"a": torch.eye(s), "b": torch.zeros(s, a), "c": torch.zeros(s), "noise": torch.eye(s)}
        parts |= {"action_mean": torch.zeros(a), "action_covariance": torch.eye(a)}
        parts |= {"first_mean": torch.zeros(s), "first_covariance": torch.eye(s)}
        for name, value in parts.items():
            self.register_buffer(name, value.double())

    def load(self, **parts: Tensor) -> LinearGaussian:
        """Set some of the parameters, by name."""
        for name, value in parts.items():
            own = self.get_buffer(name)
            own.copy_(torch.as_tensor(value).to(own).expand_as(own))
        return self

    def fit(self, steps: Transitions) -> LinearGaussian:
        """Least squares on complete steps, with a light ridge on scaled inputs; Q is the residuals' covariance.

        log p of new steps is that of coefficients at their mean: with few steps Q is divided by the degrees of freedom left.
        """
        x = torch.cat([steps.state, steps.action], 1)
        n, d = x.shape
        if n < 2:
            raise ValueError(
                f"{n} steps without blanks are too few to fit a linear world to; it needs at least 2"
            )
        centre, y_centre = x.mean(0), steps.after.mean(0)
        scale = (x - centre).square().mean(0).sqrt()
        z, y = (x - centre) / torch.where(scale > 0, scale, 1.0), steps.after - y_centre
        weights = torch.linalg.solve(z.mT @ z + n * RIDGE * torch.eye(d).to(z), z.mT @ y).mT
        residual = y - z @ weights.mT
        weights = weights / torch.where(scale > 0, scale, 1.0)
        size = y.square().mean(0)
        noise = residual.mT @ residual / max(1, n - d - 1) + torch.diag(FLOOR * size + 1e-300)
        first = torch.nonzero(torch.cat([torch.ones(1).bool(), steps.episode.diff() != 0])).squeeze(1)
        begin = steps.state[first] if len(first) > x.shape[1] else steps.state
        s = self.observation_size
        return self.load(
            a=weights[:, :s],
            b=weights[:, s:],
            c=y_centre - weights @ centre,
            noise=noise,
            action_mean=steps.action.mean(0),
            action_covariance=_covariance(steps.action),
            first_mean=begin.mean(0),
            first_covariance=_covariance(begin),
        )

    # ------------------------------------------------------------------ predict

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        return state @ self.a.mT.to(state) + action @ self.b.mT.to(state) + self.c.to(state)

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(state, action)
        return mean, self.noise.diagonal().sqrt().to(mean).expand_as(mean)

    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        mean = self.mean(state, action)
        values, vectors = torch.linalg.eigh(self.noise)
        root = (vectors * values.clamp_min(0.0).sqrt()).to(mean)
        return mean + torch.randn(mean.shape, generator=generator, dtype=mean.dtype) @ root.mT

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        lead = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        return self.a.to(state).expand(*lead, -1, -1), self.b.to(state).expand(*lead, -1, -1)

    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        news = (after - self.mean(state, action)).to(self.noise)
        root = torch.linalg.cholesky(self.noise)
        white = torch.linalg.solve_triangular(root, news.unsqueeze(-1), upper=False).squeeze(-1)
        size = news.shape[-1] * LOG_2PI + 2 * root.diagonal().log().sum()
        return -0.5 * (white.square().sum(-1) + size)

    # ------------------------------------------------------------------ fill

    def fill(
        self,
        states: Tensor,
        actions: Tensor,
        states_spread: Tensor | None = None,
        actions_spread: Tensor | None = None,
    ) -> Trajectories:
        """Fill blanks (NaN) of states (N, T+1, S) and actions (N, T, A), given all that is seen.

        ``states_spread`` (T+1, S) and ``actions_spread`` (T, A) are standard deviations with which cells were seen, 0 (exact)
        if not given.
        """
        states, actions = states.to(self.a), actions.to(self.a)
        n, steps, s = states.shape
        blank = states.new_full((n, 1, self.action_size), float("nan"))  # nothing follows from a last action
        seen = torch.cat([states, torch.cat([actions, blank], 1)], 2)
        space = self._space(steps, states_spread, actions_spread)
        usual = self._usual(steps)
        mask = ~seen.isnan()
        y = torch.where(mask, seen - usual, 0.0)
        found = smoothed(space, y, mask)
        exact = mask & (space.spread == 0)
        mean = torch.where(exact, seen, found.mean + usual)
        deviation = torch.where(exact, 0.0, found.variance.clamp_min(0.0).sqrt())

        def draw(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
            drawn = draws(space, y, mask, count, generator, states_alone=True) + usual
            drawn = torch.where(exact, seen, drawn)
            return drawn[..., :s], drawn[:, :, :-1, s:]

        return Trajectories(
            mean[..., :s], mean[:, :-1, s:], deviation[..., :s], deviation[:, :-1, s:],
            found.log_prob.sum(1), draw,
        )  # fmt: skip

    def _space(self, steps: int, states_spread: Tensor | None, actions_spread: Tensor | None) -> StateSpace:
        """The state space of cells (s_t, a_t), about the usual trajectory."""
        s, a = self.observation_size, self.action_size
        moved = self.a.new_zeros(s + a, s + a)
        moved[:s] = torch.cat([self.a, self.b], 1)
        spread = self.a.new_zeros(steps, s + a)
        if states_spread is not None:
            spread[:, :s] = states_spread.to(spread).square()
        if actions_spread is not None:
            spread[:-1, s:] = actions_spread.to(spread).square()
        noise = torch.block_diag(self.noise, self.action_covariance)
        return StateSpace(
            moved, noise, torch.block_diag(self.first_covariance, self.action_covariance), spread
        )

    def _usual(self, steps: int) -> Tensor:
        """States and actions (T, S + A) at their means, when nothing is seen."""
        state, rows = self.first_mean, []
        for _ in range(steps):
            rows.append(torch.cat([state, self.action_mean]))
            state = self.mean(state, self.action_mean)
        return torch.stack(rows)


def _covariance(x: Tensor) -> Tensor:
    """The covariance of rows, positive definite whatever they are."""
    gap = x - x.mean(0)
    found = gap.mT @ gap / max(1, len(x) - 1)
    return found + torch.diag(1e-6 * found.diagonal() + 1e-12)
