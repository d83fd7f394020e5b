"""Small energies whose integrals, scores and exact laws are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abduce.inference.energy import Base, Energy, Law, Traits
from abduce.inference.flips import states
from abduce.models.boltzmann import IsingEnergy


class Quadratic(Energy):
    """½ (x − m)ᵀ P (x − m), P the symmetric part of a parameter matrix; its log Z is kept to itself."""

    def __init__(self, precision: Tensor, mean: Tensor | None = None):
        super().__init__()
        self.n_cells = len(precision)
        self.matrix = nn.Parameter(precision.clone())
        self.mean = nn.Parameter(precision.new_zeros(self.n_cells) if mean is None else mean.clone())

    @property
    def precision(self) -> Tensor:
        return 0.5 * (self.matrix + self.matrix.T)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        r = x - self.mean
        return 0.5 * ((r @ self.precision) * r).sum(-1)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return None

    def law(self, beta: float = 1.0, base: Base | None = None) -> Law | None:
        return None

    def represent(self, x: Tensor) -> Tensor:
        return x


class Normalised(Quadratic):
    """The same, which gives its log Z."""

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return 0.5 * (self.n_cells * torch.log(torch.tensor(2 * torch.pi)) - torch.logdet(self.precision))


class Plain(Quadratic):
    """Any function of x as an energy."""

    def __init__(self, function, n_cells: int, **traits):
        super().__init__(torch.eye(n_cells, dtype=torch.float64))
        self.function, self.traits = function, Traits(**traits)

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.function(x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_ising(cells: int = 4, seed: int = 0) -> IsingEnergy:
    """An IsingEnergy model of a few spins, with random couplings and fields."""
    g = generator(seed)
    return IsingEnergy.of(
        torch.randn(cells, cells, generator=g, dtype=torch.float64),
        0.5 * torch.randn(cells, generator=g, dtype=torch.float64),
    )


def exact_law(model: Energy) -> tuple[Tensor, Tensor]:
    """All states (2^D, D) and their probabilities (2^D,)."""
    x = states(model.n_cells, torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        return x, torch.softmax(-model.energy(x), 0)


def moved(model: Energy, by: float = 0.1) -> Energy:
    """Move every parameter of a model in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by
    return model


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    """The gradient with respect to all parameters, as one vector."""
    parts = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])
