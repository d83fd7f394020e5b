"""A Gaussian process: smooth worlds of a few numbers, learnt from a few hundred steps.

    s' = clamp(clamp(s + d ⊙ (W z + b + f(z))) + d ⊙ (σ² + r(z))^½ ε),   z = (s, a) centred and scaled
    f_j(z) = Σ_i w_ji a_j² exp(−½ Σ_k ((z_k − p_ik) / ℓ_jk)²),   i = 1..n points p_i of the data

Beside the least-squares linear path W z + b, on differences in units d of the usual step, each output j has weights at points,
with a posterior that is Gaussian.  A member of the model is one draw of the weights, which is a function and is held for a
whole rollout; what points leave open of f, r_j(z) = a_j² − k_j(z)ᵀ K_j⁻¹ k_j(z), is noise of each step:

    p(s' | s, a) = 1/M Σ_m N(s'; μ_m, d² (σ² + r(z)))

Far from data f is zero and the linear path is left.  Means and draws are clamped to a box around the data, which densities
leave out of account.  Everything is in double
precision, since weights of neighbouring points nearly cancel.

Sources: Quiñonero-Candela & Rasmussen 2005 (weights at points); Deisenroth & Rasmussen 2011 (worlds learnt so);
Wilson et al. 2020 (arXiv:2002.09309) (draws that are functions).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.world.linear_path import without_path
from abduce.world.transitions import Transition

CELLS = 2**17  # numbers of kernels that are held at once


class GaussianProcess(Transition):
    """``points`` of the data, ``members`` draws; :func:`~abduce.world.gaussian_process_fit.fit_process` fits one.

    ``centre``, ``scale`` (S+A,) of inputs, ``step`` (S,) the unit d, ``path`` (S, S+A) and ``offset`` (S,) the linear path,
    ``low`` and ``high`` (S,) the box; ``places`` (n, S+A) the points in units of z, ``rates`` (S, S+A) the inverses of ℓ,
    ``power`` (S,) a², ``weights`` (S, n) their mean and ``drawn`` (M, S, n) the members', ``root`` (S, n, n) with
    rootᵀ root = K⁻¹, ``sigma`` (S,) in units of d.

    >>> model = GaussianProcess(2, 1, points=3)
    >>> s, a = torch.randn(4, 2).double(), torch.randn(4, 1).double()
    >>> torch.equal(model.mean(s, a), s)                # weights start at no change
    True
    """

    centre: Tensor
    scale: Tensor
    step: Tensor
    path: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    places: Tensor
    rates: Tensor
    power: Tensor
    weights: Tensor
    drawn: Tensor
    root: Tensor
    sigma: Tensor

    def __init__(self, observation_size: int, action_size: int, points: int = 1, members: int = 1):
        super().__init__()
        self._kept: tuple[Any, Tensor] | None = None
        self.observation_size, self.action_size, self.members = observation_size, action_size, members
        s, d, n = observation_size, observation_size + action_size, points
        self.config: dict[str, Any] = {
            "observation_size": s, "action_size": action_size, "points": n, "members": members,
        }  # fmt: skip
        without_path(self, s, action_size, torch.float64)
        buffers = {"places": torch.zeros(n, d), "rates": torch.ones(s, d), "power": torch.ones(s)}
        buffers |= {"weights": torch.zeros(s, n), "drawn": torch.zeros(members, s, n)}
        buffers |= {"root": torch.eye(n).repeat(s, 1, 1), "sigma": torch.ones(s)}
        for name, value in buffers.items():
            self.register_buffer(name, value.double())

    # ------------------------------------------------------------------ the function

    def kernel(self, z: Tensor) -> Tensor:
        """k_j(z, p_i), (S, N, n), of inputs z (N, S+A)."""
        powers = torch.cat([z.square(), z, torch.ones_like(z[:, :1])], 1)
        return (powers @ self._exponents()).exp().view(len(z), *self.weights.shape).transpose(0, 1)

    def _exponents(self) -> Tensor:
        """log k_j(z, p_i) = (z², z, 1) · column, (2 (S+A) + 1, S n), in one product for all outputs and points.

        Kept until what it is made of is written to."""
        made_of = self.places, self.rates, self.power
        state = [(part.data_ptr(), part._version, part.dtype) for part in made_of]
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._columns()
        return self._kept[1]

    def _columns(self) -> Tensor:
        rate = self.rates.square().unsqueeze(1)  # (S, 1, S+A)
        place = self.places.expand(len(rate), -1, -1)
        level = self.power.log().unsqueeze(1) - 0.5 * (rate * place.square()).sum(2)
        columns = torch.cat([-0.5 * rate.expand_as(place), rate * place, level.unsqueeze(2)], 2)
        return columns.flatten(0, 1).mT.contiguous()

    def _inputs(self, state: Tensor, action: Tensor) -> tuple[Tensor, torch.Size]:
        """Inputs z (N, S+A), and the leading axes of states and actions."""
        lead = state.shape[:-1]
        if action.shape[:-1] != lead:
            lead = torch.broadcast_shapes(lead, action.shape[:-1])
            state, action = state.expand(*lead, -1), action.expand(*lead, -1)
        joined = torch.cat([state, action], -1).to(self.scale)
        return (joined.reshape(-1, joined.shape[-1]) - self.centre) / self.scale, lead

    def _chunks(self, z: Tensor) -> tuple[Tensor, ...]:
        return z.split(max(1, CELLS // self.weights.numel()))

    def _linear(self, z: Tensor) -> Tensor:
        return torch.addmm(self.offset, z, self.path.mT)

    def _added(self, z: Tensor) -> Tensor:
        """What is added to the state on average, (N, S), in units of d."""
        parts = [torch.bmm(self.kernel(some), self.weights.unsqueeze(2)) for some in self._chunks(z)]
        return self._linear(z) + torch.cat(parts, 1).squeeze(2).mT

    def _after(self, state: Tensor, added: Tensor) -> Tensor:
        """The next state, clamped, of what is added (..., S)."""
        return torch.addcmul(state, self.step, added).clamp(self.low, self.high)

    # ------------------------------------------------------------------ means

    def mean(self, state: Tensor, action: Tensor, member: Tensor | None = None) -> Tensor:
        z, lead = self._inputs(state, action)
        added = self._added(z) if member is None else self._of_members(z, member.expand(lead).flatten())[0]
        return self._after(state.to(added), added.view(*lead, -1)).to(state)

    def _of_members(self, z: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
        """What each row's member (N,) adds to the state, and the standard deviation of a step, (N, S) each, in units of d."""
        added, spread = [], []
        chunks = self._chunks(z)
        for some, who in zip(chunks, member.split(len(chunks[0])), strict=True):
            kernel = self.kernel(some)
            added.append(self._linear(some) + torch.einsum("snp,nsp->ns", kernel, self.drawn[who]))
            spread.append(self._spread(kernel))
        return torch.cat(added), torch.cat(spread)

    def jacobian(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        z, lead = self._inputs(state, action)
        s = self.observation_size
        towards = self.weights.unsqueeze(2) * self.places  # (S, n, S+A)
        slopes, added = [], []
        for some in self._chunks(z):
            kernel = self.kernel(some)
            value = torch.bmm(kernel, self.weights.unsqueeze(2))
            slopes.append((torch.bmm(kernel, towards) - value * some) * self.rates.square().unsqueeze(1))
            added.append(value.squeeze(2).mT)
        slope = (torch.cat(slopes, 1).transpose(0, 1) + self.path) * self.step.unsqueeze(1) / self.scale
        slope[:, :, :s] += torch.eye(s).to(slope)
        after = state.to(z).expand(*lead, -1).reshape(-1, s) + self.step * (
            self._linear(z) + torch.cat(added)
        )
        inside = (after > self.low) & (after < self.high)
        slope = (slope * inside.unsqueeze(2)).view(*lead, s, -1).to(state)
        return slope[..., :s], slope[..., s:]

    # ------------------------------------------------------------------ doubt and noise

    def _spread(self, kernel: Tensor) -> Tensor:
        """Standard deviation of a step (N, S), in units of d: noise, and what points leave open."""
        known = torch.bmm(kernel, self.root.mT).square().sum(2).mT
        return ((self.power - known).clamp_min(0.0) + self.sigma.square()).sqrt()

    def _mixture(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of the members (M, ..., S), their average and the standard deviation of a step (..., S)."""
        z, lead = self._inputs(state, action)
        added, average, spread = [], [], []
        for some in self._chunks(z):
            kernel, linear = self.kernel(some), self._linear(some)
            added.append(linear + torch.bmm(kernel, self.drawn.permute(1, 2, 0)).permute(2, 1, 0))
            average.append(linear + torch.bmm(kernel, self.weights.unsqueeze(2)).squeeze(2).mT)
            spread.append(self._spread(kernel))
        state = state.to(z)
        means = self._after(state, torch.cat(added, 1).view(self.members, *lead, -1))
        return (
            means,
            self._after(state, torch.cat(average).view(*lead, -1)),
            self.step * torch.cat(spread).view(*lead, -1),
        )

    def moments(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        means, average, spread = self._mixture(state, action)
        whole = (means.var(0, correction=0) + spread.square()).sqrt()
        return average.to(state), whole.to(state)

    def disagreement(self, state: Tensor, action: Tensor) -> Tensor:
        """Standard deviation of the members' means, (..., S): doubt alone."""
        return self._mixture(state, action)[0].std(0, correction=0).to(state)

    def draw(
        self, state: Tensor, action: Tensor, generator: Generator, member: Tensor | None = None
    ) -> Tensor:
        z, lead = self._inputs(state, action)
        if member is None:
            member = torch.randint(self.members, lead, generator=generator)
        added, spread = (part.view(*lead, -1) for part in self._of_members(z, member.expand(lead).flatten()))
        mean = self._after(state.to(added), added)
        noise = torch.randn(mean.shape, generator=generator, dtype=state.dtype).to(mean)
        return (mean + self.step * spread * noise).clamp(self.low, self.high).to(state)

    def log_prob(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        means, _, spread = self._mixture(state, action)
        each = -0.5 * (((after.to(means) - means) / spread).square() + LOG_2PI) - spread.log()
        return (each.sum(-1).logsumexp(0) - torch.tensor(float(self.members)).log()).to(state)
