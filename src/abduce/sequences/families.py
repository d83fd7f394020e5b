"""Models of series by name: what a saved pool is built from again."""

from __future__ import annotations

from typing import Any

from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.lookback import Lookback
from abduce.sequences.naive import Interpolation
from abduce.sequences.paths import Seasonal, SequenceModel
from abduce.sequences.pool import SequencePool
from abduce.sequences.seasons import Seasons
from abduce.sequences.shared_lookback import SharedLookback
from abduce.sequences.var import VectorAutoregression
from abduce.sequences.windows import WindowGaussian

FAMILIES: dict[str, type[SequenceModel]] = {
    family.__name__: family
    for family in (DeepKalman, Interpolation, Lookback, SharedLookback, VectorAutoregression, WindowGaussian)
}


def describe(pool: SequencePool) -> dict[str, Any]:
    """What :func:`rebuild_pool` needs, JSON-able."""
    return {"members": [_describe(m) for m in pool.parts], "order": pool.order, "reports": pool.reports}


def rebuild_pool(body: dict[str, Any]) -> SequencePool:
    """A pool ready for its ``state_dict``; KeyError for a family that there is not."""
    return SequencePool([_rebuild(m) for m in body["members"]], body["order"], body["reports"])


def _describe(model: SequenceModel) -> dict[str, Any]:
    if isinstance(model, Seasonal):
        return {"seasons": model.seasons.config, "model": _describe(model.model)}
    return {"family": type(model).__name__, "config": model.config}


def _rebuild(body: dict[str, Any]) -> SequenceModel:
    if "seasons" in body:
        return Seasonal(_rebuild(body["model"]), Seasons(**body["seasons"]))
    return FAMILIES[body["family"]](**body["config"])
