"""Kernels against their exact transition matrices on small machines; paths against exact sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from models_for_tests import generator, shaken
from torch import Tensor
from torch.nn import functional as F

from abduce.distributions.bases import NormalBase, RatesBase
from abduce.distributions.cells import LOG_2PI
from abduce.inference.binary_paths import BinaryPath, BlockGibbsPath
from abduce.inference.energy import Energy
from abduce.inference.flips import states
from abduce.inference.gibbs import BlockGibbs, Gibbs, GibbsWithGradients, flip
from abduce.inference.kernels import start
from abduce.inference.paths import Density
from abduce.inference.weights import multi_sample
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy

D = 3
LIKE = torch.zeros((), dtype=torch.float64)
X = states(D, LIKE)  # (8, 3)
FIELD = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
BASE = RatesBase(torch.tensor([-0.4, 0.2, 1.0], dtype=torch.float64))
CLAMP = torch.tensor([False, True, False])


def machine(kind: str, d: int = D, hidden: int = 2, size: float = 1.0, seed: int = 0) -> Energy:
    torch.manual_seed(seed)
    model = (
        IsingEnergy(d) if kind == "ising" else (RBMEnergy if kind == "rbm" else GaussianRBMEnergy)(d, hidden)
    )
    for offset in model.buffers():
        offset.copy_(torch.rand(offset.shape, generator=generator(seed)))
    return shaken(model.double(), size, seed).requires_grad_(False)  # type: ignore[return-value]


def log_target(model: Energy, field=None) -> Tensor:
    """log f of all states."""
    log_f = -model.energy(X)
    return log_f if field is None else log_f + X @ field


def counted(kernel, n: int = 20_000) -> Tensor:
    """How often one step led from each state to each, (8, 8), with the shares it should be within five deviations of."""
    state = kernel.init(X.repeat_interleave(n, 0))
    state, acceptance = kernel.step(state, generator())
    assert acceptance.shape == (8 * n,)
    to = (state.x @ torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).long().view(8, n)
    return F.one_hot(to, 8).double().mean(1)


def agree(found: Tensor, exact: Tensor, n: int = 20_000) -> None:
    torch.testing.assert_close(exact.sum(1), torch.ones(8, dtype=torch.float64))
    excess = (found - exact).abs() - 5 * (exact * (1 - exact) / n).clamp_min(0).sqrt()
    assert excess.max() < 1e-9, (found, exact)
    assert not found[exact == 0].any()


def conditional(log_f: Tensor, i: int) -> Tensor:
    """The matrix that redraws cell i given the others."""
    same = (X[:, None] == X)[:, :, [j for j in range(D) if j != i]].all(-1)
    return torch.softmax(log_f.expand(8, 8).masked_fill(~same, -torch.inf), 1)


@pytest.mark.parametrize("kind", ["ising", "rbm"])
def test_gibbs_is_the_product_of_its_conditionals(kind):
    model = machine(kind)
    log_f = log_target(model)
    exact = torch.linalg.multi_dot([conditional(log_f, i) for i in range(D)])
    agree(counted(Gibbs(model)), exact)
    p = torch.softmax(log_f, 0)
    torch.testing.assert_close(p @ exact, p)


def test_block_gibbs_goes_by_the_hidden_units():
    model, h = machine("rbm"), states(2, LIKE)
    W, b, c = model.weight, model.bias, model.hidden_bias
    centred, h = X - model.offset, h - model.hidden_offset
    log_joint = centred @ W @ h.T + (centred @ b).unsqueeze(1) + h @ c
    given = torch.softmax(log_joint, 1)  # p(h | v)
    exact = given @ torch.softmax(log_joint, 0).T  # Σ_h p(h | v) p(w | h)
    agree(counted(BlockGibbs(model)), exact)
    p = torch.softmax(log_target(model), 0)
    torch.testing.assert_close(p @ exact, p)


class Flipping(NamedTuple):
    """One flip as a kernel."""

    log_f: Callable[[Tensor], Tensor]
    clamp: Tensor | None

    def init(self, x: Tensor):
        return start(x, self.log_f)

    def step(self, state, g: torch.Generator):
        return flip(self.log_f, state, self.clamp, g, 1)


@pytest.mark.parametrize("clamp", [None, CLAMP])
@pytest.mark.parametrize(("kind", "beta", "base", "field"), [
    ("ising", 1.0, None, None), ("ising", 0.6, BASE, FIELD), ("rbm", 1.0, None, None), ("rbm", 1.7, BASE, FIELD),
])  # fmt: skip
def test_gibbs_with_gradients_is_in_detailed_balance(kind, beta, base, field, clamp):
    model = machine(kind)

    def log_density(x: Tensor) -> Tensor:
        log_f = -beta * model.energy(x)
        return log_f if base is None else log_f + x @ (base.logits + field)

    _, log_f, gradient = start(X, log_density)
    gain = torch.exp((1 - 2 * X) * gradient / 2)
    if clamp is not None:
        gain[:, clamp] = 0
    q = gain / gain.sum(1, keepdim=True)  # of the cell to flip
    exact = torch.zeros(8, 8, dtype=torch.float64)
    acceptance = torch.zeros(8, dtype=torch.float64)
    for s in range(8):
        for i in range(D):
            t = s ^ (1 << i)
            a = min(1.0, float(torch.exp(log_f[t] - log_f[s]) * q[t, i] / q[s, i])) if q[s, i] > 0 else 0.0
            exact[s, t] = q[s, i] * a
            acceptance[s] += q[s, i] * a
    exact += torch.diag(1 - exact.sum(1))
    flow = torch.softmax(log_f, 0).unsqueeze(1) * exact
    torch.testing.assert_close(flow, flow.T)
    kernel = Flipping(log_density, clamp)
    agree(counted(kernel), exact)
    _, found = kernel.step(kernel.init(X.repeat(20_000, 1)), generator(1))
    torch.testing.assert_close(found.view(-1, 8).mean(0), acceptance, atol=0.01, rtol=0)


def test_gibbs_with_gradients_keeps_value_and_gradient_and_can_flip_several():
    model = machine("rbm", 6, 3)
    kernel = GibbsWithGradients(model, flips=10)
    x = (torch.rand(50, 6, generator=generator(), dtype=torch.float64) < 0.5).double()
    state, acceptance = kernel.step(kernel.init(x), generator(1))
    fresh = kernel.init(state.x)
    torch.testing.assert_close(state.log_density, fresh.log_density)
    torch.testing.assert_close(state.gradient, fresh.gradient)
    assert ((state.x != x).sum(1) > 1).any()
    assert ((acceptance > 0) & (acceptance <= 1)).all()


def test_clamped_cells_stay_row_by_row():
    model = machine("rbm", 6, 3)
    x = (torch.rand(40, 6, generator=generator(), dtype=torch.float64) < 0.5).double()
    clamp = torch.rand(40, 6, generator=generator(1)) < 0.5
    clamp[0] = True  # nothing to move
    state, _ = flip(lambda x: -model.energy(x), start(x, lambda x: -model.energy(x)), clamp, generator(), 20)
    assert torch.equal(state.x[clamp], x[clamp])
    assert (state.x != x)[1:].any()
    assert ((state.x == 0) | (state.x == 1)).all()


def test_block_gibbs_of_real_cells_leaves_the_mixture_as_it_is():
    """Moments of chains that start in the mixture of Gaussians against its own."""
    model, n = machine("gaussian", 2, 2, 0.8), 200_000
    h = states(2, LIKE)
    s, centred = model.visible_scale(), h - model.hidden_offset
    w = centred @ model.weight.T
    mean = model.bias + s * w  # of v given h
    # ∫ exp(−½‖(v − b)/s‖² + vᵀw/s) dv ∝ exp(½ w² + b w/s)
    log_p = centred @ model.hidden_bias - w @ (model.offset / s)
    p = torch.softmax(log_p + (0.5 * w.square() + model.bias * w / s).sum(1), 0)
    which = torch.multinomial(p, n, replacement=True, generator=generator())
    v = mean[which] + s * torch.randn(n, 2, generator=generator(1), dtype=torch.float64)
    kernel = BlockGibbs(model)
    state = kernel.init(v)
    for seed in range(3):
        state, acceptance = kernel.step(state, generator(2 + seed))
    second = torch.einsum("h,hi,hj->ij", p, mean, mean) + torch.diag(s.square())
    torch.testing.assert_close(state.x.mean(0), p @ mean, atol=0.02, rtol=0)
    torch.testing.assert_close(state.x.T @ state.x / n, second, atol=0.05, rtol=0)
    assert (state.x != v).all()
    assert (acceptance == 1).all()


def test_what_is_illegal_is_refused():
    for make in (Gibbs, GibbsWithGradients):
        with pytest.raises(ValueError, match="binary cells, but GaussianRBMEnergy has real"):
            make(machine("gaussian"))
    with pytest.raises(ValueError, match="flips must be at least 1, got 0"):
        GibbsWithGradients(machine("ising"), flips=0)
    full = NormalBase(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) + 0.5)
    with pytest.raises(ValueError, match="diagonal"):
        BlockGibbsPath(machine("gaussian"), full)
    with pytest.raises(ValueError, match="base: needs real cells"):
        BlockGibbsPath(machine("gaussian"), BASE)
    with pytest.raises(ValueError, match="x and observed"):
        BinaryPath(Density(machine("ising"), BASE), BASE, x=X)
    path = BinaryPath(Density(machine("ising"), BASE), BASE, x=X, observed=X > 2)
    with pytest.raises(ValueError, match="populations must be the 8 rows"):
        path.draw(5, 3, generator())


# ---------------------------------------------------------------- paths

ROWS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
SEEN = torch.tensor([[True, False, False], [False, False, False], [False, True, True]])


def path_of(kind: str, given: bool = False, field: Tensor | None = None, shared: bool = False):
    model = machine("rbm" if kind == "block" else kind)
    known = {"x": ROWS, "observed": SEEN} if given else {}
    options = {**known, "field": field, "shared": shared}
    return (
        BlockGibbsPath(model, BASE, **options)
        if kind == "block"
        else BinaryPath(Density(model, BASE), BASE, **options)
    )  # type: ignore[arg-type]


def model_of(path):
    return path.target if isinstance(path, BlockGibbsPath) else path.target.model


def log_sums(path, given: bool, field: Tensor | None) -> Tensor:
    """log Σ exp(−E + aᵀx) over all states that agree with what each of three rows knows, (3,)."""
    log_f = log_target(model_of(path), field=field).expand(3, 8)
    if given:
        fits = ((ROWS.unsqueeze(1) == X) | ~SEEN.unsqueeze(1)).all(-1)
        log_f = log_f.masked_fill(~fits, -torch.inf)
    return torch.logsumexp(log_f, 1)


def annealed(path, particles: int, populations: int, steps: int) -> tuple[Tensor, Tensor]:
    """Annealed importance sampling, as short as it can be: x and log w, (particles, populations)."""
    g = generator()
    x, log_w = path.draw(particles, populations, g), 0.0
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64).unsqueeze(-1).expand(-1, populations)
    for i in range(steps):
        log_w = log_w + path.increment(path.statistic(x), t[i], t[i + 1])
        x, _ = path.move(x, t[i + 1], torch.ones(populations), g)
    return x, log_w  # type: ignore[return-value]


def log_density(path, x: Tensor, t: float) -> Tensor:
    """log f_t(x) = log f_0 + (log f_t − log f_0), with f_0 the rates of the blank cells."""
    cells = x * BASE.logits - F.softplus(BASE.logits)
    first = (cells if path.observed is None else cells.masked_fill(path.observed, 0)).sum(-1)
    zero = torch.zeros(x.shape[1], dtype=torch.float64)
    return first + path.increment(path.statistic(x), zero, zero + t)


@pytest.mark.parametrize("field", [None, FIELD])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", ["block", "rbm", "ising"])
def test_increments_lead_from_the_base_to_the_energy(kind, given, field):
    path = path_of(kind, given, field)
    x = path.draw(6, 3, generator())
    statistic = path.statistic(x)
    t = torch.tensor([0.0, 0.1, 0.35, 0.9, 1.0], dtype=torch.float64).unsqueeze(-1).expand(5, 3)
    total = sum(path.increment(statistic, t[i], t[i + 1]) for i in range(4))
    last = -model_of(path).energy(x) if field is None else -model_of(path).energy(x) + x @ field
    cells = x * BASE.logits - F.softplus(BASE.logits)
    torch.testing.assert_close(total, last - (cells.masked_fill(SEEN, 0) if given else cells).sum(-1))
    assert path.increment(statistic, torch.tensor(0.2), torch.tensor(0.4)).shape == (6, 3)
    if given:
        assert (x == ROWS)[:, SEEN].all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", ["block", "rbm", "ising"])
def test_moves_leave_every_density_of_the_path_as_it_is(kind, given, shared):
    path, n, t = path_of(kind, given, FIELD, shared), 60_000, 0.4
    every = X.unsqueeze(1).expand(8, 3, D)
    fits = ((every == ROWS) | ~SEEN).all(-1) if given else torch.ones(8, 3, dtype=torch.bool)
    p = torch.softmax(log_density(path, every, t).masked_fill(~fits, -torch.inf), 0)  # (8, 3)
    index = torch.multinomial(p.T, n, replacement=True, generator=generator()).T
    x, acceptance = path.move(X[index], torch.full((3,), t, dtype=torch.float64), torch.ones(3), generator(1))
    assert acceptance.shape == (n, 3)
    assert ((acceptance >= 0) & (acceptance <= 1)).all()
    assert kind != "block" or (acceptance == 1).all()
    found = F.one_hot((x @ torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).long(), 8).double().mean(0).T
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-12).all()
    assert (x != X[index]).any()


@pytest.mark.parametrize("shared", [False, True])
def test_shared_numbers_move_rows_alike(shared):
    """With shared numbers a row's particles do not depend on which rows come along."""

    def run(rows):
        path = BinaryPath(
            Density(machine("ising"), BASE), BASE, x=ROWS[rows], observed=SEEN[rows], shared=shared
        )
        x = path.draw(40, len(rows), generator())
        return path.move(x, torch.full((len(rows),), 0.5, dtype=torch.float64), torch.ones(1), generator(1))[
            0
        ]

    assert torch.equal(run([0, 1, 2])[:, [2, 1]], run([2, 1])) == shared


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", ["block", "rbm", "ising"])
def test_annealed_sums_are_exact_sums(kind, given):
    """E[Ẑ] = Z: the average weight of many particles, with few temperatures."""
    path = path_of(kind, given, FIELD)
    x, log_w = annealed(path, 20_000, 3, 5)
    torch.testing.assert_close(multi_sample(log_w), log_sums(path, given, FIELD), atol=0.03, rtol=0)
    if given:  # what is left are draws from the conditional
        p = torch.exp(log_target(model_of(path), field=FIELD) - log_sums(path, True, FIELD)[0]) * (
            X[:, 0] == 1
        )
        mean = torch.softmax(log_w[:, 0], 0) @ x[:, 0]
        torch.testing.assert_close(mean, p @ X, atol=0.02, rtol=0)


@pytest.mark.parametrize("given", [False, True])
def test_annealing_of_real_cells(given):
    model = machine("gaussian", 2, 2, 0.8)
    base = NormalBase(
        torch.tensor([0.5, 0.0], dtype=torch.float64),
        torch.diag(torch.tensor([4.0, 2.0], dtype=torch.float64)),
    )
    x = torch.tensor([[0.7, 0.0]], dtype=torch.float64)
    observed = torch.tensor([[True, False]])
    path = BlockGibbsPath(model, base, x, observed) if given else BlockGibbsPath(model, base)
    drawn = path.draw(50, 1, generator())
    zero = torch.zeros(1, dtype=torch.float64)
    if given:
        line = torch.linspace(-20, 20, 4001, dtype=torch.float64)
        points = torch.stack([torch.full_like(line, 0.7), line], -1)
        exact = torch.logsumexp(-model.energy(points), 0) + math.log(0.01)
        first = -0.5 * drawn[..., 1].square() / 2 - 0.5 * math.log(2) - 0.5 * LOG_2PI
    else:
        exact, first = model.log_z(), base.log_prob(drawn)
    increment = path.increment(path.statistic(drawn), zero, zero + 1)
    torch.testing.assert_close(increment, -model.energy(drawn) - first)
    _, log_w = annealed(path, 20_000, 1, 8)
    assert float(multi_sample(log_w)) == pytest.approx(float(exact), abs=0.03)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_moves_of_real_cells(t):
    """One move at t from one point: the mixture over h of Gaussians whose precisions interpolate."""
    model, n = machine("gaussian", 2, 2, 0.8), 100_000
    base = NormalBase(
        torch.tensor([0.5, 0.0], dtype=torch.float64),
        torch.diag(torch.tensor([4.0, 2.0], dtype=torch.float64)),
    )
    field = torch.tensor([0.3, -0.2], dtype=torch.float64)
    path = BlockGibbsPath(model, base, field=field)
    x = torch.tensor([0.4, -0.6], dtype=torch.float64).expand(n, 1, 2)
    moved, _ = path.move(x, torch.full((1,), t, dtype=torch.float64), torch.ones(1), generator())
    h = states(2, LIKE)
    p = torch.softmax(t * (h @ model.hidden_logits(x[0, 0])), 0)
    precision = (1 - t) / base.scale.square() + t / model.visible_scale().square()
    pull = (1 - t) * base.mean / base.scale.square() + t * (
        model.bias / model.visible_scale().square() + field
    )
    mean = (pull + t * ((h - model.hidden_offset) @ model.weight.T) / model.visible_scale()) / precision
    torch.testing.assert_close(moved[:, 0].mean(0), p @ mean, atol=0.03, rtol=0)
    second = torch.einsum("h,hi,hj->ij", p, mean, mean) + torch.diag(1 / precision)
    np.testing.assert_allclose(moved[:, 0].T @ moved[:, 0] / n, second, atol=0.08)
