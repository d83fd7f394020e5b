"""Energy-based estimators: scikit-learn's contract, data frames, blanks in training, and what bad input gets."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.decomposition import PCA as PeerPCA
from sklearn.mixture import GaussianMixture as PeerMixture
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

import abduce
from abduce import (
    ICA,
    NCE,
    PCA,
    PSD,
    RBM,
    Autoencoder,
    ContrastiveDivergence,
    DenoisingAutoencoder,
    DenoisingScoreMatching,
    Diverged,
    EnergyNetwork,
    GaussianMixture,
    Ising,
    KMeans,
    LatentClasses,
    MaximumLikelihood,
    MinimumProbabilityFlow,
    MixtureEnsemble,
    NotNormalized,
    PseudoLikelihood,
    RatioMatching,
    ScoreMatching,
    SlicedScoreMatching,
    SparseCoding,
)
from abduce.data.foreign import native
from abduce.estimators import estimator
from abduce.estimators.methods import ENERGIES, find


def numbers(n: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ [[2.0, 1.0, 0.0], [0.0, 0.5, 1.0]] + 0.3 * rng.normal(size=(n, 3)) + 5


def bits(n: int = 200, d: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((rng.random((n, 1)) < 0.5) ^ (rng.random((n, d)) < 0.15)).astype(float)


# ---------------------------------------------------------------- scikit-learn's own checks

UNLIKE_CLASSES = dict.fromkeys(
    ["check_outliers_train", "check_outliers_fit_predict", "check_positive_only_tag_during_fit"],
    "its numbers lie anywhere: no classes",
)


@parametrize_with_checks(
    [
        PCA(),
        ICA(),
        KMeans(components=2),
        GaussianMixture(),
        MixtureEnsemble(),
        EnergyNetwork(hidden=(4,), max_epochs=1),
        LatentClasses(),
    ],
    expected_failed_checks=lambda estimator: UNLIKE_CLASSES if isinstance(estimator, LatentClasses) else {},
)
def test_scikit_learns_checks(estimator, check):
    with threadpool_limits(1):
        check(estimator.set_params(random_state=0))


def parities(X):
    """Whether numbers, in sevenths, are odd: what takes all-binary data only is asked with these; all else as it is."""
    X = native(X)
    if sparse.issparse(X) or (rows := np.asarray(X)).dtype.kind not in "fiu":
        return X
    return np.where(np.isfinite(rows), np.floor(7 * rows) % 2, rows)


@pytest.mark.parametrize(
    "name",
    [
        "check_dict_unchanged",
        "check_estimators_dtypes",
        "check_fit2d_1feature",
        "check_fit2d_1sample",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in",
        "check_pipeline_consistency",
        "check_transformer_general",
    ],
)
def test_scikit_learns_checks_on_bits(name, monkeypatch):
    monkeypatch.setattr(estimator, "native", parities)
    getattr(estimator_checks, name)("Ising", Ising(max_epochs=1, random_state=0))


@pytest.mark.parametrize(
    "model",
    [RBM(hidden=2, max_epochs=1), Autoencoder(max_epochs=1), SparseCoding(code=2), PSD(code=2, max_epochs=1)],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize(
    "name",
    [
        "check_outliers_train",  # asks for log p
        "check_fit2d_1feature",
        "check_fit2d_1sample",
    ],
)
def test_scikit_learns_checks_of_energies_that_are_trained(model, name):
    with threadpool_limits(1):
        getattr(estimator_checks, name)(type(model).__name__, clone(model).set_params(random_state=0))


@pytest.mark.parametrize("name", ENERGIES)
def test_constructors_keep_what_they_are_given(name):
    method = ENERGIES[name]()
    assert clone(method).get_params() == method.get_params()
    assert type(method).__name__ in repr(method)
    assert getattr(abduce, name) is find(name.lower()) is type(method)


# ---------------------------------------------------------------- known answers through the face


def test_pca_scores_as_scikit_learn_does():
    X = numbers()
    ours, peer = PCA(components=2).fit(X), PeerPCA(2).fit((X - X.mean(0)) / X.std(0))
    expected = peer.score_samples((X - X.mean(0)) / X.std(0)) - np.log(X.std(0)).sum()
    np.testing.assert_allclose(ours.score_samples(X), expected, rtol=0, atol=1e-8)
    assert ours.log_z_.kind == "exact"


def test_mixture_fills_by_regression():
    """One Gaussian: the fill of a blank is linear regression, and log p of the rest is its marginal."""
    X = numbers(2000)
    model = GaussianMixture(components=1, reg_covar=0.0, random_state=0).fit(X)
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    gaps = X[:5].copy()
    gaps[:, 0] = np.nan
    slope = np.linalg.solve(covariance[1:, 1:], covariance[1:, 0])
    np.testing.assert_allclose(model.fill(gaps)[:, 0], mean[0] + (X[:5, 1:] - mean[1:]) @ slope, atol=1e-6)
    expected = stats.multivariate_normal(mean[1:], covariance[1:, 1:]).logpdf(X[:5, 1:])
    np.testing.assert_allclose(model.score_samples(gaps), expected, atol=1e-6)
    peer = PeerMixture(1, reg_covar=0.0).fit(X)
    np.testing.assert_allclose(model.score_samples(X), peer.score_samples(X), atol=1e-6)


def test_blanks_in_training():
    """Fitted to rows with a third of the cells blank, the Gaussian is nearly that of the whole rows."""
    X = numbers(3000)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.33, np.nan, X)
    whole = numbers(1000, seed=2)
    for model in (PCA(components=2), GaussianMixture(components=1)):
        on_gaps = model.set_params(random_state=0).fit(gaps).score(whole)
        assert on_gaps == pytest.approx(clone(model).fit(X).score(whole), abs=0.03)
    machine = RBM(hidden=3, max_epochs=50, random_state=0)
    B = bits(1000)
    holed = np.where(np.random.default_rng(1).random(B.shape) < 0.2, np.nan, B)
    assert machine.fit(holed).score(bits(300, seed=1)) > clone(machine).fit(B).score(bits(300, seed=1)) - 0.6


def test_frames_come_back_as_frames():
    frame = pd.DataFrame(numbers(), columns=["a", "b", "c"], index=[f"r{i}" for i in range(200)])
    frame["b"] = np.exp(frame["b"] / 10)  # positive: modelled by its logarithm
    gaps = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)
    for model in (
        GaussianMixture(components=2),
        KMeans(components=4),
        EnergyNetwork(hidden=(16,), max_epochs=5),
    ):
        filled = model.set_params(random_state=0).fit(gaps).fill(gaps)
        assert list(filled) == list(frame)
        assert filled.index.equals(frame.index)
        assert (filled.dtypes == frame.dtypes).all()
        assert (filled.to_numpy()[gaps.notna()] == frame.to_numpy()[gaps.notna()]).all()
        assert (filled["b"] > 0).all()
        assert list(model.sample(3, random_state=0)) == list(frame)


# ---------------------------------------------------------------- objectives as arguments

REAL = [
    DenoisingScoreMatching(0.2),
    ScoreMatching(),
    SlicedScoreMatching(),
    NCE(),
    ContrastiveDivergence(k=2),
]
BINARY = [
    PseudoLikelihood(),
    RatioMatching(),
    MinimumProbabilityFlow(),
    NCE(),
    ContrastiveDivergence(k=2),
    MaximumLikelihood(),
]


@pytest.mark.parametrize("objective", [*REAL, MaximumLikelihood()], ids=lambda o: type(o).__name__)
def test_objectives_of_numbers_reach_a_gaussian(objective):
    """In the plane, held-out log p comes within a fifth of a nat of the true density's."""
    rng = np.random.default_rng(0)
    covariance = [[1.0, 0.8], [0.8, 1.0]]
    X, new = (rng.multivariate_normal([0, 0], covariance, n) for n in (800, 500))
    model = EnergyNetwork(
        hidden=(32,), objective=objective, max_epochs=60, learning_rate=5e-3, random_state=0
    ).fit(X)
    model.normalize()
    truth = stats.multivariate_normal([0, 0], covariance).logpdf(new).mean()
    assert model.score(new) > truth - 0.2
    assert model.score(new) < truth + 0.1


@pytest.mark.parametrize("objective", BINARY, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("method", [RBM, Ising])
def test_objectives_of_binary_data(method, objective):
    """On six noisy copies of one bit, log p comes near the truth that summing over the bit gives."""
    X, new = bits(2000), bits(500, seed=1)
    arguments = {"hidden": 4} if method is RBM else {}
    rate = {"learning_rate": 0.2 if method is RBM else 0.03, "max_epochs": 60}
    if method is RBM and not isinstance(objective, ContrastiveDivergence):
        rate["learning_rate"] = 0.5
    model = method(objective=objective, random_state=0, **arguments, **rate).fit(X)
    ones = new.sum(1)
    truth = np.log(0.5 * (0.85**ones * 0.15 ** (6 - ones) + 0.15**ones * 0.85 ** (6 - ones))).mean()
    assert model.log_z_.kind == "exact"
    assert truth - 0.25 < model.score(new) < truth + 0.1


# ---------------------------------------------------------------- normalize


@pytest.mark.parametrize(
    ("model", "X"),
    [
        (EnergyNetwork(hidden=(4,), max_epochs=2), np.random.default_rng(0).normal(size=(150, 4))),
        (DenoisingAutoencoder(code=4, hidden=(), max_epochs=2), numbers(150)[:, :2]),
        (RBM(hidden=21, max_epochs=2), bits(150, 21)),
    ],
    ids=["sampled", "on a grid", "bits"],
)
def test_the_first_question_that_needs_log_z_estimates_it(model, X):
    """To the same number as ``normalize`` by name; who is odd does not change."""
    lazy, told = (clone(model).set_params(random_state=0).fit(X) for _ in range(2))
    gaps, odd = lazy.decision_function(X), lazy.predict(X)
    assert lazy.log_z_ is None
    value = lazy.score_samples(X)
    assert lazy.log_z_ == told.normalize()
    assert lazy.log_z_.kind != "exact"
    np.testing.assert_array_equal(value, told.score_samples(X))
    np.testing.assert_array_equal(value, lazy.log_prob(X))
    assert lazy.offset_ == told.offset_
    np.testing.assert_array_equal(lazy.predict(X), odd)
    np.testing.assert_allclose(lazy.decision_function(X), gaps, atol=1e-9)


def test_a_log_z_that_is_infinite_is_said_to_be():
    """Almost flat far away, so particles run off; a base measure, given by name, holds them."""
    X = np.random.default_rng(0).normal(size=(150, 4))
    model = EnergyNetwork(hidden=(4,), width=1e6, max_epochs=1, random_state=0).fit(X)
    with pytest.raises(NotNormalized, match=r"ran away.*call normalize\(\) with another") as failed:
        model.score_samples(X)
    assert isinstance(failed.value.__cause__, Diverged)
    assert model.log_z_ is None
    assert (model.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.01)
    model.normalize(base="normal")
    assert np.isfinite(model.score_samples(X)).all()


@pytest.mark.parametrize("seed", range(8))
def test_another_base_calls_no_training_row_impossible_and_flags_about_as_many(seed):
    X = numbers(seed=seed)
    X[0, 0] = 40.0  # far beyond three standard deviations
    model = PCA(components=1, form="reconstruction", random_state=seed).fit(X)
    assert (model.predict(X) == -1).sum() == 20
    model.normalize(base="box")
    assert np.isfinite(model.score_samples(X)).all()
    assert 10 <= (model.predict(X) == -1).sum() <= 30


def test_temperature_and_base_measure():
    X = numbers()
    model = PCA(components=1, form="reconstruction", random_state=0).fit(X)
    assert model.base_.name == "normal"  # a valley needs one
    assert model.log_z_.diagnostics["base"] == "normal"
    with pytest.raises(ValueError, match=r"infinite.*give a base measure"):
        model.normalize(base="none")
    before, flagged = model.score_samples(X), model.predict(X)
    boxed = model.normalize(base="box")
    assert boxed.diagnostics["base"] == "box"
    assert boxed.kind == "quadrature"
    assert not np.allclose(model.score_samples(X), before)
    assert (model.predict(X) == flagged).mean() > 0.9
    hot = model.normalize(beta=0.1, base="normal")
    assert hot.diagnostics["beta"] == 0.1
    assert model.beta_ == 0.1
    kmeans = KMeans(components=3, random_state=0).fit(X)
    best = kmeans.beta_
    scores = {
        beta: (kmeans.normalize(beta=beta), kmeans.score(X))[1] for beta in (0.5 * best, best, 2 * best)
    }
    assert max(scores, key=lambda beta: scores[beta]) == best  # the maximum likelihood temperature
    for wrong in (0, -1, "warm", True, np.inf):
        with pytest.raises(ValueError, match="beta must be"):
            kmeans.normalize(beta=wrong)
    with pytest.raises(ValueError, match="base must be"):
        kmeans.normalize(base="cone")
    with pytest.raises(ValueError, match="particles must be an int >= 1"):
        kmeans.normalize(particles=0)


def test_normalizing_keeps_who_is_odd():
    X = numbers()
    model = EnergyNetwork(hidden=(16,), max_epochs=5, random_state=0).fit(X)
    before = model.predict(X)
    gap = model.decision_function(X)
    model.normalize()
    np.testing.assert_array_equal(model.predict(X), before)
    np.testing.assert_allclose(model.decision_function(X), gap, atol=1e-9)
    np.testing.assert_allclose(model.anomaly_score(X), -model.score_samples(X))


def test_comparing_energies_and_a_vae():
    X = numbers()
    models = {
        "one": GaussianMixture(components=1).fit(X),
        "three": GaussianMixture(components=3, random_state=0).fit(X),
    }
    models["vae"] = abduce.VAE(latent_dim=1, max_epochs=3, random_state=0).fit(X)
    table = abduce.compare(models, X)
    assert set(table.index) == set(models)
    assert table.loc["one", "log_prob"] == pytest.approx(models["one"].score(X))
    images = np.random.default_rng(0).integers(0, 17, size=(60, 2, 2)).astype(float)
    pixels = [
        PCA(components=2).fit(images),
        abduce.VAE(latent_dim=1, max_epochs=1, random_state=0).fit(images),
    ]
    with pytest.raises(ValueError, match="measure the same thing"):
        abduce.compare(pixels, images)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("model", "X", "words"),
    [
        (RBM(objective=ScoreMatching()), bits(), "ScoreMatching cannot train RBMEnergy: it needs real cells"),
        (
            RBM(objective=RatioMatching()),
            numbers(),
            "RatioMatching cannot train GaussianRBMEnergy: it needs binary cells",
        ),
        (
            EnergyNetwork(objective=PseudoLikelihood()),
            numbers(),
            "PseudoLikelihood cannot train NetworkEnergy: it needs binary",
        ),
        (EnergyNetwork(objective=ScoreMatching(), activation="relu"), numbers(), "two derivatives"),
        (EnergyNetwork(objective=MaximumLikelihood()), numbers(), "cannot train NetworkEnergy: it needs"),
        (Ising(), numbers(), "Ising takes all-binary data, but 'x0', 'x1', 'x2' are real"),
        (PCA(kinds="binary"), bits(), "PCA takes numbers, but .* are binary"),
        (Autoencoder(code=3, hidden=()), numbers(), "code must be below the columns of X, got 3 for 3"),
        (KMeans(components=500), numbers(), "components must be at most the number of rows, got 500"),
        (
            GaussianMixture(components=500),
            numbers(),
            "components must be at most the number of rows, got 500",
        ),
        (PCA(components=7), numbers(), "components must be at most the number of columns"),
        (PCA(components=0), numbers(), "components must be an int >= 1"),
        (PCA(form="other"), numbers(), "form must be 'probabilistic' or 'reconstruction'"),
        (SparseCoding(code=500), numbers(), "code must be at most the number of rows"),
        (RBM(hidden=0), bits(), "hidden must be an int >= 1"),
        (KMeans(contamination=0.9), numbers(), "contamination must be in"),
        (PSD(sparsity=-1.0), numbers(), "sparsity"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_does_not_fit_is_refused(model, X, words):
    with pytest.raises(ValueError, match=words):
        model.fit(X)


def test_a_singular_covariance_is_named():
    X = numbers()
    constant, repeated = np.c_[X, np.zeros(200)], np.c_[X, X[:, 0]]
    for model, data in (
        (GaussianMixture(components=2, reg_covar=0.0), constant),
        (ICA(), constant),
        (PCA(components=4), repeated),
    ):
        with pytest.raises(ValueError, match="singular"):
            model.set_params(random_state=0).fit(data)


def test_mixed_tables_are_refused_by_name():
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5] * 9, "b": ["x", "y", "z"] * 9})
    with pytest.raises(ValueError, match="PCA takes numbers, but 'b' is categorical"):
        PCA().fit(frame)


def test_training_can_be_resumed(tmp_path):
    """Stopped after a while and gone on with: the same numbers as in one go, chains included."""
    X = bits(300)
    make = lambda **kw: RBM(hidden=5, max_epochs=20, random_state=0, **kw)  # noqa: E731
    whole = make().fit(X)

    def stop(record):
        if record["epoch"] == 12:
            raise KeyboardInterrupt

    cut = make(callback=stop).fit(X, checkpoint=tmp_path / "run")
    assert cut.interrupted_
    resumed = make().fit(X, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(resumed.energy(X), whole.energy(X))


def test_saved_objectives_and_log_z(tmp_path):
    model = EnergyNetwork(hidden=(8,), objective=NCE(ratio=3), max_epochs=2, random_state=0).fit(numbers())
    found = model.normalize()
    model.save(tmp_path / "m")
    loaded = abduce.load(tmp_path / "m")
    assert loaded.objective == NCE(ratio=3)
    assert loaded.log_z_ == found
    assert tuple(loaded.hidden) == (8,)
    body = json.loads((tmp_path / "m" / "model.json").read_text())
    assert body["model"]["config"]["energy"]["family"] == "NetworkEnergy"
    assert torch.equal(
        loaded.model_.energy.energy(torch.zeros(1, 3).double()),
        model.model_.energy.energy(torch.zeros(1, 3).double()),
    )


@pytest.mark.parametrize("activation", ["linear", "shrink", "relu"])
def test_an_autoencoder_can_be_pickled_whatever_squashes_its_units(activation):
    method = Autoencoder(code=2, activation=activation, max_epochs=1, random_state=0).fit(numbers(60))
    again = pickle.loads(pickle.dumps(method))
    np.testing.assert_array_equal(again.anomaly_score(numbers(5)), method.anomaly_score(numbers(5)))
