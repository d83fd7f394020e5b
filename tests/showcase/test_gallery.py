"""The gallery: its numbers on surfaces with known answers, its panels against what is known of the spiral, what it writes."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from abduce.cli import app
from abduce.data.examples import spiral
from abduce.showcase import gallery
from abduce.showcase.gallery import measures, picture
from abduce.showcase.gallery.methods import METHODS, STRATEGIES, find
from abduce.showcase.gallery.plane import BitCoded

TOY = spiral(gallery.NOISE)
TRAIN = TOY.sample(2000, 0)
CENTRE = np.array([-0.25, -0.15])


def distance(x):
    """How far points are from the curve."""
    path = TOY.curve(np.linspace(0, 1, 2000))[0]
    return np.concatenate(
        [np.linalg.norm(part[:, None] - path, axis=2).min(axis=1) for part in np.array_split(x, 20)]
    )


def fitted(name):
    return find([name])[0].make().fit(TRAIN)


@pytest.fixture(scope="module")
def wells():
    return fitted("k-means")


# ---------------------------------------------------------------- numbers


def test_points_along_the_curve_are_evenly_spaced_over_its_length():
    x, tangent = measures.along(TOY.curve, 400)
    theta = 2 * math.pi
    length = (
        0.94 / theta * 0.5 * (theta * math.hypot(1, theta) + math.asinh(theta))
    )  # of an Archimedean spiral
    steps = np.linalg.norm(np.diff(x, axis=0), axis=1)
    np.testing.assert_allclose(steps, length / 400, rtol=2e-3)
    np.testing.assert_allclose(tangent[1:-1], (x[2:] - x[:-2]) / (2 * length / 400), atol=0.02)


def test_the_distance_to_the_curve_is_a_perfect_energy():
    held = TOY.sample(1000, 1)
    found = measures.measure(distance, TOY.log_prob, distance(measures.box()), held, TOY)
    assert found["covered"] == 1.0
    assert found["tangent"] > 0.99
    assert found["auc"] > 0.95
    # 95 % of the rows are within 1.96 standard deviations of the curve, but for its ends
    theta = 2 * math.pi
    length = 0.94 / theta * 0.5 * (theta * math.hypot(1, theta) + math.asinh(theta))
    assert found["volume"] == pytest.approx(2 * 1.96 * gallery.NOISE * length / 4, rel=0.1)
    assert found["log_p"] == pytest.approx(TOY.log_prob(held).mean(), abs=1e-12)


def test_a_flat_energy_tells_nothing_apart():
    held, grid = np.zeros(50), np.zeros(measures.SIDE**2)
    assert measures.auc(held, grid) == 0.5
    assert measures.volume(grid, held) == 0.0


def test_auc_is_that_of_two_normals():
    rng = np.random.default_rng(0)
    low, high = rng.normal(size=40_000), 1 + rng.normal(size=40_000)
    assert measures.auc(low, high) == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=5e-3)


def test_the_hessian_is_that_of_a_quadratic_form():
    curvature = np.array([[3.0, 1.0], [1.0, 2.0]])
    x = np.random.default_rng(0).normal(size=(5, 2))
    found = measures.hessian(lambda y: 0.5 * np.einsum("ni,ij,nj->n", y, curvature, y), x)
    np.testing.assert_allclose(found, np.broadcast_to(curvature, (5, 2, 2)), atol=1e-9)


def test_the_softest_direction_of_a_trough_is_its_length_and_a_round_bowl_has_none():
    x, tangent = measures.along(TOY.curve)
    trough = measures.tangency(lambda y: y[:, 0] ** 2, x, tangent)
    assert trough == pytest.approx(np.abs(tangent[:, 1]).mean(), abs=1e-6)
    assert measures.tangency(lambda y: (y**2).sum(axis=1), x, tangent) is None


# ---------------------------------------------------------------- bits


def test_neighbouring_cells_differ_in_one_bit_and_no_two_are_the_same():
    coded = BitCoded(None, bits=4)
    middle = np.array([[-1 + coded.side * (i + 0.5)] * 2 for i in range(16)])
    rows = coded.encode(middle)
    assert np.array_equal(rows[:, :4], rows[:, 4:])
    assert (np.abs(np.diff(rows[:, :4], axis=0)).sum(axis=1) == 1).all()
    assert len(np.unique(rows, axis=0)) == 16


def test_the_density_of_bits_has_mass_one_on_the_box_and_none_beyond():
    coded = find(["pseudo-likelihood"])[0].make(quick=True).fit(TRAIN[:400])
    log_p = coded.score_samples(measures.box(64))
    assert np.exp(log_p).sum() * coded.side**2 == pytest.approx(1.0, abs=1e-9)
    assert coded.score_samples(np.array([[1.5, 0.0]]))[0] == -np.inf
    np.testing.assert_allclose(
        log_p + coded.energy(measures.box(64)), log_p[0] + coded.energy(measures.box(64)[:1])[0]
    )


# ---------------------------------------------------------------- panels


def test_the_valley_of_pca_goes_through_the_mean_at_minus_32_degrees():
    model = fitted("pca")
    angle = np.linspace(-math.pi / 2, math.pi / 2, 1801)
    around = CENTRE + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert math.degrees(angle[model.energy(around).argmin()]) == pytest.approx(-32, abs=2)
    assert model.energy(CENTRE[None])[0] < 1e-3 < 0.1 < model.energy(CENTRE[None] + [0.3, 0.5])[0]


def test_k_means_has_twenty_round_wells_on_the_spiral(wells):
    e = wells.energy(measures.box(256)).reshape(256, 256)
    inner = e[1:-1, 1:-1]
    around = [e[1 + i : 255 + i, 1 + j : 255 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    least = np.all([inner < other for other in around], axis=0)
    assert least.sum() == 20
    at = measures.box(256).reshape(256, 256, 2)[1:-1, 1:-1][least]
    assert distance(at).max() < 2 * gallery.NOISE
    curvature = measures.hessian(wells.energy, at, 1e-3)
    np.testing.assert_allclose(
        curvature, curvature[0, 0, 0] * np.broadcast_to(np.eye(2), (20, 2, 2)), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("name", ["pca", "k-means", "gaussian-mixture", "ica"])
def test_densities_have_mass_one(name, wells):
    model = wells if name == "k-means" else fitted(name)
    mass = np.exp(model.score_samples(measures.box(300, -3.6, 3.6))).sum() * 0.024**2
    assert mass == pytest.approx(1.0, abs=2e-3)


def test_the_bound_of_the_vae_is_above_its_surprise():
    model = find(["vae"])[0].make(quick=True).fit(TRAIN[:400])
    x = measures.box(16)
    assert (model.energy(x) >= -model.score_samples(x) - 1e-9).all()


def test_every_strategy_has_its_methods_and_every_method_can_be_made():
    assert len({method.name for method in METHODS}) == len(METHODS) == 23
    assert {method.strategy for method in METHODS} == set(range(len(STRATEGIES)))
    for method in METHODS:
        method.make(seed=3)


# ---------------------------------------------------------------- what it writes


def test_the_picture_has_two_surfaces_a_method():
    surface = np.arange(16.0).reshape(4, 4)
    panels = [picture.Panel(f"{k}", k % 8, STRATEGIES[k % 8], surface, surface) for k in range(8)]
    figure = picture.draw(panels, np.zeros((2, 2)))
    images = [axis.images[0].get_array() for axis in figure.axes[:-1] if axis.images]
    assert len(images) == 16
    np.testing.assert_array_equal(images[0], surface / 16)
    np.testing.assert_array_equal(images[1], surface)


def test_the_numbers_survive_json_and_progress_goes_forward(tmp_path):
    told = []
    path = tmp_path / "new" / "gallery.png"
    result = gallery.run(path, ["pca", "k-means"], quick=True, show=lambda text, share: told.append(share))
    assert json.loads(json.dumps(result)) == result
    assert [line["name"] for line in result["methods"]] == ["pca", "k-means"]
    assert result["truth"]["covered"] == 1.0
    assert result["truth"]["log_p"] > result["methods"][1]["log_p"] > result["methods"][0]["log_p"]
    assert [line[1] for line in gallery.headline(result)] == ["the truth", "PCA", "k-means, 20"]
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in path.parent.iterdir()] == ["gallery.png"]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_command_writes_the_picture_and_prints_the_numbers(tmp_path):
    path = tmp_path / "g.png"
    told = CliRunner().invoke(app, ["gallery", "-o", str(path), "--only", "ica", "--quick", "--json", "-q"])
    assert told.exit_code == 0
    (line,) = json.loads(told.stdout)["methods"]
    assert line["strategy"] == 1
    assert line["base"] == "none"
    assert path.stat().st_size > 1000


def test_an_unknown_method_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"only must be of pca, .*, got nonsense"):
        gallery.run(tmp_path / "g.png", ["nonsense"])
