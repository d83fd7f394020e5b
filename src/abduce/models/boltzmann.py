"""Boltzmann machines: pairs of units that attract or repel each other.

    Ising         x in {0,1}^D            E(x) = −½ xᵀJx − bᵀx,                        J symmetric, zero diagonal
    RBM           v in {0,1}^D            E(v) = −bᵀv − Σ_j softplus(u_j),             u = c + Wᵀv
    GaussianRBM   v in R^D                E(v) = ½ ‖(v − b)/s‖² − Σ_j softplus(u_j),   u = c + Wᵀ(v/s)

The two restricted machines have binary hidden units h, summed out: E(v) = −log Σ_h exp(−E(v, h)) with
E(v, h) = −bᵀv − cᵀh − vᵀWh, or ½ ‖(v − b)/s‖² − cᵀh − (v/s)ᵀWh.  Given one side, the units of the other are independent:

    P(h_j = 1 | v) = σ(u_j),     P(v_i = 1 | h) = σ(b_i + (Wh)_i),     v | h ~ N(b + s · Wh, s²).

So the partition function is a sum over the states of either side,

    Z = Σ_v exp(−E(v)) = Σ_h exp(cᵀh) Π_i (1 + exp(b_i + (Wh)_i)),
    Z = (2π)^{D/2} Π_i s_i · Σ_h exp(cᵀh + (b/s)ᵀWh + ½ ‖Wh‖²)            (real visible units; finite for every parameter),

which is enumerated where the smaller side has at most 20 units.

Sources: Ackley, Hinton & Sejnowski 1985; Smolensky 1986; Hinton 2012 (a practical guide to training RBMs); Cho, Ilin &
Raiko 2011 (learned scales of real visible units).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abduce.distributions.bases import RatesBase
from abduce.models.energy import LOG_2PI, Base, Energy, check_whole, softplus_sum
from abduce.models.flips import ENUMERABLE, log_sum_states, over_cells


class Ising(Energy):
    """The fully visible Boltzmann machine, E(x) = −½ xᵀJx − bᵀx for x in {0, 1}^D.

    J is symmetric with a zero diagonal by construction: ½ (A + Aᵀ) off the diagonal of the one parameter matrix A.
    With spins s = 2x − 1, E = −½ sᵀKs − aᵀs + constant has J = 4K and b = 2a − 2K1.
    """

    support = "binary"

    def __init__(self, n_cells: int):
        super().__init__()
        self.config = {"n_cells": n_cells}
        self.n_cells = n_cells
        self.weight = nn.Parameter(torch.zeros(n_cells, n_cells))
        self.bias = nn.Parameter(torch.zeros(n_cells))

    @classmethod
    def of(cls, coupling: Tensor, bias: Tensor) -> Ising:
        """Build from J (D, D), of which the symmetric part off the diagonal counts, and b (D,); in their dtype."""
        model = cls(len(bias)).to(bias)
        _fill(model, weight=coupling, bias=bias)
        return model

    @classmethod
    def start(cls, x: Tensor) -> Ising:
        """Start from the data's rates, J = 0: what the cells would be if they were independent."""
        logits = RatesBase.fit(x).logits
        return cls.of(torch.zeros(x.shape[-1], x.shape[-1]), logits)

    @property
    def coupling(self) -> Tensor:
        """J, (D, D)."""
        symmetric = 0.5 * (self.weight + self.weight.T)
        return symmetric - torch.diag(torch.diagonal(symmetric))

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "Ising")
        return -((0.5 * (x @ self.coupling) + self.bias) * x).sum(-1)

    def local_fields(self, x: Tensor) -> Tensor:
        """Log-odds of each cell given the others, Jx + b, nats, (..., D)."""
        return x @ self.coupling + self.bias

    def flip_energies(self, x: Tensor) -> Tensor:
        """E(x with cell i flipped) − E(x) = (2x_i − 1)(Jx + b)_i for every i, (..., D)."""
        return (2 * x - 1) * self.local_fields(x)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return _log_z_by_cells(self, self.n_cells, beta, base) if self.n_cells <= ENUMERABLE else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> None:
        return None

    def represent(self, x: Tensor) -> Tensor:
        """P(x_i = 1 | the other cells), (batch, D)."""
        return torch.sigmoid(self.local_fields(x))


class RBM(Energy):
    """The restricted Boltzmann machine, binary visible and hidden units: E(v) = −bᵀv − Σ_j softplus(c_j + (Wᵀv)_j).

    ``weight`` W is (D, hidden), ``bias`` b (D,), ``hidden_bias`` c (hidden,).

    >>> model = RBM(6, 2)
    >>> torch.allclose(model.log_z_by_hidden(), model.log_z_by_visible())
    True
    """

    support = "binary"

    def __init__(self, n_cells: int, hidden: int):
        super().__init__()
        self.config = {"n_cells": n_cells, "hidden": hidden}
        self.n_cells = n_cells
        self.weight = nn.Parameter(0.01 * torch.randn(n_cells, hidden))
        self.bias = nn.Parameter(torch.zeros(n_cells))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, hidden_bias: Tensor) -> RBM:
        """Build from W (D, hidden), b (D,) and c (hidden,); in their dtype."""
        model = cls(*weight.shape).to(weight)
        _fill(model, weight=weight, bias=bias, hidden_bias=hidden_bias)
        return model

    @classmethod
    def start(cls, x: Tensor, hidden: int, generator: torch.Generator | None = None) -> RBM:
        """Start from the data's rates, with weights N(0, 0.01²): nearly independent cells (Hinton 2012)."""
        weight = 0.01 * torch.randn(x.shape[-1], hidden, generator=generator, dtype=x.dtype, device=x.device)
        return cls.of(weight, RatesBase.fit(x).logits, weight.new_zeros(hidden))

    def hidden_logits(self, v: Tensor) -> Tensor:
        """u = c + Wᵀv, the log-odds of the hidden units, (..., hidden)."""
        return F.linear(v, self.weight.mT, self.hidden_bias)

    def visible_logits(self, h: Tensor) -> Tensor:
        """b + Wh, the log-odds of the cells, (..., D)."""
        return F.linear(h, self.weight, self.bias)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "RBM")
        return -(x @ self.bias) - softplus_sum(self.hidden_logits(x))

    def flip_energies(self, x: Tensor) -> Tensor:
        """E(v with cell i flipped) − E(v) for every i, (..., D).

        With r_i = 1 − 2v_i, a flip moves every u_j by r_i W_ij; the (..., D, hidden) of moved inputs come in chunks of cells.
        """
        u = self.hidden_logits(x)
        change = 1 - 2 * x

        def some(cells: Tensor) -> Tensor:
            moved = u.unsqueeze(-2) + change[..., cells].unsqueeze(-1) * self.weight[cells]
            return -softplus_sum(moved)

        kept = -softplus_sum(u)
        return over_cells(some, self.n_cells, u.numel(), x.device) - kept.unsqueeze(-1) - change * self.bias

    def log_z_by_hidden(self, base: RatesBase | None = None) -> Tensor:
        """log Z at β = 1 as a sum over the states of the hidden units."""
        bias = self.bias if base is None else self.bias + base.logits

        def log_f(h: Tensor) -> Tensor:
            return h @ self.hidden_bias + softplus_sum(F.linear(h, self.weight, bias))

        log_z = log_sum_states(log_f, len(self.hidden_bias), self.n_cells, self.bias)
        return log_z if base is None else log_z - softplus_sum(base.logits)

    def log_z_by_visible(self, beta: float = 1.0, base: Base | None = None) -> Tensor:
        """log Z for any β as a sum over the states of the cells."""
        return _log_z_by_cells(self, len(self.hidden_bias), beta, base)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        hidden = len(self.hidden_bias)
        if beta == 1 and hidden <= min(ENUMERABLE, self.n_cells) and isinstance(base, RatesBase | None):
            return self.log_z_by_hidden(base)  # rates only move the biases b
        return self.log_z_by_visible(beta, base) if self.n_cells <= ENUMERABLE else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> None:
        return None

    def represent(self, x: Tensor) -> Tensor:
        """P(h_j = 1 | v), (batch, hidden)."""
        return torch.sigmoid(self.hidden_logits(x))


class GaussianRBM(Energy):
    """Real visible, binary hidden units: E(v) = ½ ‖(v − b)/s‖² − Σ_j softplus(c_j + (Wᵀ(v/s))_j).

    A mixture of 2^hidden Gaussians N(b + s · Wh, s²) that share their scales s = exp(``log_scale``), one a cell.
    ``weight`` W is (D, hidden), ``bias`` b (D,), ``hidden_bias`` c (hidden,).
    """

    support = "real"

    def __init__(self, n_cells: int, hidden: int):
        super().__init__()
        self.config = {"n_cells": n_cells, "hidden": hidden}
        self.n_cells = n_cells
        self.weight = nn.Parameter(0.01 * torch.randn(n_cells, hidden))
        self.bias = nn.Parameter(torch.zeros(n_cells))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.log_scale = nn.Parameter(torch.zeros(n_cells))

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, hidden_bias: Tensor, scale: Tensor) -> GaussianRBM:
        """Build from W (D, hidden), b (D,), c (hidden,) and s (D,); in their dtype."""
        model = cls(*weight.shape).to(weight)
        _fill(model, weight=weight, bias=bias, hidden_bias=hidden_bias, log_scale=scale.log())
        return model

    @classmethod
    def start(cls, x: Tensor, hidden: int, generator: torch.Generator | None = None) -> GaussianRBM:
        """Start from the data's means and deviations, with weights N(0, 0.01²): nearly one Gaussian."""
        weight = 0.01 * torch.randn(x.shape[-1], hidden, generator=generator, dtype=x.dtype, device=x.device)
        scale = x.std(0, correction=0).clamp_min(1e-3)
        return cls.of(weight, x.mean(0), weight.new_zeros(hidden), scale)

    @property
    def scale(self) -> Tensor:
        """s, (D,)."""
        return self.log_scale.exp()

    def hidden_logits(self, v: Tensor) -> Tensor:
        """u = c + Wᵀ(v/s), the log-odds of the hidden units, (..., hidden)."""
        return F.linear(v / self.scale, self.weight.mT, self.hidden_bias)

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[v | h] = b + s · Wh, (..., D)."""
        return self.bias + self.scale * F.linear(h, self.weight)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "GaussianRBM")
        bowl = 0.5 * ((x - self.bias) / self.scale).square().sum(-1)
        return bowl - softplus_sum(self.hidden_logits(x))

    def log_z_by_hidden(self) -> Tensor:
        """log Z at β = 1 as a sum over the states of the hidden units."""
        shifted = self.hidden_bias + (self.bias / self.scale) @ self.weight

        def log_f(h: Tensor) -> Tensor:
            return h @ shifted + 0.5 * F.linear(h, self.weight).square().sum(-1)

        gaussian = 0.5 * self.n_cells * LOG_2PI + self.log_scale.sum()
        return gaussian + log_sum_states(log_f, len(self.hidden_bias), self.n_cells, self.bias)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        known = beta == 1 and base is None and len(self.hidden_bias) <= ENUMERABLE
        return self.log_z_by_hidden() if known else None

    def law(self, beta: float = 1.0, base: Base | None = None) -> None:
        return None

    def represent(self, x: Tensor) -> Tensor:
        """P(h_j = 1 | v), (batch, hidden)."""
        return torch.sigmoid(self.hidden_logits(x))


@torch.no_grad()
def _fill(model: Energy, **parameters: Tensor) -> None:
    for name, value in parameters.items():
        model.get_parameter(name).copy_(value)


def _log_z_by_cells(model: Energy, width: int, beta: float, base: Base | None) -> Tensor:
    """log Σ_x exp(−β E(x)) b(x) over all states of the cells; ``width`` numbers a state."""

    def log_f(x: Tensor) -> Tensor:
        log_p = -beta * model.energy(x)
        return log_p if base is None else log_p + base.log_prob(x)

    return log_sum_states(log_f, model.n_cells, max(width, model.n_cells), next(model.parameters()))
