"""Sparse coding where its code is known, and PSDEnergy where it is sparse coding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from abduce.models.sparse_coding import PSDEnergy, SparseCodingEnergy, fista


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def unit(d: int, m: int, seed: int = 1) -> torch.Tensor:
    return torch.nn.functional.normalize(rows(d, m, seed=seed), dim=0)


def converged(d: int = 4, m: int = 9, sparsity: float = 0.6) -> SparseCodingEnergy:
    model = SparseCodingEnergy.from_dictionary(unit(d, m), sparsity, iterations=5000)
    model.tolerance = 1e-14
    return model


def psd(prediction: float, **arguments) -> PSDEnergy:
    torch.manual_seed(0)
    arguments = {"sparsity": 0.3, "iterations": 5000, "tolerance": 1e-14, **arguments}
    model = PSDEnergy(4, 9, prediction=prediction, **arguments).double()
    with torch.no_grad():
        model.dictionary.copy_(unit(4, 9))
    return model


def test_an_orthonormal_dictionary_is_a_soft_threshold_and_a_huber_energy():
    model = SparseCodingEnergy.from_dictionary(torch.eye(3, dtype=torch.float64), sparsity=0.8)
    x = 2 * rows(5, 7, 3)
    size = x.abs()
    torch.testing.assert_close(model.represent(x), x.sign() * (size - 0.4).clamp_min(0))
    huber = torch.where(size <= 0.4, size.square(), 0.8 * size - 0.16).sum(-1)
    torch.testing.assert_close(model.energy(x), huber)


def test_the_code_is_the_lasso():
    """scikit-learn's Lasso minimises ‖y − Wz‖²/2d + a‖z‖₁: λ = 2da."""
    model = converged()
    x = 2 * rows(20, 4)
    W = model.dictionary.detach().numpy()
    lasso = Lasso(alpha=0.6 / (2 * 4), fit_intercept=False, tol=1e-14, max_iter=100_000)
    z = np.stack([lasso.fit(W, row).coef_ for row in x.numpy()])
    ours = model.represent(x)
    np.testing.assert_allclose(ours, z, atol=1e-6)
    assert ((ours == 0).sum(-1) >= 9 - 4).all()  # at most d columns are at work, the rest exactly zero
    np.testing.assert_allclose(model.energy(x).detach(), model.joint_energy(x, torch.from_numpy(z)).detach())


def test_fewer_steps_lose_little():
    """A hundred steps, in single precision, against the minimum: never below it, and little above."""
    exact, quick = converged(8, 24), SparseCodingEnergy.from_dictionary(unit(8, 24).float(), 0.6)
    x = 2 * rows(300, 8)
    excess = (quick.energy(x.float()) / exact.energy(x) - 1).detach()
    assert excess.min() > -1e-6
    assert excess.mean() < 5e-4
    assert excess.max() < 1e-2


@pytest.mark.parametrize("make", [converged, lambda: psd(0.7), lambda: psd(0.7, energy="predicted")])
def test_the_gradient_is_that_of_the_minimum(make):
    """Autograd at fixed z* against differences of the energy, with z* found anew: in y and in the dictionary."""
    model = make()
    x = (2 * rows(6, 4)).requires_grad_()
    gradient, of_dictionary = torch.autograd.grad(model.energy(x).sum(), [x, model.dictionary])
    h = 1e-5
    with torch.no_grad():
        steps = h * torch.eye(4, dtype=torch.float64).unsqueeze(1)
        differences = (model.energy(x + steps) - model.energy(x - steps)) / (2 * h)
        np.testing.assert_allclose(gradient, differences.T, atol=1e-6)
        direction = rows(4, 9, seed=5)
        start = model.dictionary.clone()
        model.dictionary.copy_(start + h * direction)
        up = model.energy(x).sum()
        model.dictionary.copy_(start - h * direction)
        down = model.energy(x).sum()
    assert (of_dictionary * direction).sum().item() == pytest.approx(((up - down) / (2 * h)).item(), abs=1e-6)


def test_the_energy_is_even_and_convex():
    model, x, y = converged(), 2 * rows(60, 4), 2 * rows(60, 4, seed=9)
    energy = model.energy(x)
    torch.testing.assert_close(model.energy(-x), energy)
    assert (model.energy((x + y) / 2) <= (energy + model.energy(y)) / 2 + 1e-9).all()


def test_learning_finds_the_dictionary():
    """Sparse codes through an orthonormal dictionary: from a random start its columns come back, up to order and sign."""
    truth = torch.linalg.qr(rows(6, 6, seed=3))[0]
    z = rows(2000, 6, seed=4) * (torch.rand(2000, 6, generator=generator(5)) < 0.15)
    x = z @ truth.T
    torch.manual_seed(0)
    model = SparseCodingEnergy(6, 6, sparsity=0.1, iterations=30).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for i in range(300):
        optimizer.zero_grad()
        model.energy(x[(i * 200) % 2000 :][:200]).mean().backward()
        optimizer.step()
        model.project_()
    torch.testing.assert_close(model.dictionary.norm(dim=0), torch.ones(6, dtype=torch.float64))
    likeness = (model.dictionary.T @ truth).abs().amax(0)
    assert (likeness > 0.99).all(), likeness


def test_psd_without_prediction_is_sparse_coding():
    """½‖y − Dz‖² + λ‖z‖₁ is half the energy of SparseCodingEnergy with 2λ."""
    plain = converged(sparsity=0.6)
    model, x = psd(0.0), 2 * rows(30, 4)
    torch.testing.assert_close(model.energy(x), 0.5 * plain.energy(x))
    torch.testing.assert_close(model.represent(x), plain.represent(x), atol=1e-6, rtol=0)


def test_psd_code_satisfies_its_optimality_conditions():
    model, x = psd(0.7), 2 * rows(30, 4)
    with torch.no_grad():
        z = model.infer(x)
        slope = (model.decode(z) - x) @ model.dictionary + 2 * 0.7 * (z - model.predict(x))
    np.testing.assert_allclose(slope[z != 0], -0.3 * z[z != 0].sign(), atol=1e-9)
    assert (slope[z == 0].abs() <= 0.3 + 1e-9).all()
    assert (z == 0).any()


def test_psd_has_two_energies():
    optimal, predicted, x = psd(0.7), psd(0.7, energy="predicted"), 2 * rows(30, 4)
    f = predicted.predict(x)
    expected = 0.5 * (x - predicted.decode(f)).square().sum(-1) + 0.3 * f.abs().sum(-1)
    torch.testing.assert_close(predicted.energy(x), expected)
    assert (optimal.energy(x) <= predicted.energy(x)).all()
    torch.testing.assert_close(predicted.training_loss(x), optimal.energy(x))


def test_psd_learns_to_predict_the_code():
    x = rows(500, 2, seed=2) @ torch.tensor([[1.5, 0.3], [0.0, 0.5]], dtype=torch.float64)
    torch.manual_seed(0)
    model = PSDEnergy(2, 4, sparsity=0.1, iterations=30).double()

    def missed() -> float:
        with torch.no_grad():
            z = model.infer(x)
            return ((model.predict(x) - z).square().sum() / z.square().sum()).item()

    before = missed()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(400):
        optimizer.zero_grad()
        model.training_loss(x).mean().backward()
        optimizer.step()
        model.project_()
    assert before > 0.1
    assert missed() < 0.02


def test_leading_axes_and_a_stop():
    model, x = converged(), rows(3, 5, 4)
    torch.testing.assert_close(model.energy(x)[1, 2], model.energy(x[1, 2]))
    assert model.represent(x).shape == (3, 5, 9)
    start = torch.zeros(2, dtype=torch.float64)
    once = fista(torch.eye(2, dtype=torch.float64), start + 3, 1.0, start, 1, 0.0)
    assert torch.equal(once, start + 2)  # of a unit matrix the first step is the last
    assert torch.equal(model.represent(torch.zeros(2, 4, dtype=torch.float64)), torch.zeros(2, 9).double())


@pytest.mark.parametrize("model", [converged(), psd(0.7), psd(0.0, energy="predicted")])
def test_it_comes_back_from_its_configuration(model):
    again = type(model)(**model.config).double()
    again.tolerance = model.tolerance
    again.load_state_dict(model.state_dict())
    x = rows(4, 4)
    assert torch.equal(again.energy(x), model.energy(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseCodingEnergy(2, 4, sparsity=0.0), "sparsity must be > 0, got 0.0"),
        (lambda: SparseCodingEnergy(2, 0), "code must be an int >= 1, got 0"),
        (lambda: PSDEnergy(2, 4, prediction=-1.0), "prediction must be >= 0, got -1.0"),
        (
            lambda: PSDEnergy(2, 4, energy="best"),
            r"energy must be one of \['optimal', 'predicted'\], got 'best'",
        ),
        (lambda: PSDEnergy(2, 4).energy(torch.zeros(1, 2), torch.tensor([[True, False]])), "row with blanks"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
