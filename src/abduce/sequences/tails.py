"""How rare a number is among those before it: tail probabilities of a sequence against its own past, and alarms from them.

    r_t = s_t / mean(s_1 .. s_t)
    p_t = share of past r above r_t, and half of those like it       where at least K of them were
    p_t = p_u (r_t / r_u)^(−1/ξ)                                     beyond r_u, which K of them reached

ξ is the mean excess of log r beyond u (Hill 1975, Ann. Statist. 3:1163), which a prior worth some exceedances shrinks.  Ratios
are counted on a grid of their logarithms, so that T steps take O(T · levels) time and O(T) memory.  While there are few steps
an exponential law stands in for the past.  Nothing that comes later than t changes p_t.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

LOWEST, HIGHEST, STEP = -3.0, 8.0, 0.125  # logarithms of ratios
ENOUGH = 5.0  # exceedances that a share is read off from
SHAPE, SURE = 0.3, 50.0  # ξ of the prior, and how many exceedances it is worth
PRIOR = 20.0  # steps that the exponential law is worth
TINY = 1e-9  # of the largest so far: rounding


def past_mean(x: np.ndarray, memory: float = np.inf) -> np.ndarray:
    """Mean of what came before each step, (T,), weights falling by 1/e over ``memory`` steps; the first is the first itself.

    >>> past_mean(np.array([4.0, 2.0, 6.0, 8.0])).tolist()
    [4.0, 4.0, 3.0, 4.0]
    """
    if not len(x):
        return np.zeros(0)
    total, weight = past_sum(x, memory), past_sum(np.ones(len(x)), memory)
    return np.append(x[0], total[1:] / weight[1:])


def past_sum(x: np.ndarray, memory: float = np.inf) -> np.ndarray:
    """Sum over axis 0 of what came before each step, weights falling by 1/e over ``memory`` steps."""
    if np.isinf(memory):
        return np.concatenate([np.zeros_like(x[:1]), np.cumsum(x[:-1], 0)])
    return np.asarray(lfilter([0.0, 1.0], [1.0, -np.exp(-1 / memory)], x, axis=0))


def rarity(s: np.ndarray) -> np.ndarray:
    """−log p of each of a sequence of numbers ≥ 0 against those before it, (T,), nats; large ones are rare.

    >>> rng = np.random.default_rng(0)
    >>> p = np.exp(-rarity(rng.exponential(size=20_000)))
    >>> [round(float((p <= level).mean()), 3) for level in (0.1, 0.01)]
    [0.092, 0.011]
    """
    s = np.asarray(s, dtype=np.float64)
    if not len(s):
        return np.zeros(0)
    floor = TINY * np.maximum.accumulate(s)
    mean = np.cumsum(s) / np.arange(1, len(s) + 1)
    ratio = np.divide(s, mean, out=np.zeros(len(s)), where=s > floor)
    log_r = np.log(np.maximum(ratio, 1e-9)).clip(LOWEST, HIGHEST - STEP)
    count = np.arange(len(s), dtype=np.float64) + PRIOR
    enough = np.minimum(ENOUGH / count, 0.2)
    at = np.floor((log_r - LOWEST) / STEP + 1e-6)
    share = np.ones(len(s))  # at each step's own level, a mid-p value
    beyond, least, excess = np.ones(len(s)), np.full(len(s), HIGHEST), np.zeros(len(s))
    area, above = np.zeros(len(s)), np.zeros(len(s))
    for level in np.arange(round((HIGHEST - LOWEST) / STEP))[::-1]:
        edge = LOWEST + level * STEP
        reached = past_sum((at >= level).astype(np.float64)) + PRIOR * np.exp(-0.8 * np.exp(edge))
        tail = reached / count
        area += tail * STEP
        share = np.where(at == level, (tail + above) / 2, share)
        above = tail
        rare = tail <= enough  # the lowest level that few enough have reached
        beyond, least = np.where(rare, tail, beyond), np.where(rare, edge, least)
        excess = np.where(rare, area, excess)
    xi = (excess * count + SHAPE * SURE) / (beyond * count + SURE)
    far = log_r > least
    log_p = np.where(
        far, np.log(beyond) - np.where(far, log_r - least, 0.0) / xi, np.log(np.maximum(share, 1e-300))
    )
    log_p[0] = 0.0  # nothing came before
    return -np.minimum(log_p, 0.0)


def alarms(score: np.ndarray, threshold: float | np.ndarray, rest: int = 0) -> np.ndarray:
    """Whether there is an alarm at each step, (T,): a score of at least ``threshold``, no alarm in the ``rest`` steps before.

    >>> alarms(np.array([0.0, 5, 6, 7, 0, 9]), 5.0, rest=2).tolist()
    [False, True, False, False, False, True]
    """
    over = score >= threshold
    if rest < 1:
        return over
    at = np.flatnonzero(over)
    out = np.zeros(len(score), bool)
    k = 0
    while k < len(at):  # from alarm to alarm
        out[at[k]] = True
        k = int(np.searchsorted(at, at[k] + rest, side="right"))
    return out
