"""An ensemble of Gaussian networks: smooth worlds of any form, with doubt apart from noise.

    s' = clamp(s + d ⊙ (W z + b + f_m(z))) + σ_m ε,   z = (s, a) centred and scaled,   m = 1..M members

Each member's network f_m stands beside the linear path W z + b, on differences d ⊙ (...) in units of the usual step, with a σ
for each output.  Where data are many the members agree; where they are few they do not, and that is the doubt.
Means, of each member and on average, are clamped to the box of the data, since networks go on anyhow beyond it and a planner
would find where.

The Jacobian of the mean is a formula, two products of matrices a member.  Sources: Lakshminarayanan, Pritzel & Blundell 2017
(arXiv:1612.01474), Chua, Calandra, McAllister & Levine 2018 (arXiv:1805.12114).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from abduce.distributions.cells import LOG_2PI
from abduce.world.linear_path import without_path
from abduce.world.transitions import Transition


class Folded(NamedTuple):
    """Networks with scales folded in, so that joined states and actions x (N, S+A) go in and states come out.

    Hidden ``weights`` (M, ·, units) and ``biases`` (M, 1, units); ``last`` (M, units, S), ``last_bias`` (M, 1, S); ``path``
    (S+A, S) and ``offset`` (S,) of the linear path, the state itself included.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    last: Tensor
    last_bias: Tensor
    path: Tensor
    offset: Tensor


class Ensemble(Transition):
    """``members`` networks of ``hidden`` SiLU units a layer; :func:`~abduce.world.ensemble_fit.fit_ensemble` fits one.

    ``centre``, ``scale`` (S+A,) of inputs, ``step`` (S,) the unit d of differences, ``path`` (S, S+A) and ``offset`` (S,) the
    linear path, ``low`` and ``high`` (S,) the box; ``log_sigma`` (M, S) in units of d.

    >>> model = Ensemble(2, 1, members=3)
    >>> s, a = torch.randn(4, 2), torch.randn(4, 1)
    >>> torch.equal(model.mean(s, a), s)                # networks start at no change
    True
    """

    centre: Tensor
    scale: Tensor
    step: Tensor
    path: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, observation_size: int, action_size: int, members: int = 5, hidden: Sequence[int] = (64, 64)
    ):
        super().__init__()
        self._folded = None
        self.observation_size, self.action_size, self.members = observation_size, action_size, members
        s, d = observation_size, observation_size + action_size
        self.config: dict[str, Any] = {
            "observation_size": s, "action_size": action_size, "members": members, "hidden": list(hidden),
        }  # fmt: skip
        sizes = [d, *hidden, s]
        self.weights = nn.ParameterList(
            torch.randn(members, m, n) * (2 / m) ** 0.5 for m, n in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(members, 1, n) for n in sizes[1:])
        self.log_sigma = nn.Parameter(torch.full((members, s), -1.0))
        with torch.no_grad():
            self.weights[-1].zero_()
        without_path(self, s, action_size, torch.get_default_dtype())

    @property
    def sigma(self) -> Tensor:
        """Standard deviations of the noise in the states' units, (M, S)."""
        return self.log_sigma.exp() * self.step

    def some(self, members: slice) -> Ensemble:
        """The ensemble of some members alone."""
        parts = {
            k: v[members] if v.ndim and k.split(".")[0] in ("weights", "biases", "log_sigma") else v
            for k, v in self.state_dict().items()
        }
        found = Ensemble(
            self.observation_size, self.action_size, len(parts["log_sigma"]), self.config["hidden"]
        )
        found.load_state_dict(parts)
        return found.requires_grad_(False).eval()

    # ------------------------------------------------------------------ means

    def differences(self, z: Tensor) -> Tensor:
        """What each member adds to the state, in units of ``step``, (M, N, S), of inputs z (N, S+A)."""
        return self.beside(z) + (z @ self.path.mT + self.offset)

    def beside(self, z: Tensor) -> Tensor:
        """What each member's network adds to the linear path, f_m(z), shaped and in units as differences are."""
        x = z.expand(self.members, *z.shape)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.silu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    def train(self, mode: bool = True) -> Ensemble:
        """Networks that are trained change, so that what was folded is no longer theirs."""
        self._folded: Folded | None = None
        super().train(mode)
        return self

    @property
    def folded(self) -> Folded:
        """The networks as they are asked."""
        if self._folded is None or self.training:
            self._folded = self._fold()
        return self._folded

    def _fold(self) -> Folded:
        weights, biases = [w.detach() for w in self.weights], [b.detach() for b in self.biases]
        first = weights[0] / self.scale.unsqueeze(1)
        bias = biases[0] - (self.centre @ first).unsqueeze(1)
        path = (self.path * self.step.unsqueeze(1) / self.scale).mT.clone()
        offset = self.offset * self.step - self.centre @ path
        path[: self.observation_size] += torch.eye(self.observation_size)
        last = weights[-1] * self.step
        return Folded(
            [first, *weights[1:-1]], [bias, *biases[1:-1]], last, biases[-1] * self.step, path, offset
        )  # fmt: skip

    def _hidden(self, x: Tensor) -> Tensor:
        """The last layer's units of each member, (M, N, units), of joined states and actions (N, S+A)."""
        at = self.folded
        y = x.expand(self.members, *x.shape)
        for weight, bias in zip(at.weights, at.biases, strict=True):
            y = F.silu(torch.baddbmm(bias, y, weight))
        return y

    def _joined(self, state: Tensor, action: Tensor) -> tuple[Tensor, torch.Size]:
        """States and actions side by side, (N, S+A), and their leading axes."""
        lead = state.shape[:-1]
        if action.shape[:-1] != lead:
            lead = torch.broadcast_shapes(lead, action.shape[:-1])
            state, action = state.expand(*lead, -1), action.expand(*lead, -1)
        joined = torch.cat([state, action], -1)
        return joined.to(self.scale).reshape(-1, joined.shape[-1]), lead

    def means(self, state: Tensor, action: Tensor) -> Tensor:
        """Each member's mean of the next state, (M, ..., S)."""
        x, lead = self._joined(state, action)
        at = self.folded
        moved = torch.baddbmm(at.last_bias, self._hidden(x), at.last) + torch.addmm(at.offset, x, at.path)
        return moved.clamp(self.low, self.high).view(self.members, *lead, -1).to(state)

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        if member is not None:
            found = self.means(state, action)
            chosen = member.expand(found.shape[1:-1])[None, ..., None].expand(1, *found.shape[1:])
            return found.gather(0, chosen).squeeze(0)
        x, lead = self._joined(state, action)
        return self._average(x, self._hidden(x)).clamp(self.low, self.high).view(*lead, -1).to(state)

    def _average(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Where the members lead on average, (N, S), not clamped."""
        at = self.folded
        side = hidden.transpose(0, 1).reshape(len(x), -1)
        flat = at.last.flatten(0, 1) / self.members
        return torch.addmm(torch.addmm(at.offset + at.last_bias.mean((0, 1)), x, at.path), side, flat)

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        x, lead = self._joined(state, action)
        at = self.folded
        (n, d), s = x.shape, self.observation_size
        y = x.expand(self.members, *x.shape)
        slopes: Tensor | None = None  # of units in inputs, (M, N, S+A, units)
        for weight, bias in zip(at.weights, at.biases, strict=True):
            h = torch.baddbmm(bias, y, weight)
            gate = torch.sigmoid(h)
            y = h * gate
            slope = (gate + y * (1 - gate)).unsqueeze(2)
            through = (
                weight.unsqueeze(1)
                if slopes is None
                else (slopes.flatten(1, 2) @ weight).unflatten(1, (n, d))
            )
            slopes = through * slope
        total = at.path.expand(n, -1, -1)
        if slopes is not None:
            total = total + (slopes.flatten(1, 2) @ at.last).mean(0).unflatten(0, (n, d))
        after = self._average(x, y)
        inside = ((after > self.low) & (after < self.high)).to(total)
        total = (total.mT * inside.unsqueeze(2)).view(*lead, s, d).to(state)
        return total[..., :s], total[..., s:]

    # ------------------------------------------------------------------ doubt and noise

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        found = self.means(state, action)
        doubt = found.var(0, correction=0)
        return self.mean(state, action), (doubt + self.sigma.square().mean(0).to(found)).sqrt()

    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        """Standard deviation of the members' means, (..., S): doubt alone."""
        return self.means(state, action).std(0, correction=0)

    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        lead = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        if member is None:
            member = torch.randint(self.members, lead, generator=generator)
        mean = self.mean(state, action, member)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        sigma = self.sigma[member.expand(lead)].to(mean)
        return (mean + sigma * noise).clamp(self.low.to(mean), self.high.to(mean))

    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        found = self.means(state, action)
        sigma = self.sigma.to(found).view(self.members, *[1] * (found.ndim - 2), -1)
        each = -0.5 * (((after.to(found) - found) / sigma).square() + LOG_2PI) - sigma.log()
        return each.sum(-1).logsumexp(0) - torch.tensor(float(self.members)).log()
