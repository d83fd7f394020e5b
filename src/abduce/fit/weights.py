"""Weights of a pool's members by what they said of hidden cells, and which members are not worth asking.

    numbers     argmin_w Σ (truth − Σ_m w_m said_m)²            least squares on the simplex
    classes     argmax_w Σ log Σ_m w_m p_m                      EM of a mixture's weights; of whole rows the same

Both are pulled to equal weights by pseudo-observations.  Members are then left out, the lightest first, as long as the others
do without as well, but for a share that nobody would notice: a fill asks those that are left only.

Sources: Breiman 1996 (stacked regressions); Beck & Teboulle 2009 (accelerated projected gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LIGHT = 0.05  # weight from which on a member stays
PRIOR = 200.0  # pseudo-cells that pull the weights of numbers toward equal ones
NUMBERS = 2e-4  # share of the root mean squared error that leaving members out may cost
CLASSES = 1e-3  # nats a class
ROWS = 2e-3  # nats a hidden cell of a row

Weighed = tuple[np.ndarray, float]  # weights, and the loss that they have


class MemberWeights(NamedTuple):
    """Weights (M,) of ``numbers``, of ``classes`` and of ``rows``."""

    numbers: np.ndarray
    classes: np.ndarray
    rows: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Which members have any weight, bool (M,)."""
        return np.any(np.stack(self) > 0, axis=0)


def pooled_weights(
    numbers: np.ndarray, truth: np.ndarray, classes: np.ndarray, rows: np.ndarray, cells: float
) -> MemberWeights:
    """Weigh members by numbers (n, M) beside the ``truth`` (n,), chances of true classes (n', M), and log p of rows' hidden
    cells (n'', M), so many ``cells`` a row."""

    def of_numbers(some: list[int]) -> Weighed:
        w = square_weights(numbers[:, some], truth, PRIOR)
        return w, 0.5 * float(np.log(np.mean((truth - numbers[:, some] @ w) ** 2) + 1e-300))

    def of_chances(log_p: np.ndarray) -> Callable[[list[int]], Weighed]:
        def weigh(some: list[int]) -> Weighed:
            w = pool_weights(log_p[:, some])
            top = log_p.max(1, keepdims=True)
            return w, -float(np.mean(np.log(np.exp(log_p[:, some] - top) @ w + 1e-300)))

        return weigh

    m = numbers.shape[1]
    found = [
        without_light(of_numbers, m, NUMBERS) if len(truth) else None,
        without_light(of_chances(np.log(classes)), m, CLASSES) if len(classes) else None,
        without_light(of_chances(rows), m, ROWS * cells) if len(rows) else None,
    ]
    # what there is no evidence for keeps no member
    used = np.any([w > 0 for w in found if w is not None], axis=0) | np.zeros(m, bool)
    used = used if used.any() else np.ones(m, bool)
    return MemberWeights(*(used / used.sum() if w is None else w for w in found))


def without_light(weigh: Callable[[list[int]], Weighed], members: int, dearer: float) -> np.ndarray:
    """Weights (M,) by ``weigh`` of some members, 0 for light ones without which the loss grows by ``dearer`` at most.

    >>> without_light(lambda some: (np.array([0.01, 0.99])[some], 1.0 - (1 in some)), 2, dearer=0.1)
    array([0.  , 0.99])
    """
    kept = list(range(members))
    w, loss = weigh(kept)
    most = loss + dearer
    while len(kept) > 1:
        if w.min() >= LIGHT:
            break
        lightest = kept[int(np.argmin(w))]
        fewer = [m for m in kept if m != lightest]
        trial, loss = weigh(fewer)
        if not loss <= most:
            break
        kept, w = fewer, trial
    out = np.zeros(members)
    out[kept] = w
    return out


def square_weights(said: np.ndarray, truth: np.ndarray, prior: float) -> np.ndarray:
    """Weights ≥ 0 that sum to one and minimise Σ (truth − said w)², pulled to equal ones by ``prior`` pseudo-cells.

    By accelerated projected gradient (Beck & Teboulle 2009); a pseudo-cell counts as much as members differ on a cell on
    average.
    """
    m = said.shape[1]
    w = np.full(m, 1 / m)
    if m == 1 or not len(truth):
        return w
    pull = prior * m * np.mean(np.square(said - said.mean(1, keepdims=True)))
    gram = said.T @ said + pull * np.eye(m)
    target = said.T @ truth + pull / m
    steepest = np.linalg.eigvalsh(gram)[-1]
    if not steepest > 0:  # all say zero
        return w
    step = 1 / steepest
    ahead, pace = w, 1.0
    for _ in range(3000):
        moved = ahead - step * (gram @ ahead - target)
        order = np.sort(moved)[::-1]
        excess = np.cumsum(order) - 1
        k = np.flatnonzero(order - excess / np.arange(1, m + 1) > 0)[-1]
        moved = np.maximum(moved - excess[k] / (k + 1), 0)
        change = moved - w
        if max(np.abs(change).max(), np.abs(moved - ahead).max()) < 1e-9:
            break
        if (ahead - moved) @ change > 0:  # past the valley's floor: start again from here
            pace = 1.0
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead, pace, w = moved + (pace - 1) / faster * change, faster, moved
    return w


def pool_weights(log_p: np.ndarray, prior: float = 5.0, rounds: int = 200) -> np.ndarray:
    """Weights of a pool that maximise Σ log Σ_m w_m p_m, log_p (n, M), by EM with ``prior`` pseudo-counts a member."""
    m = log_p.shape[1]
    w = np.full(m, 1 / m)
    if not len(log_p):
        return w
    relative = np.exp(log_p - log_p.max(1, keepdims=True))
    for _ in range(rounds):
        joint = relative * w
        count = (joint / joint.sum(1, keepdims=True)).sum(0) + prior
        w = count / count.sum()
    return w
