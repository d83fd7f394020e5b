"""Scores by importance sampling: alone or in company, at once or streamed, always the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import generator, linear_model, plain_model, shaken, some_seen

from abduce.inference import importance
from abduce.inference.importance import by_chunk, chunks, draw, log_prob, shared_noise
from abduce.weights import multi_sample


def models():
    with_path, _, x = linear_model(components=3, hidden=(8,))
    without, _ = plain_model(d=5)
    return [(shaken(with_path, 0.1), x[:150]), (shaken(without), (x[:150] > 0).double())]


@pytest.fixture(params=[0, 1], ids=["path", "network"], scope="module")
def case(request):
    model, x = models()[request.param]
    seen = some_seen(x)
    return model, x * seen, seen, log_prob(model, x * seen, seen, samples=64)


@settings(max_examples=12)
@given(st.lists(st.integers(0, 149), min_size=1, max_size=80))
def test_a_score_does_not_depend_on_its_company(case, rows):
    model, x, seen, whole = case
    for alone, together in zip(log_prob(model, x[rows], seen[rows], samples=64), whole, strict=True):
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-9)


def test_a_complete_row_scores_the_same_among_blanks_and_among_complete_rows(case):
    model, x, _, whole = case
    complete = x[:1].repeat(64, 1)
    value, _, _ = log_prob(model, complete, torch.ones_like(complete) > 0, samples=64)
    torch.testing.assert_close(value, whole[0][:1].expand(64), rtol=0, atol=1e-9)


def test_scores_repeat_to_the_bit(case):
    model, x, seen, whole = case
    for a, b in zip(log_prob(model, x, seen, samples=64), whole, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(log_prob(model, x, seen, samples=64, seed=1)[0], whole[0])


def test_nothing_observed_has_probability_one(case):
    _, _, seen, (value, error, ess) = case
    empty = ~seen.any(1)
    assert empty.any()
    assert (value[empty] == 0).all()
    assert (error[empty] == 0).all()
    assert (ess[empty] == 64).all()
    assert (ess >= 1 - 1e-9).all()
    assert (ess <= 64 + 1e-9).all()
    assert value.dtype == torch.float64


def test_streaming_equals_one_shot(case, monkeypatch):
    model, x, seen, whole = case
    monkeypatch.setattr(importance, "CELLS", 1)  # one draw at a time
    for streamed, at_once in zip(log_prob(model, x, seen, samples=64), whole, strict=True):
        torch.testing.assert_close(streamed, at_once, rtol=0, atol=1e-9)
    log_w = model.log_weights(x, seen, shared_noise(64, model.noise_dim, 0, x)).log_w
    direct = multi_sample(log_w).masked_fill(~seen.any(1), 0.0)
    torch.testing.assert_close(direct, whole[0], rtol=0, atol=1e-9)


def test_blank_cells_may_hold_anything(case):
    model, x, seen, whole = case
    other = torch.where(seen, x, 7.0)
    torch.testing.assert_close(log_prob(model, other, seen, samples=64)[0], whole[0], rtol=0, atol=1e-9)


def test_the_standard_error_is_honest():
    model, x = models()[1]
    seen = torch.ones_like(x) > 0
    _, error, _ = log_prob(model, x[:20], seen[:20], samples=64)
    g = generator()
    values = []
    for _ in range(
        200
    ):  # independent draws, which the error is about; the shared quasi-random ones do better
        noise = torch.randn(64, 1, model.noise_dim, generator=g, dtype=torch.float64)
        with torch.no_grad():
            values.append(multi_sample(model.log_weights(x[:20], seen[:20], noise).log_w))
    ratio = torch.stack(values).std(0) / error
    assert ((ratio > 0.4) & (ratio < 2.5)).all()


@given(st.integers(1, 200), st.integers(1, 70))
def test_chunks_have_one_shape_and_cover_every_row_once(n, rows):
    x = torch.arange(n, dtype=torch.float64).unsqueeze(-1)
    seen = torch.ones_like(x) > 0
    shapes = {xs.shape for _, xs, _ in chunks(x, seen, rows)}
    assert shapes == {(rows, 1)}
    (back,) = by_chunk(lambda xs, os: (xs,), x, seen, rows)
    assert torch.equal(back, x)


def test_shared_noise_is_normal_and_seeded():
    noise = shared_noise(1024, 3, 5, torch.empty(0, dtype=torch.float64))
    assert noise.shape == (1024, 1, 3)
    np.testing.assert_allclose(noise[:, 0].mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(np.cov(noise[:, 0].numpy().T), np.eye(3), atol=0.02)
    assert torch.equal(noise, shared_noise(1024, 3, 5, noise))
    assert torch.isfinite(noise).all()


def test_draws_carry_their_weights():
    model, x = models()[0]
    seen = some_seen(x)
    weighted = draw(model, x, seen, 32, seed=2)
    assert weighted.log_w.shape == (32, len(x))
    assert weighted.z.shape == (32, len(x), 2)
    value = log_prob(model, x, seen, samples=32, seed=2)[0]
    some = seen.any(1)
    torch.testing.assert_close(multi_sample(weighted.log_w)[some], value[some], rtol=0, atol=1e-9)
