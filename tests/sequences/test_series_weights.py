"""What the pool makes of its members: never much worse than the best of them, and intervals that hold in each series."""

import numpy as np
import pandas as pd
import pytest
import torch

from abduce import Series
from abduce.data.seen import Seen
from abduce.sequences.hidden import pieces
from abduce.sequences.lookback import Lookback, Setting
from abduce.sequences.pool import DISTANCES, SPANS, combined, late_answer
from abduce.sequences.weights import HELD, Filled, usual_moves, weigh, widening


def cells(spreads, n, seed, span=2, bias=0.0):
    """Cells beyond the last step, of which members err normally with these spreads, half of it shared."""
    g = torch.Generator().manual_seed(seed)
    errors = torch.randn(n, len(spreads), generator=g, dtype=torch.float64)
    errors = (0.7 * errors + 0.7 * torch.randn(n, 1, generator=g, dtype=torch.float64)) * torch.tensor(
        spreads
    )
    code = torch.randint(0, 5, (n,), generator=g) + (3 * span + 1) * DISTANCES
    zero = torch.zeros(n, dtype=torch.float64)
    turn = torch.arange(n) % 3
    return Filled(errors + bias, torch.ones_like(errors), zero, code, torch.zeros(n).long(), zero + 1.0, turn)


@pytest.mark.parametrize("spreads", [[1.0, 1.0], [1.0, 3.0, 10.0], [0.5, 0.6, 0.7, 5.0], [1.0, 1.05]])
def test_a_pool_is_not_worse_than_its_best_member(spreads):
    shares, _ = weigh(cells(spreads, 800, 0), 1)
    fresh = cells(spreads, 20_000, 1)
    pooled, _ = combined(fresh.centres, fresh.deviations, shares[fresh.code, fresh.feature])
    assert float(pooled.abs().mean()) < 1.02 * float(fresh.centres.abs().mean(0).min())


def test_weights_go_with_members_and_not_with_their_order():
    filled = cells([1.0, 1.0, 2.0], 3000, 0)
    shares, _ = weigh(filled, 1)
    turned = filled._replace(centres=filled.centres.flip(1), deviations=filled.deviations.flip(1))
    assert torch.allclose(weigh(turned, 1)[0], shares.flip(2), atol=2e-3)
    at = (3 * 2 + 1) * DISTANCES
    assert float((shares[at, 0, 0] - shares[at, 0, 1]).abs()) < 0.15
    assert float(shares[at, 0, 2]) < 0.1


def test_a_member_that_needs_a_long_past_is_not_believed_on_a_short_one():
    long, short = cells([0.2, 1.0], 2000, 0), cells([5.0, 1.0], 2000, 1, span=0)
    shares, errors = weigh(Filled(*(torch.cat(parts) for parts in zip(long, short, strict=True))), 1)
    ahead = shares.view(len(SPANS) + 1, 3, DISTANCES, 1, 2)[:, 1, 0, 0, 0]
    assert ahead[2] > 0.9
    assert ahead[0] < 0.1
    assert ahead[1] > 0.9  # of spans that were not judged the longer one decides
    assert errors.shape[0] == shares.shape[0]
    none = short.centres.clone()
    none[:, 0] = torch.nan
    alone = weigh(short._replace(centres=none), 1)[0]
    assert float(alone[DISTANCES, 0, 1]) == pytest.approx(1.0)


def test_intervals_widen_where_series_err_together():
    """Errors of three turns with a shock each, many times: with the factor more of a fourth turn's lie inside."""
    g = torch.Generator().manual_seed(0)
    level = torch.tensor([0.5 - HELD / 2, 0.5 + HELD / 2], dtype=torch.float64)
    held = {"as they are": [], "wider": []}
    turn = torch.arange(3).repeat_interleave(300)
    for _ in range(60):
        shock = torch.randn(4, 1, generator=g, dtype=torch.float64)
        error = shock + torch.randn(4, 300, generator=g, dtype=torch.float64)
        factor = widening(error[:3].flatten(), torch.zeros(900).long(), turn)
        low, high = torch.quantile(error[:3].flatten(), level)
        for name, by in (("as they are", 1.0), ("wider", factor)):
            held[name].append(float(((error[3] > by * low) & (error[3] < by * high)).double().mean()))
    before, after = (sum(v) / len(v) for v in held.values())
    assert before < 0.74
    assert before + 0.04 < after < HELD + 0.05
    alone = torch.randn(900, generator=g, dtype=torch.float64)
    assert widening(alone, torch.zeros(900).long(), turn) < 1.1


def test_series_count_by_how_far_they_move():
    y = torch.tensor([[0.0, 1, 0, 1, 0], [0.0, 10, 0, 10, 0], [0.0, 0, 0, 0, 0]]).unsqueeze(2)
    mask = torch.ones_like(y).bool()
    assert usual_moves(y, mask, 1, True).flatten().tolist() == [1.0, 10.0, 1.0]
    assert usual_moves(y, mask, 1, False).flatten().tolist() == pytest.approx([11 / 3] * 3)
    mask[0, 1:] = False
    assert float(usual_moves(y, mask, 1, True)[0, 0]) == 10.0
    assert usual_moves(0 * y, mask, 1, True).flatten().tolist() == [1.0] * 3


def test_a_lookback_used_again_and_again_stays_in_bounds():
    g = torch.Generator().manual_seed(0)
    y = torch.cat([torch.randn(1, 90, 1, generator=g).cumsum(1), torch.zeros(1, 900, 1)], 1).double()
    mask = (torch.arange(990) < 90).view(1, 990, 1)
    said = Lookback(1, 1, [Setting(28, 1, ridge=1e-6)]).answer(Seen(y, mask)).centre[0, 90:, 0]
    width = float(y[mask].max() - y[mask].min())
    assert bool(torch.isfinite(said).all())
    assert float(said.max()) <= float(y[mask].max()) + width + 1e-9
    assert float(said.min()) >= float(y[mask].min()) - width - 1e-9


def test_a_setting_that_fits_a_series_is_believed_for_it():
    at = torch.arange(300).double()
    y = torch.stack([torch.sin(at * torch.pi / 6), torch.sin(at * torch.pi / 20)]).unsqueeze(2)
    y = y + 0.05 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = (at < 276).view(1, 300, 1).expand(2, -1, -1)
    seen = Seen(torch.where(mask, y, 0.0), mask)
    both = [Setting(3, 3, ridge=10.0), Setting(45, 45)]
    errors = []
    for settings in (both, both[:1], both[1:]):
        said = Lookback(1, 12, settings).answer(seen).centre
        errors.append((said - y)[:, 276:].abs().mean((1, 2)))
    assert bool((errors[0] <= 1.1 * torch.minimum(errors[1], errors[2])).all())


def panel(seed, series=80, steps=260, horizon=24):
    """Daily waves of other sizes, levels and noise each; (past, future)."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps + horizon)
    noise = np.exp(rng.normal(size=(series, 1)))
    wave = rng.uniform(0.5, 3, (series, 1)) * np.sin(2 * np.pi * (at + rng.integers(0, 24, (series, 1))) / 24)
    y = 100 * rng.normal(size=(series, 1)) + wave + noise * rng.normal(size=wave.shape)
    return y[:, :steps], y[:, steps:], noise[:, 0]


def test_intervals_hold_in_quiet_and_in_noisy_series():
    held = []
    for seed in (0, 1):
        past, future, noise = panel(seed)
        index = pd.date_range("2024-01-01", periods=past.shape[1], freq="h")
        frame = pd.concat(pd.DataFrame({"id": i, "ds": index, "y": row}) for i, row in enumerate(past))
        model = Series(id="id", time="ds", horizon=24, random_state=0).fit(frame)
        low, high = (v["y"].to_numpy().reshape(future.shape) for v in model.forecast_interval(24, level=0.8))
        inside = (low <= future) & (future <= high)
        order = np.argsort(noise)
        held.append([inside.mean(), inside[order[:27]].mean(), inside[order[-27:]].mean()])
    whole, quiet, noisy = np.mean(held, 0)
    assert 0.76 <= whole <= 0.84
    assert quiet >= 0.76
    assert noisy >= 0.65


def steps_of_a_day(seed, steps=4800):
    """Three features with a season of a day, a level of their own that wanders and one that they share."""
    rng = np.random.default_rng(seed)

    def walk(shape, back, spread):
        out = np.zeros(shape)
        for t in range(1, steps):
            out[t] = back * out[t - 1] + spread * rng.normal(size=shape[1])
        return out

    season = np.sin(2 * np.pi * np.arange(steps)[:, None] / 24 + np.arange(3))
    return (walk((steps, 1), 0.97, 0.25) + walk((steps, 3), 0.9, 0.3) + season).reshape(-1, 48, 3)


def test_intervals_hold_in_pieces_of_what_was_one_long_series():
    held = []
    for seed in (0, 1):
        learnt, asked = steps_of_a_day(seed), steps_of_a_day(10 + seed)
        rng = np.random.default_rng(seed)
        start = rng.integers(0, 12, asked.shape[::2])
        at = np.arange(48)[:, None]
        runs = (
            (at >= start[:, None])
            & (at < start[:, None] + 36)
            & (rng.random(asked.shape[::2]) < 0.5)[:, None]
        )
        model = Series(random_state=0).fit(np.where(runs, np.nan, learnt).reshape(-1, 3))
        low, high = model.fill_interval(np.where(runs, np.nan, asked))
        held.append(((low <= asked) & (asked <= high))[runs].mean())
    assert 0.86 <= np.mean(held) <= 0.95


@pytest.mark.parametrize("begins", [0, 5, 48])
def test_pieces_begin_where_time_is_a_multiple_of_their_length(begins):
    y = torch.arange(2 * 130.0).view(2, 130, 1)
    time = torch.arange(130.0).double() + torch.tensor([[float(begins)], [0.0]])
    cut, series = pieces(Seen(y, y > 3, time=time), 48)
    assert cut.time is not None
    assert (torch.remainder(cut.time[:, 0], 48) == 0).all()
    for row, i in enumerate(series.tolist()):
        first = int(cut.time[row, 0] - time[i, 0])
        assert torch.equal(cut.y[row], y[i, first : first + 48])
        assert torch.equal(cut.mask[row], y[i, first : first + 48] > 3)
    assert series.tolist() == ([0, 1, 1] if begins == 5 else [0, 0, 1, 1])


def test_forecasts_are_not_worse_than_those_of_the_best_member():
    rng = np.random.default_rng(0)
    at = np.arange(2600)
    noise = np.zeros((2600, 2))
    for t in range(1, 2600):
        noise[t] = 0.9 * noise[t - 1] + 0.4 * rng.normal(size=2)
    y = 2 * np.sin(2 * np.pi * at / 24)[:, None] + noise
    model = Series(horizon=24, random_state=0).fit(y[:1992])
    starts = range(1992, 2600 - 360, 24)  # arrays have no time: begin at one phase
    asked = np.stack([y[s : s + 336] for s in starts])
    truth = np.stack([y[s + 336 : s + 360] for s in starts])
    beyond = model._beyond(24, None, asked).asked.question
    truth = (torch.from_numpy(truth) - torch.from_numpy(beyond.scaler.loc)) / torch.from_numpy(
        beyond.scaler.scale
    )
    rows = torch.arange(len(truth)).unsqueeze(1)
    assert beyond.places is not None
    first = int(beyond.places.min())

    def error(answer):
        return float((answer.centre[rows, beyond.places] - truth).abs().mean())

    alone = [error(late_answer(member, beyond.seen, first)) for member in model.model_.pool.parts]
    assert error(model.model_.answer(beyond.seen)) < 1.02 * min(alone)
