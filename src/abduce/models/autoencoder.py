"""Auto-encoders: a row is plausible where it comes back unchanged.

    u = W y + b,   h = s(u),   r(y) = g(h)                    the encoder f(y) = h, the decoder g; s an activation
    E(y) = ‖y − r(y)‖²                                        real cells
    E(y) = −Σ_i [y_i log r_i + (1 − y_i) log(1 − r_i)]        binary cells, r through a sigmoid

What keeps r from being the identity, where every row would be plausible, is a code smaller than the row, or what training
adds to the energy (``strength`` λ times):

    sparse        Σ_j KL(ρ ‖ mean of h_j over the batch) for sigmoid codes; ‖h‖₁ for the others
    contractive   ‖∂h/∂y‖²_F, for one layer Σ_j s′(u_j)² ‖W_j‖²
    saturating    Σ_j s_c(u_j), s_c(u) the distance from u to where s is flat: for ReLU max(0, u)
    corruption    r is asked for y while it reads y + σ·noise (binary cells: flipped with probability σ), the denoising one

With deeper nets u and h are those of the code.  A decoder could undo what λ‖h‖₁ or the contraction ask for by scaling h down
and its own weights up; so weights are tied, W and Wᵀ, or the decoder's columns are kept at length at most 1 (``project_``).

The denoising auto-encoder also has an energy whose gradient its reconstruction is.  For one tied sigmoid layer, with c the
bias of the decoder,

    E(y) = (½‖y − c‖² − Σ_j log(1 + e^{u_j})) / σ²,          −σ² ∇E(y) = r(y) − y = σ² ∇ log p_σ(y) at the optimum

(p_σ the density of the corrupted data): E is −log p_σ up to a constant, in nats.  ‖y − r(y)‖² ≈ σ⁴‖∇ log p_σ‖² is small at
the ridges between p_σ's valleys too; the potential is not.  A unit that moves r by ‖w‖ does so with a slope of at most ‖w‖²/4,
so that steps of r much sharper than they are high, as small σ would ask for, come out blurred.

Sources: Ranzato et al. 2006 (sparse); Vincent et al. 2008, Vincent 2011, Alain & Bengio 2014 (arXiv:1211.4246; denoising);
Rifai et al. 2011 (contractive); Goroshin & LeCun 2013 (arXiv:1301.3577; saturating).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from abduce.checks import check_choice, check_number
from abduce.inference.energy import Energy, Traits, arguments, check_whole, softplus_sum
from abduce.together import gathered, of_rows

PENALTIES = ("none", "sparse", "contractive", "saturating")
SHRINK = 0.5  # half the width of the dead zone of the shrinking activation


class Activation(NamedTuple):
    """s(u), its slope s′(u), the distance from u to where s is flat (None: nowhere), and what kind of function s is."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    to_flat: Callable[[Tensor], Tensor] | None = None
    bounded: bool = False
    smooth: bool = True


ACTIVATIONS = {
    "linear": Activation(lambda u: u, torch.ones_like),
    "sigmoid": Activation(torch.sigmoid, lambda u: torch.sigmoid(u) * torch.sigmoid(-u), bounded=True),
    "tanh": Activation(torch.tanh, lambda u: 1 - torch.tanh(u).square(), bounded=True),
    "relu": Activation(torch.relu, lambda u: (u > 0).to(u.dtype), torch.relu, smooth=False),
    "ramp": Activation(
        lambda u: u.clamp(0, 1),
        lambda u: ((u > 0) & (u < 1)).to(u.dtype),
        lambda u: torch.minimum(u, 1 - u).clamp_min(0),
        bounded=True,
        smooth=False,
    ),
    "shrink": Activation(
        lambda u: F.softshrink(u, SHRINK),
        lambda u: (u.abs() > SHRINK).to(u.dtype),
        lambda u: F.softshrink(u, SHRINK).abs(),
        smooth=False,
    ),
}


class AutoencoderEnergy(Energy):
    """An auto-encoder with ``code`` units behind ``hidden`` layers, mirrored in the decoder, plain or regularised.

    ``activation`` is that of every layer but the last: "sigmoid", "tanh", "relu", "linear", "ramp" (u clipped to [0, 1]) or
    "shrink" (soft threshold at ±½).  ``tied`` takes Wᵀ for the decoder's weights (None: for the contractive penalty and the
    potential).  ``penalty`` and ``strength`` λ, ``corruption`` σ, in standard deviations of a cell or as the probability of a
    flip, and ``target`` ρ (None: an ℓ1 penalty for sigmoid codes too) are what training adds; they are no part of
    ``energy``, which is "reconstruction", a squared error or a cross-entropy whose β is free, or "potential", in nats.

    A squared error has a finite integral where the activation is bounded; elsewhere (``proper`` False) it needs a base.

    Raises ValueError where an argument is not one of its choices, or the combination has no meaning.

    >>> model = AutoencoderEnergy(5, code=3, penalty="contractive", strength=0.1)
    >>> x = torch.zeros(4, 5)
    >>> model.energy(x).shape, model.represent(x).shape
    (torch.Size([4]), torch.Size([4, 3]))
    """

    def __init__(
        self,
        n_cells: int,
        code: int,
        hidden: Sequence[int] = (),
        activation: str = "sigmoid",
        tied: bool | None = None,
        penalty: str = "none",
        strength: float = 0.1,
        corruption: float = 0.0,
        target: float | None = 0.05,
        energy: str = "reconstruction",
        support: str = "real",
    ):
        super().__init__()
        tied = (penalty == "contractive" or energy == "potential") if tied is None else tied
        self.config = arguments(locals()) | {"hidden": list(hidden)}
        _check(**self.config)
        self.n_cells, self.form = n_cells, energy
        self.penalty = penalty if strength else "none"
        self.strength, self.corruption, self.target, self.tied = strength, corruption, target, tied
        self.kl = activation == "sigmoid" and target is not None
        self.traits = Traits(
            support,
            in_nats=energy == "potential",
            proper=energy == "potential" or self.activation.bounded or support == "binary",
            bounded_volume=code < n_cells or self.penalty != "none" or corruption > 0,
            smooth=self.activation.smooth,
        )

        steps = list(itertools.pairwise([n_cells, *hidden, code]))
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in steps)
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # Glorot & Bengio 2010
        written = [] if tied else [nn.init.xavier_uniform_(torch.empty(a, b)) for a, b in reversed(steps)]
        self.weights = nn.ParameterList(written)  # of the decoder, from the code to the row
        self.biases = nn.ParameterList(torch.zeros(a) for a, _ in reversed(steps))

    @property
    def activation(self) -> Activation:
        """What squashes a unit; named in ``config``, so that copies and pickles hold no function."""
        return ACTIVATIONS[self.config["activation"]]

    @property
    def layers(self) -> list[nn.Linear]:
        """The encoder's layers, from the row to the code."""
        return cast("list[nn.Linear]", list(self.encoder))

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, "Autoencoder")
        if self.form == "potential":
            u = self.layers[0](x)
            square = (x - self.biases[0]).square().sum(-1)
            return (0.5 * square - softplus_sum(u)) / self.corruption**2
        return self._error(x, self.represent(x))

    def represent(self, x: Tensor) -> Tensor:
        """The code h of each row, (..., code)."""
        return self.activation.value(self._inputs(x)[-1])

    def decode(self, h: Tensor) -> Tensor:
        """The row g(h) that a code stands for, (..., code) -> (..., n_cells); probabilities where cells are binary."""
        row = self._decode(h)
        return torch.sigmoid(row) if self.support == "binary" else row

    def training_loss(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """The error of reconstructing x from a corrupted x, and the penalty: (batch, n_cells) -> (batch,).

        The KL penalty is one of the batch, and added to each of its rows.
        """
        read = self._corrupt(x, generator) if self.corruption else x
        inputs = self._inputs(read)
        h = self.activation.value(inputs[-1])
        loss = self._error(x, h)
        return loss if self.penalty == "none" else loss + self.strength * self._penalty(inputs, h)

    @torch.no_grad()
    def project_(self) -> None:
        """Keep the decoder's columns at length at most 1 where a longer one would undo the penalty."""
        if self.penalty == "none" or (self.penalty == "sparse" and self.kl):
            return
        for weight in self.weights:
            weight /= weight.norm(dim=0).clamp_min(1)

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What each layer of the encoder hands its activation; the last of them is u."""
        inputs = []
        for layer in self.layers:
            inputs.append(layer(x))
            x = self.activation.value(inputs[-1])
        return inputs

    def _decode(self, h: Tensor) -> Tensor:
        """g(h), logits where cells are binary."""
        weights = [layer.weight.T for layer in reversed(self.layers)] if self.tied else list(self.weights)
        *inner, last = zip(weights, self.biases, strict=True)
        for weight, bias in inner:
            h = self.activation.value(F.linear(h, weight, bias))
        return F.linear(h, *last)

    def _error(self, x: Tensor, h: Tensor) -> Tensor:
        """How far g(h) is from x: squared error, or cross-entropy in nats where cells are binary."""
        row = self._decode(h)
        if self.support == "binary":
            return softplus_sum(row) - (x * row).sum(-1)
        return (x - row).square().sum(-1)

    def _corrupt(self, x: Tensor, generator: Generator | None) -> Tensor:
        how = {"generator": generator, "dtype": x.dtype, "device": x.device}
        if self.support == "binary":
            u = of_rows(torch.rand, x.shape, 0, **how)
            return torch.where(u < self.corruption, 1 - x, x)
        return x + self.corruption * of_rows(torch.randn, x.shape, 0, **how)

    def _penalty(self, inputs: list[Tensor], h: Tensor) -> Tensor:
        """What training adds, before its strength: (batch,)."""
        if self.penalty == "contractive":
            return self._contraction(inputs)
        if self.penalty == "saturating":
            assert self.activation.to_flat is not None
            return self.activation.to_flat(inputs[-1]).sum(-1)
        if not self.kl or self.target is None:
            return h.abs().sum(-1)
        wanted = torch.tensor([self.target, 1 - self.target], dtype=h.dtype, device=h.device)
        active = gathered(h).mean(0)
        got = torch.stack([active, 1 - active], -1).clamp_min(torch.finfo(h.dtype).tiny)
        return (wanted * (wanted / got).log()).sum().expand(len(h))

    def _contraction(self, inputs: list[Tensor]) -> Tensor:
        """‖∂h/∂y‖²_F of each row, by the chain rule from the code back to the row."""
        *inner, u = [self.activation.slope(v) for v in inputs]
        first = self.layers[0].weight
        if not inner:
            return u.square() @ first.square().sum(1)
        back = u.unsqueeze(-1) * self.layers[-1].weight  # (batch, code, units of the layer below)
        for slope, layer in zip(reversed(inner[1:]), reversed(self.layers[1:-1]), strict=True):
            back = (back * slope.unsqueeze(-2)) @ layer.weight
        back = back * inner[0].unsqueeze(-2)
        return (back @ (first @ first.T) * back).sum((-1, -2))  # never as wide as a row


def _check(
    n_cells, code, hidden, activation, tied, penalty, strength, corruption, target, energy, support
) -> None:
    """Refuse arguments, and combinations of them, that have no meaning."""
    check_choice("activation", activation, tuple(ACTIVATIONS))
    check_choice("penalty", penalty, PENALTIES)
    check_choice("energy", energy, ("reconstruction", "potential"))
    check_choice("support", support, ("real", "binary"))
    if min(n_cells, code, *hidden) < 1:
        raise ValueError(
            f"n_cells, code and hidden must be at least 1, got {n_cells}, {code} and {tuple(hidden)}"
        )
    check_number("strength", strength, 0)
    if not corruption >= 0 or (support == "binary" and corruption > 0.5):
        limit = ", and at most a half for binary cells" if support == "binary" else ""
        raise ValueError(f"corruption must be at least 0{limit}, got {corruption}")
    if target is not None and not 0 < target < 1:
        raise ValueError(f"target must be between 0 and 1, or None for an l1 penalty, got {target}")
    if penalty == "saturating" and ACTIVATIONS[activation].to_flat is None:
        flat = ", ".join(name for name, s in ACTIVATIONS.items() if s.to_flat)
        raise ValueError(
            f"the saturating penalty needs an activation with a flat part ({flat}), got {activation!r}"
        )
    if energy == "potential":
        fits = not hidden and activation == "sigmoid" and tied and penalty == "none" and support == "real"
        if not (fits and corruption > 0):
            raise ValueError(
                "energy='potential' needs a denoising auto-encoder of one tied sigmoid layer over real cells (corruption "
                f"above 0, no penalty), got hidden={tuple(hidden)}, activation={activation!r}, tied={tied}, "
                f"penalty={penalty!r}, corruption={corruption}, support={support!r}"
            )
