"""A bounded sample of a stream: who is in it, that chunks do not matter, and when it has changed."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from abduce.data.reservoir import Reservoir


def streamed(cuts, n=700, most=40, seed=0, half_life=None, frame=False):
    X = np.arange(n, dtype=float)[:, None] * [1.0, 2.0]
    sample = Reservoir(most, seed, half_life)
    for part in np.split(X, cuts):
        sample.add(pd.DataFrame(part, columns=["a", "b"]) if frame else part)
    return sample


@pytest.mark.parametrize("half_life", [None, 60.0])
def test_how_a_stream_is_cut_changes_nothing(half_life):
    whole = streamed([], half_life=half_life)
    for cuts in ([1, 2, 3], range(1, 700), [0, 350, 350], [20, 90, 95, 600]):
        parts = streamed(cuts, half_life=half_life)
        np.testing.assert_array_equal(parts.at, whole.at)
        np.testing.assert_array_equal(parts.rows, whole.rows)
    frames = streamed([20, 90, 400], half_life=half_life, frame=True)
    np.testing.assert_array_equal(frames.rows.to_numpy(), whole.rows)
    np.testing.assert_array_equal(whole.rows[:, 1], 2.0 * whole.at)
    assert not np.array_equal(streamed([], seed=1, half_life=half_life).at, whole.at)


def test_every_row_is_kept_with_the_same_probability():
    runs, n, most = 3000, 50, 10
    count = np.zeros(n)
    for seed in range(runs):
        found = streamed([7, 30], n, most, seed).at
        assert len(found) == most
        count[found] += 1
    expected, variance = runs * most / n, runs * most / n * (1 - most / n)
    assert ((count - expected) ** 2 / variance).sum() < n + 4 * np.sqrt(2 * n)


def test_with_a_half_life_fresh_rows_are_likelier_as_the_weights_say():
    half_life, n, runs = 100.0, 1500, 300
    age = n - 1 - np.concatenate([streamed([], n, 10_000, seed, half_life).at for seed in range(runs)])
    most = round(half_life / np.log(2))
    assert len(age) == runs * most

    # a row of weight w is among the least priorities, those below some level c, with probability 1 − exp(−c w)
    def kept(a, c):
        return 1 - np.exp(-c * 0.5 ** (a / half_life))

    c = brentq(lambda c: quad(kept, 0, n, args=(c,))[0] - most, 0.1, 10.0)
    for low, high in ((0, 50), (50, 150), (150, 400), (400, n)):
        share = ((age >= low) & (age < high)).mean()
        assert abs(share - quad(kept, low, high, args=(c,))[0] / most) < 0.01


def test_memory_is_that_of_the_rows_kept():
    sample = Reservoir(100, 0)
    for _ in range(500):
        sample.add(np.zeros((1000, 3)))
        assert sum(len(part.rows) for part in sample._parts) <= 200
        assert len(pickle.dumps(sample)) < 20_000
    assert sample.seen == 500_000
    assert len(sample.rows) == 100


def test_it_keeps_copies_and_goes_on_after_a_pickle():
    X = np.zeros((5, 1))
    sample = Reservoir(10, 0)
    sample.add(X)
    X += 1
    assert not sample.rows.any()
    again = pickle.loads(pickle.dumps(sample))
    for one in (sample, again):
        one.add(np.arange(100.0)[:, None])
    np.testing.assert_array_equal(sample.rows, again.rows)


@pytest.mark.parametrize("half_life", [None, 200.0])
def test_it_is_due_when_a_tenth_is_new_whatever_the_chunks(half_life):
    def due(cuts):
        sample, found = Reservoir(50, 0, half_life), []
        for part in np.split(np.zeros((5000, 1)), cuts):
            last = sample.until(len(part))
            found += [] if last is None else [sample.seen + last]
            assert last is None or 0 < last <= len(part)
            sample.add(part)
        return found

    every = due(range(1, 5000))
    steps = np.diff(every)
    assert every[0] == 2
    limit = 0.1 * np.array(every[:-1])
    if half_life is not None:
        limit = np.minimum(limit, half_life * -np.log2(0.9))
    np.testing.assert_array_equal(steps, np.maximum(1, np.ceil(limit)))
    for cuts in ([1000, 2000], [17, 18, 19, 4000]):
        some = due(cuts)
        assert set(some) <= set(every)
        assert some[-1] == every[-1]
