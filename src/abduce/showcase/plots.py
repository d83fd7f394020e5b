"""Pictures: grids of images, a latent map, bars, curves; each function returns a matplotlib figure, keeps no state.

Figures have no background and take their ink from :func:`theme`: one function serves a light page and a dark one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

BLANK = "#e4572e"  # a missing pixel
OURS = "#2a7fb8"
PEER = "#a3abb3"
_INK = {"light": "#1d2329", "dark": "#e4e8ec"}


@dataclass(frozen=True)
class Row:
    """One row of a grid: a label and its images, ``(k, h, w)``; NaN is drawn as blank.

    ``top`` is the value drawn brightest (the darkest is 0); ``cmap`` a matplotlib colour map; ``notes`` go
    under the images, one each.
    """

    label: str
    images: np.ndarray
    top: float = 1.0
    cmap: str = "gray"
    notes: Sequence[str] = ()


def theme(name: str) -> AbstractContextManager:
    """Draw for a page that is ``"light"`` or ``"dark"``: use as ``with theme("dark"): figure = ...``."""
    ink = _INK[name]
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    look: dict[Any, Any] = {
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "savefig.transparent": True,
    }
    return mpl.rc_context(look | dict.fromkeys(keys, ink))


def png(figure: Figure, dpi: int = 160) -> bytes:
    """Render a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.04)
    return buffer.getvalue()


def grid(rows: Sequence[Row], cell: float = 0.62) -> Figure:
    """Lay rows of images under one another, each with its label; ``cell`` is an image's side in inches."""
    columns = max(len(row.images) for row in rows)
    noted = any(row.notes for row in rows)
    figure = Figure(figsize=(cell * columns + 1.0, (cell + (0.2 if noted else 0.0)) * len(rows)))
    axes = figure.subplots(
        len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.32 if noted else 0.08}
    )
    for row, line in zip(rows, axes, strict=True):
        cmap = mpl.colormaps[row.cmap].with_extremes(bad=BLANK)
        for k, axis in enumerate(line):
            axis.set(xticks=[], yticks=[])
            if k >= len(row.images):
                axis.set_axis_off()
                continue
            for spine in axis.spines.values():
                spine.set_visible(False)
            axis.imshow(row.images[k], cmap=cmap, vmin=0.0, vmax=row.top, interpolation="nearest")
            if row.notes:
                axis.set_xlabel(row.notes[k], fontsize=7, labelpad=2)
        line[0].set_ylabel(row.label, rotation=0, ha="right", va="center", labelpad=6)
    return figure


def latent_map(points: np.ndarray, labels: np.ndarray) -> Figure:
    """Scatter points ``(n, 2)`` coloured by label, the label written at the middle of its points."""
    figure = Figure(figsize=(5.2, 4.4))
    axis = figure.subplots()
    colours, halo = mpl.colormaps["tab10"], [withStroke(linewidth=3, foreground="white")]
    for k, label in enumerate(np.unique(labels)):
        mine = points[labels == label]
        axis.scatter(mine[:, 0], mine[:, 1], s=9, color=colours(k % 10), alpha=0.75, linewidths=0)
        x, y = np.median(mine, axis=0).tolist()
        style: dict[str, Any] = {"fontsize": 13, "weight": "bold", "ha": "center", "va": "center"}
        axis.text(x, y, str(label), color=colours(k % 10), path_effects=halo, **style)
    axis.set(xlabel="first latent", ylabel="second latent")
    return figure


def bars(values: Mapping[str, float], unit: str, ours: str) -> Figure:
    """Draw one horizontal bar a name, its figure beside it; the bar named ``ours`` stands out."""
    figure = Figure(figsize=(5.2, 0.36 * len(values) + 0.5))
    axis = figure.subplots()
    colours = [OURS if name == ours else PEER for name in values]
    drawn = axis.barh(list(values), list(values.values()), color=colours, height=0.66)
    axis.bar_label(drawn, fmt="%.2f", padding=4)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.tick_params(left=False)
    axis.spines["left"].set_visible(False)
    return figure


def training_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Plot nats a row of each epoch of a fit, trained on and, where it was checked, held out; the best of these was kept."""
    checked = [epoch for epoch in history if "valid" in epoch]
    train, held_out = [epoch["train"] for epoch in history], [epoch["valid"] for epoch in checked]
    figure = Figure(figsize=(5.2, 2.9))
    axis = figure.subplots()
    axis.plot([epoch["epoch"] for epoch in history], train, color=PEER, label="trained on")
    axis.plot([epoch["epoch"] for epoch in checked], held_out, color=OURS, label="held out")
    if checked:
        best = checked[int(np.argmax(held_out))]["epoch"]
        axis.axvline(best, color=BLANK, linewidth=1, linestyle=":", label="kept")
    # let the first steep epochs leave the frame, so that the rest of the curve can be read
    values = np.concatenate([train, held_out])
    low, high = np.quantile(values[np.isfinite(values)], [0.05, 1.0])
    margin = 0.08 * (high - low) or 1.0
    axis.set_ylim(low - margin, high + margin)
    axis.set(xlabel="epoch", ylabel="nats a row")
    axis.legend(frameon=False)
    return figure


def fan(
    past: np.ndarray,
    ahead: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    names: Sequence[Any],
    level: float,
    last: str = "",
    most: int = 6,
    filled: np.ndarray | None = None,
) -> Figure:
    """Draw a series' last steps ``past`` (T, F), NaN where blank, and its forecast (n, F) with the ends of its intervals.

    Of more than ``most`` features the first are drawn; ``last`` says when the last step was; blanks of the past are drawn as
    they were ``filled`` (T, F).
    """
    n, f = ahead.shape[0], min(most, ahead.shape[1])
    shown = max(60, 4 * n)
    past, filled = past[-shown:], None if filled is None else filled[-shown:]
    before, after = np.arange(1 - len(past), 1), np.arange(1, n + 1)
    figure = Figure(figsize=(7.2, 1.7 * f + 0.6))
    for axis, j in zip(figure.subplots(f, 1, sharex=True, squeeze=False)[:, 0], range(f), strict=True):
        axis.plot(before, past[:, j], color=PEER, label="seen")
        if filled is not None and (blank := np.isnan(past[:, j])).any():
            # with the seen steps on either side, so that a gap of one step shows
            near = blank | np.append(blank[1:], False) | np.append(False, blank[:-1])
            axis.plot(before, np.where(near, filled[:, j], np.nan), color=BLANK, lw=1.2, label="filled")
        axis.fill_between(
            after, low[:, j], high[:, j], color=OURS, alpha=0.25, linewidth=0, label=f"{level:.0%} interval"
        )
        axis.plot(after, ahead[:, j], color=OURS, label="forecast")
        axis.set_ylabel(str(names[j]))
    figure.axes[0].legend(frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.25))
    figure.axes[-1].set_xlabel(f"steps from the last one seen{last}")
    return figure


def odd_rows(
    odd: np.ndarray,
    flagged: np.ndarray,
    nats: np.ndarray,
    cells: Sequence[Sequence[str]],
    rows: Sequence[Any],
    names: Sequence[Any],
    alpha: float,
) -> Figure:
    """Draw how odd rows are (n,), with the cut between those ``flagged`` (n,) and the others, over a map of the oddest.

    The map has a line a row of ``rows``: ``nats`` (r, D) that each cell adds, NaN where it is blank, as colour, and what to
    write into each of its ``cells``.
    """
    figure = Figure(figsize=(max(6.4, 1.25 * len(names) + 1.4), 2.5 + 0.4 * len(rows)), layout="constrained")
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1.7, 0.4 * len(rows) + 0.3]})
    groups = [odd[~flagged], odd[flagged]]
    above.hist(groups, bins=40, stacked=True, color=[PEER, BLANK], label=["not flagged", "flagged"])
    if flagged.any():
        cut = float(odd[flagged].min())
        above.axvline(cut, color=BLANK, lw=1, ls="--", label=f"flag(alpha={alpha:g})")
    above.set(xlabel="oddness, nats", ylabel="rows", yscale="log")
    above.legend(frameon=False)

    top = float(np.nanmax(nats)) if np.isfinite(nats).any() else 1.0
    share = np.nan_to_num(nats).clip(0) / max(top, 1e-9)
    colours = np.ones((*nats.shape, 4)) * to_rgba(BLANK)
    colours[..., 3] = 0.9 * share  # the page shows through where a cell adds nothing
    below.imshow(colours, aspect="auto")
    for i, line in enumerate(cells):
        for j, text in enumerate(line):
            weight = "bold" if share[i, j] > 0.5 else "normal"
            below.text(j, i, text, ha="center", va="center", fontsize=8, weight=weight)
    below.set(
        ylabel="row",
        xticks=range(len(names)),
        xticklabels=map(str, names),
        yticks=range(len(rows)),
        yticklabels=map(str, rows),
    )
    below.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    below.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    below.grid(which="minor", color=PEER, lw=0.4)
    below.tick_params(which="both", length=0)
    below.xaxis.tick_top()
    for side in below.spines.values():
        side.set(visible=True, color=PEER, linewidth=0.4)
    red = to_rgb(BLANK)
    shades = LinearSegmentedColormap.from_list("", [(*red, 0.0), (*red, 0.9)])
    scale = ScalarMappable(Normalize(0, top), shades)
    figure.colorbar(scale, ax=below, label="nats of the cell", pad=0.02)
    return figure
