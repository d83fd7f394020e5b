"""Boltzmann machines against sums over all their states."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from models_for_tests import generator, shaken
from torch import Tensor

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.inference import flips
from abduce.inference.energy import Energy, Traits
from abduce.inference.flips import flip_energies, log_sum_states, states
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy


def every(d: int) -> Tensor:
    """All states of d binary units, by itertools."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)


def machine(kind: str, d: int = 4, hidden: int = 3, size: float = 0.7, seed: int = 0) -> Energy:
    """A machine with strong couplings, double precision."""
    torch.manual_seed(seed)
    model = {"ising": IsingEnergy, "rbm": RBMEnergy, "gaussian": GaussianRBMEnergy}[kind](
        *((d,) if kind == "ising" else (d, hidden))
    )
    for offset in model.buffers():
        offset.copy_(torch.rand(offset.shape, generator=generator(seed)))
    return shaken(model.double(), size, seed)  # type: ignore[return-value]


def joint(model: Energy, v: Tensor, h: Tensor) -> Tensor:
    """−E(v, h) of a restricted machine, written term by term, (v, h)."""
    assert isinstance(model, RBMEnergy | GaussianRBMEnergy)
    W, b, c, mu = model.weight, model.bias, model.hidden_bias, model.offset
    h = h - model.hidden_offset
    if isinstance(model, GaussianRBMEnergy):
        s = model.visible_scale()
        pairs = torch.einsum("vi,ij,hj->vh", (v - mu) / s, W, h)
        return pairs + h @ c - 0.5 * ((v - b) / s).square().sum(-1, keepdim=True)
    return torch.einsum("vi,ij,hj->vh", v - mu, W, h) + ((v - mu) @ b).unsqueeze(-1) + h @ c


def test_ising_energy_is_a_sum_over_pairs():
    model = machine("ising")
    J, b, x = model.coupling, model.bias, every(4)
    pairs = sum(J[i, j] * x[:, i] * x[:, j] for i in range(4) for j in range(i))
    torch.testing.assert_close(model.energy(x), -pairs - x @ b)
    assert torch.equal(J, J.T)
    assert not torch.diagonal(J).any()


@pytest.mark.parametrize("kind", ["rbm", "gaussian"])
def test_hidden_units_are_summed_out(kind):
    model, h = machine(kind), every(3)
    v = every(4) if kind == "rbm" else torch.randn(7, 4, generator=generator(1), dtype=torch.float64)
    log_joint = joint(model, v, h)
    torch.testing.assert_close(model.energy(v), -torch.logsumexp(log_joint, 1))
    torch.testing.assert_close(model.represent(v), torch.softmax(log_joint, 1) @ h)  # E[h | v]


@pytest.mark.parametrize("kind", ["ising", "rbm", "gaussian"])
def test_energy_takes_any_leading_axes_and_refuses_blanks(kind):
    model = machine(kind)
    x = (torch.rand(2, 3, 5, 4, generator=generator(), dtype=torch.float64) < 0.5).double()
    torch.testing.assert_close(model.energy(x), model.energy(x.view(-1, 4)).view(2, 3, 5))
    assert torch.equal(model.energy(x, torch.ones_like(x, dtype=torch.bool)), model.energy(x))
    with pytest.raises(ValueError, match="blanks"):
        model.energy(x, torch.zeros_like(x, dtype=torch.bool))


def test_given_hidden_units_the_cells_are_independent():
    """The conditionals against the joint: P(v_i = 1 | h), and the mean and variance of v | h by completing the square."""
    h = every(3)
    model = machine("rbm")
    p = torch.softmax(joint(model, every(4), h), 0)  # p(v | h)
    torch.testing.assert_close(torch.sigmoid(model.visible(h)), p.T @ every(4))
    model = machine("gaussian")
    v = model.visible(h).detach().requires_grad_()
    (slope,) = torch.autograd.grad(torch.diagonal(joint(model, v, h)).sum(), v)
    torch.testing.assert_close(slope, torch.zeros_like(v))
    hessian = torch.autograd.functional.hessian(lambda x: joint(model, x.unsqueeze(0), h[5:6]).sum(), v[0])
    torch.testing.assert_close(
        -torch.linalg.inv(hessian), torch.diag(model.visible_scale().square()).detach()
    )


@pytest.mark.parametrize("chunk", [1 << 22, 40])
def test_log_z_by_hidden_is_by_visible_is_by_force(chunk, monkeypatch):
    monkeypatch.setattr(flips, "CHUNK", chunk)
    model = machine("rbm", 6, 4)
    force = torch.logsumexp(joint(model, every(6), every(4)).flatten(), 0)
    torch.testing.assert_close(model.log_z_by_hidden(), force)
    torch.testing.assert_close(model.log_z_by_visible(), force)
    torch.testing.assert_close(model.log_z(), force)
    # d log Z / d θ = −E[∂E/∂θ], through the chunks
    p = torch.exp(-model.energy(every(6)) - force).detach()
    wanted = torch.autograd.grad(-(p * model.energy(every(6))).sum(), list(model.parameters()))
    for log_z in (model.log_z_by_hidden(), model.log_z_by_visible()):
        found = torch.autograd.grad(log_z, list(model.parameters()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["ising", "rbm"])
def test_log_z_with_temperature_and_base(kind):
    model, x = machine(kind), every(4)
    base = RatesBase(torch.linspace(-1, 2, 4, dtype=torch.float64))
    for beta, b in ((1.0, None), (0.3, None), (1.0, base), (2.0, base)):
        log_b = 0.0 if b is None else b.log_prob(x)
        torch.testing.assert_close(model.log_z(beta, b), torch.logsumexp(-beta * model.energy(x) + log_b, 0))
    if isinstance(model, RBMEnergy):
        torch.testing.assert_close(model.log_z_by_hidden(base), model.log_z_by_visible(1, base))


@torch.no_grad()
def test_log_z_of_large_machines():
    assert IsingEnergy(21).log_z() is None
    assert RBMEnergy(21, 21).log_z() is None
    assert RBMEnergy(784, 5).log_z(beta=0.5) is None  # the hidden units do not separate
    # without weights: D log 2 + hidden log 2
    model = RBMEnergy(784, 5)
    torch.nn.init.zeros_(model.weight)
    assert float(model.log_z()) == pytest.approx(789 * math.log(2), rel=1e-6)
    model = RBMEnergy(6, 500)
    torch.nn.init.zeros_(model.weight)
    assert float(model.log_z(0.5)) == pytest.approx(6 * math.log(2) + 250 * math.log(2), rel=1e-6)
    assert GaussianRBMEnergy(2, 21).log_z() is None
    base = NormalBase(torch.zeros(2), torch.eye(2))
    assert GaussianRBMEnergy(2, 3).log_z(base=base) is None


def test_log_z_of_real_cells():
    """A sum of Gaussians against quadrature in the plane, and its gradient against the moments."""
    model = machine("gaussian", 2, 3)
    line = torch.linspace(-14, 14, 801, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(line, line), 2 * math.log(28 / 800)
    energy = model.energy(grid)
    log_z = torch.logsumexp(-energy, 0) + cell
    torch.testing.assert_close(model.log_z(), log_z)
    p = torch.exp(-energy - log_z + cell).detach()
    wanted = torch.autograd.grad(-(p * energy).sum(), list(model.parameters()))
    for a, b in zip(torch.autograd.grad(model.log_z(), list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_offsets_centre_the_gradient_and_not_the_distribution():
    """By W it is that of (v − μ)(h − λ)ᵀ, data minus model; another b and c make up for the offsets."""
    model, x = machine("rbm"), every(4)
    assert isinstance(model, RBMEnergy)
    mu, lam = model.offset, model.hidden_offset
    data, own = x[3:9], x[7:]
    value = model.energy(data).mean() - model.energy(own).mean()
    found = torch.autograd.grad(value, [model.weight, model.bias, model.hidden_bias])

    def moments(v: Tensor) -> tuple[Tensor, ...]:
        h = model.represent(v)
        return (v - mu).T @ (h - lam) / len(v), v.mean(0), h.mean(0)

    for a, b, c in zip(found, moments(data), moments(own), strict=True):
        torch.testing.assert_close(a, c - b)
    W = model.weight
    same = RBMEnergy.of(W, model.bias - W @ lam, model.hidden_bias - mu @ W)
    torch.testing.assert_close(torch.softmax(-same.energy(x), 0), torch.softmax(-model.energy(x), 0))
    torch.testing.assert_close(same.represent(x), model.represent(x))


class Wrapped(Energy):
    """An energy of binary cells that has no flips of its own."""

    traits = Traits("binary")

    def __init__(self, model: Energy):
        super().__init__()
        self.n_cells, self.model = model.n_cells, model

    def energy(self, x, observed=None):
        return self.model.energy(x)

    def log_z(self, beta=1.0, base=None):
        return None

    def law(self, beta=1.0, base=None):
        return None

    def represent(self, x):
        return x


@pytest.mark.parametrize("chunk", [1 << 22, 50])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("kind", ["ising", "rbm"])
def test_flips_are_differences_of_energies(kind, wrap, chunk, monkeypatch):
    monkeypatch.setattr(flips, "CHUNK", chunk)
    model = machine(kind, 5)
    x = every(5).view(4, 8, 5)
    columns = []
    for i in range(5):
        flipped = x.clone()
        flipped[..., i] = 1 - x[..., i]
        columns.append(model.energy(flipped) - model.energy(x))
    wanted = torch.stack(columns, -1)
    found = flip_energies(Wrapped(model) if wrap else model, x)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(4, 8, 5, generator=generator(2), dtype=torch.float64)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad((weight * wanted).sum(), parameters, allow_unused=True)
    for a, b in zip(
        torch.autograd.grad((weight * found).sum(), parameters, allow_unused=True), wanted, strict=True
    ):
        torch.testing.assert_close(a, b)


def test_flips_need_binary_cells():
    with pytest.raises(ValueError, match="binary cells, but GaussianRBMEnergy has real"):
        flip_energies(GaussianRBMEnergy(3, 2), torch.zeros(1, 3))


def test_ising_features_are_the_conditionals():
    model, x = machine("ising"), every(4)
    p = torch.softmax(-model.energy(x), 0)
    ones = x.unsqueeze(1).expand(-1, 4, -1).clone()
    ones[:, range(4), range(4)] = 1.0
    zeros = ones.clone()
    zeros[:, range(4), range(4)] = 0.0
    odds = torch.exp(-model.energy(ones)) / torch.exp(-model.energy(zeros))
    torch.testing.assert_close(model.represent(x), odds / (1 + odds))
    # and on average they are the marginals
    torch.testing.assert_close(p @ model.represent(x), p @ x)


def test_states_count_in_binary():
    assert {tuple(row) for row in states(3, torch.zeros(())).tolist()} == set(
        itertools.product((0.0, 1.0), repeat=3)
    )
    torch.testing.assert_close(states(5, torch.zeros(()), 7, 16), states(5, torch.zeros(()))[7:16])
    total = log_sum_states(lambda x: x @ torch.arange(3.0), 3, 3, torch.zeros(()))
    assert float(total) == pytest.approx(sum(math.log1p(math.exp(i)) for i in range(3)), rel=1e-6)


def test_starts():
    rows = (
        torch.rand(5000, 3, generator=generator(), dtype=torch.float64) < torch.tensor([0.1, 0.5, 0.8])
    ).double()
    rates = rows.mean(0)
    for model in (IsingEnergy.start(rows), RBMEnergy.start(rows, 2, generator(1))):
        x = every(3)
        p = torch.softmax(-model.energy(x), 0)
        torch.testing.assert_close(p @ x, rates, atol=0.01, rtol=0)
    real = 3 * torch.randn(5000, 2, generator=generator(), dtype=torch.float64) + 1
    model = GaussianRBMEnergy.start(real, 2, generator(1))
    torch.testing.assert_close(model.visible_scale(), real.std(0, correction=0))
    torch.testing.assert_close(model.visible(torch.full((2,), 0.5).double()), real.mean(0))
    again = GaussianRBMEnergy.start(real, 2, generator(1))
    assert torch.equal(model.weight, again.weight)


@pytest.mark.parametrize("kind", ["ising", "rbm", "gaussian"])
def test_config_and_state_restore_it(kind):
    model = machine(kind)
    again = type(model)(**model.config).double()
    again.load_state_dict(model.state_dict())
    x = every(4)
    assert torch.equal(again.energy(x), model.energy(x))
    assert again.support == ("real" if kind == "gaussian" else "binary")
