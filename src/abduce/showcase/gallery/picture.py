"""The picture: every method's energy above its −log p, methods side by side under the name of their strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from abduce.showcase.gallery.measures import BOX

COLUMNS = 6
SPREAD = 8.0  # nats from the lowest −log p to the lightest shade
CURVE = "#e4572e"
# by strategy
BANDS = ("#555b61", "#2a7fb8", "#5b7f3a", "#b3541e", "#7a4f9a", "#a03a52", "#1f7a74", "#8a6d1b")


@dataclass(frozen=True)
class Panel:
    """A method's two surfaces on the grid of the box, (side, side); ``group`` 0 is what belongs to no strategy."""

    title: str
    group: int
    heading: str
    energy: np.ndarray
    surprise: np.ndarray  # −log p, nats


def ranks(values: np.ndarray) -> np.ndarray:
    """Share of the values that are below each: grey that is evenly used whatever the energy's units.

    >>> ranks(np.array([10.0, -3.0, 10.0, 99.0]))
    array([0.25, 0.  , 0.25, 0.75])
    """
    return np.searchsorted(np.sort(values, axis=None), values) / values.size


def draw(panels: Sequence[Panel], curve: np.ndarray, cell: float = 1.62) -> Figure:
    """Lay the panels out in rows of six, in order; ``curve`` (n, 2) goes thinly over each, ``cell`` is its side in inches."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    head, gap, foot = 0.42, 0.05, 0.62  # inches: over a pair of surfaces, between them, under all
    tall = head + 2 * cell + gap + 0.08
    width, height = columns * (cell + gap) + gap, rows * tall + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    lowest = min(float(panel.surprise[np.isfinite(panel.surprise)].min()) for panel in panels)
    scale = Normalize(lowest, lowest + SPREAD, clip=True)
    before = None
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        left, top = gap + column * (cell + gap), height - row * tall
        if column == 0 or panel.heading != before:
            same = sum(1 for other in panels[k : (row + 1) * columns] if other.heading == panel.heading)
            _band(figure, panel, left, top, same * (cell + gap) - gap, width, height)
        before = panel.heading
        middle = ((left + cell / 2) / width, (top - 0.31) / height)
        figure.text(*middle, panel.title, ha="center", va="center", fontsize=8)
        both = ((ranks(panel.energy), "gray", Normalize(0, 1)), (panel.surprise, "magma", scale))
        for i, (values, cmap, norm) in enumerate(both):
            bottom = top - head - (i + 1) * cell - i * gap
            axis = figure.add_axes((left / width, bottom / height, cell / width, cell / height))
            _surface(axis, np.where(np.isfinite(values), values, lowest + SPREAD), cmap, norm, curve)
    bar = figure.add_axes((gap / width, 0.36 / height, min(2.6, width - 2 * gap) / width, 0.1 / height))
    figure.colorbar(ScalarMappable(scale, "magma"), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=7, length=2, pad=1)
    where, text = (gap, 0.06), "above: energy by rank; below: −log p, nats"
    if columns > 2:
        where, text = (
            (2.8, 0.4),
            "below: −log p, nats, one scale for all\nabove: energy by rank, black is low",
        )
    figure.text(where[0] / width, where[1] / height, text, fontsize=7.5, va="center")
    return figure


def _band(
    figure: Figure, panel: Panel, left: float, top: float, length: float, width: float, height: float
) -> None:
    """The strategy's name on a coloured band over its methods."""
    colour = BANDS[panel.group % len(BANDS)]
    place = (left / width, (top - 0.19) / height)
    figure.add_artist(Rectangle(place, length / width, 0.17 / height, color=colour, linewidth=0))
    inside = ((left + 0.05) / width, (top - 0.108) / height)
    figure.text(*inside, panel.heading, color="white", fontsize=7, va="center")


def _surface(axis: Axes, values: np.ndarray, cmap: str, norm: Normalize, curve: np.ndarray) -> None:
    axis.imshow(values, cmap=cmap, norm=norm, origin="lower", extent=(*BOX, *BOX), interpolation="nearest")
    axis.plot(curve[:, 0], curve[:, 1], color=CURVE, linewidth=0.6, alpha=0.8)
    axis.set(xlim=BOX, ylim=BOX, xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=True, linewidth=0.4, color="0.6")
