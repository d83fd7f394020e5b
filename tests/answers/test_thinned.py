"""Thinned counts against enumeration, and as a model's answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from abduce import PCA, VAE, Blanks, Noise, Thinned
from abduce.answers.answer import Effort
from abduce.answers.weighed import Weighed
from abduce.data.seen import Seen, Unanswerable
from abduce.distributions.discrete import NegativeBinomial, Poisson
from abduce.distributions.likelihoods import Product

MEANS = torch.tensor([[0.4, 2.0, 5.0], [1.0, 8.0, 3.0]]).double()
LOG_DISPERSIONS = [0.3, -0.2, 1.0]
COUNTS = np.arange(300)  # more than these have no probability to speak of
LAWS = {
    "poisson": Poisson(MEANS.log()),
    "negative binomial": NegativeBinomial(MEANS.log(), torch.tensor(LOG_DISPERSIONS, dtype=torch.float64)),
}


def prior(name: str, row: int, cell: int) -> np.ndarray:
    """Probability of each of COUNTS, by scipy."""
    mean = float(MEANS[row, cell])
    if name == "poisson":
        return stats.poisson(mean).pmf(COUNTS)
    r = float(np.exp(LOG_DISPERSIONS[cell]))
    return stats.nbinom(r, r / (r + mean)).pmf(COUNTS)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.95])
def test_against_enumeration(name, rate):
    law = Product([(slice(None), LAWS[name])], 3)
    y = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 4.0]]).double()
    seen = torch.tensor([[True, True, False], [True, True, True]])
    view = Thinned(rate)
    value, clean = view.log_prob(law, y, seen), view.clean(law, y, seen)
    mean, law_of_x = clean.moments()[0].squeeze(-1), clean.parts[0][1]
    spread = clean.gaussian().scale
    for i in range(2):
        log_p = 0.0
        for j in range(3):
            joint = prior(name, i, j)
            if seen[i, j]:
                joint = joint * stats.binom(COUNTS, rate).pmf(int(y[i, j]))
                log_p += np.log(joint.sum())
            posterior = joint / joint.sum()
            expected = posterior @ COUNTS
            assert mean[i, j].item() == pytest.approx(expected, abs=1e-8)
            assert spread[i, j].item() ** 2 == pytest.approx(posterior @ (COUNTS - expected) ** 2, abs=1e-6)
            some = range(int(y[i, j]) if seen[i, j] else 0, 12)
            for x in some:
                whole = y.where(seen, torch.zeros_like(y)).clone()
                whole[i, j] = x
                only = torch.zeros_like(seen)
                only[i, j] = True
                found = law_of_x.log_prob(whole, only)[i].exp().item()
                assert found == pytest.approx(posterior[x], abs=1e-8)
        assert value[i].item() == pytest.approx(log_p, abs=1e-8)


@pytest.mark.parametrize("name", LAWS)
def test_draws_are_whole_counts_of_at_least_what_was_seen(name):
    law = LAWS[name]
    n = 20_000
    many = type(law)(*(part.expand(n, 2, 3) for part in vars(law).values()))
    y, seen = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 4.0]]).double(), torch.ones(2, 3) > 0
    seen[1, 2] = False
    clean = Thinned(0.4).clean(Product([(slice(None), many)], 3), y, seen)
    drawn = clean.sample(torch.Generator().manual_seed(0))
    assert torch.equal(drawn, drawn.round())
    assert bool((drawn >= torch.where(seen, y, 0.0)).all())
    torch.testing.assert_close(drawn.mean(0), clean.moments()[0][0, ..., 0], atol=0.15, rtol=0)


@pytest.fixture(scope="module", params=["poisson", "negative_binomial"])
def fitted(request):
    """Counts of six columns that share one factor, and a model of them."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(900, 1))
    X = rng.poisson(np.exp(1.5 + factor * [0.9, 0.8, 0.7, -0.7, -0.8, -0.9]))
    model = VAE(latent_dim=1, likelihood=request.param, kinds="count", max_epochs=60, random_state=0)
    return model.fit(X[:700]), X[700:]


def test_evidence_is_the_sum_over_a_grid_of_latents(fitted):
    model, X = fitted
    y = torch.from_numpy(np.random.default_rng(1).binomial(X[:5], 0.3)).double()
    seen = Seen.whole(y)._replace(view=Thinned(0.3))
    found = model.model_.answer(seen, Effort(samples=4000)).log_evidence
    z = torch.linspace(-7, 7, 4001, dtype=torch.float64).view(-1, 1, 1)
    with torch.no_grad():
        inner = model.model_
        terms = seen.view.log_prob(inner.likelihood(z), y, seen.mask) + inner.prior.log_prob(z)
    expected = torch.logsumexp(terms, 0) + np.log(14 / 4000)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_restored_counts_are_nearer_than_scaled_ones(fitted):
    model, X = fitted
    rng = np.random.default_rng(1)
    Y = rng.binomial(X, 0.25)
    restored = model.restore(Y, Thinned(0.25))
    assert restored.shape == X.shape
    assert bool((restored >= Y).all())
    assert np.mean((restored - X) ** 2) < 0.65 * np.mean((Y / 0.25 - X) ** 2)  # 0.44 for the true rates
    holes = np.where(rng.random(X.shape) < 0.3, np.nan, Y)
    draws = np.stack(model.restore(holes, Thinned(0.25), draws=60, random_state=0))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert np.mean((low <= X) & (high >= X)) > 0.85
    nearly = model.restore(X, Thinned(1 - 1e-9))
    np.testing.assert_array_equal(nearly, X)
    assert isinstance(model.model_.answer(Seen.whole(torch.zeros(1, 6)), Effort()), Weighed)


def test_who_does_not_answer_says_so(fitted):
    _, X = fitted
    bounded = VAE(likelihood="beta_binomial", kinds="count", max_epochs=1, random_state=0).fit(X)
    with pytest.raises(Unanswerable, match=r"VariationalAutoencoder .* Thinned\(0.5\)"):
        bounded.restore(X, Thinned(0.5))
    with pytest.raises(ValueError, match="Thinned takes all-count data"):
        PCA(kinds="real").fit(X).restore(X, Thinned(0.5))
    energy = PCA(kinds="real").fit(X).model_
    with pytest.raises(Unanswerable, match=r"EnergyModel .* Thinned\(0.5\)"):
        energy.answer(Seen.whole(torch.zeros(1, 6).double())._replace(view=Thinned(0.5)))
    with pytest.raises(TypeError, match="Thinned"):
        bounded.restore(X, 0.5)
    with pytest.raises(ValueError, match="Noise takes"):
        bounded.restore(X, Noise(1.0))
    assert bounded.restore(X, Blanks()).shape == X.shape


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, "half", None, float("nan")])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="rate must be"):
        Thinned(rate)
