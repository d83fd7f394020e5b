"""Odd rows through the estimators' face: scores, flags at a false discovery rate, and which cells."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import abduce
from abduce import PCA, Auto, GaussianMixture, OutlierDetector


@parametrize_with_checks([OutlierDetector()])
def test_the_detector_without_a_model_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


def frame(rng, n):
    """A number that follows a class, one that follows the first, and a coin."""
    kind = rng.choice(["a", "b", "c"], n)
    x = rng.normal(size=n) + 6.0 * (kind == "b")
    return pd.DataFrame(
        {"x": x, "kind": kind, "y": 2 * x + 0.3 * rng.normal(size=n), "coin": rng.random(n) < 0.5}
    )


@pytest.fixture(scope="module")
def table():
    return frame(np.random.default_rng(0), 600)


@pytest.fixture(scope="module")
def auto(table):
    return Auto(components=(1, 4), random_state=0).fit(table)


@pytest.fixture(scope="module")
def detector(table):
    return OutlierDetector(random_state=0).fit(table)


def planted(table):
    """Usual rows, then one with each of two cells wrong, one with a level that was never seen."""
    new = frame(np.random.default_rng(1), 40)
    odd = pd.DataFrame(
        {"x": [0.0, 0.0, 0.0], "kind": ["a", "b", "d"], "y": [15.0, 0.1, 0.0], "coin": [True, False, True]}
    )
    return pd.concat([new, odd], ignore_index=True)


@pytest.mark.parametrize("which", ["auto", "detector"])
def test_mixed_rows_that_are_odd_score_above_the_usual_ones(which, table, request):
    model = request.getfixturevalue(which)
    odd = model.anomaly_score(planted(table))
    assert odd[40:].min() > np.quantile(odd[:40], 0.9)
    some = planted(table)
    some.loc[40, "kind"] = None
    assert model.anomaly_score(some)[40] > np.quantile(odd[:40], 0.9)


def test_auto_scores_odd_rows_as_the_detector_does(auto, table):
    new = planted(table)
    same = OutlierDetector(Auto(components=(1, 4), random_state=0)).fit(table)
    np.testing.assert_array_equal(same.anomaly_score(new), auto.anomaly_score(new))
    np.testing.assert_array_equal(same.score_samples(new), -auto.anomaly_score(new))
    assert auto.score_samples(new) is not None
    assert not np.allclose(auto.score_samples(new), -auto.anomaly_score(new))


def test_explain_names_the_planted_cell_and_what_it_should_have_been(auto, table):
    nats, should = auto.explain(planted(table), expected=True)
    assert list(nats.columns) == ["x", "kind", "y", "coin"]
    assert nats.loc[40].idxmax() in ("x", "y")  # each is wrong given the other
    assert nats.loc[40, ["kind", "coin"]].max() < 0.3 * nats.loc[40, "y"]
    assert abs(should.loc[40, "y"] - 0.0) < 1.0
    assert abs(should.loc[40, "x"] - 7.5) < 1.5
    assert nats.loc[41].idxmax() == "kind"
    assert should.loc[41, "kind"] in ("a", "c")
    assert nats.loc[42].idxmax() == "kind"
    assert should["coin"].isin([True, False]).all()
    assert (nats.loc[:39].max(axis=1) < nats.loc[40].max()).all()


def test_explain_of_one_gaussian_is_the_squared_distance_from_the_conditional_mean():
    rng = np.random.default_rng(0)
    covariance = 0.3 * np.eye(4) + 0.7
    X = rng.normal(size=(2000, 4)) @ np.linalg.cholesky(covariance).T
    model = GaussianMixture(components=1, random_state=0).fit(X)
    new = rng.normal(size=(5, 4))
    new[0, 2] = np.nan
    nats, should = model.explain(new, expected=True)
    law = model.model_.law
    mean, found = law.means[0].numpy(), law.covariances[0].numpy()
    loc, scale = (np.array([getattr(f, name) for f in model.schema_.fields]) for name in ("loc", "scale"))
    z = (new - loc) / scale
    for i, row in enumerate(z):
        known = np.flatnonzero(~np.isnan(row))
        precision = np.linalg.inv(found[np.ix_(known, known)])
        pull = precision @ (row[known] - mean[known])
        np.testing.assert_allclose(nats[i, known], 0.5 * pull**2 / np.diag(precision), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            should[i, known], (row[known] - pull / np.diag(precision)) * scale[known] + loc[known], rtol=1e-6
        )
    assert np.isnan(nats[0, 2])
    a = np.array([1e3, 1.0, 0.1, 5.0])
    again = GaussianMixture(components=1, random_state=0).fit(a * X)
    np.testing.assert_allclose(again.explain(a * new), nats, rtol=1e-4, atol=1e-6)


def test_flags_of_clean_rows_are_few_and_of_odd_ones_many(detector, table):
    usual = frame(np.random.default_rng(3), 300)
    assert detector.flag(usual).mean() < 0.02
    wrong = frame(np.random.default_rng(4), 60)
    wrong["y"] = -wrong["y"] - 20
    both = pd.concat([usual, wrong], ignore_index=True)
    found = detector.flag(both, alpha=0.1)
    assert found[300:].mean() > 0.9
    assert found[:300].sum() < 0.2 * found.sum()
    assert detector.flag(both.iloc[:0]).shape == (0,)


def test_models_without_an_oddness_take_their_own_samples_for_p_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 3))
    model = PCA(components=2, random_state=0).fit(X)
    p = model.p_values(X)
    assert p.min() >= 1 / 1001
    np.testing.assert_allclose([(p <= t).mean() for t in (0.1, 0.5, 0.9)], [0.1, 0.5, 0.9], atol=0.05)
    assert model.flag(np.r_[X[:200], 20 * X[:20] + 30])[200:].all()


def test_contamination_sets_where_predict_cuts(table):
    for share in (0.05, 0.3):
        cut = OutlierDetector(contamination=share, random_state=0).fit(table)
        assert abs((cut.predict(table) == -1).mean() - share) < 0.01
    assert (
        OutlierDetector(contamination="auto", random_state=0).fit(table).predict(table) == -1
    ).mean() < 0.01
    rng = np.random.default_rng(0)
    dirty = np.r_[rng.normal(size=(950, 3)), 40 * rng.normal(size=(50, 3))]
    found = OutlierDetector(contamination="auto", random_state=0).fit(dirty).predict(dirty) == -1
    assert found[950:].mean() > 0.9
    assert found[:950].mean() < 0.01


def test_wrong_arguments_are_refused_by_name(table):
    with pytest.raises(ValueError, match="contamination"):
        OutlierDetector(contamination=0.7).fit(table)
    with pytest.raises(ValueError, match="contamination='auto' is for Auto or no model"):
        OutlierDetector(PCA(), contamination="auto").fit(np.random.default_rng(0).normal(size=(30, 3)))
    with pytest.raises(ValueError, match="alpha"):
        OutlierDetector().fit(table).flag(table, alpha=2.0)


def test_oddness_survives_a_folder(auto, table, tmp_path):
    auto.save(tmp_path / "m")
    again = abduce.load(tmp_path / "m")
    new = planted(table)
    np.testing.assert_array_equal(again.anomaly_score(new), auto.anomaly_score(new))
    np.testing.assert_array_equal(again.flag(new), auto.flag(new))
    pd.testing.assert_frame_equal(again.explain(new.iloc[40:]), auto.explain(new.iloc[40:]))


def test_it_ends_a_pipeline():
    X = np.random.default_rng(0).normal(size=(200, 3))
    steps = make_pipeline(StandardScaler(), OutlierDetector(random_state=0)).fit(X)
    assert steps.predict([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]).tolist() == [1, -1]
