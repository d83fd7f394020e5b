"""Sparse coding: few columns of a dictionary explain a row; and a network that predicts which.

    SparseCodingEnergy   E(y) = min_z ‖y − W z‖² + λ‖z‖₁
    PSDEnergy            E(y) = min_z ½‖y − D z‖² + λ‖z‖₁ + α‖z − f(y)‖²,        f(y) = g · tanh(V y + c)

W and D (d, m) have columns of unit length, without which the code would shrink and the columns grow; z (m,) is the code.  Both
inner problems are ½ zᵀG z − bᵀz + λ‖z‖₁, solved by FISTA: proximal steps of length 1/L, L the largest eigenvalue of G, from a
point ahead of the last one,

    z_{t+1} = S(p_t − (G p_t − b)/L, λ/L),      S(u, s) = sign(u) max(|u| − s, 0)
    p_{t+1} = z_{t+1} + (k_t − 1)/k_{t+1} (z_{t+1} − z_t)

with k_{t+1} = (1 + √(1 + 4k_t²))/2, k_0 = 1.  At the minimum ∂E/∂z vanishes (or z does not move), so that the gradient in y,
W, D and f is the partial one at fixed z* (the envelope theorem).

Energies are squared errors, so β is free; both are convex inside, even in y for SparseCodingEnergy, and grow at least linearly
in every direction as long as λ > 0, so that Z is finite.

Sources: Olshausen & Field 1996; Beck & Teboulle 2009 (FISTA); Kavukcuoglu, Ranzato & LeCun 2008 (arXiv:1010.3467).
"""

from __future__ import annotations

import abc
import math

import torch
from torch import Generator, Tensor, nn

from abduce.checks import check_choice, check_count, check_number
from abduce.inference.energy import Energy, Traits, arguments, check_whole
from abduce.models.model import filled

CHECKED = 10  # steps between two looks at how far a code still moves


def fista(
    gram: Tensor, b: Tensor, penalty: float, start: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Minimise ½ zᵀG z − bᵀz + λ‖z‖₁ for each row: G (m, m), b and ``start`` (..., m) -> (..., m).

    Stops after ``iterations`` steps, or once no entry of any row moves by more than ``tolerance`` of the largest, looked at
    every ``CHECKED`` steps.

    >>> fista(torch.eye(2), torch.tensor([3.0, 0.5]), 1.0, torch.zeros(2), 20, 1e-6)  # a soft threshold
    tensor([2., 0.])
    """
    step = 1 / float(torch.linalg.eigvalsh(gram)[-1].clamp_min(torch.finfo(gram.dtype).tiny))
    turn, shift = torch.eye(len(gram)).to(gram) - step * gram, step * b.reshape(-1, len(gram))
    z = ahead = start.reshape_as(shift)
    k = 1.0
    for i in range(1, iterations + 1):
        new = nn.functional.softshrink(torch.addmm(shift, ahead, turn), step * penalty)
        later = 0.5 * (1 + math.sqrt(1 + 4 * k**2))
        ahead = torch.lerp(z, new, 1 + (k - 1) / later)
        still = i % CHECKED == 0 and bool((new - z).abs().amax() <= tolerance * new.abs().amax())
        z, k = new, later
        if still:
            break
    return z.view_as(b)


class Dictionary(Energy):
    """An energy of rows y ≈ W z with the ``dictionary`` W (d, m) of unit columns."""

    traits = Traits(in_nats=False, bounded_volume=True, smooth=False)

    def __init__(self, n_cells: int, code: int, sparsity: float, iterations: int, tolerance: float):
        super().__init__()
        check_count("code", code)
        check_count("iterations", iterations)
        check_number("sparsity", sparsity, 0, above=True)
        self.n_cells, self.code, self.sparsity = n_cells, code, sparsity
        self.iterations, self.tolerance = iterations, tolerance
        self.dictionary = nn.Parameter(_unit(torch.randn(n_cells, code)))

    @abc.abstractmethod
    def joint_energy(self, x: Tensor, z: Tensor) -> Tensor:
        """What the code z* is the minimum of: (..., d) and (..., m) -> (...)."""

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        check_whole(observed, type(self).__name__.removesuffix("Energy"))
        return self.joint_energy(x, self.represent(x))

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.dictionary.T

    @torch.no_grad()
    def project_(self) -> None:
        """Scale the columns of W to unit length."""
        self.dictionary.copy_(_unit(self.dictionary))


class SparseCodingEnergy(Dictionary):
    """Sparse coding with ``code`` columns, E(y) = min_z ‖y − W z‖² + λ‖z‖₁, λ = ``sparsity`` > 0.

    scikit-learn's dictionaries minimise ½‖y − W z‖² + a‖z‖₁: λ = 2a.  Raises ValueError where λ is not above 0.

    >>> model = SparseCodingEnergy.from_dictionary(torch.eye(2), sparsity=1.0)
    >>> x = torch.tensor([[3.0, 0.25]])  # beyond λ/2 linear, within it a square
    >>> model.energy(x).detach(), model.represent(x)
    (tensor([2.8125]), tensor([[2.5000, 0.0000]]))
    """

    def __init__(
        self, n_cells: int, code: int, sparsity: float = 0.5, iterations: int = 100, tolerance: float = 1e-6
    ):
        super().__init__(n_cells, code, sparsity, iterations, tolerance)
        self.config = arguments(locals())

    @classmethod
    def from_dictionary(
        cls, dictionary: Tensor, sparsity: float, iterations: int = 100
    ) -> SparseCodingEnergy:
        """Take a dictionary that was fitted elsewhere, (d, m); its columns are kept as they are."""
        model = cls(*dictionary.shape, sparsity=sparsity, iterations=iterations).to(dictionary.dtype)
        return filled(model, dictionary=dictionary)

    def joint_energy(self, x: Tensor, z: Tensor) -> Tensor:
        return (x - self.decode(z)).square().sum(-1) + self.sparsity * z.abs().sum(-1)

    @torch.no_grad()
    def represent(self, x: Tensor) -> Tensor:
        """The code z* of each row, (..., m); no gradient flows through it."""
        W = self.dictionary
        b = 2 * x @ W
        return fista(2 * W.T @ W, b, self.sparsity, torch.zeros_like(b), self.iterations, self.tolerance)


class PSDEnergy(Dictionary):
    """Predictive sparse decomposition, E(y) = min_z ½‖y − D z‖² + λ‖z‖₁ + α‖z − f(y)‖², f(y) = g · tanh(V y + c).

    ``sparsity`` is λ > 0 and ``prediction`` α ≥ 0.  Two energies go by the name:

        energy="optimal"     at the best code z*
        energy="predicted"   at z = f(y), without a search: ½‖y − D f(y)‖² + λ‖f(y)‖₁, never below the optimal one

    Training is the same for both, at z*.  With α = 0 the optimal energy is half that of SparseCodingEnergy with 2λ.

    >>> model = PSDEnergy(2, 8)
    >>> model.energy(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        n_cells: int,
        code: int,
        sparsity: float = 0.2,
        prediction: float = 1.0,
        energy: str = "optimal",
        iterations: int = 100,
        tolerance: float = 1e-6,
    ):
        super().__init__(n_cells, code, sparsity, iterations, tolerance)
        check_number("prediction", prediction, 0)
        check_choice("energy", energy, ("optimal", "predicted"))
        self.prediction, self.form = prediction, energy
        self.config = arguments(locals())
        self.filters = nn.Linear(n_cells, code)
        self.gain = nn.Parameter(torch.ones(code))

    def joint_energy(self, x: Tensor, z: Tensor) -> Tensor:
        reconstruction = 0.5 * (x - self.decode(z)).square().sum(-1)
        surprise = (z - self.predict(x)).square().sum(-1)
        return reconstruction + self.sparsity * z.abs().sum(-1) + self.prediction * surprise

    def represent(self, x: Tensor) -> Tensor:
        """The code of each row, (..., m): z* without gradients, or the prediction f(y), as the energy has it."""
        return self.infer(x) if self.form == "optimal" else self.predict(x)

    @torch.no_grad()
    def infer(self, x: Tensor) -> Tensor:
        """The best code z* of each row, searched from the predicted one, (..., m)."""
        D, predicted = self.dictionary, self.predict(x)
        eye = torch.eye(self.code, dtype=x.dtype, device=x.device)
        gram = D.T @ D + 2 * self.prediction * eye
        b = x @ D + 2 * self.prediction * predicted
        return fista(gram, b, self.sparsity, predicted, self.iterations, self.tolerance)

    def predict(self, x: Tensor) -> Tensor:
        """The predicted code f(y) = g · tanh(V y + c), (..., m)."""
        return self.gain * torch.tanh(self.filters(x))

    def training_loss(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """The energy at z* held fixed, (batch,): its gradient moves D to the code and f towards it."""
        return self.joint_energy(x, self.infer(x))


def _unit(columns: Tensor) -> Tensor:
    return nn.functional.normalize(columns, dim=0)
