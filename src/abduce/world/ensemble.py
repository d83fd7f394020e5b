"""An ensemble of Gaussian networks: smooth worlds of any form, with doubt apart from noise.

    s' = clamp(s + d ⊙ (W z + b + f_m(z))) + σ_m ε,   z = (s, a) centred and scaled,   m = 1..M members

Each member's network f_m stands beside the least-squares linear path W z + b, on differences d ⊙ (...) in units of the usual
step, with one σ an output.  Where data are many the members agree; where they are few they do not, and that is the doubt.
Means are clamped to the box of the data, since networks go on anyhow beyond it and a planner would find where.

The Jacobian of the mean is a formula, two products of matrices a member.  Sources: Lakshminarayanan, Pritzel & Blundell 2017
(arXiv:1612.01474), Chua, Calandra, McAllister & Levine 2018 (arXiv:1805.12114).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from abduce.distributions.cells import LOG_2PI
from abduce.world.transitions import Transition


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
        self.observation_size, self.action_size, self.members = observation_size, action_size, members
        s, d = observation_size, observation_size + action_size
        self.config = {
            "observation_size": s, "action_size": action_size, "members": members, "hidden": list(hidden),
        }  # fmt: skip
        sizes = [d, *hidden, s]
        self.weights = nn.ParameterList(
            torch.randn(members, m, n) * (2 / m) ** 0.5 for m, n in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(members, 1, n) for n in sizes[1:])
        self.log_sigma = nn.Parameter(torch.full((members, s), -1.0))
        with torch.no_grad():
            self.weights[-1].zero_()
        buffers = {"centre": torch.zeros(d), "scale": torch.ones(d), "step": torch.ones(s)}
        buffers |= {"path": torch.zeros(s, d), "offset": torch.zeros(s)}
        buffers |= {"low": torch.full((s,), -torch.inf), "high": torch.full((s,), torch.inf)}
        for name, value in buffers.items():
            self.register_buffer(name, value)

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
        config = self.config | {"members": len(parts["log_sigma"])}
        found = Ensemble(**config)
        found.load_state_dict(parts)
        return found.requires_grad_(False).eval()

    # ------------------------------------------------------------------ means

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """z of the networks, (N, S+A), of states and actions with any leading axes."""
        lead = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        joined = torch.cat([state.expand(*lead, -1), action.expand(*lead, -1)], -1)
        return ((joined.to(self.scale) - self.centre) / self.scale).flatten(0, -2) if lead else (
            ((joined.to(self.scale) - self.centre) / self.scale).unsqueeze(0)
        )  # fmt: skip

    def differences(self, z: Tensor) -> Tensor:
        """What each member adds to the state, in units of ``step``, (M, N, S), of inputs z (N, S+A)."""
        x = z.expand(self.members, *z.shape)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.silu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1]) + (z @ self.path.mT + self.offset)

    def means(self, state: Tensor, action: Tensor) -> Tensor:
        """Each member's mean of the next state, (M, ..., S)."""
        lead = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        moved = self.differences(self.inputs(state, action)) * self.step
        out = state.to(moved) + moved.view(self.members, *lead, self.observation_size)
        return out.clamp(self.low, self.high).to(state)

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        found = self.means(state, action)
        if member is None:
            return found.mean(0)
        chosen = member.expand(found.shape[1:-1])[None, ..., None].expand(1, *found.shape[1:])
        return found.gather(0, chosen).squeeze(0)

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        lead = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
        z = self.inputs(state, action)
        x = z.expand(self.members, *z.shape)
        slopes: Tensor | None = None  # d (hidden) / d z, (M, N, S+A, hidden)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = torch.baddbmm(bias, x, weight)
            gate = torch.sigmoid(h)
            slope = gate * (1 + h * (1 - gate))
            through = weight.unsqueeze(1) if slopes is None else slopes @ weight.unsqueeze(1)
            slopes, x = through * slope.unsqueeze(2), h * gate
        last = self.weights[-1].unsqueeze(1)
        out = (last if slopes is None else slopes @ last).expand(self.members, len(z), -1, -1)
        moved = torch.baddbmm(self.biases[-1], x, self.weights[-1]) + (z @ self.path.mT + self.offset)
        after = state.to(moved).expand(*lead, -1).reshape(len(z), -1) + moved * self.step
        inside = ((after > self.low) & (after < self.high)).to(z)  # (M, N, S)
        total = (out.mT + self.path) * self.step.unsqueeze(1) / self.scale
        s = self.observation_size
        total[..., :s] += torch.eye(s, dtype=z.dtype, device=z.device)
        total = (total * inside.unsqueeze(-1)).mean(0).view(*lead, s, -1).to(state)
        return total[..., :s], total[..., s:]

    # ------------------------------------------------------------------ doubt and noise

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        found = self.means(state, action)
        doubt = found.var(0, correction=0)
        return found.mean(0), (doubt + self.sigma.square().mean(0).to(found)).sqrt()

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
