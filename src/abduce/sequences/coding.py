"""Which features of series are better coded by their normal scores: those that then fill hidden cells better.

Each feature alone, as an autoregression of order one seen through noise, fills a tenth of its cells, in its own units and in
scores; what errs less, by `BETTER`, is taken.  Scores serve columns with heavy tails or spikes, such as rain and dust.  Where
they serve the features together, by `TOGETHER`, all take them that do not lose much, `WORSE`: one scale for all makes what
relates them straighter.

Counts may be coded by roots instead, where errs of the hidden cells then look more like one normal law: by log p of them, in
the data's units.
"""

from __future__ import annotations

import numpy as np
import torch

from abduce.sequences.scale import Scaling
from abduce.sequences.var import first_orders, smoothed_first_orders

BLOCK = 48  # steps
SERIES = 128  # blocks' worth of cells seen, at most
HIDDEN = 0.1
BETTER = 0.95  # ratio of mean absolute errors
TOGETHER = 0.98
WORSE = 1.1
LEAST = 1000  # observed cells of a feature
FEWEST = 50  # of one that roots are tried for
SURER = 0.01  # nats a cell that roots must gain


def coded(scaling: Scaling, values: np.ndarray, mask: np.ndarray, seed: int) -> Scaling:
    """The scaling with scores for the features of series (N, T, F) that they serve."""
    if scaling.own:
        return scaling
    rng = np.random.default_rng(seed)
    x, seen = _blocks(values, mask, rng)
    free = ~(scaling.roots | scaling.fixed)
    enough = np.flatnonzero((mask.sum((0, 1)) >= LEAST) & (seen.sum((0, 1)) >= LEAST) & free)
    if not len(enough):
        return scaling
    hidden = seen & (rng.random(seen.shape) < HIDDEN)
    both = scaling, scaling.with_scores(enough.tolist(), values, mask)
    plain, scored = (_errors(s, x, seen & ~hidden, hidden) for s in both)
    ratio = scored[enough] / np.maximum(plain[enough], 1e-300)
    chosen = enough[ratio < (WORSE if ratio.mean() < TOGETHER else BETTER)].tolist()
    return scaling.with_scores(chosen, values, mask) if chosen else scaling


def counted(scaling: Scaling, values: np.ndarray, mask: np.ndarray, whole: list[int], seed: int) -> Scaling:
    """The scaling with roots for those of the ``whole`` numbers of series (N, T, F) that are never negative, if they gain."""
    rng = np.random.default_rng(seed)
    counts = [j for j in whole if scaling.positive[j] and mask[..., j].sum() >= FEWEST]
    if not counts:
        return scaling
    x, seen = _blocks(values[..., counts], mask[..., counts], rng)
    hidden = seen & (rng.random(seen.shape) < HIDDEN)
    plain = Scaling.of(values[..., counts], mask[..., counts], scaling.own)
    both = plain, plain.with_roots(list(range(len(counts))), values[..., counts], mask[..., counts])
    gain = np.subtract(*(_log_p(s, x, seen & ~hidden, hidden) for s in both[::-1]))
    chosen = [j for j, more in zip(counts, gain, strict=True) if more > SURER]
    return scaling.with_roots(chosen, values, mask) if chosen else scaling


def _log_p(scaling: Scaling, x: np.ndarray, kept: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Mean log p of each feature's hidden cells, (F,), their errors in model units being of one normal law."""
    scaler = scaling.fitted(x, kept)
    y, m = scaler.to(x, kept), torch.from_numpy(kept)
    truth = scaler.to(x, kept | hidden).numpy()
    filled = smoothed_first_orders(y, m.to(y), first_orders(y, m))[0].numpy()
    count = np.maximum(hidden.sum((0, 1)), 1)
    square = np.where(hidden, (filled - truth) ** 2, 0.0).sum((0, 1)) / count
    slope = np.where(hidden, scaler.log_slope(truth, hidden), 0.0).sum((0, 1)) / count
    return slope - 0.5 * np.log(np.maximum(square, 1e-12))


def _errors(scaling: Scaling, x: np.ndarray, kept: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Mean absolute error of each feature's hidden cells, (F,)."""
    scaler = scaling.fitted(x, kept)
    y, m = scaler.to(x, kept), torch.from_numpy(kept)
    model = first_orders(y, m)
    filled = scaler.back(smoothed_first_orders(y, m.to(y), model)[0].numpy())
    missed = np.where(hidden, np.abs(filled - x), 0.0).sum((0, 1))
    return missed / np.maximum(hidden.sum((0, 1)), 1)


def _blocks(values: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some stretches of series, (n, steps, F), with what was seen of them."""
    n, length, f = values.shape
    steps = min(BLOCK, length)
    count = length // steps
    x = values[:, : count * steps].reshape(n * count, steps, f)
    seen = mask[:, : count * steps].reshape(n * count, steps, f)
    most = int(SERIES / max(float(seen.mean()), 1e-3))  # blanks tell nothing
    some = np.sort(rng.permutation(len(x))[:most])
    return np.where(seen[some], x[some], 0.0), seen[some]
