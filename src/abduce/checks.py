"""Checks of arguments: each refuses what does not fit, naming the argument, what came and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def check_count(name: str, value: Any) -> None:
    """Refuse what is no int of at least 1.

    >>> check_count("samples", 0)
    Traceback (most recent call last):
    ValueError: samples must be an int >= 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an int >= 1, got {value!r}")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, above: bool = False, unit: str = ""
) -> None:
    """Refuse what is no number from ``low`` (with ``above``, only beyond it) to ``high``.

    >>> check_number("beta", 1.5, 0, 1)
    Traceback (most recent call last):
    ValueError: beta must be in [0, 1], got 1.5
    """
    good = isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high
    if not good or (above and float(value) == low):  # NaN is not good
        half = f"{'>' if above else '>='} {low:g}"
        expected = half if high == math.inf else f"in {'(' if above else '['}{low:g}, {high:g}]"
        raise ValueError(f"{name} must be {expected}{unit}, got {value!r}")


def check_share(name: str, value: Any) -> None:
    """Refuse what is no number between 0 and 1.

    >>> check_share("level", 1.0)
    Traceback (most recent call last):
    ValueError: level must be between 0 and 1, got 1.0
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is not one of ``choices``.

    >>> check_choice("law", "uniform", ("rademacher", "normal"))
    Traceback (most recent call last):
    ValueError: law must be one of ['rademacher', 'normal'], got 'uniform'
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")
