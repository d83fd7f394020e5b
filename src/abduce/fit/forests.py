"""Fit forests to rows that another model completed, and weigh them cell by cell against that model.

    revised = (1 − a_j) model + a_j forest,      a_j = argmin Σ (truth − revised)² + pull (a_j − a)²      over hidden cells

Classes are weighed by log loss in the same way.  On many tables forests tell nothing new and get no weight; on some, letters
for one, they take all of it; so each cell has its own, pulled toward that of all cells together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from abduce.models.forests import Forests, Trees, tree_features

TREES = 20
TRIED = 10  # trees of a forest that is only to be weighed
LEAF = 2  # rows of a leaf, at least
WORK = 4e7  # rows x log2 rows x cells² of one tree a cell: seconds of one core; of more some rows are taken
ENOUGH = 30  # rows that a cell must have been seen in
LEAST = 0.05  # weight below which a forest is not worth its trees
PULL = 100.0  # hidden cells that the weight of all cells counts as
FIRM = 1.0  # hidden cell, of the usual error, that says that errors are as large as they were
DOUBT = 30.0  # hidden cells that say that forests tell nothing new


class Revisions(NamedTuple):
    """Hidden cells as the model and the forest have them: ``cell`` (n,), which cell each is; of numbers ``model``, ``forest``
    and ``truth`` (n,) in standard deviations; of classes the chances that each gave the true level, ``truth`` NaN."""

    cell: np.ndarray
    model: np.ndarray
    forest: np.ndarray
    truth: np.ndarray


def affordable_rows(n: int, levels: Sequence[int]) -> int:
    """Rows, of n, that forests of all cells are fitted to within `WORK`."""
    d = len(levels)
    while n > 0 and n * np.log2(max(n, 2)) * d * d > WORK:
        n = int(0.9 * n)
    return n


def fit_forests(
    levels: Sequence[int],
    rows: Tensor,
    seen: Tensor,
    loc: Tensor,
    scale: Tensor,
    cells: Sequence[int],
    seed: int,
    trees: int = TREES,
) -> Forests | None:
    """Fit to complete ``rows`` (n, D), each of the ``cells`` to the rows that it was ``seen`` in.

    Numbers are in data units, of mean ``loc`` and deviation ``scale`` (D,), 0 and 1 of classes.  None where no cell can be
    learnt.
    """
    most = affordable_rows(len(rows), levels)
    if most < len(rows):
        some = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(rows))[:most]))
        rows, seen = rows[some], seen[some]
    rows = (rows - loc) / scale
    out = {}
    for j in cells:
        known = seen[:, j]
        if int(known.sum()) < ENOUGH:
            continue
        target = rows[known, j].unsqueeze(1)
        if levels[j]:
            target = (target == torch.arange(levels[j])).double()
        if bool((target == target[0]).all()):
            continue
        features = tree_features(levels, rows[known], j)
        if features.shape[1]:
            out[j] = _grown(features.numpy(), target.numpy(), trees, seed)
    return Forests.of(levels, out, loc, scale) if out else None


def _grown(features: np.ndarray, target: np.ndarray, trees: int, seed: int) -> Trees:
    """Trees of one cell, in arrays."""
    flat = target[:, 0] if target.shape[1] == 1 else target
    forest = ExtraTreesRegressor(trees, min_samples_leaf=LEAF, random_state=seed % 2**32)
    found = [e.tree_ for e in forest.fit(features.astype(np.float32), flat).estimators_]
    begin = np.cumsum([0] + [t.node_count for t in found])
    right = []
    for start, tree in zip(begin, found, strict=False):
        leaf = tree.children_right < 0
        right.append(start + np.where(leaf, np.arange(tree.node_count), tree.children_right))
    return Trees(
        torch.from_numpy(np.concatenate([np.maximum(t.feature, 0) for t in found])).int(),
        torch.from_numpy(np.concatenate([t.threshold for t in found])),
        torch.from_numpy(np.concatenate(right)).int(),
        torch.from_numpy(np.concatenate([t.value[:, :, 0] for t in found])),
        torch.from_numpy(begin[:-1].copy()),
    )


def lean(said: Revisions, levels: Sequence[int]) -> np.ndarray:
    """Weights (D,) of the forests by what they would have made of hidden cells; 0 where they are not worth their trees."""
    out = np.zeros(len(levels))
    numbers = np.isfinite(said.truth)
    off, left = (said.forest - said.model)[numbers], (said.truth - said.model)[numbers]
    out += _of_numbers(said.cell[numbers], off, left, len(levels))
    classes = ~numbers
    chances = np.log(np.maximum(np.stack([said.model, said.forest], 1)[classes], 1e-12))
    out += _of_classes(said.cell[classes], chances, len(levels))
    return np.where(out < LEAST, 0.0, out)


def narrowed(said: Revisions, weights: np.ndarray) -> np.ndarray:
    """How much smaller errors of numbers are once revised, (D,): the ratio of their root mean squares on hidden cells."""
    numbers = np.isfinite(said.truth)
    cell, model, forest, truth = (part[numbers] for part in said)
    before = truth - model
    after = before - weights[cell] * (forest - model)
    d = len(weights)
    usual = np.square(before).mean() if len(before) else 1.0
    squares = [np.bincount(cell, e * e, d) + FIRM * usual for e in (after, before)]
    return np.sqrt(squares[0] / squares[1])


def _of_numbers(cell: np.ndarray, off: np.ndarray, left: np.ndarray, d: int) -> np.ndarray:
    """argmin Σ (left − a_j off)², a_j in [0, 1]; 0 where there are no hidden cells."""
    if not len(cell):
        return np.zeros(d)
    cross, square = np.bincount(cell, off * left, d), np.bincount(cell, off * off, d)
    usual = square.sum() / len(cell)
    every = np.clip(cross.sum() / (square.sum() + DOUBT * usual + 1e-300), 0, 1)
    own = np.clip((cross + PULL * usual * every) / (square + PULL * usual + 1e-300), 0, 1)
    return np.where(np.bincount(cell, minlength=d) > 0, own, 0.0)


def _of_classes(cell: np.ndarray, log_p: np.ndarray, d: int, rounds: int = 100) -> np.ndarray:
    """Weights of the second of two chances (n, 2), by EM with pseudo-counts; 0 where there are no hidden cells."""
    if not len(cell):
        return np.zeros(d)
    ratio = np.exp(np.clip(log_p[:, 1] - log_p[:, 0], -50, 50))
    every = 0.5
    for _ in range(rounds):
        r = every * ratio / (1 - every + every * ratio)
        every = r.sum() / (len(r) + DOUBT)
    own = np.full(d, every)
    count = np.bincount(cell, minlength=d)
    for _ in range(rounds):
        a = own[cell]
        r = a * ratio / (1 - a + a * ratio)
        own = (np.bincount(cell, r, d) + PULL * every) / (count + PULL)
    return np.where(count > 0, own, 0.0)
