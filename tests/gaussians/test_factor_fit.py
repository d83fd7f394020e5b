"""Fits of mixtures of factor analysers: beside closed forms, scikit-learn, and what was put into the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import FactorAnalysis

from abduce.data.seen import Seen
from abduce.gaussians.em import Scatter, climb, k_means, principal_factors
from abduce.gaussians.factor_fit import factor_mixture
from abduce.gaussians.factor_law import FactorMixtureLaw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factor_data(n: int = 500, d: int = 6, q: int = 2, seed: int = 0) -> torch.Tensor:
    """Standardised columns of q factors and noise."""
    g = generator(seed)
    W = torch.randn(q, d, generator=g, dtype=torch.float64)
    e = torch.randn(n, d, generator=g, dtype=torch.float64)
    x = torch.randn(n, q, generator=g, dtype=torch.float64) @ W + 0.6 * e
    return (x - x.mean(0)) / x.std(0, correction=0)


def clusters(
    n: int = 300, d: int = 4, apart: float = 8.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(seed)
    label = (torch.rand(n, generator=g) < 0.3).long()
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x[label == 1] = x[label == 1] * 0.5 + apart / d**0.5
    return x, label


def blanks(x: torch.Tensor, share: float = 0.3, seed: int = 1) -> torch.Tensor:
    return torch.rand(x.shape, generator=generator(seed)) >= share


def fitted(x, observed=None, components: int = 1, factors: int = 2, **kw) -> FactorMixtureLaw:
    return factor_mixture(x, observed, components, factors, **{"iterations": 300, "tolerance": 1e-8, **kw})


def looked(x: torch.Tensor, observed: torch.Tensor | None = None) -> Seen:
    return Seen.whole(x) if observed is None else Seen(x, observed)


# ------------------------------------------------------------------ EM


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_likelihood_does_not_fall(components, share):
    """Of observed cells, from step to step, up to single precision and the one pseudo-row of the prior."""
    x = torch.cat([clusters(500, 6)[0], factor_data(500)])
    observed = blanks(x, share) if share else None
    law = factor_mixture(x, observed, components, 2, pseudo_rows=0.0, iterations=1)
    values = []
    for _ in range(12):
        values.append(float(law.log_prob(looked(x, observed)).mean()))
        law = factor_mixture(x, observed, components, 2, pseudo_rows=0.0, iterations=1, start=law)
    rises = np.diff(values)
    assert (rises > -1e-3).all(), rises
    assert values[-1] > values[0] + 0.01


def test_a_full_gaussian_with_all_factors_but_one():
    """With D − 1 factors the covariance is free: maximum likelihood is the sample's, but for the pseudo-row."""
    x = factor_data(2000, 4, 3)
    law = fitted(x, factors=3)
    torch.testing.assert_close(law.means[0], x.mean(0), rtol=0, atol=2e-3)
    torch.testing.assert_close(law.covariances[0], x.T.cov(correction=0), rtol=0, atol=0.01)


def test_factor_analysis_scores_as_scikit_learns():
    x = factor_data(1000, 8, 2)
    ours = float(fitted(x, factors=2).log_prob(Seen.whole(x)).mean())
    peer = FactorAnalysis(2, tol=1e-8, max_iter=5000, svd_method="lapack").fit(x.numpy())
    assert ours == pytest.approx(peer.score(x.numpy()), abs=5e-3)
    one = fitted(x, factors=1)
    assert float(one.log_prob(Seen.whole(x)).mean()) < ours - 0.1  # the second factor is needed, and found


def test_two_clusters_are_found():
    x, label = clusters()
    law = fitted(x, components=2, factors=1, pseudo_rows=1.0)
    found = law.responsibilities(Seen.whole(x)).argmax(1)
    agreement = (found == label).double().mean()
    assert max(agreement, 1 - agreement) > 0.99
    order = law.means.sum(1).argsort()
    share = label.double().mean()
    assert float(law.log_weights[order[1]].exp()) == pytest.approx(float(share), abs=0.01)
    torch.testing.assert_close(law.means[order[0]], x[label == 0].mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(law.means[order[1]], x[label == 1].mean(0), rtol=0, atol=0.05)
    for c in (0, 1):
        spread = x[label == c].var(0)
        torch.testing.assert_close(law.covariances[order[c]].diagonal(), spread, rtol=0.15, atol=0)


def test_two_clusters_are_found_behind_blanks():
    x, label = clusters()
    observed = blanks(x)
    gaps = torch.where(observed, x, torch.nan)
    law = fitted(gaps, observed, components=2, factors=1, pseudo_rows=1.0)
    found = law.responsibilities(Seen(gaps, observed)).argmax(1)
    some = observed.sum(1) > 1
    agreement = (found == label)[some].double().mean()
    assert max(agreement, 1 - agreement) > 0.98


def test_many_pseudo_rows_give_all_components_one_covariance():
    x, _ = clusters()
    law = fitted(x, components=2, factors=3, pseudo_rows=1e5, iterations=100)
    torch.testing.assert_close(law.covariances[0], law.covariances[1], rtol=0, atol=0.02)
    free = fitted(x, components=2, factors=3, pseudo_rows=0.0, iterations=100)
    assert (free.covariances[0] - free.covariances[1]).abs().max() > 0.3


# ------------------------------------------------------------------ blanks


def test_blanks_at_random_leave_the_covariance_right():
    x = factor_data(6000, 5, 1)
    observed = blanks(x, 0.4)
    law = fitted(torch.where(observed, x, torch.nan), observed, factors=1)
    whole = fitted(x, factors=1)
    torch.testing.assert_close(law.covariances, whole.covariances, rtol=0, atol=0.06)
    torch.testing.assert_close(law.means, whole.means, rtol=0, atol=0.05)


def test_blanks_that_depend_on_what_was_seen_leave_it_right_too():
    """The second of two columns is seen only where the first is low; the mean of what was seen is far off."""
    g = generator(3)
    a = torch.randn(4000, generator=g, dtype=torch.float64)
    x = torch.stack([a, 0.9 * a + 0.3 * torch.randn(4000, generator=g, dtype=torch.float64)], 1)
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 1] = a < 0
    law = fitted(x, observed, factors=1, iterations=2000, tolerance=1e-10)
    assert float(x[observed[:, 1], 1].mean()) < -0.6
    torch.testing.assert_close(law.means[0], x.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(law.covariances[0], x.T.cov(), rtol=0, atol=0.08)


def test_what_blanks_hold_does_not_matter():
    x = factor_data(100)
    observed = blanks(x)
    one, two = (fitted(torch.where(observed, x, value), observed, 2) for value in (torch.nan, 1e6))
    for name in ("log_weights", "means", "loadings", "noise"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_a_mask_without_blanks_is_no_mask():
    x = factor_data(100)
    one, two = fitted(x), fitted(x, torch.ones_like(x, dtype=torch.bool))
    assert torch.equal(one.covariances, two.covariances)


def finite(law: FactorMixtureLaw, x: torch.Tensor, observed: torch.Tensor | None = None) -> bool:
    parts = (law.log_weights, law.means, law.loadings, law.noise, law.log_prob(looked(x, observed)))
    return all(bool(torch.isfinite(p).all()) for p in parts)


@pytest.mark.parametrize("components", [1, 3])
def test_hard_tables(components):
    """A column nobody saw, a constant one, a row with nothing in it; fewer rows than columns."""
    x = factor_data(60)
    observed = blanks(x)
    observed[:, 2] = False
    observed[0] = False
    x[:, 4] = 0.0
    law = fitted(x, observed, components, 3, iterations=40)
    assert finite(law, x, observed)
    filled = law.mean(Seen(x, observed))
    assert filled[:, 2].abs().max() < 0.5  # nothing is known of it but where zero is
    assert filled[:, 4].abs().max() < 0.05
    few = factor_data(5, 12)
    assert finite(fitted(few, None, components, 11, iterations=40), few)
    observed = blanks(few)
    assert finite(fitted(few, observed, components, 11, iterations=40), few, observed)
    one_column = factor_data(50, 1)
    law = fitted(one_column, None, components, 1)
    assert finite(law, one_column)
    mean, variance = law.dense().means, law.covariances[:, 0, 0]
    share = law.log_weights.exp()
    total = float(share @ (variance + mean[:, 0] ** 2) - (share @ mean[:, 0]) ** 2)
    assert total == pytest.approx(1.0, abs=0.1)
    same = torch.ones(10, 3, dtype=torch.float64)
    law = fitted(same, None, components, 2, iterations=20)
    assert finite(law, same)
    torch.testing.assert_close(law.log_weights.exp() @ law.means, same[0], rtol=0, atol=1e-3)


def test_noise_has_a_floor():
    x = factor_data(200)
    x[:, 1] = x[:, 0]
    assert float(fitted(x, factors=3, floor=0.2).noise.min()) >= 0.2**2 - 1e-9
    assert float(fitted(x, factors=3, floor=0.01).noise[0, :2].min()) < 0.1**2


# ------------------------------------------------------------------ where to start, and seeds


def test_same_seed_same_numbers():
    x = torch.cat([clusters(300)[0], clusters(200, seed=3)[0] - 4])
    observed = blanks(x)
    one, two, other = (fitted(x, observed, 4, 2, iterations=5, seed=s) for s in (5, 5, 6))
    for name in ("log_weights", "means", "loadings", "noise"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.means, other.means)


def test_a_fit_goes_on_from_where_it_was():
    x = torch.cat([clusters(apart=2.0)[0], factor_data(300, 4)])
    early = factor_mixture(x, None, 3, 2, pseudo_rows=1.0, iterations=1)
    late = factor_mixture(x, None, 3, 2, pseudo_rows=1.0, iterations=40, tolerance=0.0, start=early)
    assert float(late.log_prob(Seen.whole(x)).mean()) > float(early.log_prob(Seen.whole(x)).mean()) + 0.01
    one = factor_mixture(x, None, 1, 2)
    given = factor_mixture(x, None, 2, 2, iterations=3, one=one)
    alone = factor_mixture(x, None, 2, 2, iterations=3)
    assert given.means.shape == alone.means.shape == (2, 4)
    assert factor_mixture(x, None, 1, 2, one=one) is one


def test_principal_factors_of_a_known_covariance():
    """With equal noise they are those of probabilistic PCA: W Wᵀ is the covariance less the noise."""
    g = generator(4)
    W = torch.randn(3, 6, 2, generator=g, dtype=torch.float64)
    covariances = W @ W.mT + 0.3 * torch.eye(6, dtype=torch.float64)
    loadings, noise = principal_factors(covariances, 2, 0.01)
    torch.testing.assert_close(loadings @ loadings.mT, W @ W.mT)
    torch.testing.assert_close(noise, torch.full_like(noise, 0.3))


@pytest.mark.parametrize("factors", [1, 3, 4, 7])
def test_principal_factors_keep_variances(factors):
    g = generator(5)
    root = torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
    covariances = root @ root.mT
    loadings, noise = principal_factors(covariances, factors, 0.01)
    assert loadings.shape == (2, 4, min(factors, 4))
    assert (noise > 0).all()
    found = (loadings @ loadings.mT).diagonal(dim1=1, dim2=2) + noise
    torch.testing.assert_close(found, covariances.diagonal(dim1=1, dim2=2), rtol=0.03, atol=1e-3)


def test_k_means_finds_clusters_and_the_best_means():
    g = generator(6)
    centres = 10 * torch.randn(4, 3, generator=g, dtype=torch.float64)
    true = torch.arange(400) % 4
    x = centres[true] + torch.randn(400, 3, generator=g, dtype=torch.float64)
    label, _ = k_means(x, 4, generator())
    table = torch.zeros(4, 4)
    table.index_put_((label, true), torch.ones(400), accumulate=True)
    row, column = linear_sum_assignment(-table.numpy())
    assert table[row, column].sum() == 400
    means = torch.stack([x[label == c].mean(0) for c in range(4)])
    assert torch.equal(torch.cdist(x, means).argmin(1), label)  # nothing is left to move


def test_k_means_with_more_means_than_rows():
    x = torch.tensor([[0.0], [0.0], [5.0]], dtype=torch.float64)
    label, _ = k_means(x, 6, generator())
    assert label[0] == label[1] != label[2]
    assert k_means(x, 1, generator())[0].tolist() == [0, 0, 0]


def test_principal_factors_of_very_many_cells_are_those_of_the_whole_decomposition(monkeypatch):
    from abduce.gaussians import em

    root = torch.randn(1, 80, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariances = root @ root.mT + torch.diag(torch.linspace(0.1, 0.3, 80).double())
    whole, noise = principal_factors(covariances, 4, 0.01)
    monkeypatch.setattr(em, "MANY", 50)
    found, again = principal_factors(covariances, 4, 0.01)
    torch.testing.assert_close(found @ found.mT, whole @ whole.mT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, noise, rtol=1e-3, atol=1e-4)


def test_sums_over_rows_with_the_same_blanks_are_those_over_single_rows(monkeypatch):
    from abduce.gaussians import factor_sums

    rng = np.random.default_rng(0)
    x = torch.from_numpy(
        rng.normal(size=(300, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(300, 4))
    )
    seen = torch.from_numpy(rng.random((300, 4)) > 0.3)
    few = factor_mixture(x, seen, 3, 2, iterations=5)
    monkeypatch.setattr(factor_sums, "FEW", 0)
    rows = factor_mixture(x, seen, 3, 2, iterations=5)
    torch.testing.assert_close(few.means, rows.means, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(few.covariances, rows.covariances, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("many", [4, 1000], ids=["subspace iteration", "whole"])
def test_principal_factors_of_sums_are_those_of_what_they_add_up_to(monkeypatch, many):
    monkeypatch.setattr("abduce.gaussians.em.MANY", many)
    g = generator(5)
    scatter = Scatter(
        torch.randn(6, 40, generator=g, dtype=torch.float64) * 3,
        torch.rand(2, 6, generator=g, dtype=torch.float64),
        torch.rand(2, 40, generator=g, dtype=torch.float64) + 0.1,
    )
    assert torch.allclose(scatter.variances, torch.diagonal(scatter.dense(), dim1=1, dim2=2))
    basis = torch.randn(40, 3, generator=g, dtype=torch.float64)
    assert torch.allclose(scatter @ basis, scatter.dense() @ basis)
    found, noise = principal_factors(scatter, 3, 0.01)
    whole, own = principal_factors(scatter.dense(), 3, 0.01)
    torch.testing.assert_close(found @ found.mT, whole @ whole.mT)
    torch.testing.assert_close(noise, own)


def test_a_climb_ends_where_hidden_cells_are_missed_by_more():
    """Of a walk from 5 downward, by ones and looked at two by two."""
    seen = []

    def miss(x: float) -> float:
        seen.append(x)
        return abs(x - 2.2)

    assert climb(5.0, lambda x: (x - 1, -x), 10, 0.1, miss) == 3.0
    assert seen == [3.0, 1.0]


def test_a_small_table_is_filled_better_where_em_stops_early():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(150, 2))
    x = torch.from_numpy(z @ rng.normal(size=(2, 8)) + rng.normal(size=(150, 8)))
    kept = torch.from_numpy(rng.random(x.shape) < 0.7)
    part = torch.from_numpy(rng.random(x.shape) < 0.5)
    chosen, asked = ~kept & part, ~kept & ~part

    def error(law: FactorMixtureLaw, place: torch.Tensor) -> float:
        return float((law.mean(Seen(x, kept)) - x)[place].square().mean())

    long = factor_mixture(x, kept, 10, 7, iterations=40, tolerance=1e-4)
    short = factor_mixture(x, kept, 10, 7, iterations=40, tolerance=1e-4, miss=lambda law: error(law, chosen))
    assert error(short, asked) < 0.99 * error(long, asked)
