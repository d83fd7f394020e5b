"""What is odd in a series, told at each step from the steps before it alone.

Several members each say how far a step is from what they expected, a number ≥ 0:

    steps        |x_t − x_{t-1}|
    level        |x_t − mean of the last 300 steps or so|
    season       |x_t − x_{t-P}|, one season before
    regression   |x_t − w_t · lags of x|, w_t by least squares on the past, which is forgotten over 500 steps or so
    unlike m     distance of the last m steps to the nearest m steps of the past

Each is asked as it is and averaged over the last few steps, so that what is small but lasts counts too, and each such sequence
is held against its own past (:func:`~abduce.sequences.tails.rarity`), which gives −log p whatever its law.  The surprise is
their root mean square: above the mean where some are sure, and never that of one alone.  Adding to a series or multiplying it
changes nothing.

The regression's weights have the prior of a random walk: w ~ N((1, 0, 0 ...), 1), so that

    w_t = (Σ f fᵀ + σ²)⁻¹ (Σ f x + σ² e_1),      σ² = mean square of steps

sums running over the past; all T systems are solved at once.

Sources: averages held against their past, Ahmad et al. 2017, Neurocomputing 262:134; distances to the past, Lu et al. 2022,
KDD (DAMP), and Burnaev & Ishimtsev 2016, arXiv 1608.04585 (nearest neighbours with conformal p-values); averages of p-values,
Vovk & Wang 2020, Biometrika 107:791.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from abduce.sequences.tails import alarms, past_mean, past_sum, rarity

LAGS = 5
REGRESSION, LEVEL = 500.0, 300.0  # steps of memory
SPANS = (1, 5, 20)  # steps that what members say is averaged over
WINDOWS, WINDOW_SPANS = (4, 16, 48), (1, 5)
BEHIND = 2**15  # steps back that windows are compared with
CHUNK = 512


def surprise(values: np.ndarray, seasons: Sequence[int] = ()) -> np.ndarray:
    """Oddness of each step of a series (T, F) given those before it, (T,), nats; 0 where nothing was seen.

    ``seasons`` are periods in steps, of which the first is used.  Of several features the oddest counts, less log F.

    >>> x = np.random.default_rng(0).normal(size=(500, 1))
    >>> x[400] += 9
    >>> int(surprise(x).argmax())
    400
    """
    out = np.full(values.shape, -np.inf)
    for j in range(values.shape[1]):
        out[:, j] = _one(values[:, j], seasons)
    odd = out.max(1) - np.log(values.shape[1])
    return np.where(np.isfinite(values).any(1), np.maximum(odd, 0.0), 0.0)


def surprises(values: np.ndarray, size: np.ndarray, seasons: Sequence[int] = ()) -> np.ndarray:
    """Oddness of each step of series (N, T, F), of which ``size`` (N,) steps are theirs; (N, T), nats."""
    out = np.zeros(values.shape[:2])
    for i, steps in enumerate(size):
        out[i, :steps] = surprise(values[i, :steps], seasons)
    return out


def flagged(
    values: np.ndarray, size: np.ndarray, rate: float, rest: int = 0, seasons: Sequence[int] = ()
) -> np.ndarray:
    """Whether each step of series (N, T, F) is an alarm, (N, T): at most a share ``rate`` of those before was so odd.

    Nothing is so rare before 1 / ``rate`` steps were seen.
    """
    odd = surprises(values, size, seasons)
    seen = np.isfinite(values).any(2) & (np.arange(values.shape[1]) < size[:, None])
    out = np.zeros(odd.shape, bool)
    for i in range(len(odd)):
        rare = np.zeros(odd.shape[1])
        told = rarity(odd[i, seen[i]] ** 2)
        rare[seen[i]] = np.where(np.arange(1, len(told) + 1) * rate < 1, 0.0, told)
        out[i] = alarms(rare, -np.log(rate), rest)
    return out


def _one(x: np.ndarray, seasons: Sequence[int]) -> np.ndarray:
    """Oddness of each step of one feature; −inf where it is blank."""
    seen = np.isfinite(x)
    out = np.full(len(x), -np.inf)
    if not seen.any():
        return out
    first = int(seen.argmax())
    last = np.maximum.accumulate(np.where(seen, np.arange(len(x)), 0))
    filled = np.where(np.arange(len(x)) < first, 0.0, x[last] - x[first])  # the last value seen stands in
    out[seen] = pooled(told(filled, seen, seasons))
    return out


def pooled(told: np.ndarray) -> np.ndarray:
    """Root mean square over axis 0 of members' −log p.

    >>> float(pooled(np.array([1.0, 7.0])))
    5.0
    """
    return np.sqrt((told**2).mean(0))


def told(filled: np.ndarray, seen: np.ndarray, seasons: Sequence[int] = ()) -> np.ndarray:
    """−log p that each member gives the steps that were seen, averaged over each span: (members · spans, steps)."""
    n = int(seen.sum())
    out = [rarity(s) for s in _sequences(filled, seen, seasons)]
    return np.stack([np.pad(p, (n - len(p), 0)) for p in out])


def _sequences(filled: np.ndarray, seen: np.ndarray, seasons: Sequence[int]) -> Iterator[np.ndarray]:
    """What each member says at the steps that were seen, or at the last of them, averaged over each span."""
    for errors in _errors(filled, seasons):
        for span in SPANS:
            yield _averaged(np.abs(errors[seen]), span)
    x = filled[seen]
    for length in WINDOWS:
        distance = nearest(x, length)[2 * length - 1 :]  # from where there is a stretch to compare with
        for span in WINDOW_SPANS:
            yield _averaged(distance, span)


def _errors(x: np.ndarray, seasons: Sequence[int]) -> Iterator[np.ndarray]:
    """Members' errors, (T,)."""
    steps = np.diff(x, prepend=x[0])
    yield steps
    yield x - past_mean(x, LEVEL)
    season = next((p for p in seasons if p > LAGS), 0)
    if season:
        yield np.where(np.arange(len(x)) < season, steps, x - _lagged(x, season))
    around = (season - 1, season, season + 1) if season > LAGS + 1 else ()
    yield x - regression(x, (*range(1, LAGS + 1), *around))


def regression(x: np.ndarray, lags: Sequence[int], memory: float = REGRESSION) -> np.ndarray:
    """One-step predictions of each step of a series (T,) from what it was ``lags`` before, by least squares on the past.

    >>> wave = np.sin(np.arange(400) / 5)  # x_t = 2 cos(1/5) x_{t-1} - x_{t-2}
    >>> bool(np.abs(regression(wave, [1, 2]) - wave)[300:].max() < 0.01)
    True
    """
    features = np.stack([_lagged(x, lag) for lag in lags] + [np.ones(len(x))], 1)
    d = features.shape[1]
    upper = np.triu_indices(d)
    gram = np.empty((len(x), d, d))
    gram[:, upper[0], upper[1]] = past_sum(features[:, upper[0]] * features[:, upper[1]], memory)
    gram[:, upper[1], upper[0]] = gram[:, upper[0], upper[1]]
    target = past_sum(features * x[:, None], memory)
    noise = past_mean(np.diff(x, prepend=x[0]) ** 2, memory)
    diagonal = np.arange(d)
    size = gram[:, diagonal, diagonal]
    ridge = np.append(np.repeat(noise[:, None], d - 1, 1) + 1e-9 * size[:, :-1], np.ones((len(x), 1)), 1)
    ridge[ridge == 0] = 1.0  # all zeros so far
    gram[:, diagonal, diagonal] += ridge
    target[:, 0] += ridge[:, 0]
    told = (np.linalg.solve(gram, target[:, :, None])[:, :, 0] * features).sum(1)
    low, high = np.minimum.accumulate(_lagged(x, 1)), np.maximum.accumulate(_lagged(x, 1))
    return np.clip(told, low - 0.1 * (high - low), high + 0.1 * (high - low))


def nearest(x: np.ndarray, length: int) -> np.ndarray:
    """Distance of the last ``length`` steps at each step to the nearest stretch that ended ``length`` steps before or earlier.

    0 while there is none.

    >>> nearest(np.array([0.0, 1, 0, 1, 0, 3]), 2).round(3).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 2.0]
    """
    n = len(x)
    out = np.zeros(n)
    if n < 2 * length + 1:
        return out
    windows = torch.from_numpy(x).unfold(0, length, 1)  # the one that begins at s ends at s + length − 1
    square = windows.square().sum(1)
    for start in range(length, len(windows), CHUNK):
        stop = min(len(windows), start + CHUNK)
        begin, end = max(0, start - BEHIND), stop - length
        gap = torch.addmm(square[begin:end], windows[start:stop], windows[begin:end].T, alpha=-2.0)
        late = max(begin, start - length + 1)
        own, theirs = torch.arange(start, stop).unsqueeze(1), torch.arange(late, end).unsqueeze(0)
        gap[:, late - begin :].masked_fill_(theirs > own - length, torch.inf)
        least = (gap.amin(1) + square[start:stop]).clamp_min(0.0)
        least[least < 1e-12 * square[start:stop]] = 0.0  # rounding
        out[start + length - 1 : stop + length - 1] = least.sqrt().numpy()
    return out


def _lagged(x: np.ndarray, lag: int) -> np.ndarray:
    """What it was ``lag`` steps before; the first value before the first."""
    return np.concatenate([np.repeat(x[:1], min(lag, len(x))), x[: max(0, len(x) - lag)]])


def _averaged(s: np.ndarray, span: int) -> np.ndarray:
    """Mean of the last ``span`` steps, of fewer at the beginning."""
    total = np.concatenate([np.zeros(1), np.cumsum(s)])
    begin = np.maximum(np.arange(1, len(s) + 1) - span, 0)
    return np.maximum(total[1:] - total[begin], 0.0) / (np.arange(1, len(s) + 1) - begin) if span > 1 else s
