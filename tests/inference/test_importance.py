"""Scores by importance sampling: alone or in company, at once or streamed, always the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import generator, linear_model, plain_model, quadrature, shaken, some_seen
from torch.utils._python_dispatch import TorchDispatchMode

from abduce.distributions.discrete import Bernoulli
from abduce.inference import importance
from abduce.inference.importance import by_chunk, chunks, draw, log_prob, shared_noise
from abduce.inference.weights import multi_sample


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
        torch.testing.assert_close(alone, together[rows], rtol=1e-9, atol=1e-9)


def test_a_complete_row_scores_the_same_among_blanks_and_among_complete_rows(case):
    model, x, _, whole = case
    complete = x[:1].repeat(64, 1)
    value = log_prob(model, complete, torch.ones_like(complete) > 0, samples=64).value
    torch.testing.assert_close(value, whole[0][:1].expand(64), rtol=0, atol=1e-9)


def test_scores_repeat_to_the_bit(case):
    model, x, seen, whole = case
    for a, b in zip(log_prob(model, x, seen, samples=64), whole, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(log_prob(model, x, seen, samples=64, seed=1).value, whole.value)


def test_nothing_observed_has_probability_one(case):
    _, _, seen, (value, error, ess, k) = case
    empty = ~seen.any(1)
    assert empty.any()
    assert (value[empty] == 0).all()
    assert (error[empty] == 0).all()
    assert (ess[empty] == 64).all()
    assert (k[empty] == -torch.inf).all()
    assert not k.isnan().any()
    assert (ess >= 1 - 1e-9).all()
    assert (ess <= 64 + 1e-9).all()
    assert value.dtype == torch.float64


def test_streaming_equals_one_shot(case, monkeypatch):
    model, x, seen, whole = case
    monkeypatch.setitem(importance.SLICE, "cpu", 1)  # one draw at a time
    for streamed, at_once in zip(log_prob(model, x, seen, samples=64), whole, strict=True):
        torch.testing.assert_close(streamed, at_once, rtol=1e-9, atol=1e-9)
    log_w = model.log_weights(x, seen, shared_noise(64, model.noise_dim, 0, x)).log_w
    direct = multi_sample(log_w).masked_fill(~seen.any(1), 0.0)
    torch.testing.assert_close(direct, whole[0], rtol=0, atol=1e-9)


def test_blank_cells_may_hold_anything(case):
    model, x, seen, whole = case
    other = torch.where(seen, x, 7.0)
    torch.testing.assert_close(log_prob(model, other, seen, samples=64).value, whole.value, rtol=0, atol=1e-9)


def test_the_standard_error_is_honest():
    model, x = models()[1]
    seen = torch.ones_like(x) > 0
    error = log_prob(model, x[:20], seen[:20], samples=64).standard_error
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
    value = log_prob(model, x, seen, samples=32, seed=2).value
    some = seen.any(1)
    torch.testing.assert_close(multi_sample(weighted.log_w)[some], value[some], rtol=0, atol=1e-9)


def test_the_truth_of_a_linear_model():
    model, path, x = linear_model(d=5, k=2)
    seen = some_seen(x[:80], 0.7)
    evidence = log_prob(model, x[:80] * seen, seen, samples=32)
    truth = path.log_prob(x[:80] * seen, seen)
    torch.testing.assert_close(
        evidence.value, truth, rtol=0, atol=1e-5
    )  # the proposal is the exact posterior
    assert (evidence.standard_error < 1e-5).all()


def test_the_truth_of_a_network_is_inside_the_interval():
    model, _ = plain_model(d=6)
    shaken(model, 0.5)
    x = torch.randint(0, 2, (40, 6), generator=generator()).double()
    seen = some_seen(x, 0.7)
    evidence = log_prob(model, x * seen, seen, samples=4000)
    error = (evidence.value - quadrature(model, x * seen, seen)).abs()
    sound = evidence.pareto_k < 0.7
    assert sound.sum() >= 15
    assert (error[sound] < 4 * evidence.standard_error[sound] + 1e-6).all()
    assert error[~sound].mean() > 2 * error[sound].mean()  # the tail tells which estimates to doubt


def wide_model():
    """An image-sized Bernoulli model with logits of the size that training gives, and images drawn from it."""
    model, _ = plain_model(d=784, k=8, hidden=(32,))
    with torch.no_grad():
        model.decoder.net[-1].weight *= 8.0
        return model, model.sample(70, generator(3))


def test_single_precision_is_close():
    model, x = wide_model()
    seen = torch.rand(x.shape, generator=generator(1)) < 0.9
    seen[:35] = True
    before = copy.deepcopy(model.state_dict())
    double = log_prob(model, x, seen, samples=100)
    single = log_prob(model, x, seen, samples=100, precision="single")
    assert single.value.dtype == torch.float64
    torch.testing.assert_close(single.value, double.value, rtol=0, atol=1e-3)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())  # it ran on a copy
    with pytest.raises(ValueError, match=r"precision must be one of \['double', 'single'\], got 'half'"):
        log_prob(model, x, seen, precision="half")


def test_no_tensor_grows_with_the_number_of_draws_or_rows():
    """The largest tensor made is a slice's, or the log weights of one chunk."""
    model, x = wide_model()
    x = x.repeat(3, 1)  # 210 rows
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel() * out.element_size())
            return out

    with Watch():
        log_prob(model, x, torch.ones_like(x) > 0, samples=300)
    largest = max(importance.SLICE["cpu"], 8 * 64 * 784 * 8, 300 * 64 * 8, x.numel() * 8)
    assert max(sizes) <= largest
    assert len(sizes) > 500


def test_the_encoder_runs_once_a_chunk(monkeypatch):
    model, x = wide_model()
    calls = []
    encode = model.posterior
    monkeypatch.setattr(model, "posterior", lambda *a: calls.append(1) or encode(*a))
    log_prob(model, x, torch.ones_like(x) > 0, samples=50)
    assert len(calls) == 2


@pytest.mark.parametrize("cells", [3, 32, 784])
def test_a_bernoulli_row_in_single_precision(cells):
    """Products of 32 factors stand for 32 logarithms: right to 1e-4 nats a row, hidden cells adding exactly nothing."""
    logits = 3 * torch.randn(50, 4, cells, generator=generator())
    x = (torch.rand(4, cells, generator=generator(1)) < torch.sigmoid(logits[0])).float()
    seen = torch.rand(4, cells, generator=generator(2)) < 0.7
    precise = torch.where(x > 0, -logits.double(), logits.double())
    precise = -torch.logaddexp(precise, torch.zeros_like(precise))
    close = {"rtol": 0, "atol": 1e-4, "check_dtype": False}
    torch.testing.assert_close(Bernoulli(logits).log_prob(x), precise.sum(-1), **close)
    hidden = torch.where(seen, x, torch.nan)
    torch.testing.assert_close(Bernoulli(logits).log_prob(hidden, seen), (precise * seen).sum(-1), **close)
    torch.testing.assert_close(
        Bernoulli(logits.double()).log_prob(x.double()), precise.sum(-1), rtol=1e-12, atol=1e-12
    )
