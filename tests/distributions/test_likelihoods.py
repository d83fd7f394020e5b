"""Likelihoods against scipy, enumeration and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical as TorchCategorical

from abduce.distributions.cells import masked_sum, uniform_like
from abduce.distributions.continuous import ContinuousBernoulli, Gaussian, Laplace, RoundedGaussian, StudentT
from abduce.distributions.discrete import Bernoulli, BetaBinomial, Categorical, NegativeBinomial, Poisson
from abduce.distributions.likelihoods import Product
from abduce.distributions.pixels import DiscretizedLogisticMixture, _LogMixtureMass


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def a_gaussian(d: int = 5, batch: int = 3) -> Gaussian:
    return Gaussian(normal(batch, d), 0.3 + normal(batch, d, seed=2).square())


SEEN = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("seen", [None, SEEN], ids=["complete", "blanks"])
def test_gaussian_density(seen):
    g, x = a_gaussian(), normal(3, 5, seed=3)
    value = g.log_prob(x, seen)
    for i in range(3):
        o = np.ones(5, bool) if seen is None else seen[i].numpy()
        if not o.any():
            assert value[i].item() == pytest.approx(0.0, abs=1e-12)
            continue
        expected = stats.norm(g.mean[i].numpy()[o], g.scale[i].numpy()[o]).logpdf(x[i].numpy()[o]).sum()
        assert value[i].item() == pytest.approx(expected, abs=1e-9)


def test_gaussian_draws():
    g = a_gaussian(d=3, batch=1)
    n = 200_000
    x = Gaussian(g.mean.expand(n, -1), g.scale).sample(generator())
    np.testing.assert_allclose(x.mean(0), g.mean[0], atol=0.02)
    np.testing.assert_allclose(np.cov(x.numpy().T), np.diag(g.variance()[0]), atol=0.05)
    assert torch.equal(g.variance(), g.scale.square())
    assert torch.equal(g.moments().squeeze(-1), g.mean)
    assert g.gaussian() is g


def test_bernoulli_against_scipy():
    logits = torch.linspace(-8, 8, 9, dtype=torch.float64)
    p = torch.sigmoid(logits).numpy()
    law = Bernoulli(logits)
    for x in (0.0, 1.0):
        expected = stats.bernoulli(p).logpmf(x).sum()
        assert law.log_prob(torch.full_like(logits, x)).item() == pytest.approx(expected)
    np.testing.assert_allclose(law.moments().squeeze(-1), p)
    np.testing.assert_allclose(law.gaussian().scale, np.sqrt(p * (1 - p)))
    assert Bernoulli(torch.tensor([1e4, -1e4])).log_prob(torch.tensor([0.0, 1.0])).item() == -2e4
    draws = Bernoulli(logits.expand(100_000, -1)).sample(generator())
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), p, atol=0.008)


def test_categorical_against_torch():
    logits = normal(4, 3, 5)
    law = Categorical(torch.log_softmax(logits, -1))
    x = torch.randint(5, (4, 3), generator=generator())
    torch.testing.assert_close(law.log_prob(x.double()), TorchCategorical(logits=logits).log_prob(x).sum(-1))
    torch.testing.assert_close(law.moments().sum(-1), torch.ones(4, 3).double())
    g = law.gaussian()
    p, codes = law.moments(), torch.arange(5.0).double()
    torch.testing.assert_close(g.mean, (p * codes).sum(-1))
    torch.testing.assert_close(g.scale.square(), (p * (codes - g.mean.unsqueeze(-1)).square()).sum(-1))
    # latents with a samples axis against one row of data
    many = Categorical(torch.log_softmax(normal(6, 4, 3, 5), -1))
    assert many.log_prob(x.double()).shape == (6, 4)


def test_categorical_padding_is_never_drawn():
    log_probs = torch.log(torch.tensor([[0.2, 0.8, 0.0], [0.1, 0.2, 0.7]], dtype=torch.float64))
    draws = Categorical(log_probs.expand(50_000, -1, -1)).sample(generator())
    shares = torch.stack([(draws == k).double().mean(0) for k in range(3)], -1)
    torch.testing.assert_close(shares, log_probs.exp(), atol=0.01, rtol=0)
    assert shares[0, 2] == 0


@given(st.floats(-3, 6), st.floats(-3, 6), st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_negative_binomial_against_scipy(log_mean, log_dispersion, counts):
    mu, r = math.exp(log_mean), math.exp(log_dispersion)
    x = torch.tensor(counts, dtype=torch.float64)
    law = NegativeBinomial(torch.full_like(x, log_mean), torch.tensor([log_dispersion], dtype=torch.float64))
    expected = stats.nbinom(r, r / (r + mu)).logpmf(counts).sum()
    assert law.log_prob(x).item() == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_negative_binomial_moments_and_draws():
    log_mean = torch.log(torch.tensor([0.5, 4.0, 30.0], dtype=torch.float64))
    log_r = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    law = NegativeBinomial(log_mean, log_r)
    r, mu = log_r.exp().numpy(), log_mean.exp().numpy()
    exact = stats.nbinom(r, r / (r + mu))
    np.testing.assert_allclose(law.moments().squeeze(-1), exact.mean())
    np.testing.assert_allclose(law.gaussian().scale, exact.std())
    x = NegativeBinomial(log_mean.expand(100_000, -1), log_r).sample(generator())
    np.testing.assert_allclose(x.mean(0), exact.mean(), rtol=0.02)
    np.testing.assert_allclose(x.std(0), exact.std(), rtol=0.03)
    # r → ∞ is Poisson
    poisson = NegativeBinomial(torch.log(torch.tensor([3.0])).double(), torch.tensor([18.0]).double())
    assert poisson.log_prob(torch.tensor([5.0]).double()).item() == pytest.approx(
        stats.poisson(3.0).logpmf(5), abs=1e-5
    )


def mixture(levels: int, cells: int = 4, components: int = 3, seed: int = 0, spread: float = 1.0):
    logits = normal(2, components, cells, seed=seed)
    loc = spread * normal(2, components, cells, seed=seed + 1)
    log_scale = -2 + normal(2, components, cells, seed=seed + 2)
    return logits, loc, log_scale, levels


def grid(levels: int) -> torch.Tensor:
    return torch.linspace(-1, 1, levels, dtype=torch.float64)


def stops() -> torch.Tensor:
    return normal(2, 2, 4, seed=9)


@pytest.mark.parametrize(
    ("levels", "own"), [(2, None), (3, None), (17, None), (256, None), (3, stops()), (17, stops())]
)
def test_pixels_sum_to_one_and_equal_their_table(levels, own):
    law = DiscretizedLogisticMixture(*mixture(levels), own)
    table = law.probabilities()
    torch.testing.assert_close(table.sum(-1), torch.ones(2, 4).double())
    by_level = torch.stack([law._log_mass(v.expand(2, 4)) for v in grid(levels)], -1)
    torch.testing.assert_close(by_level.exp(), table, atol=1e-12, rtol=1e-7)
    x = grid(levels)[torch.randint(levels, (2, 4), generator=generator())]
    torch.testing.assert_close(law.log_prob(x), law._log_mass(x).sum(-1))


def test_stops_have_masses_of_their_own_and_logistics_are_cut_off_between():
    """By SciPy's logistic law, also where it lies far beyond a stop, and in single precision."""
    levels, scale = 17, 0.1
    for loc in (-3.0, -1.0, 0.2, 1.0, 4.0):
        place, own = torch.full((1, 1, 1), loc).double(), torch.tensor([[[0.5], [-1.0]]]).double()
        width = torch.full((1, 1, 1), math.log(scale)).double()
        law = DiscretizedLogisticMixture(torch.zeros(1, 1, 1).double(), place, width, levels, own)
        shares = np.exp([0.5, 0.0, -1.0]) / np.exp([0.5, 0.0, -1.0]).sum()
        cuts = (np.linspace(-1 + 1 / 16, 1 - 1 / 16, 16) - loc) / scale
        tail = stats.logistic.cdf(np.sign(loc) * cuts)  # from the nearer tail
        inner = np.diff(tail) / (tail[-1] - tail[0])
        expected = np.r_[shares[0], shares[1] * inner, shares[2]]
        np.testing.assert_allclose(law.probabilities()[0, 0], expected, rtol=1e-6)
        parts = (t.float() for t in (law.logits, law.loc, law.log_scale))
        single = DiscretizedLogisticMixture(*parts, levels, own.float())
        np.testing.assert_allclose(single.probabilities()[0, 0], expected, rtol=2e-4, atol=1e-6)
        each = torch.stack([single.log_prob(v.expand(1, 1).float()) for v in grid(levels)])[:, 0]
        np.testing.assert_allclose(each, np.log(expected), rtol=1e-4, atol=1e-4)
        many = DiscretizedLogisticMixture(
            *(t.expand(20_000, 1, 1) for t in (law.logits, law.loc, law.log_scale)),
            levels,
            own.expand(20_000, 2, 1),
        )
        drawn = many.sample(generator())
        assert torch.isin((drawn * 8).round(), torch.arange(-8.0, 9.0).double()).all()
        counts = np.bincount(((drawn + 1) * 8).round().long().flatten(), minlength=17) / 20_000
        np.testing.assert_allclose(counts, expected, atol=0.015)


@settings(max_examples=30)
@given(
    st.integers(0, 10_000), st.sampled_from([2, 5, 17, 256]), st.sampled_from([torch.float32, torch.float64])
)
def test_pixel_gradient_by_hand_equals_autograd(seed, levels, dtype):
    logits, loc, log_scale, _ = mixture(levels, seed=seed)
    x = grid(levels)[torch.randint(levels, (2, 4), generator=generator(seed))]
    exact = [t.clone().requires_grad_() for t in (logits, loc, log_scale)]
    value = DiscretizedLogisticMixture(*exact, levels)._log_mass(x)
    upstream = normal(2, 4, seed=seed)
    wanted = torch.autograd.grad((value * upstream).sum(), exact)

    own = [t.to(dtype).requires_grad_() for t in (logits, loc, log_scale)]
    by_hand = _LogMixtureMass.apply(*own, x.to(dtype), 1 / (levels - 1))
    got = torch.autograd.grad((by_hand * upstream.to(dtype)).sum(), own)
    likely = value > (math.log(1e-3) if dtype == torch.float32 else math.log(1e-9))
    torch.testing.assert_close(by_hand.double()[likely], value[likely], **_tolerance(dtype))
    mask = likely.unsqueeze(-2).expand_as(logits)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double()[mask], b[mask], **_tolerance(dtype))


def _tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 5e-3, "atol": 5e-3} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-6}


def test_pixel_tails_stay_finite():
    levels = 256
    for dtype in (torch.float32, torch.float64):
        loc = torch.full((1, 3, 2), 30.0, dtype=dtype, requires_grad=True)
        log_scale = torch.full((1, 3, 2), -7.0, dtype=dtype, requires_grad=True)
        logits = torch.zeros(1, 3, 2, dtype=dtype, requires_grad=True)
        x = torch.tensor([[-1.0, 0.0]], dtype=dtype)
        value = DiscretizedLogisticMixture(logits, loc, log_scale, levels).log_prob(x)
        grads = torch.autograd.grad(value.sum(), (logits, loc, log_scale))
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in grads)
    # the exact form falls off linearly, at a slope of 1/s, as a logistic's tail does
    law = DiscretizedLogisticMixture(*(t.detach() for t in (logits, loc, log_scale)), levels)
    far = DiscretizedLogisticMixture(logits.detach(), loc.detach() + 1, log_scale.detach(), levels)
    drop = (law.log_prob(x) - far.log_prob(x)).item()
    assert drop == pytest.approx(2 * math.exp(7.0), rel=1e-6)


@pytest.mark.parametrize(("levels", "own"), [(2, None), (17, None), (17, stops())])
def test_pixel_draws_have_the_stated_moments(levels, own):
    law = DiscretizedLogisticMixture(*mixture(levels, spread=0.5), own)
    many = DiscretizedLogisticMixture(
        *(t.repeat(30_000, 1, 1) for t in (law.logits, law.loc, law.log_scale)),
        levels,
        None if own is None else own.repeat(30_000, 1, 1),
    )
    x = many.sample(generator()).view(30_000, 2, 4)
    assert torch.isin((x * (levels - 1)).round(), (grid(levels) * (levels - 1)).round()).all()
    g = law.gaussian()
    torch.testing.assert_close(x.mean(0), g.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), g.scale, atol=0.02, rtol=0)
    shares = torch.stack([(x - v).abs().lt(1e-6).double().mean(0) for v in grid(levels)], -1)
    torch.testing.assert_close(shares, law.probabilities(), atol=0.015, rtol=0)


@pytest.mark.parametrize("own", [None, stops()], ids=["open", "stops"])
def test_fine_pixels_close_to_the_exact_moments(own):
    logits, loc, log_scale, _ = mixture(256, spread=0.3)
    law = DiscretizedLogisticMixture(logits, loc.clamp(-0.5, 0.5), log_scale.clamp(-4, -3), 256, own)
    p, x = law.probabilities(), grid(256)
    mean = (p * x).sum(-1)
    torch.testing.assert_close(law.gaussian().mean, mean, atol=0.01, rtol=0)
    sd = ((p * x.square()).sum(-1) - mean.square()).sqrt()
    torch.testing.assert_close(law.gaussian().scale, sd, atol=0.02, rtol=0)


def test_rounded_gaussian_is_the_mass_of_its_interval():
    mean, scale, half = normal(3, 4), 0.2 + normal(3, 4, seed=1).square(), 0.0625
    x = torch.round(normal(3, 4, seed=2) * 8) / 8
    distance, law = (x - mean).abs().numpy(), stats.norm(0, scale.numpy())
    mass = law.sf(distance - half) - law.sf(distance + half)  # from the tail: no cancellation
    value = RoundedGaussian(mean, scale, half).log_prob(x)
    np.testing.assert_allclose(value, np.log(mass).sum(-1), rtol=1e-9)
    lattice = torch.arange(-400, 401).double() / 8  # the intervals tile the line
    every = RoundedGaussian(mean[:1, :1], scale[:1, :1], half).log_prob(lattice.unsqueeze(-1))
    assert torch.logsumexp(every, 0).item() == pytest.approx(0, abs=1e-9)
    # far out it is the density times the step, finite in single precision
    far = RoundedGaussian(torch.zeros(1), torch.ones(1), 1e-3).log_prob(torch.tensor([6.0]))
    assert far.item() == pytest.approx(stats.norm.logpdf(6.0) + math.log(2e-3), abs=1e-2)
    drawn = RoundedGaussian(torch.zeros(10_000, 1), torch.full((1,), 0.3), half).sample(generator())
    assert ((drawn + 1) / 0.125).frac().abs().max() < 1e-5
    assert drawn.std().item() == pytest.approx(0.3, abs=0.02)


def positive(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.3 + normal(*shape, seed=seed).square()


@given(st.floats(-3, 3), st.floats(-3, 2), st.floats(-20, 20))
def test_laplace_against_scipy(loc, log_scale, value):
    law = Laplace(torch.tensor([loc]).double(), torch.tensor([log_scale]).double().exp())
    got = law.log_prob(torch.tensor([value], dtype=torch.float64)).item()
    assert got == pytest.approx(
        stats.laplace(float(law.loc), float(law.scale)).logpdf(value), rel=1e-9, abs=1e-6
    )


@given(st.floats(-3, 3), st.floats(-3, 2), st.floats(2.05, 300), st.floats(-20, 20))
def test_student_t_against_scipy(loc, log_scale, df, value):
    loc, scale, nu = (torch.tensor([v], dtype=torch.float64) for v in (loc, math.exp(log_scale), df))
    got = StudentT(loc, scale, nu).log_prob(torch.tensor([value], dtype=torch.float64)).item()
    assert got == pytest.approx(stats.t(df, float(loc), float(scale)).logpdf(value), rel=1e-9, abs=1e-6)


@given(st.floats(-4, 6), st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_poisson_against_scipy(log_rate, counts):
    x = torch.tensor(counts, dtype=torch.float64)
    got = Poisson(torch.full_like(x, log_rate)).log_prob(x).item()
    assert got == pytest.approx(stats.poisson(math.exp(log_rate)).logpmf(counts).sum(), rel=1e-9, abs=1e-6)


@given(st.floats(-6, 6), st.floats(-3, 7), st.integers(1, 300), st.integers(0, 300))
def test_beta_binomial_against_scipy(logit, log_c, n, k):
    args = (torch.tensor([v], dtype=torch.float64) for v in (logit, log_c, n))
    law = BetaBinomial(*args)
    got = law.log_prob(torch.tensor([k], dtype=torch.float64)).item()
    p, c = 1 / (1 + math.exp(-logit)), math.exp(log_c)
    assert got == pytest.approx(stats.betabinom(n, p * c, (1 - p) * c).logpmf(k), rel=1e-7, abs=1e-6)


def test_beta_binomial_sums_to_one_over_counts_and_levels():
    logits, log_c = 3 * normal(40), 2 * normal(40, seed=1)
    for n in (1, 7, 255):
        k = torch.arange(n + 1).double().unsqueeze(-1).unsqueeze(-1)  # one cell a row
        most = torch.tensor([float(n)]).double()
        for pixels in (False, True):
            law = BetaBinomial(logits.unsqueeze(-1), log_c.unsqueeze(-1), most, pixels)
            total = torch.logsumexp(law.log_prob(2 * k / n - 1 if pixels else k), 0)
            torch.testing.assert_close(total, torch.zeros(40).double(), atol=1e-9, rtol=0)
    # beyond the largest count there is nothing; beyond white there is white
    counts = BetaBinomial(logits[:1], log_c[:1], most)
    assert counts.log_prob(torch.tensor([256.0]).double()).item() == -math.inf
    greys = BetaBinomial(logits[:1], log_c[:1], most, pixels=True)
    assert greys.log_prob(torch.tensor([1.2]).double()) == greys.log_prob(torch.tensor([1.0]).double())


def test_poisson_sums_to_one():
    law = Poisson(torch.tensor([-3.0, 0.0, 3.0]).double().unsqueeze(-1))
    total = torch.logsumexp(law.log_prob(torch.arange(200).double().view(-1, 1, 1)), 0)
    torch.testing.assert_close(total, torch.zeros(3).double(), atol=1e-9, rtol=0)


LOGITS = [-800.0, -40.0, -3.0, -0.3, -0.29, -1e-4, 0.0, 1e-9, 0.2, 0.31, 2.0, 60.0, 1000.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_against_quadrature(logit):
    law = ContinuousBernoulli(torch.tensor([logit], dtype=torch.float64))
    # nodes crowd where the mass is: an exponential slope at one end
    nodes, weights = np.polynomial.legendre.leggauss(400)
    width = min(1.0, 40 / max(abs(logit), 1.0))
    u = 0.5 * width * (nodes + 1)
    x = 2 * (1 - u if logit > 0 else u) - 1
    p = law.log_prob(torch.from_numpy(x).unsqueeze(-1)).exp().numpy()
    w = weights * width  # dx = 2 du
    assert (w * p).sum() == pytest.approx(1, abs=1e-6)
    mean = (w * p * x).sum()
    assert law.moments().item() == pytest.approx(mean, abs=1e-6)
    sd = math.sqrt(max((w * p * (x - mean) ** 2).sum(), 1e-8))
    assert law.gaussian().scale.item() == pytest.approx(sd, abs=1e-6)
    if abs(logit) < 30:  # the form of the paper: C(λ) λ^u (1 − λ)^{1−u}, halved as x = 2u − 1
        lam = 1 / (1 + math.exp(-logit))
        c = 2.0 if abs(lam - 0.5) < 1e-3 else 2 * math.atanh(1 - 2 * lam) / (1 - 2 * lam)
        v = 0.5 * (x + 1)
        np.testing.assert_allclose(p, 0.5 * c * lam**v * (1 - lam) ** (1 - v), rtol=1e-4)
    single = ContinuousBernoulli(torch.tensor([logit], requires_grad=True))
    value = single.log_prob(torch.tensor([[-1.0], [0.2], [1.0]]))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(single.logits.grad).all()


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_continuous_bernoulli_over_grey_levels_sums_to_one(levels):
    law = ContinuousBernoulli(torch.tensor(LOGITS, dtype=torch.float64).unsqueeze(-1), 1 / (levels - 1))
    x = torch.linspace(-1, 1, levels, dtype=torch.float64).view(-1, 1, 1)
    total = torch.logsumexp(law.log_prob(x), 0)
    torch.testing.assert_close(total, torch.zeros(len(LOGITS)).double(), atol=1e-8, rtol=0)
    assert torch.isfinite(law.log_prob(torch.tensor([1.7]).double())).all()


@pytest.mark.parametrize("half", [1 / 255, 1 / 16, 0.2])
def test_rounded_cells_have_the_mass_of_their_interval(half):
    loc, scale, df = normal(5), 0.2 + positive(5, seed=1), 2.1 + positive(5, seed=2)
    x = torch.round(normal(30, 5, seed=3) / half) * half
    for law, exact in (
        (Laplace(loc, scale, half), stats.laplace(loc.numpy(), scale.numpy())),
        (StudentT(loc, scale, df, half), stats.t(df.numpy(), loc.numpy(), scale.numpy())),
    ):
        mass = exact.cdf(x.numpy() + half) - exact.cdf(x.numpy() - half)
        np.testing.assert_allclose(law.log_prob(x), np.log(mass).sum(-1), rtol=1e-5, atol=1e-5)
        drawn = law.sample(generator())
        assert ((drawn + 1) / (2 * half)).sub(((drawn + 1) / (2 * half)).round()).abs().max() < 1e-6
    # far out, and where the interval holds all of it
    far = Laplace(torch.zeros(2), torch.full((2,), 1e-3), half).log_prob(torch.tensor([[500.0, 0.0]]))
    assert far.item() == pytest.approx(half / 1e-3 - 500 / 1e-3 - math.log(2), rel=1e-6)


def test_draws_of_the_newer_laws_have_the_stated_moments():
    logits = torch.tensor([-5.0, -0.5, 0.0, 3.0]).double()
    df = torch.tensor([5.0, 6.0, 8.0, 40.0]).double()
    laws = [
        Laplace(normal(4), positive(4)),
        StudentT(normal(4), positive(4), df),
        ContinuousBernoulli(logits),
        Poisson(torch.tensor([-2.0, 0.0, 1.0, 4.0]).double()),
        BetaBinomial(logits, normal(4), torch.tensor([1.0, 5.0, 20.0, 100.0]).double()),
        BetaBinomial(logits, normal(4), torch.full((4,), 16.0).double(), pixels=True),
    ]
    n = 60_000
    for law in laws:
        for name, value in vars(law).items():  # the same cells many times
            if isinstance(value, torch.Tensor) and name != "n":
                setattr(law, name, value.expand(n, -1))
        x, g = law.sample(generator()), law.gaussian()
        assert x.dtype == torch.float64
        error = 4 * g.scale[0] / math.sqrt(n)
        assert ((x.mean(0) - g.mean[0]).abs() < error).all(), type(law).__name__
        torch.testing.assert_close(law.moments().squeeze(-1), g.mean)
        torch.testing.assert_close(x.std(0), g.scale[0], rtol=0.06, atol=1e-3)


@pytest.mark.parametrize("half", [0.0, 0.125])
def test_gradients_of_the_newer_densities(half):
    shape = (2, 3)
    x, a = normal(*shape, seed=9), normal(*shape).requires_grad_()
    b, df = positive(*shape, seed=1).requires_grad_(), (2.1 + positive(*shape, seed=2)).requires_grad_()
    pixel = torch.tensor([[-1.0, -0.5, 1.0], [0.0, 0.25, -0.75]]).double()
    assert torch.autograd.gradcheck(lambda p, q: Laplace(p, q, half).log_prob(x), (a, b))
    assert torch.autograd.gradcheck(lambda p, q, r: StudentT(p, q, r, half).log_prob(x), (a, b, df))
    assert torch.autograd.gradcheck(lambda p: ContinuousBernoulli(p, half).log_prob(pixel), a)
    assert torch.autograd.gradcheck(lambda p: ContinuousBernoulli(9 * p, half).log_prob(pixel), a)


def test_gradients_of_the_newer_counts():
    k, n = torch.tensor([[0.0, 3.0, 7.0], [1.0, 2.0, 0.0]]).double(), torch.tensor([3.0, 3.0, 9.0]).double()
    pixel = torch.tensor([[-1.0, -0.5, 1.0], [0.0, 0.25, -0.75]]).double()
    a, b = normal(2, 3).requires_grad_(), positive(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: Poisson(p).log_prob(k), a)
    assert torch.autograd.gradcheck(lambda p, q: BetaBinomial(p, q, n).log_prob(k.minimum(n)), (a, b))
    assert torch.autograd.gradcheck(lambda p, q: BetaBinomial(p, q, n, True).log_prob(pixel), (a, b))


@given(st.integers(0, 15), st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 999))
@settings(max_examples=40)
def test_any_mask_adds_only_what_is_observed(which, mask, seed):
    """The observed cells' terms and nothing else, whatever stands in the others."""
    law = families()[which % len(families())]
    seen = torch.tensor(mask).view(2, 4)
    x = law.sample(generator(seed))
    junk = torch.where(seen, x, torch.full_like(x, 1e3) if not isinstance(law, Categorical) else 0 * x)
    alone = sum(law.log_prob(x, torch.eye(4, dtype=torch.bool)[i] & seen) for i in range(4))
    torch.testing.assert_close(law.log_prob(junk, seen), alone)


def families() -> list:
    return [
        Laplace(normal(2, 4), positive(2, 4)),
        Laplace(normal(2, 4), positive(2, 4), 0.125),
        StudentT(normal(2, 4), positive(2, 4), torch.full((4,), 3.0).double()),
        StudentT(normal(2, 4), positive(2, 4), torch.full((4,), 3.0).double(), 0.125),
        ContinuousBernoulli(normal(2, 4)),
        ContinuousBernoulli(normal(2, 4), 0.125),
        Poisson(normal(2, 4)),
        BetaBinomial(normal(2, 4), normal(4), torch.full((4,), 6.0).double()),
        BetaBinomial(normal(2, 4), normal(4), torch.full((4,), 6.0).double(), pixels=True),
        Gaussian(normal(2, 4), torch.ones(2, 4).double()),
        RoundedGaussian(normal(2, 4), torch.ones(2, 4).double(), 0.125),
        Bernoulli(normal(2, 4)),
        Categorical(torch.log_softmax(normal(2, 4, 3), -1)),
        NegativeBinomial(normal(2, 4), normal(4)),
        DiscretizedLogisticMixture(*mixture(5)),
        DiscretizedLogisticMixture(*mixture(5), stops()),
    ]


@pytest.mark.parametrize("law", families(), ids=lambda law: type(law).__name__)
def test_an_unobserved_cell_adds_exactly_nothing(law):
    x = law.sample(generator())
    seen = torch.tensor([[True, False, True, False], [False, False, False, True]])
    other = torch.where(seen, x, law.sample(generator(5)))
    assert torch.equal(law.log_prob(x, seen), law.log_prob(other, seen))
    nothing = torch.zeros_like(seen)
    torch.testing.assert_close(law.log_prob(x, nothing), torch.zeros(2).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(law.log_prob(x, ~nothing), law.log_prob(x))
    assert x.shape == (2, 4)
    assert law.moments().shape[:2] == (2, 4)


def test_masked_sum_ignores_what_is_not_finite():
    cells = torch.tensor([[1.0, torch.nan, torch.inf]])
    assert masked_sum(cells, torch.tensor([[True, False, False]])).item() == 1.0


def test_uniforms_never_touch_their_ends():
    u = uniform_like(torch.empty(200_000), generator())
    assert u.min() > 0
    assert u.max() < 1


def test_product_gathers_its_parts():
    g, b = Gaussian(normal(2, 2), torch.ones(2, 2).double()), Bernoulli(normal(2, 1))
    law = Product([(torch.tensor([0, 2]), g), (torch.tensor([1]), b)], 3)
    x = torch.tensor([[0.1, 1.0, -0.4], [0.3, 0.0, 2.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, False], [False, True, True]])
    expected = g.log_prob(x[:, [0, 2]], seen[:, [0, 2]]) + b.log_prob(x[:, [1]], seen[:, [1]])
    torch.testing.assert_close(law.log_prob(x, seen), expected)
    assert law.sample(generator()).shape == (2, 3)
    assert set(law.sample(generator())[:, 1].tolist()) <= {0.0, 1.0}
    whole = law.gaussian()
    torch.testing.assert_close(whole.mean[:, [0, 2]], g.mean)
    torch.testing.assert_close(whole.mean[:, 1], torch.sigmoid(b.logits)[:, 0])
    torch.testing.assert_close(whole.variance()[:, [0, 2]], g.variance())
    assert law.condition(x, seen) is law


def test_bernoulli_for_training_equals_the_plain_formula():
    """The hand-derived node of training: value and gradient, also at extreme logits and for cells not a multiple of 32."""
    logits = (6 * torch.randn(5, 100, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    x = (torch.rand(5, 100, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    plain = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    torch.testing.assert_close(Bernoulli(logits).log_prob(x), plain)
    assert torch.autograd.gradcheck(lambda t: Bernoulli(t).log_prob(x), logits)
    extreme = torch.tensor([[-90.0, -30.0, 0.0, 30.0, 90.0]]).requires_grad_()
    value = Bernoulli(extreme).log_prob(torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(value, torch.tensor([-0.693147]))
