"""Rows conditioned by precisions: against marginals and regressions written out, and against factorised patterns."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from abduce.data.seen import Seen
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.precisions import SHARED, Precisions, apart

K, D, N = 3, 7, 200


def mixture(k: int = K, d: int = D) -> GaussianMixtureLaw:
    torch.manual_seed(0)
    spread = torch.randn(k, d, d, dtype=torch.float64)
    covariances = spread @ spread.mT + 0.3 * torch.eye(d)
    return GaussianMixtureLaw(torch.randn(k).double(), torch.randn(k, d).double(), covariances)


def factors() -> FactorMixtureLaw:
    torch.manual_seed(1)
    loadings = torch.randn(K, D, 4, dtype=torch.float64)
    return FactorMixtureLaw(
        torch.randn(K).double(), torch.randn(K, D).double(), loadings, 0.2 + torch.rand(K, D).double()
    )


def rows(law: GaussianMixtureLaw | FactorMixtureLaw, blank: float = 0.4, n: int = N) -> Seen:
    """Rows with every number of blanks, from none to all, NaN where they are."""
    x = law.sample(n, torch.Generator().manual_seed(2))
    mask = torch.rand(n, D, generator=torch.Generator().manual_seed(3)) > blank
    mask[0], mask[1] = True, False
    return Seen(torch.where(mask, x, torch.nan), mask)


def without(law):
    """The same law, which does without precisions."""
    law.__dict__["_precisions"] = None
    return law


def test_rows_are_conditioned_as_the_formulas_say():
    law, seen = mixture(), rows(mixture())
    assert law._precisions is not None
    log_p, mean = law.log_prob(seen), law.mean(seen)
    for i in range(N):
        o = seen.mask[i]
        x = seen.y[i, o]
        values = law.log_weights.clone()
        means = []
        for k in range(K):
            mu, c = law.means[k], law.covariances[k]
            if o.any():
                values[k] += MultivariateNormal(mu[o], c[o][:, o]).log_prob(x)
            means.append(mu + c[:, o] @ torch.linalg.solve(c[o][:, o], x - mu[o]))
        assert log_p[i] == pytest.approx(values.logsumexp(0).item(), abs=1e-10)
        expected = torch.softmax(values, 0) @ torch.stack(means)
        torch.testing.assert_close(mean[i, ~o], expected[~o], atol=1e-10, rtol=0)
        assert torch.equal(mean[i, o], x)
    assert log_p[1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("make", [mixture, factors])
def test_a_row_has_its_value_to_the_bit_whatever_comes_along(make):
    law = make()
    seen = rows(law, n=1000)
    assert law.rowwise
    together = law.log_prob(seen)
    for i in (0, 1, 2, 500, 999):
        assert law.log_prob(seen.rows(slice(i, i + 1))) == together[i]
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(4))
    assert torch.equal(law.log_prob(Seen(seen.y[order], seen.mask[order])), together[order])


def test_expected_statistics_are_those_of_factorised_patterns():
    seen = rows(mixture())
    seen = Seen(torch.where(seen.mask, seen.y, 0.0), seen.mask)
    for mine, theirs in zip(mixture().statistics(seen), without(mixture()).statistics(seen), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-12)


def test_factors_and_precisions_say_the_same():
    law, other, seen = factors(), without(factors()), rows(factors())
    assert law.rowwise
    assert not other.rowwise
    for ask in ("log_prob", "mean", "responsibilities"):
        torch.testing.assert_close(getattr(law, ask)(seen), getattr(other, ask)(seen), atol=1e-10, rtol=0)
    torch.testing.assert_close(law.points(seen, 16), other.points(seen, 16), atol=1e-9, rtol=0)


def test_patterns_that_many_rows_have_are_taken_together():
    mask = torch.ones(3 * SHARED, 4, dtype=torch.bool)
    mask[: SHARED + 1, 0] = False
    mask[SHARED + 1 : 2 * SHARED, 1] = False
    mask[2 * SHARED :, 2] = torch.arange(SHARED) % 2 == 0
    law = mixture(d=4)
    many, blocks = apart(law._precisions, torch.zeros(mask.shape).double(), mask)
    few = torch.cat([block.rows for block in blocks])
    assert many.tolist() == list(range(SHARED + 1))
    assert torch.cat([many, few]).sort().values.tolist() == list(range(3 * SHARED))
    assert not len(apart(law._precisions, torch.zeros(SHARED, 4).double(), mask[:SHARED])[0])
    seen = Seen(law.sample(3 * SHARED, torch.Generator().manual_seed(5)), mask)
    torch.testing.assert_close(law.mean(seen), without(mixture(d=4)).mean(seen), atol=1e-10, rtol=0)


def test_what_is_nearly_singular_or_single_is_left_to_factorisations():
    law = mixture()
    narrow = law.covariances.clone()
    narrow[1] = torch.ones(D, D).double() + 1e-7 * torch.eye(D)
    assert Precisions.of(law.log_weights, law.means, narrow, torch.linalg.cholesky(narrow)) is None
    assert (
        GaussianMixtureLaw(law.log_weights.float(), law.means.float(), law.covariances.float())._precisions
        is None
    )
    single = GaussianMixtureLaw(law.log_weights, law.means, narrow)
    assert not single.rowwise
    assert torch.isfinite(single.log_prob(rows(law))).all()


def test_values_are_differentiable_in_what_was_seen():
    law, seen = mixture(), rows(mixture(), n=12)
    y = torch.where(seen.mask, seen.y, 0.0).requires_grad_()
    torch.autograd.gradcheck(lambda y: law.log_prob(Seen(y, seen.mask)), y)
