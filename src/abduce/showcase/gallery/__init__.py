"""The gallery: the energy surface of every method on one spiral, as LeCun drew four of them, with numbers beside.

Every method is fitted to the same rows of a spiral with noise and drawn twice: its raw energy, by rank, and −log p once log Z
is known.  :mod:`~abduce.showcase.gallery.methods` says what is fitted, :mod:`~abduce.showcase.gallery.measures` how it is
judged, :mod:`~abduce.showcase.gallery.picture` draws.

Source: LeCun et al. 2006, A Tutorial on Energy-Based Learning; Ranzato, Boureau, Chopra & LeCun 2007, A unified energy-based
framework for unsupervised learning (AISTATS).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abduce.data.examples import spiral
from abduce.data.files import atomic
from abduce.showcase.gallery import measures
from abduce.showcase.gallery.methods import METHODS, Method, find
from abduce.showcase.gallery.picture import Panel, draw
from abduce.showcase.plots import png

__all__ = ["METHODS", "Method", "headline", "run"]

NOISE = 0.03
ROWS = 2000  # to train on, and as many held out
QUICK = 400
DPI = 110


def run(
    output: Path,
    only: Sequence[str] | None = None,
    quick: bool = False,
    seed: int = 0,
    show: Callable[[str, float], Any] = lambda text, share: None,
) -> dict[str, Any]:
    """Fit, measure and draw; write the picture to ``output`` (PNG) and return the numbers.

    ``only`` names some of the methods; ``quick`` takes fewer rows and a tenth of the epochs.  ``show(text, share)`` is told
    what is being done and the share of the whole that is done.  Raises ValueError for a name that there is not.
    """
    chosen = find(list(only or []))
    toy, rows = spiral(NOISE), QUICK if quick else ROWS
    train, held = toy.sample(rows, seed), toy.sample(rows, 1000 + seed)
    grid = measures.box()
    side = (measures.SIDE, measures.SIDE)
    true = -toy.log_prob(grid)
    panels = [Panel("the truth, −log p", 0, "the data", true.reshape(side), true.reshape(side))]
    records = []
    for k, method in enumerate(chosen):
        show(method.title, k / len(chosen))
        started = time.process_time()
        model = method.make(seed, quick).fit(train)  # log Z included
        seconds = time.process_time() - started
        energy, log_p = model.energy(grid), model.score_samples(grid)
        numbers = measures.measure(model.energy, model.score_samples, energy, held, toy)
        records.append(_record(method, model, numbers | {"seconds": seconds}))
        both = energy.reshape(side), -log_p.reshape(side)
        panels.append(Panel(method.title, method.strategy, method.heading, *both))
    show("drawing", 1.0)
    curve = toy.curve(np.linspace(0, 1, 400))[0]
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic(output, lambda file: file.write(png(draw(panels, curve), DPI)))
    return {
        "seed": seed,
        "rows": {"train": rows, "held out": rows},
        "truth": measures.measure(lambda x: -toy.log_prob(x), toy.log_prob, true, held, toy),
        "methods": records,
    }


def _record(method: Method, model: Any, numbers: dict[str, float | None]) -> dict[str, Any]:
    """What JSON says of a method."""
    fitted = model.model
    log_z, base = getattr(fitted, "log_z_", None), getattr(fitted, "base_", None)
    plain = (int, float, str, type(None))
    return {
        "name": method.name,
        "title": method.title,
        "strategy": method.strategy,
        "estimator": method.estimator.__name__,
        "arguments": {k: v if isinstance(v, plain) else str(v) for k, v in method.arguments.items()},
        "log_z": "importance sampling" if log_z is None else log_z.diagnostics["method"],
        "beta": getattr(fitted, "beta_", 1.0),
        "base": "none" if base is None else base.name,
        **numbers,
    }


COLUMNS = {
    "AUC": ("auc", 3),
    "volume": ("volume", 3),
    "covered": ("covered", 2),
    "tangent": ("tangent", 2),
    "log p": ("log_p", 3),
    "seconds": ("seconds", 1),
}


def headline(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Lay out the table: strategy, method, AUC, volume, covered, tangent, log p, seconds; the truth first."""

    def line(of: dict[str, Any]) -> tuple[str, ...]:
        figures = ((of.get(key), digits) for key, digits in COLUMNS.values())
        told = ("–" if value is None else f"{value:.{digits}f}" for value, digits in figures)
        return str(of.get("strategy") or "–"), of["title"], *told

    return [line(of) for of in ({"title": "the truth", **result["truth"]}, *result["methods"])]
