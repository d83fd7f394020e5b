"""Interpolated modified Kneser-Ney, and its discounts by maximum likelihood on symbols held out.

    p_k(x | h) = max(c(h x) − D_c, 0) / C(h) + γ(h) p_{k−1}(x | h without its first symbol)
    γ(h) = (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3(h)) / C(h),         p_{−1}(x) = 1 / (A + 1)

with c the count of an n-gram, C(h) their sum over a context, and N_c(h) how many of its n-grams have count 1, 2, and more.
γ gives what the discounts took to the shorter context, so p_k sums to one.  D_1 ≤ 1, D_2 ≤ 2, D_3 ≤ 3 differ by order, and by
whether the context was followed by one, two, or more different symbols: a context that has only ever been followed by one
symbol is another thing than one that any may follow.

Sources: Kneser & Ney 1995 (ICASSP); Chen & Goodman 1999 (Computer Speech & Language 13).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from abduce.sequences.text.counts import Counted

VARIETIES = 3  # contexts followed by one symbol, by two, by more
_LOW, _HIGH = ((0.55, 0.85, 1.05), (0.93, 1.43, 1.75))  # usual discounts of short and of long contexts
_PRIOR = 5.0  # nats that a discount one away from the usual costs: it decides where little is held out
_LEAST = 1e-3


def usual(order: int) -> np.ndarray:
    """Discounts (K + 1, 3, 3) of texts that nothing is known of, rising with the length of the context."""
    rise = np.minimum(np.arange(order + 1) / 5, 1)[:, None, None]
    table = np.array(_LOW) * (1 - rise) + np.array(_HIGH) * rise
    return np.repeat(table, VARIETIES, axis=1)


def variety(spread: np.ndarray) -> np.ndarray:
    """Whether contexts of a spread (n, 3) were followed by one symbol, two, or more: 0, 1, 2."""
    return np.clip(spread @ np.ones(3, np.int64), 1, VARIETIES) - 1


def parts(counted: Counted, discounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What an order itself gives to each position (n,), and the share γ (n,) that it leaves to the order below."""
    group, count, total = variety(counted.spread), counted.count, np.maximum(counted.total, 1)
    taken = np.concatenate([np.zeros((VARIETIES, 1)), discounts], axis=1)
    mass = (count - taken[group, np.minimum(count, 3)]) / total
    left = np.einsum("nc,nc->n", discounts[group], counted.spread) / total
    return mass, np.where(counted.total > 0, left, 1.0)


def interpolated(counted: Sequence[Counted], discounts: np.ndarray, base: np.ndarray | float) -> np.ndarray:
    """p of each position (n,), from what every order counted and p of no context at all."""
    p = np.broadcast_to(np.asarray(base, float), counted[0].count.shape)
    for level, own in zip(counted, discounts, strict=True):
        mass, left = parts(level, own)
        p = mass + left * p
    return p


def fit_discounts(counted: Sequence[Counted], size: int) -> np.ndarray:
    """Discounts (K + 1, 3, 3) that make positions held out most probable, drawn to the usual ones where these are few.

    The gradient goes back through the orders: ∂p/∂D_c of an order is (N_c p_{k−1} − [count is c]) / C times all γ above.
    """
    start = usual(len(counted) - 1)
    seen = [c.count > 0 for c in counted]
    kind = [np.where(s, np.minimum(c.count, 3) - 1, 0) for c, s in zip(counted, seen, strict=True)]
    groups = [variety(c.spread) for c in counted]
    weight = [np.where(c.total > 0, 1 / np.maximum(c.total, 1), 0.0) for c in counted]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        discounts = flat.reshape(start.shape)
        below, shares = [], []
        p: np.ndarray = np.full(len(counted[0].count), 1 / (size + 1))
        for level, own in zip(counted, discounts, strict=True):
            mass, left = parts(level, own)
            below.append(p)
            shares.append(left)
            p = mass + left * p
        gradient = np.zeros_like(start)
        back = -1 / p
        for k in range(len(counted) - 1, -1, -1):
            each = (back * weight[k] * below[k])[:, None] * counted[k].spread
            each[np.arange(len(each)), kind[k]] -= back * weight[k] * seen[k]
            for c in range(3):
                gradient[k, :, c] = np.bincount(groups[k], each[:, c], VARIETIES)
            back = back * shares[k]
        away = discounts - start
        value = -np.log(p).sum() + _PRIOR * (away**2).sum()
        return float(value), (gradient + 2 * _PRIOR * away).ravel()

    bounds = [(_LEAST, float(c)) for _ in range(start.size // 3) for c in (1, 2, 3)]
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    return found.x.reshape(start.shape)
