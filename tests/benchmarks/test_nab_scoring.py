"""NAB's score and VUS-PR of the benchmark: worked by hand, and against slow programs that follow the definitions."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import nab_scoring as nab


def corpus(seed: int) -> list[np.ndarray]:
    """Windows of three files, the last without any."""
    rng = np.random.default_rng(seed)
    out = []
    for n, spans in ((400, [(100, 130), (250, 290)]), (900, [(500, 560)]), (300, [])):
        window = np.zeros(n, int)
        for k, (a, b) in enumerate(spans):
            a, b = a + int(rng.integers(5)), b + int(rng.integers(5))
            window[a:b] = k + 1
        out.append(window)
    return out


def by_definition(
    alarm: list[np.ndarray], windows: list[np.ndarray], found=1.0, false=0.11, missed=1.0
) -> float:
    """The normalised score, a step at a time."""
    total, count = 0.0, 0
    for a, window in zip(alarm, windows, strict=True):
        best, right, width = {}, None, None
        for t, (hit, k) in enumerate(zip(a, window, strict=True)):
            if k:
                at = np.flatnonzero(window == k)
                y = -(at[-1] - t + 1) / len(at)
                worth = found * (2 / (1 + np.exp(5 * y)) - 1) / (2 / (1 + np.exp(-5)) - 1)
                best.setdefault(k, -missed)
                right, width = at[-1], len(at)
            elif right is None:
                worth = -false
            else:
                y = (t - right) / (width - 1)
                worth = false * (-1 if y > 3 else 2 / (1 + np.exp(5 * y)) - 1)
            if hit and t >= 0.15 * len(a):
                if k:
                    best[k] = max(best[k], worth)
                else:
                    total += worth
        total += sum(best.values())
        count += len(best)
    return 100 * (total + count * missed) / (count * (found + missed))


def test_perfect_is_a_hundred_and_nothing_is_nought():
    windows = corpus(0)
    first = [
        np.isin(np.arange(len(w)), [np.flatnonzero(w == k)[0] for k in range(1, w.max() + 1)])
        for w in windows
    ]
    assert nab.sweep([f.astype(float) for f in first], windows).best()[0] == pytest.approx(100)
    nothing = nab.sweep([np.zeros(len(w)) for w in windows], windows)
    assert nothing.scores[0] == 0
    assert nothing.best() == (0.0, np.inf)


def test_one_file_by_hand():
    window = np.zeros(100, int)
    window[50:60] = 1
    alarm = np.zeros(100, bool)
    alarm[[3, 30, 59, 64, 99]] = (
        True  # in the probation; before; at the last step of the window; soon after; long after
    )
    top = 2 / (1 + np.exp(-5)) - 1
    expected = -0.11 + (2 / (1 + np.exp(-0.5)) - 1) / top + 0.11 * (2 / (1 + np.exp(5 * 5 / 9)) - 1) - 0.11
    assert nab.points(alarm, window) == pytest.approx(expected)
    assert nab.normalised(-1.0, 1) == 0
    assert nab.normalised(1.0, 1) == 100


@pytest.mark.parametrize("profile", nab.PROFILES)
def test_every_threshold_against_the_definition(profile):
    weights = nab.PROFILES[profile]
    windows = corpus(1)
    rng = np.random.default_rng(2)
    scores = [np.round(rng.random(len(w)) + 0.2 * (w > 0), 2) for w in windows]
    swept = nab.sweep(scores, windows, weights)
    for k in range(0, len(swept.thresholds), 7):
        alarm = [s >= swept.thresholds[k] for s in scores]
        assert swept.scores[k] == pytest.approx(by_definition(alarm, windows, *weights))
        total = sum(nab.points(a, w, weights) for a, w in zip(alarm, windows, strict=True))
        assert nab.normalised(total, 3, weights) == pytest.approx(swept.scores[k])
    assert swept.at(0.5) == swept.scores[np.flatnonzero(swept.thresholds == 0.5)[0]]


def test_probation_is_a_share_and_at_most_750():
    assert [nab.probation(n) for n in (100, 4032, 5000, 20000)] == [15, 604, 750, 750]


def slow_vus_pr(score, label, longest, thresholds=250):
    """Paparrizos et al. 2022, a threshold and a step at a time."""
    n = len(label)
    runs, t = [], 0
    while t < n:
        if label[t]:
            begin = t
            while t + 1 < n and label[t + 1]:
                t += 1
            runs.append((begin, t))
        t += 1
    levels = -np.sort(-score)[np.linspace(0, n - 1, thresholds).astype(int)]
    volume = []
    for ell in range(longest + 1):
        soft = label.astype(float)
        for a, b in runs:
            for d in range(1, ell // 2 + 1):
                for at in (a - d, b + d):
                    if 0 <= at < n:
                        soft[at] += np.sqrt(1 - d / ell)
        soft = np.minimum(soft, 1)
        merged = []
        for a, b in runs:
            a, b = a - ell // 2, b + ell // 2
            if merged and a <= merged[-1][1]:
                merged[-1][1] = b
            else:
                merged.append([a, b])
        area, before = 0.0, 0.0
        for level in levels:
            pred = score >= level
            hits = (soft * pred).sum()
            positives = label.sum() + (soft * pred)[label == 0].sum() / 2
            reached = np.mean([pred[max(a, 0) : b + 1].any() for a, b in merged])
            recall = min(hits / positives, 1) * reached
            area += (recall - before) * hits / pred.sum()
            before = recall
        volume.append(area)
    return np.mean(volume)


@pytest.mark.parametrize("starts", [(100, 300), (100, 130, 500), (0, 590)])
def test_vus_pr_against_the_definition(starts):
    rng = np.random.default_rng(len(starts))
    label = np.zeros(600, int)
    for a in starts:
        label[a : a + 15] = 1
    score = np.round(rng.random(600) + 0.7 * label, 3)
    assert nab.vus_pr(score, label, 30) == pytest.approx(slow_vus_pr(score, label, 30))


def test_vus_pr_is_one_for_the_label_alone_without_buffers_and_falls_to_the_share_by_chance():
    label = np.zeros(2000, int)
    label[900:1000] = 1
    assert nab.vus_pr(label + np.linspace(0, 1e-3, 2000), label, 0, 2000) == pytest.approx(1)
    rng = np.random.default_rng(0)
    chance = np.mean([nab.vus_pr(rng.random(2000), label, 0) for _ in range(20)])
    assert chance == pytest.approx(0.05, abs=0.01)
    assert np.isnan(nab.vus_pr(rng.random(10), np.zeros(10), 3))


def test_buffers_are_as_long_as_the_season():
    t = np.arange(3000)
    assert (
        nab.buffer_length(np.sin(2 * np.pi * t / 60) + 0.1 * np.random.default_rng(0).normal(size=3000)) == 60
    )
    assert nab.buffer_length(np.ones(1000)) == 125
