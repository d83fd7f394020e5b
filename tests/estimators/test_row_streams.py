"""The detector learns from rows as they come: the same however they are cut, in bounded memory, and forgets if it is to."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from abduce import PCA, Auto, OutlierDetector
from abduce.estimators import adapters


def mixed(rng, n):
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "kind": rng.choice(["a", "b"], n), "n": rng.poisson(3.0, n)},
        index=np.arange(n) * 0.5,
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


def streamed(X, cuts, **settings):
    detector = OutlierDetector(random_state=0, **settings)
    for start, stop in zip([0, *cuts], [*cuts, len(X)], strict=True):
        detector.partial_fit(X[start:stop] if isinstance(X, np.ndarray) else X.iloc[start:stop])
    return detector


@pytest.mark.parametrize("forget", [None, 50.0])
@pytest.mark.parametrize("make", [lambda rng, n: rng.normal(size=(n, 3)), mixed])
def test_chunks_make_no_difference(make, forget, monkeypatch):
    monkeypatch.setattr(adapters, "MOST", 150)
    rng = np.random.default_rng(0)
    X, new = make(rng, 400), make(rng, 40)
    one = streamed(X, [50], forget=forget)
    two = streamed(X, [20, 60, 61, 62, 300], forget=forget)
    assert one.seen_ == two.seen_ == 400
    assert len(one._stream.rows) == (150 if forget is None else round(50 / np.log(2)))
    np.testing.assert_array_equal(one._stream.at, two._stream.at)
    np.testing.assert_array_equal(one.anomaly_score(new), two.anomaly_score(new))
    assert one.offset_ == two.offset_
    again = pickle.loads(pickle.dumps(one))
    for detector in (one, again):
        detector.partial_fit(make(np.random.default_rng(7), 100))
    np.testing.assert_array_equal(one.anomaly_score(new), again.anomaly_score(new))


def test_the_first_rows_are_fitted_as_fit_does_and_fit_is_gone_on_from():
    rng = np.random.default_rng(0)
    X, more, new = rng.normal(size=(300, 3)), rng.normal(size=(200, 3)), rng.normal(size=(20, 3))
    fitted = OutlierDetector(random_state=3).fit(X)
    streaming = OutlierDetector(random_state=3).partial_fit(X)
    np.testing.assert_array_equal(fitted.anomaly_score(new), streaming.anomaly_score(new))
    np.testing.assert_array_equal(
        fitted.partial_fit(more).anomaly_score(new), streaming.partial_fit(more).anomaly_score(new)
    )
    assert fitted.seen_ == 500
    assert fitted.fit(X).seen_ == 300


def test_it_is_fitted_anew_to_what_is_kept_when_a_tenth_is_new():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(500, 3)), rng.normal(size=(20, 3))
    detector = streamed(X, [100, 200, 300])
    due = 2
    while due + max(1, np.ceil(0.1 * due)) <= 500:
        due += int(max(1, np.ceil(0.1 * due)))
    assert 454 < due < 500
    whole = OutlierDetector(random_state=0).fit(X[:due])
    np.testing.assert_array_equal(detector.anomaly_score(new), whole.anomaly_score(new))
    before = detector.model_
    detector.partial_fit(X[:3])
    assert detector.model_ is before  # not yet due


def test_what_was_new_becomes_known():
    rng = np.random.default_rng(0)
    first = pd.DataFrame({"x": rng.normal(size=200), "kind": "a", "one": 1.0})
    later = pd.DataFrame({"x": rng.normal(size=400), "kind": rng.choice(["a", "b"], 400), "one": 2.5})
    detector = OutlierDetector(random_state=0).partial_fit(first)
    odd = detector.anomaly_score(later)
    assert detector.partial_fit(later).anomaly_score(later).mean() < odd.mean() - 1.0
    assert detector.predict(later).mean() > 0.5


def test_memory_does_not_grow_with_the_stream(monkeypatch):
    monkeypatch.setattr(adapters, "MOST", 200)
    rng = np.random.default_rng(0)
    detector, size = OutlierDetector(random_state=0), []
    for _ in range(12):
        detector.partial_fit(rng.normal(size=(500, 4)))
        size.append(len(pickle.dumps(detector)))
    assert detector.seen_ == 6000
    assert max(size) < 1.1 * size[0] + 200 * 2 * 4 * 8


def test_forgetting_follows_what_drifts():
    """Rows wander off by 8 deviations a thousand rows; the anomalies are like rows of a thousand rows ago."""
    rng = np.random.default_rng(0)
    n = 3000
    odd = rng.random(n) < 0.05
    X = rng.normal(size=(n, 4)) + 0.004 * (np.arange(n) - 1000 * odd)[:, None]
    found = {}
    for forget in (None, 60.0):
        detector, scores = OutlierDetector(random_state=0, forget=forget).partial_fit(X[:200]), []
        for part in np.split(X[200:], 56):
            scores.append(detector.anomaly_score(part))
            detector.partial_fit(part)
        found[forget] = roc_auc_score(odd[200:], np.concatenate(scores))
    assert found[60.0] > 0.95
    assert found[60.0] > found[None] + 0.3


def test_what_makes_no_sense_is_refused_by_name_and_changes_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as refused:
        OutlierDetector(Auto()).partial_fit(X)
    assert "for a detector without a model, got model=Auto: use fit" in str(refused.value.__cause__)
    with pytest.raises(ValueError, match="forget is for a detector without a model, got model=PCA"):
        OutlierDetector(PCA(), forget=100).fit(X)
    with pytest.raises(ValueError, match="forget must be >= 10 rows, got 1"):
        OutlierDetector(forget=1).partial_fit(X)
    with pytest.raises(ValueError, match="at least 2 rows"):
        OutlierDetector().partial_fit(X[:1])
    detector = OutlierDetector(random_state=0).partial_fit(X)
    before = detector.anomaly_score(X)
    with pytest.raises(ValueError, match="4 features"):
        detector.partial_fit(np.zeros((5, 4)))
    with pytest.raises(ValueError, match="infinit"):
        detector.partial_fit(np.full((50, 3), np.inf))
    with pytest.raises(ValueError, match="forget must stay"):
        detector.set_params(forget=20.0).partial_fit(X)
    detector.set_params(forget=None)
    assert detector.partial_fit(X[:0]).seen_ == 100
    np.testing.assert_array_equal(detector.anomaly_score(X), before)
    frame = OutlierDetector(random_state=0).partial_fit(mixed(rng, 100))
    with pytest.raises(ValueError, match="missing:\n- kind"):
        frame.partial_fit(mixed(rng, 50).drop(columns="kind"))
    assert frame.seen_ == 100
