"""Weights, situations and hidden cells: what decides who is believed where."""

import numpy as np
import pandas as pd
import pytest
import torch

from abduce.data.seen import Seen
from abduce.sequences.hidden import cuts, like_blanks
from abduce.sequences.naive import Interpolation
from abduce.sequences.pool import CODES, DISTANCES, SequencePool, Situation, combined, situation
from abduce.sequences.scale import Scaling
from abduce.sequences.times import find_grid, read_stamps
from abduce.sequences.var import VectorAutoregression
from abduce.sequences.weights import simplex


def test_situations_say_where_a_cell_lies():
    mask = torch.zeros(1, 12, 2).bool()
    mask[0, [2, 3, 8], 0] = True
    mask[0, 5, 1] = True
    found = situation(mask)
    assert found.place[0, :, 0].tolist() == [2, 2] + [0] * 7 + [1, 1, 1]
    assert found.distance[0, :, 0].tolist() == [1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert found.distance[0, 0, 1] == 1
    assert int(found.code.max()) < 3 * DISTANCES
    assert all(torch.equal(a, b) for a, b in zip(Situation.of_code(found.code), found, strict=True))


@pytest.mark.parametrize(("steps", "span"), [(1, 0), (95, 0), (96, 1), (511, 1), (512, 2)])
def test_situations_say_how_much_was_seen(steps, span):
    mask = torch.zeros(1, 600, 1).bool()
    mask[0, [20, 19 + steps], 0] = True
    assert situation(mask).span.unique().tolist() == [span]
    assert int(situation(mask).code.max()) < CODES


def test_weights_minimise_the_squared_error():
    g = torch.Generator().manual_seed(0)
    errors = torch.randn(4, 500, 3, generator=g, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0])
    gram = errors.mT @ errors
    w = simplex(gram, torch.full((4,), 500.0).double(), torch.full((4, 3), 1 / 3).double(), 0.0)
    assert torch.allclose(w.sum(1), torch.ones(4).double())
    best = (w.unsqueeze(1) @ gram @ w.unsqueeze(2)).flatten()
    for _ in range(50):
        other = torch.distributions.Dirichlet(torch.ones(3).double()).sample((4,))
        assert bool((best <= (other.unsqueeze(1) @ gram @ other.unsqueeze(2)).flatten() + 1e-6).all())


def test_without_an_opinion_others_share_the_weight():
    centre, deviation = combined(
        torch.tensor([[1.0, 3.0, torch.nan]]).double(),
        torch.ones(1, 3).double(),
        torch.tensor([[0.2, 0.2, 0.6]]).double(),
    )
    assert centre.tolist() == [2.0]
    assert deviation.tolist() == pytest.approx([2**0.5])


def pool_of_two():
    model = VectorAutoregression(1, 1).load(torch.tensor([[0.9]]), torch.tensor([[0.19]]))
    return SequencePool([model, Interpolation(1, 1)], 0)


def test_quantiles_draws_and_points_of_a_pool_are_of_one_distribution():
    pool = pool_of_two()
    y = torch.randn(1, 20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones_like(y).bool()
    mask[0, 8:12], mask[0, 17:] = False, False
    answer = pool.answer(Seen(y, mask))
    g = torch.Generator().manual_seed(1)
    low, high = answer.quantile(0.1), answer.quantile(0.9)
    for drawn in (answer.draws(4000, g), answer.draws(4000, g, "cells"), answer.points(4000)):
        assert torch.equal(drawn[:, mask], y[mask].expand(4000, -1))
        inside = ((drawn >= low) & (drawn <= high)).double().mean(0)[~mask]
        assert torch.allclose(inside, torch.full_like(inside, 0.8), atol=0.03)
    paths = answer.draws(4000, g)
    assert float(torch.corrcoef(torch.stack([paths[:, 0, 17, 0], paths[:, 0, 18, 0]]))[0, 1]) > 0.5


def test_a_long_past_does_not_change_what_a_member_with_a_memory_says():
    pool = pool_of_two()
    y = torch.randn(1, 700, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones_like(y).bool()
    mask[0, 690:] = False
    whole, part = pool.answer(Seen(y, mask)), pool.answer(Seen(y[:, 400:], mask[:, 400:]))
    assert torch.allclose(whole.mean()[:, 400:], part.mean(), atol=1e-9)
    assert whole.log_evidence.shape == (1,)


@pytest.mark.parametrize("kind", ["points", "gaps", "steps", "none"])
def test_hidden_cells_are_shaped_like_the_blanks(kind):
    g = torch.Generator().manual_seed(0)
    mask = torch.ones(1, 3000, 3).bool()
    if kind == "points":
        mask = torch.rand(mask.shape, generator=g) > 0.3
    for start in range(0, 3000, 100):
        if kind == "gaps":
            mask[0, start : start + 20, start // 100 % 3] = False
        if kind == "steps":
            mask[0, start : start + 10] = False
    hidden = like_blanks(mask, 0)
    assert bool(hidden.any())
    assert not bool((hidden & ~mask).any())
    assert float(hidden.sum() / mask.sum()) < 0.35
    if kind == "steps":
        assert torch.equal(hidden.any(2), hidden.all(2) | (hidden.any(2) & ~mask.all(2)))
    if kind == "gaps":
        runs = (hidden[0, 1:] & ~hidden[0, :-1]).sum()
        assert float(hidden.sum() / runs) > 8


@pytest.mark.parametrize(("run", "share"), [(1, 0.2), (20, 0.5)])
def test_more_steps_are_judged_where_cells_lie_in_few_runs(run, share):
    g = torch.Generator().manual_seed(0)
    starts = torch.rand(1, 9000 // run, 6, generator=g) < 0.3
    mask = ~starts.repeat_interleave(run, 1)
    hidden = like_blanks(mask, 0)
    first = int(hidden.any(2).nonzero()[0, 1])
    assert mask.shape[1] * (1 - share) - run <= first <= mask.shape[1] * (1 - share) + 3 * run
    assert int(hidden.sum()) >= 1000


def test_series_are_cut_off_before_what_they_are_asked():
    y = torch.arange(100.0).double().view(1, 100, 1)
    seen, future, late, series, turn = cuts(Seen(y, torch.ones_like(y).bool(), time=y[..., 0]), 5, 40, 10**6)
    assert not bool((seen.mask & future).any())
    assert bool(future[:, -5:].all())
    assert seen.y[0, -5:, 0].tolist() == [95.0, 96.0, 97.0, 98.0, 99.0]
    assert bool(torch.equal(seen.time, seen.y[..., 0]))
    ends = seen.y[:, -1, 0].long()
    assert len(set(ends.tolist())) == len(ends) == 21
    assert late[0].nonzero().min() == ends.min() - 4 >= 75
    assert torch.equal(series, torch.zeros(len(ends), dtype=torch.long))
    assert turn[ends.argsort(descending=True)].tolist() == sorted(turn.tolist())  # the last cut first
    assert len(set(turn.tolist())) == 21


def test_of_many_series_some_are_cut_off_and_what_is_late_is_late_in_all():
    y = torch.arange(4000.0).double().view(100, 40, 1)
    seen = Seen(y, torch.ones_like(y).bool())
    whole, some = (cuts(seen, 5, 20, cells) for cells in (10**6, 250))
    assert len(whole.series) == 300
    assert len(some.series) == 10
    assert torch.equal(some.seen.y, whole.seen.y[torch.linspace(0, 299, 10).round().long()])
    assert torch.equal(some.late, whole.late)


def test_scales_are_shared_by_windows_of_one_process_and_not_by_others():
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(20, 48, 1))
    unlike = alike * 10.0 ** rng.integers(0, 4, size=(20, 1, 1))
    seen = np.ones(alike.shape, bool)
    assert not Scaling.of(alike, seen, None).own
    scaling = Scaling.of(unlike, seen, None)
    assert scaling.own
    scaler = scaling.fitted(unlike, seen)
    assert np.allclose(scaler.back(scaler.to(unlike, seen).numpy()), unlike)


@pytest.mark.parametrize("freq", ["h", "15min", "D", "B", "W", "MS", "ME", "QS", "YS", "3s"])
def test_stamps_lie_on_their_grid_and_go_on(freq):
    index = pd.date_range("2020-01-31", periods=60, freq=freq)
    stamps, labels = read_stamps(index, "x")
    grid = find_grid([stamps[:50].delete([7, 8])], None)
    assert np.all(np.diff(grid.steps(stamps)) > 0)
    assert labels.write(grid.beyond(stamps[49], 10)).equals(pd.DatetimeIndex(index[50:].to_numpy()))
    assert labels.write(grid.beyond(stamps[10], -10)).equals(pd.DatetimeIndex(index[:10].to_numpy()))
