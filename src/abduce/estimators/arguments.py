"""What presets of energies take: fields of dataclasses, which write the constructors that scikit-learn reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import numpy as np

from abduce.checks import check_count

T = TypeVar("T", bound=type)


@dataclass_transform(kw_only_default=True, eq_default=False)
def preset(cls: T) -> T:
    """Make a dataclass with keyword arguments, whose equality and text stay scikit-learn's."""
    return dataclass(kw_only=True, eq=False, repr=False)(cls)


@preset
class Arguments:
    """What every method takes.

    Parameters
    ----------
    kinds : mapping of column to kind, one kind for all, or None
        Overrides what is inferred.
    bounds : (low, high), mapping of column to such pairs, or None
        No value that is filled in or drawn lies beyond; None stands for no end.  What was never negative stays so by itself.
    contamination : float in (0, 0.5]
        Share of training rows that ``predict`` flags, setting ``offset_``.
    random_state : int, RandomState or None
    """

    kinds: Mapping[Any, str] | str | None = None
    bounds: Any = None
    contamination: float = 0.1
    random_state: int | np.random.RandomState | None = None


@preset
class PassingArguments(Arguments):
    """What every method takes that passes over all rows of a table in files, besides :class:`Arguments`.

    Parameters
    ----------
    callback : callable or None
        Called with a record as a pass goes on: ``pass``, its number, of at most ``passes``; ``rows`` done of how many, ``of``;
        ``train``, the mean log p of the pass before, None in the first (of k-means less the mean energy).
    """

    callback: Callable[[dict[str, Any]], Any] | None = None


@preset
class TrainingArguments(Arguments):
    """What every method takes that is trained by gradients, besides :class:`Arguments`.

    Parameters
    ----------
    max_epochs : int or "auto"
        Passes over the data; "auto" goes by the data's size.
    batch_size, learning_rate
        Of the optimiser.
    validation_fraction : float in [0, 1)
        Share of rows held out of training, to pick the best weights, where the objective measures progress, and to fit β.
    device : str
    verbose : int
        1 prints the training's progress on stderr.
    callback : callable or None
        Called after each epoch with its record.
    """

    max_epochs: int | str = "auto"
    batch_size: int = 100
    learning_rate: float = 1e-3
    validation_fraction: float = 0.1
    device: str = "cpu"
    verbose: int = 0
    callback: Callable[[dict[str, float]], Any] | None = None


def check_components(name: str, value: Any, rows: int) -> int:
    """Refuse more components than rows, or none."""
    check_count(name, value)
    if value > rows:
        raise ValueError(f"{name} must be at most the number of rows, got {value} for {rows} rows")
    return int(value)
