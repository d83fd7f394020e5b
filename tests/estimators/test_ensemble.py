"""Grouped mixtures: how members are fitted, what is kept of them, and the estimator that pools them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import abduce
from abduce import Downsample, MixtureEnsemble
from abduce.data.examples import load_digits_images
from abduce.data.seen import Seen
from abduce.gaussians import ensemble_fit
from abduce.models import mixture
from abduce.models.mixture import GroupedMixtureEnergy


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stretched(n: int = 600, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Two crossed, stretched clouds about one middle: which Gaussian a row is of, k-means cannot tell."""
    z = torch.randn(n, d, generator=generator(), dtype=torch.float64)
    label = torch.arange(n) % 2
    scale = torch.full((2, d), 0.1, dtype=torch.float64)
    scale[0, 0] = scale[1, 1] = 5.0
    return z * scale[label], label


def test_hard_em_tells_crossed_clouds_apart():
    x, label = stretched()
    start = torch.where(torch.rand(len(x), generator=generator(1)) < 0.3, 1 - label, label)
    found = ensemble_fit.hard_em(x, start, 2, 10, pseudo_rows=1.0, ridge=1e-3)
    assert (found == label).double().mean() > 0.97


def test_one_gaussian_without_shrinkage_is_the_sample_covariance():
    x, _ = stretched()
    expected = x.mT.cov(correction=0) + 0.01 * torch.eye(4, dtype=x.dtype)
    for fit in (ensemble_fit.tree, ensemble_fit.windows):
        member = fit(x, x, 1, 1, 0.0, 0.01, generator())
        factor = (
            1.0 if fit is ensemble_fit.tree else len(x) / (len(x) - 1)
        )  # windows count degrees of freedom
        torch.testing.assert_close(
            member.covariances[0], factor * (expected - 0.01 * torch.eye(4)) + 0.01 * torch.eye(4)
        )
        torch.testing.assert_close(member.centres[0], x.mean(0))


def test_with_many_pseudo_rows_all_covariances_are_the_one_within_children():
    x, _ = stretched()
    member = ensemble_fit.tree(x, x, 3, 9, 1e12, 0.0, generator())
    assert len(member.covariances) > 3
    torch.testing.assert_close(member.covariances, member.covariances[:1].expand_as(member.covariances))
    # total variance = within + between
    share = member.log_weights.exp()
    assert float(share.sum()) == pytest.approx(1.0)
    off = member.centres - share @ member.centres
    between = torch.einsum("k,ki,kj->ij", share, off, off)
    torch.testing.assert_close(member.covariances[0] + between, x.mT.cov(correction=0))


def test_shrinkage_takes_the_share_of_pseudo_rows():
    x, _ = stretched()
    free = ensemble_fit.tree(x, x, 1, 2, 0.0, 0.0, generator())
    held = ensemble_fit.tree(x, x, 1, 2, 100.0, 0.0, generator())
    size = free.log_weights.exp() * len(x)
    within = torch.einsum("k,kij->ij", size / len(x), free.covariances)
    b = (100 / (100 + size))[:, None, None]
    torch.testing.assert_close(held.covariances, (1 - b) * free.covariances + b * within)


def test_windows_share_the_covariance_of_their_parent():
    x, _ = stretched()
    member = ensemble_fit.windows(x, x, 2, 40, 0.0, 0.0, generator())
    assert len(member.covariances) == 2
    assert 30 <= len(member.centres) <= 42
    assert float(member.log_weights.exp().sum()) == pytest.approx(1.0)
    assert set(member.group.tolist()) == {0, 1}


def model(d: int = 4, kind: str = "tree") -> GroupedMixtureEnergy:
    x, _ = stretched(d=d)
    x = x.float()
    if kind == "tree":
        return GroupedMixtureEnergy.of(ensemble_fit.tree(x, x, 2, 6, 10.0, 0.01, generator()), 3, 0.5)
    return GroupedMixtureEnergy.of(ensemble_fit.windows(x, x, 2, 40, 10.0, 0.01, generator()), None, 0.5)


@pytest.mark.parametrize("kind", ["tree", "windows"])
def test_parameters_stay_in_single_precision(kind):
    energy = model(kind=kind).double()
    assert {t.dtype for t in energy.buffers() if t.is_floating_point()} == {torch.float32}
    assert energy.energy(torch.zeros(2, 3, 4, dtype=torch.float64)).dtype == torch.float64
    again = GroupedMixtureEnergy(**energy.config).double()
    again.load_state_dict(energy.state_dict())
    x = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    assert torch.equal(again.energy(x), energy.energy(x))


def test_the_law_follows_the_parameters():
    energy, other = model(), model()
    x = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    before = energy.energy(x)
    assert energy.law() is energy.law()  # factors are kept from one question to the next
    with torch.no_grad():
        other.centres += 1.0
    energy.load_state_dict(other.state_dict())
    torch.testing.assert_close(energy.energy(x + 1), before, rtol=1e-4, atol=1e-4)
    for twin in (copy.deepcopy(energy), pickle.loads(pickle.dumps(energy))):
        assert torch.equal(twin.energy(x), energy.energy(x))


@pytest.mark.parametrize("kind", ["tree", "windows"])
def test_many_cells_are_computed_in_single_precision(monkeypatch, kind):
    x = torch.randn(20, 4, generator=generator(), dtype=torch.float64)
    seen = Seen(x, torch.rand(x.shape, generator=generator(1)) < 0.5)
    double = model(kind=kind).double().law()
    monkeypatch.setattr(mixture, "DOUBLE", 0)
    single = model(kind=kind).double().law()
    assert single.covariances.dtype == torch.float32
    torch.testing.assert_close(single.mean(seen), double.mean(seen), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(single.log_prob(seen), double.log_prob(seen), rtol=1e-4, atol=1e-3)
    drawn = single.draws(seen, 4000, generator(2))
    assert drawn.dtype == torch.float64
    assert ((drawn.mean(0) - double.mean(seen)).abs() < 5 * drawn.std(0) / 4000**0.5 + 1e-3).all()


def test_it_is_a_probability_at_its_own_temperature_only():
    energy = model()
    assert float(energy.log_z()) == 0
    assert energy.law(beta=2.0) is None
    assert energy.log_z(beta=2.0) is None
    seen = torch.zeros(2, 4, dtype=torch.bool)
    torch.testing.assert_close(energy.energy(torch.zeros(2, 4), seen), torch.zeros(2), rtol=0, atol=1e-6)


# ------------------------------------------------------------------ the estimator


def test_defaults_go_by_rows_and_cells():
    X = load_digits_images()[0]
    fitted = MixtureEnsemble(random_state=0).fit(X[:1500])
    configs = [member.energy.config for member in fitted.model_.parts]
    (tree, of_tree), (windows, of_windows) = ((c["centres"], c["groups"]) for c in configs)
    assert tree == of_tree
    assert 25 <= tree <= 45
    assert 90 <= windows <= 110
    assert of_windows < of_tree
    new = X[1500:1700]
    blank = np.random.default_rng(0).random(new.shape) < 0.5
    filled = fitted.fill(np.where(blank, np.nan, new))
    one = abduce.GaussianMixture(components=1, reg_covar=0.016).fit(X[:1500])
    other = one.fill(np.where(blank, np.nan, new))
    assert ((filled - new)[blank] ** 2).mean() < 0.9 * ((other - new)[blank] ** 2).mean()


def test_colours_blanks_and_every_restoration():
    rng = np.random.default_rng(0)
    base = load_digits_images()[0][:300] / 16
    X = np.stack([base, 0.5 * base, 1 - base], -1) + 0.02 * rng.normal(size=(300, 8, 8, 3))
    X[rng.random(X.shape) < 0.1] = np.nan
    fitted = MixtureEnsemble(random_state=0).fit(X)
    whole = np.nan_to_num(X[:5], nan=0.3)
    mean, std = fitted.restore(whole[:, ::2, ::2], Downsample(2), return_std=True)
    assert mean.shape == std.shape == (5, 8, 8, 3)
    assert (std > 0).all()
    draws = fitted.fill(X[:5], draws=3, random_state=0)
    np.testing.assert_array_equal(draws[0][~np.isnan(X[:5])], X[:5][~np.isnan(X[:5])])
    assert np.isfinite(fitted.score_samples(X[:5])).all()
    assert fitted.sample(4, random_state=0).shape == (4, 8, 8, 3)
    assert fitted.estimate_noise(whole) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temper": 0}, r"temper must be in \(0, 1\], got 0"),
        ({"temper": 1.5}, r"temper must be in \(0, 1\], got 1.5"),
        ({"shrinkage": -1}, "shrinkage must be >= 0, got -1"),
        ({"reg_covar": "x"}, "reg_covar must be >= 0, got 'x'"),
        ({"keep": 0}, "keep"),
        ({"children": 500}, "children must be at most the number of rows, got 500 for 50 rows"),
        ({"parents": 0}, "parents"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixtureEnsemble(**arguments).fit(np.random.default_rng(0).normal(size=(50, 3)))
