"""Forests in plain arrays against scikit-learn's own, and what revising does to rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from abduce.fit.forests import LEAF, TREES, fit_forests
from abduce.models.forests import Forests, tree_features

LEVELS = (0, 3, 0, 2)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    x[:, 1] = rng.integers(0, 3, 300)
    x[:, 3] = (x[:, 0] * x[:, 2] > 0) ^ (x[:, 1] == 1)
    x[:, 2] += (x[:, 1] == 2) * 3.0
    return torch.from_numpy(x)


@pytest.fixture(scope="module")
def forests(rows):
    loc, scale = standards(rows)
    return fit_forests(LEVELS, rows, torch.ones_like(rows).bool(), loc, scale, [0, 1, 2, 3], 7)


def standards(rows):
    """Means and deviations of numbers, 0 and 1 of classes."""
    number = torch.tensor(LEVELS) == 0
    return torch.where(number, rows.mean(0), 0.0), torch.where(number, rows.std(0), 1.0)


def test_numbers_are_those_of_scikit_learn(rows, forests):
    new = rows[:50] + 0.1
    new[:, [1, 3]] = rows[:50][:, [1, 3]]
    for j in (0, 2):
        loc, scale = standards(rows)
        old, fresh = (tree_features(LEVELS, (x - loc) / scale, j).numpy() for x in (rows, new))
        mean, deviation = loc[j], scale[j]  # to the last digit: ties between splits hang on it
        target = (rows[:, j] - mean) / deviation
        peer = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=7).fit(old, target.numpy())
        expected = mean + deviation * torch.from_numpy(peer.predict(fresh))
        torch.testing.assert_close(forests.says(j, new)[:, 0], expected)


def test_chances_are_those_of_scikit_learns_classifier_nearly(rows, forests):
    """Splits that reduce squared errors of indicators are those that reduce Gini's impurity; ties may fall otherwise."""
    for j, least in ((1, 0.9), (3, 0.9)):
        chances = forests.says(j, rows)
        torch.testing.assert_close(chances.sum(1), torch.ones(300, dtype=torch.float64))
        loc, scale = standards(rows)
        features = tree_features(LEVELS, (rows - loc) / scale, j).numpy()
        peer = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, max_features=1.0, random_state=7)
        expected = peer.fit(features, rows[:, j].numpy()).predict_proba(features)
        assert np.corrcoef(chances.numpy().ravel(), expected.ravel())[0, 1] > least


def test_a_row_does_not_depend_on_others(rows, forests):
    for j in range(4):
        alone = torch.cat([forests.says(j, rows[i : i + 1]) for i in range(20)])
        assert torch.equal(alone, forests.says(j, rows)[:20])


def test_a_cells_own_value_is_not_read(rows, forests):
    for j in range(4):
        other = rows.clone()
        other[:, j] = 0.0
        assert torch.equal(forests.says(j, other), forests.says(j, rows))


def test_seen_cells_are_left_and_others_drawn_toward_the_forest(rows, forests):
    said, seen = torch.zeros(300, 1, dtype=torch.float64), torch.arange(300) < 100
    assert torch.equal(forests.revised(0, said, seen, rows), said)  # none leans yet
    forests.lean[0] = 0.25
    moved = forests.revised(0, said, seen, rows)
    assert torch.equal(moved[:100], said[:100])
    torch.testing.assert_close(moved[100:], 0.25 * forests.says(0, rows[100:]))
    forests.lean.zero_()


def test_all_numbers_are_revised_as_one_by_one(rows, forests):
    rng = np.random.default_rng(3)
    said, seen = torch.from_numpy(rng.normal(size=(300, 2))), torch.from_numpy(rng.random((300, 4)) < 0.5)
    assert torch.equal(forests.numbers([0, 2], said, seen, rows), said)  # none leans yet
    forests.lean[[0, 2]] = torch.tensor([0.25, 0.7], dtype=torch.float64)
    together = forests.numbers([0, 2], said, seen, rows)
    for i, j in enumerate((0, 2)):
        assert torch.equal(together[:, [i]], forests.revised(j, said[:, [i]], seen[:, j], rows))
    for one in range(3):
        part = [t[one : one + 1] for t in (said, seen, rows)]
        assert torch.equal(together[one : one + 1], forests.numbers([0, 2], *part))
    forests.lean.zero_()


def test_they_are_built_again_from_what_is_kept(rows, forests):
    again = Forests(**json.loads(json.dumps(forests.config)))
    again.load_state_dict(forests.state_dict())
    for j in range(4):
        assert torch.equal(again.says(j, rows), forests.says(j, rows))


@pytest.mark.parametrize(("name", "value"), [("right", 10**6), ("feature", 99), ("roots", -1), ("lean", 2)])
def test_nodes_that_lead_nowhere_are_refused(forests, name, value):
    again = Forests(**forests.config)
    broken = {k: v.clone() for k, v in forests.state_dict().items()}
    broken[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=r"nowhere|lean"):
        again.load_state_dict(broken)


def test_sizes_that_do_not_fit_are_refused(forests):
    for change in ({"cells": [0, 0, 1, 2]}, {"cells": [9]}, {"nodes": [1]}, {"trees": 0}):
        with pytest.raises(ValueError, match="must be"):
            Forests(**forests.config | change)
