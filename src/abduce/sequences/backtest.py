"""How well a model would have forecast the last steps of series, beside what needs no model.

Series are cut off at several origins, a horizon apart, and forecast from what lies before: parameters stay those of the fit.

    MAE    mean |y − centre|
    MASE   the same over the mean |y_t − y_{t−P}| of the series before the cut, P the season or 1; mean over series
    CRPS   2 · mean pinball loss over `LEVELS` quantiles, in the data's units
    WQL    weighted quantile loss, 2 Σ pinball / Σ |y|, mean over the levels .1, .2 ... .9
    coverage   share of cells within the interval of the ``level`` asked for

Of a point forecast the CRPS is its absolute error.  Sources: Hyndman & Koehler 2006 (MASE); Gneiting & Raftery 2007 (CRPS).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from abduce.answers.answer import Effort
from abduce.sequences.asking import Question, beyond
from abduce.sequences.panel import SeriesPanel
from abduce.sequences.scale import Scaling

LEVELS = np.arange(1, 20) / 20
DECILES = np.arange(1, 10) / 10


def backtest(
    models: dict[str, tuple[Any, bool]],
    scaling: Scaling,
    panel: SeriesPanel,
    horizon: int,
    windows: int,
    level: float,
    season: int,
    features: int,
) -> pd.DataFrame:
    """A row for each model by name; with it comes whether it gives quantiles.  The first ``features`` are judged."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for turn in range(windows):
        cut = panel.size - (turn + 1) * horizon
        able = np.flatnonzero(cut >= 2)
        if not len(able):
            break
        past, truth = _cut(panel, able, cut[able], horizon)
        places = cut[able][:, None] + np.arange(horizon)
        nothing, truth = np.full(truth.shape, np.nan), truth[..., :features]
        for name, (model, spread) in models.items():
            question = beyond(model, scaling, past, places, nothing, Effort())
            rows[name].append(measures(question, truth, past, level, season, spread))
    if not any(rows.values()):
        raise ValueError(f"horizon must leave at least 2 steps of a series before it, got {horizon}")
    return pd.DataFrame({name: pd.DataFrame(found).mean() for name, found in rows.items()}).T.rename_axis(
        "model"
    )


def measures(
    question: Question, truth: np.ndarray, past: SeriesPanel, level: float, season: int, spread: bool
) -> dict[str, float]:
    """All figures of one forecast of ``truth`` (N, n, F)."""
    f = truth.shape[2]
    mean = question.mean()[..., :f]
    known = np.isfinite(truth)
    miss = np.where(known, np.abs(truth - mean), 0.0)
    count = np.maximum(known.sum(1), 1)
    scale = seasonal_scale(past, season)[:, :f]
    with np.errstate(invalid="ignore"):
        mase = np.where(
            known.any(1) & (scale > 0), miss.sum(1) / count / np.where(scale > 0, scale, 1.0), np.nan
        )
    out = {"CRPS": miss.sum() / known.sum(), "WQL": miss.sum() / np.abs(np.where(known, truth, 0.0)).sum()}
    coverage = np.nan
    if spread:
        ends = [0.5 - level / 2, 0.5 + level / 2]
        values = question.quantiles([*LEVELS, *DECILES, *ends])[..., :f]
        pinball = _pinball(values[:-2], truth, np.r_[LEVELS, DECILES], known)
        out["CRPS"] = 2 * pinball[: len(LEVELS)].mean() / known.sum()
        out["WQL"] = 2 * pinball[len(LEVELS) :].mean() / np.abs(np.where(known, truth, 0.0)).sum()
        coverage = ((values[-2] <= truth) & (truth <= values[-1]))[known].mean()
    return {**out, "coverage": coverage, "MASE": float(np.nanmean(mase)), "MAE": miss.sum() / known.sum()}


def seasonal_scale(past: SeriesPanel, season: int) -> np.ndarray:
    """Mean |y_t − y_{t−P}| of each feature of each series, (N, F)."""
    season = season if past.values.shape[1] > season else 1
    step = np.abs(past.values[:, season:] - past.values[:, :-season])
    known = np.isfinite(step)
    return np.where(known, step, 0.0).sum(1) / np.maximum(known.sum(1), 1)


def _pinball(values: np.ndarray, truth: np.ndarray, levels: np.ndarray, known: np.ndarray) -> np.ndarray:
    gap = np.where(known, truth - values, 0.0)
    q = levels[:, None, None, None]
    return np.maximum(q * gap, (q - 1) * gap).sum((1, 2, 3))


def _cut(
    panel: SeriesPanel, able: np.ndarray, cut: np.ndarray, horizon: int
) -> tuple[SeriesPanel, np.ndarray]:
    """Some series up to their cuts, and the (n, horizon, F) values after these."""
    values = panel.values[able].copy()
    truth = values[np.arange(len(able))[:, None], cut[:, None] + np.arange(horizon)]
    values[np.arange(values.shape[1]) >= cut[:, None]] = np.nan
    values = values[:, : int(cut.max())]
    past = replace(panel, values=values, mask=np.isfinite(values), start=panel.start[able], size=cut)
    return past, truth
