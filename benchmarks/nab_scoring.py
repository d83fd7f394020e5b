"""Scores of anomaly detectors of series: NAB's score of a corpus, and the volume under the surface of precision and recall.

NAB (Lavin and Ahmad 2015, arXiv:1510.03336): of each labelled window the detection that is worth most counts, a missed one
costs A_FN, and every detection outside costs up to A_FP.  With y the position relative to a window of w steps and σ the
logistic function,

    inside   y = −(right − t + 1) / w              worth A_TP (2σ(−5y) − 1) / (2σ(5) − 1)
    after    y = (t − right) / (w − 1)             worth A_FP (2σ(−5y) − 1), and −A_FP from y > 3 on or before any window

    score = 100 (s − s_null) / (s_perfect − s_null)

s sums over all files; s_null is that of no detection, s_perfect counts A_TP a window.  The first 15 % of a file, 750 steps at
most, are not judged.  One threshold holds for all files, and it is the one that scores best on them: NAB's own procedure.

VUS-PR (Paparrizos et al. 2022, "Volume Under the Surface", PVLDB 15:2774): labels that fade out over ℓ/2 steps on either side
of an anomaly, area under precision and recall, averaged over ℓ = 0 .. L.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

PROBATION, LONGEST = 0.15, 5000
THRESHOLDS = 250


class Profile(NamedTuple):
    """What a found window, a false detection and a missed window weigh."""

    found: float = 1.0
    false: float = 0.11
    missed: float = 1.0


STANDARD = Profile()
PROFILES = {
    "standard": STANDARD,
    "reward_low_FP_rate": Profile(false=0.22),
    "reward_low_FN_rate": Profile(missed=2.0),
}


class Swept(NamedTuple):
    """NAB's score at each threshold: detections are steps with at least that score; the first threshold is above all."""

    thresholds: np.ndarray
    raw: np.ndarray
    windows: int
    profile: Profile

    @property
    def scores(self) -> np.ndarray:
        """0 for no detection, 100 for all windows found at their first step and nothing else."""
        return normalised(self.raw, self.windows, self.profile)

    def best(self) -> tuple[float, float]:
        """The best score and its threshold."""
        k = int(self.scores.argmax())
        return float(self.scores[k]), float(self.thresholds[k])

    def at(self, threshold: float) -> float:
        """The score at a threshold that was chosen elsewhere."""
        return float(self.scores[np.flatnonzero(self.thresholds >= threshold)[-1]])


def probation(steps: int) -> int:
    """How many first steps of a file are not judged."""
    return int(np.ceil(min(np.floor(PROBATION * steps), PROBATION * LONGEST)))


def worth(window: np.ndarray, profile: Profile) -> np.ndarray:
    """What a detection at each step is worth; ``window`` (T,) has 0 outside windows, their number inside."""
    steps = np.arange(len(window))
    out = np.full(len(window), -profile.false)
    for k in np.unique(window[window > 0]):
        left, right = np.flatnonzero(window == k)[[0, -1]]
        width = right - left + 1
        after = (steps - right) / max(width - 1, 1)
        late = np.where(after > 3, -1.0, _sigmoid(after))
        out = np.where(steps > right, profile.false * late, out)
        inside = (steps >= left) & (steps <= right)
        out = np.where(inside, profile.found * _sigmoid(-(right - steps + 1) / width) / _sigmoid(-1.0), out)
    return out


def sweep(scores: list[np.ndarray], windows: list[np.ndarray], profile: Profile = STANDARD) -> Swept:
    """NAB's score of detectors' scores of files at every threshold."""
    values, gains, owner = [], [], []
    count = 0
    for score, window in zip(scores, windows, strict=True):
        judged = slice(probation(len(window)), None)
        values.append(np.asarray(score, float)[judged])
        gains.append(worth(window, profile)[judged])
        owner.append(np.where(window > 0, window.astype(int) + count, 0)[judged])
        count += int(window.max())
    value, gain, own = (np.concatenate(parts) for parts in (values, gains, owner))
    order = np.argsort(-value, kind="stable")
    value, gain, own = value[order], gain[order], own[order]
    added = np.where(own == 0, gain, 0.0)
    for k in range(1, count + 1):  # of a window only what exceeds the best so far adds
        at = np.flatnonzero(own == k)
        if len(at):
            best = np.maximum.accumulate(np.append(-profile.missed, gain[at]))
            added[at] = np.diff(best)
    last = np.append(value[1:] != value[:-1], True)
    raw = -count * profile.missed + np.append(0.0, added.cumsum()[last])
    return Swept(np.append(np.inf, value[last]), raw, count, profile)


def points(alarm: np.ndarray, window: np.ndarray, profile: Profile = STANDARD) -> float:
    """What the alarms of one file are worth, missed windows deducted; sums over files are NAB's raw score."""
    judged = slice(probation(len(window)), None)
    gain, own, alarm = worth(window, profile)[judged], window[judged], np.asarray(alarm, bool)[judged]
    total = float(gain[alarm & (own == 0)].sum())
    for k in range(1, int(window.max()) + 1):
        total += max(gain[alarm & (own == k)], default=-profile.missed)
    return total


def normalised(raw: np.ndarray | float, windows: int, profile: Profile = STANDARD) -> Any:
    """Raw scores of files with so many windows, as 0 for no detection and 100 for a perfect detector."""
    null, perfect = -windows * profile.missed, windows * profile.found
    return 100 * (raw - null) / (perfect - null)


def _sigmoid(position: np.ndarray | float) -> np.ndarray:
    return 2 / (1 + np.exp(5 * np.asarray(position, float))) - 1


# ---------------------------------------------------------------- volume under the surface


def vus_pr(score: np.ndarray, label: np.ndarray, longest: int, thresholds: int = THRESHOLDS) -> float:
    """Volume under the surface of precision and recall over buffers 0 .. ``longest``; NaN where nothing is anomalous."""
    label = np.asarray(label) > 0
    if not label.any():
        return float("nan")
    ranked = -np.sort(-np.asarray(score, float))
    levels = ranked[np.linspace(0, len(ranked) - 1, thresholds).astype(int)]
    # of each step, the first of the falling levels at which it is detected
    first = np.searchsorted(-levels, -np.asarray(score, float), side="left")
    detected = np.bincount(first, minlength=thresholds)[:thresholds].cumsum()
    return float(np.mean([_range_ap(first, detected, label, ell, thresholds) for ell in range(longest + 1)]))


def _range_ap(first: np.ndarray, detected: np.ndarray, label: np.ndarray, ell: int, levels: int) -> float:
    """Average precision with labels that fade out over ell / 2 steps.

    As in the authors' program, steps of a buffer count among the positives once they are detected.
    """
    soft = faded(label, ell)
    hits = np.bincount(first, soft, minlength=levels)[:levels].cumsum()
    fringe = hits - np.bincount(first, label, minlength=levels)[:levels].cumsum()
    begin, end = _runs(label)
    begin, end = begin - ell // 2, end + ell // 2
    apart = end[:-1] <= begin[1:]  # buffers that overlap are one anomaly
    begin, end = begin[np.append(True, apart)].clip(0), end[np.append(apart, True)]
    reached = np.array([first[a:b].min() for a, b in zip(begin, end, strict=True)])
    existence = (reached[:, None] <= np.arange(levels)).mean(0)
    recall = np.append(0.0, np.minimum(hits / (label.sum() + fringe / 2), 1.0) * existence)
    return float((np.diff(recall) * hits / detected).sum())


def faded(label: np.ndarray, ell: int) -> np.ndarray:
    """Labels with sqrt(1 − d/ell) at distance d ≤ ell / 2 of an anomaly, at most 1."""
    out = label.astype(float)
    begin, end = _runs(label)
    steps = np.arange(1, ell // 2 + 1)
    rise = np.sqrt(1 - steps / ell) if ell else np.zeros(0)
    for a, b in zip(begin, end, strict=True):
        after, before = b - 1 + steps, a - steps
        inside = after < len(label)
        out[after[inside]] += rise[inside]
        inside = before >= 0
        out[before[inside]] += rise[inside]
    return np.minimum(out, 1.0)


def _runs(flag: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends (exclusive) of runs."""
    edge = np.diff(np.concatenate([[0], flag.astype(int), [0]]))
    return np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)


def buffer_length(value: np.ndarray, most: int = 300, otherwise: int = 125) -> int:
    """The longest buffer of a series: the lag of the highest local maximum of its autocorrelation; ``otherwise`` if none."""
    x = np.asarray(value, float)[:20000]
    x = x - x.mean()
    acf = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * len(x))) ** 2)[3 : min(401, len(x))]
    lag = np.arange(1, len(acf) - 1)
    peak = lag[(acf[lag] > acf[lag - 1]) & (acf[lag] > acf[lag + 1])] if np.ptp(x) else lag[:0]
    best = int(peak[acf[peak].argmax()]) if len(peak) else 0
    return best + 3 if 3 <= best <= most else otherwise
