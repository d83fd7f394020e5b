"""Penalties of the aggregate posterior: against brute force, and what they change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, plain_model, shaken
from scipy import stats

from abduce.distributions.posteriors import DiagonalNormal, FullNormal
from abduce.fit import regularizers
from abduce.fit.bounds import ELBO


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def a_posterior(n: int = 6, k: int = 3) -> DiagonalNormal:
    return DiagonalNormal(normal(n, k), 0.3 * normal(n, k, seed=1) - 0.5)


def test_total_correlation_is_that_of_the_aggregate_posterior():
    """With the whole data as the batch all weights are 1/N, and nothing is estimated."""
    q = a_posterior()
    z = q.transport(normal(1, 6, 3, seed=2))[0]
    cells = stats.norm(q.mean.numpy(), q.log_scale.exp().numpy()).pdf(z.numpy()[:, None])  # (i, j, d)
    brute = np.log(cells.prod(-1).mean(1)) - np.log(cells.mean(1)).sum(-1)
    np.testing.assert_allclose(regularizers.total_correlation(q, z, 6), brute, rtol=1e-10)
    assert np.abs(brute).min() > 0.01


def test_total_correlation_from_a_batch_has_the_densities_mean():
    """Over all batches of 3 of 6 rows the stratified weights average to 1/N each: E[q̂(z)] = q(z)."""
    q = a_posterior(6, 1)
    z = q.transport(normal(1, 6, 1, seed=2))[0]
    cells = torch.exp(q.log_prob(z[0].expand(6, 1)))  # of the row 0's draw under each row
    pairs = [(i, j) for i in range(1, 6) for j in range(i + 1, 6)]
    estimates = [(cells[0] / 6 + 5 / (6 * 2) * (cells[i] + cells[j])) for i, j in pairs]
    torch.testing.assert_close(torch.stack(estimates).mean(), cells.mean())
    # and these are the weights: in two equal dimensions joint and product differ by a density
    index = [0, 2, 4]
    twice = DiagonalNormal(q.mean[index].repeat(1, 2), q.log_scale[index].repeat(1, 2))
    found = regularizers.total_correlation(twice, z[index].repeat(1, 2), 6)[0]
    squares = cells[0] ** 2 / 6 + 5 / 12 * (cells[2] ** 2 + cells[4] ** 2)
    single = cells[0] / 6 + 5 / 12 * (cells[2] + cells[4])
    torch.testing.assert_close(found, squares.log() - 2 * single.log())


def test_total_correlation_is_zero_where_rows_do_not_matter():
    q = DiagonalNormal(normal(1, 3).expand(7, 3), normal(1, 3, seed=1).expand(7, 3))
    z = q.transport(normal(1, 7, 3, seed=2))[0]
    torch.testing.assert_close(regularizers.total_correlation(q, z, 7), torch.zeros(7).double())
    # one unit that follows the row and others that do not are independent too
    mean = torch.cat([3 * normal(7, 1), torch.zeros(7, 2).double()], 1)
    q = DiagonalNormal(mean, torch.zeros(7, 3).double())
    torch.testing.assert_close(regularizers.total_correlation(q, z, 7), torch.zeros(7).double())


def test_mmd_is_the_sum_over_pairs():
    z, prior = normal(5, 2), 1 + normal(4, 2, seed=1)

    def kernel(a, b) -> float:
        distance = float((a - b).square().sum())
        return sum(2 * 2 * s / (2 * 2 * s + distance) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    def apart(a) -> float:
        return np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j])

    brute = apart(z) + apart(prior) - 2 * np.mean([kernel(a, b) for a in z for b in prior])
    assert float(regularizers.mmd(z, prior)) == pytest.approx(brute, rel=1e-10)


def test_mmd_is_zero_on_average_for_equal_laws_and_positive_for_others():
    equal = torch.stack(
        [regularizers.mmd(normal(20, 2, seed=i), normal(30, 2, seed=999 + i)) for i in range(200)]
    )
    error = float(equal.std()) / math.sqrt(200)
    assert abs(float(equal.mean())) < 4 * error
    assert (equal < 0).any()  # unbiased, so it must be
    for move in (lambda z: z + 0.5, lambda z: 1.5 * z):
        other = torch.stack(
            [regularizers.mmd(move(normal(20, 2, seed=i)), normal(30, 2, seed=999 + i)) for i in range(200)]
        )
        assert float(other.mean()) > 10 * error


@pytest.mark.parametrize("k", [1, 3])
def test_dip_is_of_the_aggregate_covariance(k):
    q = a_posterior(8, k)
    covariance = np.cov(q.mean.numpy().T, bias=True).reshape(k, k)
    covariance = covariance + np.diag(np.exp(2 * q.log_scale.numpy()).mean(0))
    off, diagonal = covariance - np.diag(np.diag(covariance)), np.diag(covariance)
    expected = (off**2).sum() + ((diagonal - 1) ** 2).sum()
    assert float(regularizers.dip(q)) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- in the ELBO


def a_model():
    model, _ = plain_model(hidden=(3,))
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]).double()
    return shaken(model, 0.3), x


def test_each_penalty_is_added_to_the_loss_with_its_weight_and_not_to_the_value():
    model, x = a_model()
    plain = ELBO()(model, x, None, 1.0, generator(4), 3)
    q, z = model.posterior(x), plain.z
    g = generator(4)
    torch.randn(1, 3, 2, generator=g, dtype=torch.float64)  # what the posterior's draw takes
    penalties = {
        "total_correlation": regularizers.total_correlation(q, z, 3),
        "mmd": regularizers.mmd(z, torch.randn(3, 2, generator=g, dtype=torch.float64)),
        "dip": regularizers.dip(q),
    }
    for name, penalty in penalties.items():
        for weight in (0.5, 4.0):
            bound = ELBO(**{name: weight})(model, x, None, 1.0, generator(4), 3)
            torch.testing.assert_close(bound.loss, plain.loss + weight * penalty, msg=name)
            for part in ("value", "kl", "reconstruction", "z"):
                assert torch.equal(getattr(bound, part), getattr(plain, part))
        model.zero_grad()
        (bound.loss - ELBO()(model, x, None, 1.0, generator(4), 3).loss).sum().backward()
        assert any(float(p.grad.abs().max()) > 1e-3 for n, p in model.named_parameters() if "encoder" in n)
        assert all(float(p.grad.abs().max()) < 1e-9 for n, p in model.named_parameters() if "decoder" in n)


@pytest.mark.parametrize("name", ["total_correlation", "mmd", "dip"])
def test_a_batch_of_one_is_refused(name):
    model, x = a_model()
    with pytest.raises(ValueError, match=f"{name} needs a batch of at least 2 rows, got 1"):
        ELBO(**{name: 1.0})(model, x[:1], None, 1.0, generator(), 10)


def test_total_correlation_needs_the_datas_size():
    model, x = a_model()
    with pytest.raises(ValueError, match="rows must be given, got None"):
        ELBO(total_correlation=1.0)(model, x, None, 1.0, generator())


@pytest.mark.parametrize("name", ["total_correlation", "dip"])
def test_other_posteriors_are_refused(name):
    q = FullNormal(torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
    arguments = (q, torch.zeros(4, 2), 4) if name == "total_correlation" else (q,)
    with pytest.raises(ValueError, match=f"{name} needs posterior='diagonal', got FullNormal"):
        getattr(regularizers, name)(*arguments)
    assert math.isfinite(float(regularizers.mmd(torch.randn(4, 2), torch.randn(4, 2))))  # takes draws only
