"""Models of series by name: what a saved pool is built from again."""

from __future__ import annotations

from typing import Any, TypedDict

from abduce.declared import conform, made
from abduce.sequences.classes import ClassColumn
from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.lookback import Lookback
from abduce.sequences.mixed import MixedPool
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


def describe(model: MixedPool) -> dict[str, Any]:
    """What :func:`rebuild_pool` needs, JSON-able."""
    pool = model.pool
    return {
        "members": [_describe(m) for m in pool.parts],
        "order": pool.order,
        "reports": pool.reports,
        "classes": [column.config for column in model.classes],
    }


def rebuild_pool(body: Any, place: str = "model") -> MixedPool:
    """A pool ready for its ``state_dict``; ValueError naming the ``place`` for what is not declared."""
    conform(body, _PoolJson, place)
    if not body["members"]:
        raise ValueError(f"{place}.members must hold at least one model, got none")
    members = [_rebuild(m, f"{place}.members[{i}]") for i, m in enumerate(body["members"])]
    columns = [made(ClassColumn, c, f"{place}.classes[{i}]") for i, c in enumerate(body["classes"])]
    return MixedPool(SequencePool(members, body["order"], body["reports"]), columns)


def _describe(model: SequenceModel) -> dict[str, Any]:
    if isinstance(model, Seasonal):
        return {"seasons": model.seasons.config, "model": _describe(model.model)}
    return {"family": type(model).__name__, "config": model.config}


def _rebuild(body: Any, place: str) -> SequenceModel:
    if "seasons" in body:
        conform(body, _SeasonalJson, place)
        inner = _rebuild(body["model"], f"{place}.model")
        return Seasonal(inner, made(Seasons, body["seasons"], f"{place}.seasons"))
    conform(body, _MemberJson, place)
    if body["family"] not in FAMILIES:
        raise ValueError(f"{place}.family must be one of {sorted(FAMILIES)}, got {body['family']!r}")
    return made(FAMILIES[body["family"]], body["config"], f"{place}.config")


class _PoolJson(TypedDict):
    members: list[dict[str, Any]]
    order: int
    reports: list[dict[str, Any]]
    classes: list[dict[str, Any]]


class _SeasonalJson(TypedDict):
    seasons: dict[str, Any]
    model: dict[str, Any]


class _MemberJson(TypedDict):
    family: str
    config: dict[str, Any]
