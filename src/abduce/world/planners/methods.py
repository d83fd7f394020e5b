"""Planners by the names that ``method`` takes."""

from __future__ import annotations

from typing import Any

from abduce.world.actions import Box, Categories
from abduce.world.planners.cem import CEM
from abduce.world.planners.collocation import Collocation
from abduce.world.planners.gradient import Gradient
from abduce.world.planners.ilqr import ILQR
from abduce.world.planners.mppi import MPPI
from abduce.world.planners.planner import Planner
from abduce.world.planners.screened import Screened

METHODS: dict[str, type[Planner]] = {
    "auto": Screened,
    "ilqr": ILQR,
    "gradient": Gradient,
    "collocation": Collocation,
    "cem": CEM,
    "mppi": MPPI,
}


def planner_of(method: str, space: Box | Categories, **settings: Any) -> Planner:
    """The planner of a name, "auto" being cross-entropy where actions are categories; ``settings`` are its own.

    >>> planner_of("ilqr", Box.of(-1, 1), iterations=3).iterations
    3
    """
    made = CEM if method == "auto" and space.choices else METHODS[method]
    own = sorted(made.__dataclass_fields__)  # pyright: ignore[reportAttributeAccessIssue]
    unknown = sorted(set(settings) - set(own))
    if unknown:
        raise ValueError(f"method {method!r} has no setting {unknown[0]!r}; it has {own}")
    return made(**settings)
