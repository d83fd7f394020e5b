"""Oddness by bags of training rows: what it is, what it does not depend on, and that its p-values hold what they promise."""

import numpy as np
import pytest
import torch

from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.fit.oddness import fit_oddness
from abduce.inference.discoveries import discoveries
from abduce.models.families import _oddness
from abduce.models.oddness import BULK, NEAR


def fitted(X, seed=0):
    schema = Schema.infer(X, None, None)
    values, observed = schema.encode(X)
    return schema, fit_oddness(schema, values, observed, seed)


def seen(schema, X):
    values, observed, _ = schema.read(X)
    return Seen(torch.from_numpy(values), torch.from_numpy(observed))


def scores(X, new, seed=0):
    schema, odd = fitted(X, seed)
    return odd.score(seen(schema, new)).numpy()


def correlated(rng, n, d=4):
    return rng.normal(size=(n, d)) @ np.linalg.cholesky(0.4 * np.eye(d) + 0.6).T


def test_distances_are_those_to_the_nearest_rows_of_each_bag():
    rng = np.random.default_rng(0)
    X, new = correlated(rng, 300), correlated(rng, 7)
    schema, odd = fitted(X)
    found = odd.log_distances(seen(schema, new)).numpy()
    features = odd.gaussian.coding.code(*(a for a in schema.encode(new)))[0]
    expected = np.zeros((7, 4))
    for k in range(5):
        root = odd.root[k].numpy()
        for c, metric in enumerate((np.diag(1 / odd.span[k].numpy()), root)):
            near = np.linalg.norm((features[:, None] - odd.points[k].numpy()) @ metric, axis=2)
            for s, rows in enumerate((8, odd.size)):
                bags = near.reshape(7, -1, rows).min(2)
                expected[:, 2 * c + s] += np.log(np.maximum(bags, NEAR * 2)).mean(1) / 5
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_bags_of_a_fold_hold_none_of_the_rows_that_it_judges():
    X = correlated(np.random.default_rng(0), 200)
    schema, odd = fitted(X)
    features = odd.gaussian.coding.code(*schema.encode(X))[0]
    judges = odd._judges(torch.from_numpy(features), torch.ones(200, 4, dtype=torch.bool)).numpy()
    np.testing.assert_array_equal(judges.sum(1), 1)
    assert set(np.unique(judges)) == {0.0, 1.0}
    for k in range(5):
        rows = {row.tobytes() for row in odd.points[k].numpy()}
        mine = [features[i].tobytes() in rows for i in np.flatnonzero(judges[:, k])]
        assert not any(mine)
    np.testing.assert_array_equal(
        odd._judges(torch.zeros(1, 4).double(), torch.ones(1, 4) > 0), np.full((1, 5), 0.2)
    )


def test_surprise_is_the_log_of_the_share_as_far_and_goes_on_beyond_all_rows():
    X = correlated(np.random.default_rng(0), 500)
    _, odd = fitted(X)
    known = odd.far[0]
    at = torch.stack([known[[100, 250, 400]]] * 4, 1)
    found = odd.surprise(at)[:, 0].numpy()
    np.testing.assert_allclose(found, -np.log((1 + 500 - np.array([100, 250, 400])) / 501))
    edge = np.quantile(known.numpy(), BULK)
    beyond = known[known > edge].numpy() - edge
    far = float(known[-1]) + 3.0
    at = torch.full((1, 4), far, dtype=torch.float64)
    np.testing.assert_allclose(odd.surprise(at)[0, 0], np.log(10) + (far - edge) / beyond.mean())


@pytest.mark.parametrize("blank", [0.0, 0.2])
def test_scores_depend_neither_on_units_nor_on_the_rows_that_come_along(blank):
    rng = np.random.default_rng(0)
    X, new = correlated(rng, 400), 1.5 * correlated(rng, 300)
    for rows in (X, new):
        rows[rng.random(rows.shape) < blank] = np.nan
    schema, odd = fitted(X)
    every = odd.score(seen(schema, new)).numpy()
    np.testing.assert_array_equal(every[[5, 70]], odd.score(seen(schema, new[[5, 70]])).numpy())
    a, b = np.array([1e-3, 1.0, 50.0, 1e6]), np.array([5.0, -3.0, 0.0, 1e4])
    np.testing.assert_allclose(every, scores(a * X + b, a * new + b), rtol=1e-5)
    np.testing.assert_array_equal(every, scores(X, new))


def test_rows_of_which_nothing_is_seen_are_not_odd():
    rng = np.random.default_rng(0)
    X = correlated(rng, 400)
    gaps = np.full((1, 4), np.nan)
    found = scores(X, np.r_[gaps, [[9.0, np.nan, np.nan, np.nan]], [[2.0, -2.0, np.nan, np.nan]]])
    assert found[0] < np.log(10) < found[1:].min()


def test_anomalies_among_the_training_rows_stay_odd():
    """A tight cluster of them has near neighbours, but hardly any in small bags."""
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(size=(760, 3)), 0.1 * rng.normal(size=(40, 3)) + 5]
    schema, odd = fitted(X)

    def area(score):
        score = score.numpy()
        return (score[760:, None] > score[:760]).mean()

    far = odd.log_distances(seen(schema, X))
    assert area(odd.score(seen(schema, X))) > 0.9
    assert area(far[:, 1]) < 0.1  # over ranges, to bags of many rows


def test_a_column_that_never_varied_is_odd_where_it_does():
    X = np.c_[np.random.default_rng(0).normal(size=(200, 2)), np.full(200, 3.0)]
    found = scores(X, np.array([[0.0, 0.0, 3.0], [0.0, 0.0, 3.001]]))
    assert found[1] > found[0] + 3


@pytest.mark.parametrize("rows", [2, 3, 7, 20])
def test_few_rows_will_do(rows):
    found = scores(np.random.default_rng(0).normal(size=(rows, 2)), np.array([[0.0, 0.0], [50.0, 50.0]]))
    assert np.isfinite(found).all()


def test_p_values_are_uniform_for_rows_like_the_training_rows():
    """Each judged without its own help: over 30 fits, the share at most t is t, or a little less, as five folds agree better
    than one."""
    below = []
    for s in range(30):
        rng = np.random.default_rng(s)
        schema, odd = fitted(correlated(rng, 150, 6), s)
        p = odd.p_values(odd.score(seen(schema, correlated(rng, 200, 6))), 0.0).numpy()
        below.append([(p <= t).mean() for t in (0.1, 0.3, 0.5, 0.8)])
    mean, error = np.mean(below, 0), np.std(below, 0) / np.sqrt(30)
    assert (mean < np.array([0.1, 0.3, 0.5, 0.8]) + 3 * error).all()
    assert (mean > np.array([0.08, 0.26, 0.45, 0.76])).all()


def test_the_false_discovery_rate_holds():
    """200 repeats of 60 rows like the training rows and 15 odd ones, half of them with blanks in the training rows."""
    share, power = [], []
    for s in range(200):
        rng = np.random.default_rng(s)
        X, usual = rng.standard_t(4, size=(120, 3)), rng.standard_t(4, size=(60, 3))
        odd_rows = 10 * rng.normal(size=(15, 3)) + 10
        new = np.r_[usual, odd_rows]
        if s % 2:
            X[rng.random(X.shape) < 0.15] = np.nan
        schema, odd = fitted(X, s)
        found = discoveries(odd.p_values(odd.score(seen(schema, new))).numpy(), 0.2)
        share.append(found[:60].sum() / max(1, found.sum()))
        power.append(found[60:].mean())
    error = np.std(share) / np.sqrt(200)
    assert np.mean(share) < 0.2 * 60 / 75 + 2 * error
    assert np.mean(power) > 0.3


def test_contamination_is_seen_where_anomalies_lie_far_off():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(950, 3))
    assert fitted(clean)[1].contamination < 0.005
    dirty = fitted(np.r_[clean, 40 * rng.normal(size=(50, 3))])[1]
    assert 0.03 < dirty.contamination < 0.06
    # what others give away does not widen what is usual
    new = seen(Schema.infer(clean, None, None), np.array([[5.5, 5.5, -5.5]]))
    assert dirty.p_values(dirty.score(new)) < 0.01


def test_it_is_rebuilt_from_its_configuration_and_weights():
    X = correlated(np.random.default_rng(0), 100)
    schema, odd = fitted(X)
    again = _oddness(**odd.config).double()
    again.load_state_dict(odd.state_dict())
    new = seen(schema, 2 * X)
    np.testing.assert_array_equal(odd.score(new), again.score(new))


def test_discoveries_are_benjamini_and_hochbergs():
    p = np.array([0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216])
    np.testing.assert_array_equal(discoveries(p, 0.05), [True] * 2 + [False] * 8)
    np.testing.assert_array_equal(discoveries(p[::-1], 0.1), [False] * 4 + [True] * 6)
    assert not discoveries(np.full(5, 0.9), 0.1).any()
    assert discoveries(np.zeros(0), 0.1).shape == (0,)
