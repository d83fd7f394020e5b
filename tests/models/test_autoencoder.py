"""Auto-encoders against closed forms: principal components, optimal denoisers, Jacobians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from abduce.models.autoencoder import ACTIVATIONS, AutoencoderEnergy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def build(n_cells: int = 5, code: int = 3, seed: int = 0, **arguments) -> AutoencoderEnergy:
    """A model in double precision, its biases and weights moved off their start."""
    torch.manual_seed(seed)
    model = AutoencoderEnergy(n_cells, code, **arguments).double()
    g = generator(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return model


def minimise(model: AutoencoderEnergy, loss, steps: int = 300) -> float:
    """Run L-BFGS on a deterministic loss, and give the value reached."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=steps,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return loss().item()


# --- the energies ---


def test_reconstruction_by_hand():
    model, x = build(activation="tanh"), rows(7, 5)
    layer = model.layers[0]
    h = torch.tanh(x @ layer.weight.T + layer.bias)
    r = h @ model.weights[0].T + model.biases[0]
    torch.testing.assert_close(model.represent(x), h)
    torch.testing.assert_close(model.decode(h), r)
    torch.testing.assert_close(model.energy(x), (x - r).square().sum(-1))


def test_binary_energy_is_a_cross_entropy():
    model = build(support="binary", hidden=(4,))
    x = (rows(7, 5) > 0).double()
    r = model.decode(model.represent(x))
    expected = -(x * r.log() + (1 - x) * (1 - r).log()).sum(-1)
    torch.testing.assert_close(model.energy(x), expected)
    assert torch.autograd.gradcheck(model.energy, torch.rand(2, 5, dtype=torch.float64).requires_grad_())


def test_tied_weights_are_transposes():
    model, x = build(hidden=(4,), tied=True, activation="tanh"), rows(7, 5)
    first, second = (layer.weight for layer in model.layers)
    h = model.represent(x)
    expected = torch.tanh(h @ second + model.biases[0]) @ first + model.biases[1]
    torch.testing.assert_close(model.decode(h), expected)
    assert len(model.weights) == 0


@pytest.mark.parametrize(
    "arguments", [{}, {"hidden": (6, 4)}, {"energy": "potential", "corruption": 0.3}], ids=str
)
def test_leading_axes_do_not_mix(arguments):
    model, x = build(**arguments), rows(2, 3, 5)
    assert model.energy(x).shape == (2, 3)
    assert model.represent(x).shape == (2, 3, 3)
    torch.testing.assert_close(model.energy(x)[1, 2], model.energy(x[1, 2]))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "ramp"])
def test_a_bounded_decoder_grows_as_a_square(activation):
    """Where g is bounded E(t·y)/t² goes to ‖y‖²: Z is finite."""
    model, y = build(code=20, hidden=(30,), activation=activation), rows(10, 5)
    assert model.proper
    torch.testing.assert_close(model.energy(1e8 * y) / 1e16, y.square().sum(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("activation", ["linear", "relu", "shrink"])
def test_an_unbounded_one_need_not(activation):
    """W = I reconstructs every row in the positive quadrant, up to a constant: Z is infinite."""
    model = build(n_cells=2, code=2, activation=activation)
    assert not model.proper
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.eye(2) if parameter.dim() == 2 else torch.zeros(2))
    y = 1e6 * rows(10, 2).abs()
    assert (model.energy(y) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("arguments", "proper", "bounded", "smooth", "nats"),
    [
        ({"code": 8}, True, False, True, False),
        ({"code": 8, "penalty": "sparse", "strength": 0.0}, True, False, True, False),
        ({"code": 8, "penalty": "sparse", "activation": "relu"}, False, True, False, False),
        ({"code": 8, "corruption": 0.1, "activation": "linear"}, False, True, True, False),
        ({"code": 8, "corruption": 0.1, "energy": "potential"}, True, True, True, True),
        ({"code": 3, "activation": "linear"}, False, True, True, False),
        ({"code": 8, "activation": "relu", "support": "binary"}, True, False, False, False),
    ],
)
def test_what_it_says_of_itself(arguments, proper, bounded, smooth, nats):
    model = build(**arguments)
    assert (model.proper, model.bounded_volume, model.smooth, model.in_nats) == (
        proper,
        bounded,
        smooth,
        nats,
    )


# --- what training adds ---


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_and_flat_parts(name):
    s = ACTIVATIONS[name]
    u = torch.linspace(-3, 3, 602, dtype=torch.float64, requires_grad=True)  # no node on a kink
    (slope,) = torch.autograd.grad(s.value(u).sum(), u)
    torch.testing.assert_close(s.slope(u), slope)
    assert s.bounded == (s.value(torch.tensor([-1e6, 1e6])).abs().max() < 2).item()
    if s.to_flat is not None:  # the distance to the nearest point of zero slope, by search
        flat = u[slope == 0]
        distance = (u.unsqueeze(1) - flat).abs().amin(1)
        torch.testing.assert_close(s.to_flat(u), distance, atol=0.006, rtol=0)  # half the grid


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "linear", "relu", "ramp", "shrink"])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 6)])
def test_contraction_is_the_jacobian(activation, hidden):
    model = build(hidden=hidden, activation=activation, penalty="contractive", strength=0.7)
    x = rows(6, 5)
    jacobian = torch.stack([torch.autograd.functional.jacobian(model.represent, row) for row in x])
    expected = model.energy(x) + 0.7 * jacobian.square().sum((1, 2))
    torch.testing.assert_close(model.training_loss(x), expected)
    assert model.tied


def test_contraction_of_one_sigmoid_layer():
    model, x = build(penalty="contractive", strength=1.0), rows(6, 5)
    h, W = model.represent(x), model.layers[0].weight
    expected = ((h * (1 - h)).square() * W.square().sum(1)).sum(-1)
    torch.testing.assert_close(model.training_loss(x) - model.energy(x), expected)


def test_saturating_relu_is_an_l1_on_the_code():
    one, other = (
        build(activation="relu", penalty=penalty, strength=0.4) for penalty in ("saturating", "sparse")
    )
    x = rows(9, 5)
    torch.testing.assert_close(one.training_loss(x), other.training_loss(x))
    torch.testing.assert_close(one.training_loss(x), one.energy(x) + 0.4 * one.represent(x).sum(-1))


def test_sparse_sigmoid_is_a_divergence_of_the_mean():
    model, x = build(penalty="sparse", strength=0.4, target=0.1), rows(9, 5)
    p = torch.distributions.Bernoulli(torch.tensor(0.1, dtype=torch.float64))
    q = torch.distributions.Bernoulli(model.represent(x).mean(0))
    kl = torch.distributions.kl_divergence(p, q).sum()
    torch.testing.assert_close(model.training_loss(x), model.energy(x) + 0.4 * kl)
    l1 = build(penalty="sparse", strength=0.4, target=None)
    torch.testing.assert_close(l1.training_loss(x), l1.energy(x) + 0.4 * l1.represent(x).sum(-1))


def test_long_columns_are_shortened_where_they_would_undo_the_penalty():
    model = build(activation="relu", penalty="sparse", hidden=(4,))
    with torch.no_grad():
        for weight in model.weights:
            weight *= torch.linspace(0.1, 5, weight.shape[1], dtype=torch.float64)
    before = [weight.detach().clone() for weight in model.weights]
    model.project_()
    for weight, old in zip(model.weights, before, strict=True):
        norm = old.norm(dim=0)
        torch.testing.assert_close(weight.norm(dim=0), norm.clamp_max(1))
        assert (norm > 1).any()
        torch.testing.assert_close(torch.nn.functional.normalize(weight, dim=0), old / norm)
    plain = build()
    start = plain.weights[0].clone()
    plain.project_()
    assert torch.equal(plain.weights[0], start)


def test_corruption_is_drawn_from_the_generator():
    model, x = build(corruption=0.5), rows(9, 5)
    noise = torch.randn(9, 5, generator=generator(3), dtype=torch.float64)
    expected = (model.decode(model.represent(x + 0.5 * noise)) - x).square().sum(-1)
    torch.testing.assert_close(model.training_loss(x, generator(3)), expected)
    binary = build(n_cells=2000, corruption=0.3, support="binary")
    b = (rows(4, 2000) > 0).double()
    flipped = (binary._corrupt(b, generator(1)) != b).double().mean()
    assert flipped.item() == pytest.approx(0.3, abs=0.02)


# --- trained, against closed forms ---


def test_a_linear_bottleneck_is_pca():
    """λ = 0: the least squares error is the sum of the discarded eigenvalues, and r the projection on the others."""
    x = rows(300, 5) @ rows(5, 5, seed=3)
    x = x - x.mean(0)
    model = build(code=2, activation="linear", penalty="sparse", strength=0.0)
    reached = minimise(model, lambda: model.training_loss(x).mean())
    value, vector = np.linalg.eigh((x.T @ x / 300).numpy())
    assert reached == pytest.approx(value[:3].sum(), rel=1e-8)
    top = torch.from_numpy(vector[:, 3:].copy())
    r = model.decode(model.represent(x)).detach()
    torch.testing.assert_close(r, x @ top @ top.T, atol=1e-4, rtol=0)


def test_a_linear_denoiser_gives_the_score():
    """Tweedie: for x ~ N(0, S), r*(y) − y = σ² ∇log N(y; 0, S + σ²I) = −σ² (S + σ²I)⁻¹ y."""
    S = torch.tensor([[1.5, 0.7], [0.7, 0.6]], dtype=torch.float64)
    sigma = 0.5
    x = rows(100_000, 2) @ torch.linalg.cholesky(S).T
    model = build(n_cells=2, code=2, activation="linear", corruption=sigma)
    minimise(model, lambda: model.training_loss(x, generator(4)).mean(), 60)
    y = rows(50, 2, seed=5)
    score = -torch.linalg.solve(S + sigma**2 * torch.eye(2), y.T).T
    moved = (model.decode(model.represent(y)) - y).detach() / sigma**2
    torch.testing.assert_close(moved, score, atol=0.05, rtol=0)
    torch.testing.assert_close(
        model.energy(y).detach(), sigma**4 * score.square().sum(-1), atol=0.02, rtol=0.05
    )


def test_the_gradient_of_the_potential_is_the_reconstruction():
    model = build(code=7, energy="potential", corruption=0.4)
    x = rows(8, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(model.energy(x).sum(), x)
    torch.testing.assert_close(-(0.4**2) * gradient, model.decode(model.represent(x)) - x)
    assert torch.autograd.gradgradcheck(model.energy, x)


def test_the_potential_is_minus_log_density_of_the_corrupted_data():
    """Rows at −a and a, σ = 1: exp(−E) with one unit is N(c, 1) + e^b' N(c + w, 1), so w = 2a; the ridge between is high."""
    a = 1.5
    x = torch.tensor([[-a], [a]], dtype=torch.float64).repeat(20_000, 1)
    model = build(n_cells=1, code=1, energy="potential", corruption=1.0)
    minimise(model, lambda: model.training_loss(x, generator(3)).mean(), 100)
    w = model.layers[0].weight.item()
    assert abs(w) == pytest.approx(2 * a, rel=0.02)
    assert model.biases[0].item() == pytest.approx(-math.copysign(a, w), rel=0.03)
    y = torch.linspace(-4, 4, 81, dtype=torch.float64)
    minus_log_p = -torch.logsumexp(torch.stack([-((y - centre) ** 2) / 2 for centre in (-a, a)]), 0)
    gap = (model.energy(y.unsqueeze(1)) - minus_log_p).detach()
    assert gap.std() < 0.05
    reconstruction, potential = (m.energy(y.unsqueeze(1)).detach() for m in (_read_by_error(model), model))
    between, centre = 40, int(minus_log_p.argmin())
    assert reconstruction[between] < 0.01  # the error vanishes at the ridge as it does in the valleys
    assert potential[between] - potential[centre] > 0.3


def _read_by_error(model: AutoencoderEnergy) -> AutoencoderEnergy:
    """The same parameters, with the reconstruction error for energy."""
    other = AutoencoderEnergy(**{**model.config, "energy": "reconstruction"}).double()
    other.load_state_dict(model.state_dict())
    return other


# --- bookkeeping ---


@pytest.mark.parametrize(
    "arguments",
    [
        {"hidden": (4,), "penalty": "contractive", "activation": "tanh"},
        {"code": 9, "energy": "potential", "corruption": 0.4},
        {"penalty": "sparse", "target": None, "support": "binary", "corruption": 0.1},
        {"penalty": "saturating", "activation": "shrink"},
    ],
)
def test_it_comes_back_from_its_configuration(arguments):
    model = build(**arguments)
    again = AutoencoderEnergy(**model.config).double()
    again.load_state_dict(model.state_dict())
    x = (rows(4, 5) > 0).double()
    assert torch.equal(again.energy(x), model.energy(x))
    assert torch.equal(again.training_loss(x, generator(1)), model.training_loss(x, generator(1)))
    assert model.log_z() is None
    assert model.law() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "gelu"}, r"activation must be one of \['linear', 'sigmoid', .*, got 'gelu'"),
        ({"penalty": "l2"}, "penalty must be one of .*'saturating'.*, got 'l2'"),
        ({"energy": "free"}, "energy must be one of .*, got 'free'"),
        ({"support": "mixed"}, "support must be one of .*, got 'mixed'"),
        ({"code": 0}, "n_cells, code and hidden must be at least 1, got 5, 0"),
        ({"strength": -1.0}, "strength must be >= 0, got -1.0"),
        ({"corruption": 0.7, "support": "binary"}, "at most a half for binary cells, got 0.7"),
        ({"target": 1.0}, "target must be between 0 and 1"),
        ({"penalty": "saturating"}, r"flat part \(relu, ramp, shrink\), got 'sigmoid'"),
        ({"energy": "potential"}, "denoising auto-encoder of one tied sigmoid layer .* corruption=0.0"),
        ({"energy": "potential", "corruption": 0.1, "hidden": (3,)}, r"hidden=\(3,\)"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
