"""The demonstration with a small budget: every question answered, every figure in its known range."""

import json
import re

import numpy as np
import pytest

import abduce
from abduce.showcase import demo
from abduce.showcase.demo import peers
from abduce.showcase.demo.questions import Digits, Finding, flat


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    told = []
    made = demo.run(folder, epochs=5, show=lambda text, share: told.append((text, share)))
    return folder, made, told


# what these data are known to give: far outside, something is wrong (inverted, leaked, in other units)
RANGES = {
    "fill 20 % blanks": (0.10, 0.25),
    "90 % intervals hold": (0.75, 1.0),
    "denoise, noise 20 %": (15.0, 25.0),
    "upscale 4x4 to 8x8": (13.0, 22.0),
    "spot the odd images": (0.8, 1.0),
    "realism of held-out digits": (0.3, 0.95),
    "realism of strangers": (0.0, 0.4),
    "compress, lossless": (1.5, 3.0),
    "log p, at least": (-130.0, -60.0),
    "samples told from digits": (0.5, 1.0),
    "embed, 10 neighbours": (0.7, 1.0),
    "spot wrong rows": (0.93, 1.0),
    "usual among flagged": (0.0, 0.25),
    "name the wrong cell": (0.8, 1.0),
    "fill a series": (2.0, 4.5),  # noise alone has a mean error of 2.4
    "forecast four weeks": (2.4, 9.0),
}


@pytest.mark.parametrize("task", RANGES)
def test_every_figure_is_in_its_known_range(result, task):
    (answer,) = [a for a in result[1]["answers"] if a["task"] == task]
    low, high = RANGES[task]
    assert low <= answer["ours"] <= high
    assert all(np.isfinite(figure) for figure in answer["peers"].values())


def test_no_task_is_without_a_range(result):
    assert [a["task"] for a in result[1]["answers"]] == list(RANGES)


def test_what_is_written_is_what_is_returned(result):
    folder, made, _ = result
    assert json.loads((folder / "report.json").read_text()) == made
    page = (folder / "report.html").read_text()
    for name in (
        "fill",
        "halves",
        "denoise",
        "upscale",
        "odd",
        "samples",
        "latent",
        "compress",
        "training",
        "rows",
        "series",
    ):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 1000
    assert page.count("<figure>") == 11
    assert not re.search(r'(?:src|srcset|href)="(?!data:)', page)
    for line in demo.headline(made):
        assert f"<td>{line[0]}</td>" in page


def test_the_model_it_leaves_answers(result):
    folder, made, _ = result
    size = len(abduce.load(folder / "model").compress(Digits(0).test))
    (bits,) = [a["ours"] for a in made["answers"] if a["task"] == "compress, lossless"]
    assert 8 * size / (297 * 64) == pytest.approx(bits, rel=1e-9)


def test_progress_only_goes_forward(result):
    shares = [share for _, share in result[2]]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_digits_are_split_once_and_a_fifth_is_blank():
    digits = Digits(0)
    assert digits.train.shape == (1500, 8, 8)
    assert digits.test.shape == (297, 8, 8)
    assert np.isnan(digits.train).mean() == pytest.approx(0.2, abs=0.005)
    assert not np.isnan(digits.test).any()
    seen = {tuple(row) for row in flat(digits.test)}
    assert not seen & {tuple(row) for row in flat(digits.train)}


@pytest.mark.parametrize(
    ("goal", "figures", "best", "won"),
    [
        ("low", {"a": 0.3, "b": 0.1}, "b", True),
        ("high", {"a": 0.3, "b": 0.1}, "a", False),
        (0.5, {"a": 0.9, "b": 0.45}, "b", False),
    ],
)
def test_the_better_figure_wins(goal, figures, best, won):
    answer = Finding("", "", 0.08, figures, goal)
    assert answer.best_peer == best
    assert answer.ours_is_best is won


def test_the_gaussian_peer_conditions_exactly():
    """In two dimensions, x₂ given x₁ has mean μ₂ + ρσ₂/σ₁ (x₁ − μ₁)."""
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal([1.0, 2.0], [[4.0, 3.0], [3.0, 9.0]], size=200_000)
    peer = peers.GaussianPeer(rows)
    mean, deviation = peer.fill(np.array([[3.0, np.nan]]))
    np.testing.assert_allclose(mean, [[3.0, 2.0 + 3.0 / 4.0 * 2.0]], atol=0.05)
    np.testing.assert_allclose(deviation, [[0.0, np.sqrt(9.0 - 9.0 / 4.0)]], atol=0.05)


def test_the_histogram_peer_pays_the_entropy():
    training = np.tile([[0.0], [16.0]], (5000, 1))
    bits = peers.compressed_bits(training[:64], training, side=1)
    assert bits["per-pixel histogram"] == pytest.approx(1.0, abs=0.01)
