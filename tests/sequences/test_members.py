"""Members of the pool of series: each where its answer is known."""

import math

import numpy as np
import pytest
import torch

from abduce.answers.views import Flips
from abduce.data.seen import Seen, Unanswerable
from abduce.sequences.lookback import Lookback, Setting, settings_for
from abduce.sequences.naive import Interpolation, fit_interpolation
from abduce.sequences.paths import Seasonal
from abduce.sequences.seasons import Seasons, find_periods, running_mean
from abduce.sequences.shared_lookback import Rule, fit_shared_lookback
from abduce.sequences.var import VectorAutoregression, first_orders, fit_var


def simulated(coefficients, noise, spread, series, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    model = VectorAutoregression(len(noise), coefficients.shape[1] // len(noise))
    model = model.load(coefficients, noise, spread)
    nothing = Seen(
        torch.zeros(series, steps, len(noise)).double(), torch.zeros(series, steps, len(noise)).bool()
    )
    return model, model.answer(nothing).draws(1, g)[0]


A = torch.tensor([[0.7, 0.2], [-0.1, 0.5]]).double()
Q = torch.tensor([[0.5, 0.2], [0.2, 0.4]]).double()
R = torch.tensor([0.1, 0.2]).double()


def test_an_autoregression_recovers_its_parameters_through_blanks():
    _, y = simulated(A, Q, R, 60, 60)
    mask = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    model = fit_var(y, mask, 1)
    for _ in range(3):
        model = fit_var(y, mask, 1, model)
    assert torch.allclose(model.coefficients, A, atol=0.08)
    assert torch.allclose(model.noise, Q, atol=0.1)
    assert torch.allclose(model.spread, R, atol=0.08)


def test_em_climbs():
    from abduce.sequences import kalman

    truth, y = simulated(A, Q, R, 20, 40)
    mask = torch.ones_like(y).bool()
    start = fit_var(y, mask, 1)
    later = fit_var(y, mask, 1, start)
    values = [float(kalman.smoothed(m.space, y, mask).log_prob.sum()) for m in (start, later, truth)]
    assert values[1] >= values[0] - 0.5
    assert values[1] > values[2] - 5.0


def test_scalar_autoregressions_are_recovered_side_by_side():
    a, q = torch.tensor([0.9, 0.3]).double(), torch.tensor([0.2, 1.0]).double()
    _, y = simulated(torch.diag(a), torch.diag(q), torch.zeros(2).double(), 50, 100)
    found, news, *_ = first_orders(y, torch.ones_like(y).bool(), rounds=100)
    assert torch.allclose(found, a, atol=0.1)
    assert news[0] == pytest.approx(0.2, abs=0.05)


def test_windows_implied_by_an_autoregression_are_those_of_its_draws():
    model, y = simulated(A, Q, R, 40000, 3)
    found = torch.cov(y.flatten(1).mT)
    assert torch.allclose(model.window(3), found, atol=0.05)


def test_time_turned_round_gives_the_same_answer_of_a_reversible_process():
    one = torch.tensor([[0.8]]).double()
    model = VectorAutoregression(1, 1).load(one, torch.tensor([[0.36]]).double())
    y = torch.randn(1, 9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones_like(y).bool()
    mask[0, 5:] = False
    ahead = model.answer(Seen(y, mask))
    back = model.answer(Seen(y.flip(1), mask.flip(1)))
    assert torch.allclose(ahead.mean(), back.mean().flip(1), atol=1e-9)
    assert torch.allclose(ahead.deviation, back.deviation.flip(1), atol=1e-9)


def test_a_view_that_is_not_answered_is_refused_by_name():
    model = VectorAutoregression(1, 1)
    y = torch.zeros(1, 2, 1).double()
    with pytest.raises(Unanswerable, match="VectorAutoregression has no answer"):
        model.answer(Seen(y, y.bool(), Flips(0.1)))


def test_lines_and_last_values():
    y = torch.tensor([1.0, 0, 0, 7.0, 0]).double().view(1, 5, 1)
    mask = torch.tensor([True, False, False, True, False]).view(1, 5, 1)
    assert Interpolation(1, 1).answer(Seen(y, mask)).mean().flatten().tolist() == [1.0, 3.0, 5.0, 7.0, 7.0]


def test_a_season_apart():
    y = torch.tensor([1.0, 2.0, 0, 4.0, 5.0, 0]).double().view(1, 6, 1)
    mask = y > 0
    assert Interpolation(1, 2).answer(Seen(y, mask)).mean().flatten().tolist() == [
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
        4.0,
    ]


def test_the_step_of_a_walk_is_recovered():
    y = torch.randn(4, 4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1)
    assert float(fit_interpolation(Seen(y, torch.ones_like(y).bool()), 1).step) == pytest.approx(
        1.0, rel=0.05
    )


@pytest.mark.parametrize("period", [7, 24])
def test_periods_are_found_through_blanks(period):
    g = torch.Generator().manual_seed(0)
    t = torch.arange(20 * period).double()
    y = (torch.sin(2 * math.pi * t / period) + 0.5 * torch.randn(len(t), generator=g)).view(1, -1, 1)
    assert find_periods(Seen(y, torch.rand(y.shape, generator=g) < 0.6)) == [period]


def test_a_walk_and_noise_have_no_period():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 600, 1, generator=g, dtype=torch.float64)
    for y in (noise, noise.cumsum(1)):
        assert find_periods(Seen(y, torch.ones_like(y).bool()), (7, 24)) == []


def test_profiles_are_recovered_and_added_back():
    t = torch.arange(240).double()
    wave = torch.sin(2 * math.pi * t / 12).view(1, -1, 1)
    seen = Seen(wave, torch.ones_like(wave).bool(), time=t.unsqueeze(0))
    seasons = Seasons(1, [12], False).fit(seen)
    assert torch.allclose(seasons.of(seen), wave, atol=1e-2)
    flat = Seasonal(Interpolation(1, 1), seasons)
    mask = torch.ones_like(wave).bool()
    mask[0, 100:109] = False
    assert torch.allclose(flat.answer(seen._replace(mask=mask)).mean(), wave, atol=2e-2)


def test_a_running_mean_keeps_lines():
    y = torch.arange(20.0).double().view(1, 20, 1)
    assert torch.allclose(running_mean(y, 5)[:, 2:-3], y[:, 2:-3])


def test_lookbacks_go_on_with_a_wave_and_back():
    wave = torch.sin(torch.arange(120).double() * torch.pi / 6).view(1, 120, 1)
    model = Lookback(1, 12, [Setting(24, 12), Setting(12, 12, 10.0)])
    for mask in (torch.arange(120) < 100, torch.arange(120) >= 20):
        answer = model.answer(Seen(wave, mask.view(1, 120, 1)))
        assert float((answer.mean() - wave).abs().max()) < 0.05
    inside = model.answer(Seen(wave, ((torch.arange(120) < 50) | (torch.arange(120) > 60)).view(1, 120, 1)))
    assert bool(inside.centre.isnan().all())


def test_lookbacks_of_time_turned_round_agree_to_the_bit():
    y = torch.randn(2, 90, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = Lookback(1, 1, settings_for(1, 6, 84)[:4])
    mask = (torch.arange(90) < 84).view(1, 90, 1).expand(2, 90, 1)
    ahead = model.answer(Seen(y, mask))
    back = model.answer(Seen(y.flip(1), mask.flip(1)))
    assert torch.equal(ahead.mean(), back.mean().flip(1))


def test_a_shared_rule_is_ridge_regression():
    g = torch.Generator().manual_seed(0)
    y = torch.zeros(1, 3000, 1, dtype=torch.float64)
    for t in range(1, 3000):
        y[0, t] = 0.8 * y[0, t - 1] + torch.randn(1, generator=g, dtype=torch.float64)
    model = fit_shared_lookback(Seen(y, torch.ones_like(y).bool()), 3, [Rule(5, 5, 1e-6)])
    seen = Seen(
        torch.cat([y, torch.zeros(1, 3, 1)], 1),
        torch.cat([torch.ones(1, 3000, 1), torch.zeros(1, 3, 1)], 1).bool(),
    )
    x = y[0, :, 0].unfold(0, 8, 1).numpy()
    x = x - x[:, :5].mean(1, keepdims=True)
    design = np.c_[x[:, :4], np.ones(len(x))]  # the fifth of centred steps follows from the others
    rule = np.linalg.lstsq(design, x[:, 5:], rcond=None)[0]
    last = y[0, -5:, 0].numpy()
    expected = np.r_[last[:4] - last.mean(), 1.0] @ rule + last.mean()
    assert np.allclose(model.answer(seen).mean()[0, -3:, 0], expected, atol=0.02)


def test_wide_autoregressions_of_many_series_are_completed():
    """Of more series than one round of EM may take, almost what the true parameters fill with."""
    g = torch.Generator().manual_seed(0)
    f = 24
    a = torch.randn(f, f, generator=g).double()
    a *= 0.9 / torch.linalg.eigvals(a).abs().max()
    loads = torch.randn(f, 4, generator=g).double()
    true = VectorAutoregression(f, 1).load(a, 0.1 * loads @ loads.mT + 0.1 * torch.eye(f))
    x = true.sample(120 * 48, g).view(120, 48, f)
    new = true.sample(10 * 48, g).view(10, 48, f)
    for rate, worse in ((0.1, 1.05), (0.5, 1.2)):
        mask, asked = torch.rand(x.shape, generator=g) > rate, torch.rand(new.shape, generator=g) > rate
        fitted = fit_var(x, mask, 1, most=10)
        errors = [
            float((m.answer(Seen(new, asked)).centre - new)[~asked].abs().mean()) for m in (true, fitted)
        ]
        assert errors[1] < worse * errors[0]
