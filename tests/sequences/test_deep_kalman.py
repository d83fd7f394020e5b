"""Deep Kalman models against the exact filter and smoother, and on series whose dynamics are known to bend."""

import math

import numpy as np
import pytest
import torch
from torch import Generator

from abduce import Series, load
from abduce.answers.answer import Effort
from abduce.data.seen import Seen
from abduce.fit.bounds import FIVO
from abduce.inference.weights import multi_sample, sequential
from abduce.sequences.deep_fit import DeepTraining, fit_deep
from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.twist import look_ahead
from abduce.sequences.var import VectorAutoregression, fit_var

A = torch.tensor([[0.7, 0.2, 0.1, 0.0], [-0.1, 0.5, 0.0, -0.2]]).double()
Q = torch.tensor([[0.5, 0.2], [0.2, 0.4]]).double()
R = torch.tensor([0.1, 0.2]).double()


def linear_series(series=4, steps=15, seed=0):
    start = VectorAutoregression(2, 2).load(A, Q, R)
    g = Generator().manual_seed(seed)
    nothing = Seen(torch.zeros(series, steps, 2).double(), torch.zeros(series, steps, 2).bool())
    y = start.answer(nothing).draws(1, g)[0]
    share = torch.linspace(0.2, 1.0, series) if series > 1 else torch.tensor([0.6])
    return start, y, torch.rand(y.shape, generator=g) < share[:, None, None]


def sine_map(series, steps, seed):
    """x_t = 2.5 sin(1.6 x_{t−1}) + .1 w seen through noise of .2: no line tells a step from the one before."""
    r = np.random.default_rng(seed)
    x, out = r.normal(size=series), []
    for _ in range(steps):
        x = 2.5 * np.sin(1.6 * x) + 0.1 * r.normal(size=series)
        out.append(x)
    seen = np.stack(out, 1) + 0.2 * r.normal(size=(series, steps))
    return torch.from_numpy(seen / 1.8).unsqueeze(2)


def bounds(model, y, mask, objective, runs, strength):
    """Many independent estimates of log p of one series, (runs,)."""
    rows = [v.expand(runs, *v.shape[1:]) for v in (y[:1], mask[:1])]
    return model.bound(*rows, objective, Generator().manual_seed(3), strength=strength).detach()


@pytest.mark.parametrize("particles", [1, 8])
@pytest.mark.parametrize("resampling", ["adaptive", "always", "never"])
def test_starts_exactly_at_the_autoregression(particles, resampling):
    start, y, mask = linear_series()
    model = DeepKalman.of(start)
    exact = start.answer(Seen(y, mask)).log_evidence
    found = model.bound(y, mask, FIVO(particles, resampling), Generator().manual_seed(0))
    assert torch.allclose(found, exact, atol=1e-9)
    assert torch.equal(model.answer(Seen(y, mask)).mean(), start.answer(Seen(y, mask)).mean())


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("resampling", ["adaptive", "always"])
def test_the_estimate_of_p_is_unbiased_and_the_bound_rises_with_particles(strength, resampling):
    start, y, mask = linear_series(1, 5)
    exact = float(start.answer(Seen(y, mask)).log_evidence)
    model, means = DeepKalman.of(start), []
    for particles in (1, 4, 32):
        found = bounds(model, y, mask, FIVO(particles, resampling), 4000, strength)
        ratio = (found - exact).exp()
        assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(ratio))
        means.append(float(found.mean()) - exact)
    assert means[0] < means[1] < means[2] < 0.01


def test_without_looking_ahead_many_particles_give_the_filters_log_p_of_each_step():
    start, y, mask = linear_series()
    model = DeepKalman.of(start).bending(True)
    exact = start.answer(Seen(y, mask)).step_log_prob
    found = model.step_log_prob(Seen(y, mask), Effort(particles=4000))
    assert torch.allclose(found, exact, atol=0.1)
    assert torch.allclose(
        found[~mask.any(2)], torch.zeros(()).double(), atol=1e-9
    )  # nothing seen tells nothing


def test_resampling_pays_on_long_series():
    start, y, mask = linear_series(1, 200, seed=1)
    model, exact = DeepKalman.of(start), float(start.answer(Seen(y, mask)).log_evidence)
    filtered, whole = (
        float(bounds(model, y, mask, FIVO(16, r), 50, 0.0).mean()) - exact for r in ("adaptive", "never")
    )
    assert whole < 2 * filtered < 0


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_drawn_paths_have_the_smoothers_moments_under_any_mask(strength):
    start, y, mask = linear_series(5, 15)
    seen, model = Seen(y, mask), DeepKalman.of(start).bending(True)
    model.strength.fill_(strength)
    exact = start.answer(seen)
    answers = [model.answer(seen, Effort(particles=256, seed=s)) for s in range(20)]
    centre = torch.stack([a.centre for a in answers]).mean(0)
    deviation = torch.stack([a.deviation for a in answers]).square().mean(0).sqrt()
    assert float((centre - exact.centre).abs().max()) < 0.12  # 4.5 standard errors of 1,280 draws
    assert float((deviation - exact.deviation).abs().max()) < 0.08
    blank = ~mask[0]
    drawn = torch.cat([a.draws(100, Generator().manual_seed(i)) for i, a in enumerate(answers)])
    truth = exact.draws(20_000, Generator().manual_seed(1))
    error = torch.cov(drawn[:, 0][:, blank].T) - torch.cov(truth[:, 0][:, blank].T)
    assert float(error.abs().max()) < 0.25  # standard error of 2,000 draws that share 20 sets of particles
    assert float(error.abs().mean()) < 0.06
    assert bool((drawn[:, mask] == y[mask]).all())
    assert bool(((answers[0].ess <= 256 + 1e-6) & (answers[0].ess >= 1)).all())


@pytest.mark.parametrize("seed", [0, 2, 6, 11])
def test_what_is_said_of_a_series_does_not_depend_on_the_others(seed):
    """Nor on whether their particles are resampled where its own are not: of these seeds all but the first."""
    start, y, mask = linear_series()
    model = DeepKalman.of(start).bending(True)
    torch.nn.init.normal_(model.transition.net[-1].weight, std=0.1, generator=Generator().manual_seed(seed))
    whole, alone = model.answer(Seen(y, mask)), model.answer(Seen(y[2:3], mask[2:3]))
    assert torch.allclose(whole.centre[2:3], alone.centre, atol=1e-9)
    assert torch.allclose(whole.log_evidence[2:3], alone.log_evidence, atol=1e-9)


def test_the_look_ahead_is_the_likelihood_of_later_steps():
    """log ψ_t(s) − log ψ_t(0) against log p of the later steps of series that begin in s."""
    start, y, mask = linear_series(1, 6)
    twist = look_ahead(start.space, y, mask)
    space, t = start.space, 2
    s = torch.randn(1, 3, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    s[0, 0] = 0.0
    steps = y.shape[1] - t - 1
    rows, mean, states = [], [], s[0]
    for _ in range(steps):
        states = states @ space.transition.mT
        mean.append(states[:, :2])
    noise = [space.noise]
    for _ in range(steps - 1):
        noise.append(space.transition @ noise[-1] @ space.transition.mT + space.noise)
    for i in range(steps):
        row = []
        for j in range(steps):
            low = min(i, j)
            power = torch.linalg.matrix_power(space.transition, abs(i - j))
            block = power @ noise[low] if i >= j else noise[low] @ power.mT
            row.append(block[:2, :2])
        rows.append(torch.cat(row, 1))
    there = mask[0, t + 1 :].flatten()
    covariance = (torch.cat(rows) + torch.diag(R.repeat(steps)))[there][:, there]
    law = torch.distributions.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)
    later = y[0, t + 1 :].flatten()[there]
    exact = torch.stack([law.log_prob(later - m.flatten()[there]) for m in torch.stack(mean, 1)])
    found = twist.log(t, s)[0]
    assert torch.allclose(found - found[0], exact - exact[0], atol=1e-8)


def test_sequential_weights_never_resampled_are_the_multi_sample_bound():
    log_w = torch.randn(7, 5, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    never, always = torch.zeros(7, 3).bool(), torch.ones(7, 3).bool()
    assert torch.allclose(sequential(log_w, never).sum(0), multi_sample(log_w.sum(0)))
    assert torch.allclose(sequential(log_w, always), torch.stack([multi_sample(w) for w in log_w]))
    once = never.clone()
    once[3] = True
    parts = multi_sample(log_w[:4].sum(0)) + multi_sample(log_w[4:].sum(0))
    assert torch.allclose(sequential(log_w, once).sum(0), parts)


def test_a_bound_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="resampling"):
        FIVO(resampling="sometimes")
    with pytest.raises(ValueError, match="samples"):
        FIVO(samples=0)
    with pytest.raises(ValueError, match="dynamics must be"):
        Series(dynamics="bent").fit(np.zeros(50))
    with pytest.raises(ValueError, match="at most 32 columns"):
        Series(dynamics="deep").fit(np.random.default_rng(0).normal(size=(50, 33)))


SHORT = DeepTraining(rounds=16, climbs=0, judged=24, judges=16)


@pytest.fixture(scope="module")
def bent():
    y, new = sine_map(60, 50, 0), sine_map(20, 50, 1)
    mask, known = (torch.rand(v.shape, generator=Generator().manual_seed(2)) < 0.8 for v in (y, new))
    start = fit_var(y, mask, 1)
    return start, fit_deep(y, mask, start, 0, SHORT), y, mask, new, known


def test_bending_dynamics_are_learnt_through_blanks(bent):
    start, model, _, _, new, known = bent
    seen, hidden = Seen(new, known), ~known
    line, curve = start.answer(seen), model.answer(seen, Effort(particles=128))
    assert model.bends
    assert float((curve.log_evidence - line.log_evidence).mean()) > 20
    errors = [float((a.centre - new)[hidden].abs().mean()) for a in (line, curve)]
    assert errors[1] < 0.65 * errors[0]
    inside = ((curve.centre - new).abs() < 1.645 * curve.deviation)[hidden]
    assert 0.8 < float(inside.double().mean()) <= 1.0
    x = torch.linspace(-1.3, 1.3, 27).double().unsqueeze(1)
    truth = 2.5 / 1.8 * torch.sin(1.6 * 1.8 * x)
    assert float((model.mean(x) - truth).abs().mean()) < 0.3 * float(truth.abs().mean())


def test_the_same_seed_gives_the_same_model(bent):
    start, _, y, mask, *_ = bent
    brief = DeepTraining(rounds=2, climbs=1, steps=3, judged=8, judges=4)
    first, second = (fit_deep(y, mask, start, 5, brief).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_lines_stay_where_the_dynamics_are_linear():
    start, y, mask = linear_series(40, 40, seed=3)
    fitted = fit_var(y, mask, 2, start)
    model = fit_deep(y, mask, fitted, 0, DeepTraining(rounds=4, climbs=0, judges=16))
    new = linear_series(20, 40, seed=4)[1:]
    gain = model.answer(Seen(*new)).log_evidence - fitted.answer(Seen(*new)).log_evidence
    assert float(gain.mean()) > -0.3


def test_a_series_whose_dynamics_bend_is_filled_better_and_kept(tmp_path):
    x = sine_map(1, 700, 7)[0, :, 0].numpy()
    hidden = np.random.default_rng(0).random(len(x)) < 0.2
    holes = np.where(hidden, np.nan, x)
    filled = {}
    for dynamics in ("linear", "deep"):
        model = Series(dynamics=dynamics, random_state=0).fit(holes)
        filled[dynamics] = model.fill(holes)
    errors = {k: float(np.abs(v - x)[hidden].mean()) for k, v in filled.items()}
    assert errors["deep"] < 0.85 * errors["linear"]
    assert "deep" in model.members().index
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert np.array_equal(again.fill(holes), filled["deep"])
    assert np.array_equal(again.forecast(5), model.forecast(5))
