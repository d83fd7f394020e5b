"""Pictures: what is drawn where."""

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from abduce.showcase import plots
from abduce.showcase.demo.parcels import Parcels, written


def pixels(figure):
    """Render a figure and read its colours back, ``(h, w, 4)`` in 0..255."""
    with plots.theme("light"):
        drawn = plots.png(figure)
    return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGBA")).astype(int)


def share_of(image, colour):
    """Count the share of the opaque pixels that have a colour."""
    near = np.abs(image[..., :3] - 255 * np.array(to_rgb(colour))).max(-1) <= 3
    return (near & (image[..., 3] == 255)).sum() / (image[..., 3] == 255).sum()


def test_blanks_are_drawn_in_their_own_colour():
    image = np.ones((1, 4, 4))
    whole = share_of(pixels(plots.grid([plots.Row("", image)])), plots.BLANK)
    image[0, 0] = np.nan
    assert whole == 0
    assert share_of(pixels(plots.grid([plots.Row("", image)])), plots.BLANK) == pytest.approx(0.25, abs=0.03)


def test_a_grid_has_a_place_for_every_image():
    rows = [plots.Row("three", np.zeros((3, 2, 2))), plots.Row("one", np.zeros((1, 5, 5)), notes=["here"])]
    axes = plots.grid(rows).axes
    assert [bool(axis.images) for axis in axes] == [True, True, True, True, False, False]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["three", "one"]
    assert axes[3].get_xlabel() == "here"


def test_values_are_drawn_from_zero_to_the_top():
    (axis,) = plots.grid([plots.Row("", np.full((1, 2, 2), 8.0), top=16.0)]).axes
    assert axis.images[0].get_clim() == (0.0, 16.0)


def test_bars_show_every_name_and_mark_ours():
    (axis,) = plots.bars({"bz2": 3.0, "abduce": 2.0}, "bits", ours="abduce").axes
    assert [bar.get_width() for bar in axis.patches] == [3.0, 2.0]
    assert [mpl.colors.to_hex(bar.get_facecolor()) for bar in axis.patches] == [plots.PEER, plots.OURS]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["bz2", "abduce"]


def test_the_map_names_every_group_at_its_middle():
    points = np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 1.0], [5.0, 5.0]])
    (axis,) = plots.latent_map(points, np.array([3, 3, 3, 7])).axes
    assert {text.get_text(): text.get_position() for text in axis.texts} == {"3": (0.0, 1.0), "7": (5.0, 5.0)}


def test_the_curve_shows_its_end_rather_than_its_start():
    epochs = np.arange(1, 101)
    value = -10.0 - 1e6 * (epochs == 1)
    history = [{"epoch": e, "train": v} for e, v in zip(epochs, value, strict=True)]
    for epoch in history[4::5]:
        epoch["valid"] = epoch["train"] + (epoch["epoch"] == 95)
    (axis,) = plots.training_curve(history).axes
    low, high = axis.get_ylim()
    assert low > -12
    assert high > -10
    assert [line.get_label() for line in axis.lines] == ["trained on", "held out", "kept"]
    assert axis.lines[2].get_xdata()[0] == 95


def test_a_theme_changes_the_ink_and_is_gone_afterwards():
    before = mpl.rcParams["text.color"]
    with plots.theme("dark"):
        dark = mpl.rcParams["text.color"]
    with plots.theme("light"):
        light = mpl.rcParams["text.color"]
    assert np.mean(to_rgb(dark)) > 0.8 > 0.2 > np.mean(to_rgb(light))
    assert mpl.rcParams["text.color"] == before


def test_filled_blanks_of_a_series_are_drawn_in_their_own_colour():
    past = np.sin(np.arange(80.0))[:, None]
    ahead, filled = np.zeros((4, 1)), past.copy()
    arguments = {"ahead": ahead, "low": ahead - 1, "high": ahead + 1, "names": ["x"], "level": 0.9}
    assert share_of(pixels(plots.fan(past, filled=filled, **arguments)), plots.BLANK) == 0
    past[40:50] = np.nan
    assert share_of(pixels(plots.fan(past, **arguments)), plots.BLANK) == 0
    assert share_of(pixels(plots.fan(past, filled=filled, **arguments)), plots.BLANK) > 0.001


def test_odd_rows_are_parted_where_they_are_flagged_and_cells_take_colour_by_their_nats():
    odd = np.r_[np.linspace(0, 4, 50), 7.0, 9.0]
    nats = np.array([[0.0, 8.0, np.nan], [4.0, -1.0, 0.0]])
    cells = [["a", "1 to 2", "blank"], ["b", "3", "4"]]
    figure = plots.odd_rows(odd, odd > 5, nats, cells, [51, 50], ["x", "y", "z"], 0.1)
    above, below = figure.axes[:2]
    assert above.lines[0].get_xdata()[0] == 7.0
    assert sum(bar.get_height() for bar in above.patches) == 52
    shades = below.images[0].get_array()[..., 3]
    np.testing.assert_allclose(shades, [[0.0, 0.9, 0.0], [0.45, 0.0, 0.0]])
    assert [text.get_text() for text in below.texts] == [text for line in cells for text in line]
    assert [text.get_weight() for text in below.texts].count("bold") == 1
    assert [label.get_text() for label in below.get_yticklabels()] == ["51", "50"]
    unflagged = plots.odd_rows(odd, odd > 50, nats * np.nan, cells, [1, 2], ["x", "y", "z"], 0.1)
    assert not unflagged.axes[0].lines


def test_made_up_parcels_are_wrong_where_they_are_said_to_be():
    made = Parcels(0)
    again = Parcels(0)
    assert made.new.equals(again.new)
    assert made.wrong.sum() == len(made.at) == 30
    assert not made.new[:30].isna().any().any()
    assert made.train.isna().to_numpy().mean() == pytest.approx(0.05, abs=0.02)
    fair = 2 + 1.5 * made.new["weight"] + 0.02 * made.new["size"]
    extra = (made.new["price"] - fair).to_numpy()
    assert (extra[:15] > 2).all()
    assert np.nanmax(np.abs(extra[15:])) < 1.5
    nats = pd.DataFrame([[0.1, 9.0, 4.0, np.nan]])
    was, meant = pd.DataFrame([["box", 2.0, 3.0, None]]), pd.DataFrame([["box", 1.0, 2.5, 7.0]])
    assert written(was, meant, nats) == [
        ["box", "2 \N{RIGHTWARDS ARROW} 1", "3 \N{RIGHTWARDS ARROW} 2.5", "blank"]
    ]
