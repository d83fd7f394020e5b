"""Weights of members: those that the others do without are left out, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from abduce.fit.weights import LIGHT, NUMBERS, pooled_weights, square_weights


def told(noise: list[float], n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    return truth[:, None] + np.array(noise) * rng.normal(size=(n, len(noise))), truth


def test_members_that_tell_nothing_get_no_weight():
    said, truth = told([0.3, 0.35, 3.0, 4.0])
    w = pooled_weights(said, truth, np.zeros((0, 4)), np.zeros((0, 4)), 0.0).numbers
    assert (w > 0).tolist() == [True, True, False, False]
    assert w.sum() == pytest.approx(1.0)


def test_leaving_out_costs_no_more_than_is_said():
    for seed in range(5):
        said, truth = told([0.5, 0.6, 1.0, 1.5, 2.0, 2.5], seed=seed)
        w = pooled_weights(said, truth, np.zeros((0, 6)), np.zeros((0, 6)), 0.0).numbers
        every = square_weights(said, truth, 200.0)

        def error(v: np.ndarray, said: np.ndarray = said, truth: np.ndarray = truth) -> float:
            return float(np.sqrt(np.mean((truth - said @ v) ** 2)))

        assert error(w) <= error(every) * np.exp(NUMBERS) + 1e-12
        assert ((w > 0) | (every < LIGHT * 2)).all()


def test_heavy_members_stay_however_alike():
    said, truth = told([0.5, 0.5, 0.5])
    w = pooled_weights(said, truth, np.zeros((0, 3)), np.zeros((0, 3)), 0.0).numbers
    assert (w > LIGHT).all()


def test_used_are_those_with_any_weight():
    rng = np.random.default_rng(0)
    said, truth = told([0.3, 0.3, 0.3])
    said[:, 1:] += 5.0  # these are always off to one side
    rows = np.stack([-50.0 - rng.random(300), -50.0 - rng.random(300), rng.random(300)], 1)
    weights = pooled_weights(said, truth, np.zeros((0, 3)), rows, 1.0)
    assert weights.rows[2] > 0.9
    assert weights.used.tolist() == [True, False, True]
