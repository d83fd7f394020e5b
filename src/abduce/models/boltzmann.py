"""Boltzmann machines: pairs of units that attract or repel each other.

    IsingEnergy         x in {0,1}^D    E(x) = −½ xᵀJx − bᵀx,                      J symmetric, zero diagonal
    RBMEnergy           v in {0,1}^D    E(v, h) = −bᵀ(v − μ) − cᵀ(h − λ) − (v − μ)ᵀW(h − λ)
    GaussianRBMEnergy   v in R^D        E(v, h) = ½ ‖(v − b)/s‖² − cᵀ(h − λ) − ((v − μ)/s)ᵀW(h − λ)

The hidden units h in {0,1}^m of the two restricted machines are summed out, E(v) = −log Σ_h exp(−E(v, h)):

    RBMEnergy           E(v) = −bᵀ(v − μ) − Σ_j (softplus(u_j) − λ_j u_j),         u = c + Wᵀ(v − μ)
    GaussianRBMEnergy   E(v) = ½ ‖(v − b)/s‖² − Σ_j (softplus(u_j) − λ_j u_j),     u = c + Wᵀ((v − μ)/s)

Given one side, the units of the other are independent:

    P(h_j = 1 | v) = σ(u_j),     P(v_i = 1 | h) = σ(g_i),  g = b + W(h − λ),     v | h ~ N(b + s · W(h − λ), s²).

So the partition function is a sum over the states of either side, enumerated where the smaller one has at most 20 units,

    Z = Σ_v exp(−E(v)) = Σ_h exp(cᵀ(h − λ) − μᵀg) Π_i (1 + e^{g_i}),
    Z = (2π)^{D/2} Π_i s_i · Σ_h exp(cᵀ(h − λ) + ((b − μ)/s)ᵀw + ½ ‖w‖²),  w = W(h − λ)        (real cells: finite always).

μ and λ are fixed offsets, zero in the textbook's machine.  They do not change which distributions there are: centred, with μ
the data's mean and λ = ½, the same machine has a gradient that is far better conditioned, and does not depend on which of
two values is called 1.

Sources: Ackley, Hinton & Sejnowski 1985; Smolensky 1986; Hinton 2012 (a practical guide to training RBMs); Cho, Ilin &
Raiko 2011 (learned scales of real cells); Montavon & Müller 2012 and Melchior, Fischer & Wiskott 2016 (arXiv:1311.1354),
centring.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from abduce.distributions.bases import RatesBase
from abduce.distributions.cells import LOG_2PI
from abduce.inference.energy import Base, Bipartite, Pairwise, Traits, check_whole, softplus_sum
from abduce.inference.flips import ENUMERABLE, log_sum_states, over_cells
from abduce.inference.integration import log_z_by_enumeration
from abduce.models.model import filled


class IsingEnergy(Pairwise):
    """The fully visible Boltzmann machine, E(x) = −½ xᵀJx − bᵀx for x in {0, 1}^D.

    J is symmetric with a zero diagonal by construction: ½ (A + Aᵀ) off the diagonal of the one parameter matrix A.
    With spins s = 2x − 1, E = −½ sᵀKs − aᵀs + constant has J = 4K and b = 2a − 2K1.
    """

    traits = Traits("binary")

    def __init__(self, n_cells: int):
        super().__init__()
        self.config = {"n_cells": n_cells}
        self.n_cells = n_cells
        self.weight = nn.Parameter(torch.zeros(n_cells, n_cells))
        self.bias = nn.Parameter(torch.zeros(n_cells))

    @classmethod
    def of(cls, coupling: Tensor, bias: Tensor) -> IsingEnergy:
        """Build from J (D, D), of which the symmetric part off the diagonal counts, and b (D,); in their dtype."""
        return filled(cls(len(bias)).to(bias), weight=coupling, bias=bias)

    @classmethod
    def start(cls, x: Tensor) -> IsingEnergy:
        """Start from the data's rates, J = 0: what the cells would be if they were independent."""
        return cls.of(torch.zeros(x.shape[-1], x.shape[-1]), RatesBase.fit(x).logits)

    @property
    def coupling(self) -> Tensor:
        symmetric = 0.5 * (self.weight + self.weight.T)
        return symmetric - torch.diag(torch.diagonal(symmetric))

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "Ising")
        return -((0.5 * (x @ self.coupling) + self.bias) * x).sum(-1)

    def local_fields(self, x: Tensor) -> Tensor:
        return x @ self.coupling + self.bias

    def flip_energies(self, x: Tensor) -> Tensor:
        """E(x with cell i flipped) − E(x) = (2x_i − 1)(Jx + b)_i for every i, (..., D)."""
        return (2 * x - 1) * self.local_fields(x)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return log_z_by_enumeration(self, beta, base, self.n_cells) if self.n_cells <= ENUMERABLE else None

    def represent(self, x: Tensor) -> Tensor:
        """P(x_i = 1 | the other cells), (batch, D)."""
        return torch.sigmoid(self.local_fields(x))


class Restricted(Bipartite):
    """What the two restricted machines have in common: ``weight`` W (D, hidden), ``bias`` b (D,), ``hidden_bias`` c (hidden,),
    ``offset`` μ (D,) and ``hidden_offset`` λ (hidden,)."""

    offset: Tensor
    hidden_offset: Tensor

    def __init__(self, n_cells: int, hidden: int):
        super().__init__()
        self.config = {"n_cells": n_cells, "hidden": hidden}
        self.n_cells = n_cells
        self.weight = nn.Parameter(0.01 * torch.randn(n_cells, hidden))
        self.bias = nn.Parameter(torch.zeros(n_cells))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("offset", torch.zeros(n_cells))
        self.register_buffer("hidden_offset", torch.zeros(hidden))


class RBMEnergy(Restricted):
    """The restricted Boltzmann machine with binary cells.

    E(v) = −bᵀ(v − μ) − Σ_j (softplus(u_j) − λ_j u_j), u = c + Wᵀ(v − μ).

    >>> model = RBMEnergy(6, 2)
    >>> torch.allclose(model.log_z_by_hidden(), model.log_z_by_visible())
    True
    """

    traits = Traits("binary")

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, hidden_bias: Tensor) -> RBMEnergy:
        """Build from W (D, hidden), b (D,) and c (hidden,) without offsets; in their dtype."""
        return filled(cls(*weight.shape).to(weight), weight=weight, bias=bias, hidden_bias=hidden_bias)

    @classmethod
    def start(cls, x: Tensor, hidden: int, generator: Generator | None = None) -> RBMEnergy:
        """Start centred and from the data's rates, with weights N(0, 0.01²): nearly independent cells (Hinton 2012)."""
        weight = 0.01 * torch.randn(x.shape[-1], hidden, generator=generator, dtype=x.dtype, device=x.device)
        logits = RatesBase.fit(x).logits
        model = cls.of(weight, logits, weight.new_zeros(hidden))
        return filled(model, offset=torch.sigmoid(logits), hidden_offset=torch.full((hidden,), 0.5))

    def hidden_logits(self, v: Tensor) -> Tensor:
        return F.linear(v - self.offset, self.weight.mT, self.hidden_bias)

    def visible(self, h: Tensor) -> Tensor:
        return F.linear(h - self.hidden_offset, self.weight, self.bias)

    def visible_scale(self) -> Tensor:
        raise ValueError("RBM has binary cells, which have no scale of their own")

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "RBM")
        v = x - self.offset
        u = F.linear(v, self.weight.mT, self.hidden_bias)
        return -(v * self.bias).sum(-1) - _hidden_part(u, self.hidden_offset)

    def flip_energies(self, x: Tensor) -> Tensor:
        """E(v with cell i flipped) − E(v) for every i, (..., D).

        With r_i = 1 − 2v_i, a flip moves every u_j by r_i W_ij; the (..., D, hidden) of moved inputs come in chunks of cells.
        """
        u = self.hidden_logits(x)
        change = 1 - 2 * x

        def some(cells: Tensor) -> Tensor:
            moved = u.unsqueeze(-2) + change[..., cells].unsqueeze(-1) * self.weight[cells]
            return -_hidden_part(moved, self.hidden_offset)

        kept = -_hidden_part(u, self.hidden_offset)
        return over_cells(some, self.n_cells, u.numel(), x.device) - kept.unsqueeze(-1) - change * self.bias

    def log_z_by_hidden(self, base: RatesBase | None = None) -> Tensor:
        """log Z at β = 1 as a sum over the states of the hidden units."""
        logits = torch.zeros_like(self.bias) if base is None else base.logits

        def log_f(h: Tensor) -> Tensor:
            g = self.visible(h)
            return (h - self.hidden_offset) @ self.hidden_bias - g @ self.offset + softplus_sum(g + logits)

        log_z = log_sum_states(log_f, len(self.hidden_bias), self.n_cells, self.bias)
        return log_z if base is None else log_z - softplus_sum(logits)

    def log_z_by_visible(self, beta: float = 1.0, base: Base | None = None) -> Tensor:
        """log Z for any β as a sum over the states of the cells."""
        return log_z_by_enumeration(self, beta, base, max(len(self.hidden_bias), self.n_cells))

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        hidden = len(self.hidden_bias)
        if beta == 1 and hidden <= min(ENUMERABLE, self.n_cells) and isinstance(base, RatesBase | None):
            return self.log_z_by_hidden(base)  # rates only move the biases b
        return self.log_z_by_visible(beta, base) if self.n_cells <= ENUMERABLE else None


class GaussianRBMEnergy(Restricted):
    """The machine with real cells, a mixture of 2^hidden Gaussians N(b + s · W(h − λ), s²) that share their scales s (D,).

    E(v) = ½ ‖(v − b)/s‖² − Σ_j (softplus(u_j) − λ_j u_j), u = c + Wᵀ((v − μ)/s), with ``log_scale`` log s.
    """

    def __init__(self, n_cells: int, hidden: int):
        super().__init__(n_cells, hidden)
        self.log_scale = nn.Parameter(torch.zeros(n_cells))

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, hidden_bias: Tensor, scale: Tensor) -> GaussianRBMEnergy:
        """Build from W (D, hidden), b (D,), c (hidden,) and s (D,) without offsets; in their dtype."""
        model = cls(*weight.shape).to(weight)
        return filled(model, weight=weight, bias=bias, hidden_bias=hidden_bias, log_scale=scale.log())

    @classmethod
    def start(cls, x: Tensor, hidden: int, generator: Generator | None = None) -> GaussianRBMEnergy:
        """Start centred and from the data's means and deviations, with weights N(0, 0.01²): nearly one Gaussian."""
        weight = 0.01 * torch.randn(x.shape[-1], hidden, generator=generator, dtype=x.dtype, device=x.device)
        mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-3)
        model = cls.of(weight, mean, weight.new_zeros(hidden), scale)
        return filled(model, offset=mean, hidden_offset=torch.full((hidden,), 0.5))

    def visible_scale(self) -> Tensor:
        return self.log_scale.exp()

    def hidden_logits(self, v: Tensor) -> Tensor:
        return F.linear((v - self.offset) / self.visible_scale(), self.weight.mT, self.hidden_bias)

    def visible(self, h: Tensor) -> Tensor:
        return self.bias + self.visible_scale() * F.linear(h - self.hidden_offset, self.weight)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "GaussianRBM")
        bowl = 0.5 * ((x - self.bias) / self.visible_scale()).square().sum(-1)
        return bowl - _hidden_part(self.hidden_logits(x), self.hidden_offset)

    def log_z_by_hidden(self) -> Tensor:
        """log Z at β = 1 as a sum over the states of the hidden units."""
        pull = (self.bias - self.offset) / self.visible_scale()

        def log_f(h: Tensor) -> Tensor:
            centred = h - self.hidden_offset
            w = F.linear(centred, self.weight)
            return centred @ self.hidden_bias + w @ pull + 0.5 * w.square().sum(-1)

        gaussian = 0.5 * self.n_cells * LOG_2PI + self.log_scale.sum()
        return gaussian + log_sum_states(log_f, len(self.hidden_bias), self.n_cells, self.bias)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        known = beta == 1 and base is None and len(self.hidden_bias) <= ENUMERABLE
        return self.log_z_by_hidden() if known else None


def _hidden_part(u: Tensor, offset: Tensor) -> Tensor:
    """Σ_j (softplus(u_j) − λ_j u_j): what summing h out adds to −E, (...)."""
    return (F.softplus(u) - offset * u).sum(-1)
