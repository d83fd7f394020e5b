"""Compression with mixtures of Gaussians: what comes back is what went in, at −log₂ of the law's own probability."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rates_for_tests import negative_elbo, rate
from scipy.stats import multivariate_normal, norm

from abduce.compress import codec as task
from abduce.compress.container import CompressedDataError
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.models.energy_model import EnergyModel
from abduce.models.gaussian import IndependentComponentsEnergy
from abduce.models.hard_mixture_law import HardMixtureLaw
from abduce.models.mixture import GaussianMixtureEnergy, KMeansEnergy

NAME = b"a fitted law"
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def blank(X: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    out = np.array(X, float)
    out[np.random.default_rng(seed).random(out.shape) < share] = np.nan
    return out


def numbers(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 3, n)
    X = np.array([[0, 0, 0, 50], [9, -9, 4, 0], [-9, 3, 8, 20]])[groups] + rng.normal(size=(n, 4)) * [
        1,
        2,
        3,
        9,
    ]
    X[:, 1] += X[:, 0]
    return np.round(X, 2)


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    mood = rng.normal(size=n)
    out = pd.DataFrame(
        {
            "id": [f"u{seed}-{i}" for i in range(n)],
            "height": np.round(170 + 8 * mood + rng.normal(size=n), 1),
            "income": np.round(np.exp(3 + mood + 0.3 * rng.normal(size=n)) + 0.01, 2),
            "delay": np.round(-50 * mood + 20 * rng.normal(size=n)).astype(int),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**8, n), unit="s"),
        }
    )
    for column in ("height", "income", "since"):
        out.loc[rng.random(n) < 0.15, column] = None
    return out


DATA = {
    "numbers": numbers,
    "numbers with blanks": lambda n: blank(numbers(n), 0.3),
    "pixels": lambda n: np.random.default_rng(1).integers(0, 256, (n, 3, 4)).cumsum(1).astype(np.uint8),
    "pixels with blanks": lambda n: blank(
        np.random.default_rng(2).integers(0, 17, (n, 3, 4)).cumsum(2) // 4, 0.3
    ),
    "frame": frame,
}
LAWS = ("gaussian", "mixture", "k-means")


def fitted(X, family: str):
    """A schema, and a law that has looked at X a little."""
    schema = Schema.infer(X, {"delay": "real"} if isinstance(X, pd.DataFrame) else None)
    values, _ = schema.encode(X)
    x = torch.from_numpy(values)
    covariance = torch.cov(x.T) + 0.05 * torch.eye(x.shape[1], dtype=x.dtype)
    centres = x[:3].clone()
    if family == "gaussian":
        return schema, GaussianMixtureLaw.gaussian(x.mean(0), covariance)
    if family == "mixture":
        shapes = covariance * torch.tensor([0.3, 0.6, 1.0], dtype=x.dtype)[:, None, None]
        return schema, GaussianMixtureLaw(torch.tensor([0.0, 1.0, -1.0], dtype=x.dtype), centres, shapes)
    return schema, HardMixtureLaw(centres, 1.5)


def assert_same(back, X):
    if isinstance(X, pd.DataFrame):
        pd.testing.assert_frame_equal(back, X)
    else:
        assert back.dtype == X.dtype
        np.testing.assert_array_equal(back, X)


def round_trip(law, schema, X):
    for data in (task.by_model(law, schema, X, NAME), task.compress(law, schema, X, NAME)):
        assert_same(task.decompress(law, schema, data, NAME), X)


def whole_numbers(law: GaussianMixtureLaw, n: int, unit: float, seed: int = 0) -> tuple[Schema, np.ndarray]:
    """Rows of the law itself, on a lattice of whole numbers, ``unit`` of them in a unit."""
    x = law.sample(n, torch.Generator().manual_seed(seed)).numpy()
    X = np.rint(x * unit) + 0.0  # a lattice has one zero
    return Schema.infer(X, "real"), X


def moved(law: GaussianMixtureLaw, schema: Schema, unit: float) -> GaussianMixtureLaw:
    """A law of x / unit, in the model space of a schema of x."""
    loc, scale = (
        torch.tensor([getattr(f, a) for f in schema.fields], dtype=torch.float64) for a in ("loc", "scale")
    )
    ratio = unit / scale
    covariances = law.covariances * ratio[:, None] * ratio
    return GaussianMixtureLaw(law.log_weights, (law.means * unit - loc) / scale, covariances)


def random_mixture(components: int, cells: int, spread: float, seed: int = 0) -> GaussianMixtureLaw:
    g = torch.Generator().manual_seed(seed)
    roots = torch.randn(components, cells, cells, generator=g, dtype=torch.float64)
    means = spread * torch.randn(components, cells, generator=g, dtype=torch.float64)
    weights = torch.randn(components, generator=g, dtype=torch.float64)
    eye = torch.eye(cells, dtype=torch.float64)
    return GaussianMixtureLaw(weights, means, roots @ roots.mT / cells + 0.1 * eye)


def density_bits(law, schema: Schema, X: np.ndarray) -> np.ndarray:
    """−log₂ (density × bin) of rows on whole numbers."""
    x, observed = schema.encode(X)
    nats = law.log_prob(Seen(torch.from_numpy(x), torch.from_numpy(observed))).numpy()
    return -(nats + schema.log_jacobian(x, observed)) / np.log(2)


# ------------------------------------------------------------------ round trips


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("family", LAWS)
def test_round_trip(name, family):
    X = DATA[name](150)
    schema, law = fitted(X, family)
    for n in (0, 1, 2, 150):
        round_trip(law, schema, X[:n])


@SLOW
@given(data=st.data(), n=st.integers(1, 40), family=st.sampled_from(LAWS))
def test_any_pixels_come_back(data, n, family):
    schema, law = fitted(DATA["pixels with blanks"](50), family)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    top = schema.fields[0].high
    X = rng.integers(0, 1 + data.draw(st.integers(0, int(top))), (n, 3, 4)).astype(float)
    X[rng.random(X.shape) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = np.nan
    round_trip(law, schema, X)


@SLOW
@given(k=st.lists(st.integers(-(10**12), 10**12), min_size=4, max_size=40), family=st.sampled_from(LAWS))
def test_numbers_far_outside_the_training_range_come_back(k, family):
    schema, law = fitted(numbers(50), family)
    round_trip(law, schema, np.array(k[: len(k) // 4 * 4]).reshape(-1, 4) / 100)


@SLOW
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), family=st.sampled_from(LAWS))
def test_any_frame_comes_back(seed, n, family):
    schema, law = fitted(frame(100), family)
    round_trip(law, schema, frame(n, seed))


def test_columns_always_blank_and_constant_come_back():
    X = numbers(60)
    schema, law = fitted(X, "mixture")
    Y = X.copy()
    Y[:, 2], Y[:, 0] = np.nan, 1.5
    round_trip(law, schema, Y)
    Y[::3, 1] = np.nan
    round_trip(law, schema, Y)
    round_trip(law, schema, np.full((70, 4), np.nan))


def test_threads_do_not_matter():
    X = DATA["numbers with blanks"](150)
    schema, law = fitted(X, "mixture")
    data = task.by_model(law, schema, X, NAME)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert task.by_model(law, schema, X, NAME) == data
        assert torch.get_num_threads() == threads % 2 + 1
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------ rates


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_what_is_promised_sums_to_one_over_the_lattice(scale):
    # wide bins, too: the conditionals of cell after cell are a code of the lattice, tails and all
    grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(7.0)), -1).reshape(-1, 2)
    schema = Schema.infer(grid, "real")
    mixture = random_mixture(3, 2, 0.7)
    law = GaussianMixtureLaw(mixture.log_weights, mixture.means, scale**2 * mixture.covariances)
    bits = negative_elbo(law, schema, grid)
    assert (2.0**-bits).sum() == pytest.approx(1.0, abs=1e-9)
    alone = np.where([[False, True]], np.nan, grid[grid[:, 1] == 0])
    assert (2.0 ** -negative_elbo(law, schema, alone)).sum() == pytest.approx(1.0, abs=1e-9)


def test_one_cell_costs_the_mass_of_its_bin():
    law = random_mixture(3, 1, 3.0)
    schema, X = whole_numbers(law, 4000, 2.0)  # bins of half a unit: far from narrow
    law, mixture = moved(law, schema, 2.0), law
    below = np.stack([(X[:, 0] - 0.5) / 2, (X[:, 0] + 0.5) / 2])
    below[0][X[:, 0] == X.min()], below[1][X[:, 0] == X.max()] = -np.inf, np.inf
    mass = np.zeros(len(X))
    for w, m, C in zip(mixture.log_weights.exp(), mixture.means, mixture.covariances, strict=True):
        low, high = norm.cdf(below, float(m), float(C) ** 0.5)
        mass += float(w) * (high - low)
    np.testing.assert_allclose(negative_elbo(law, schema, X), -np.log2(mass), atol=2e-3)
    found = rate(law, schema, X)
    assert found.marginal_bits == pytest.approx(-np.log2(mass).mean(), rel=0.01, abs=0.02)


def test_two_correlated_cells_cost_the_mass_of_their_box():
    law = GaussianMixtureLaw.gaussian(
        torch.zeros(2).double(), torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    )
    schema, X = whole_numbers(law, 1000, 8.0)
    peer = multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]])
    mass = peer.cdf((X + 0.5) / 8, lower_limit=(X - 0.5) / 8)
    assert rate(moved(law, schema, 8.0), schema, X).marginal_bits == pytest.approx(
        -np.log2(mass).mean(), rel=0.01, abs=0.05
    )


@pytest.mark.parametrize(("components", "spread"), [(1, 0.0), (4, 0.3), (4, 5.0)])
@pytest.mark.parametrize("blanks", [0.0, 0.4])
def test_rate_is_the_density_times_the_bin(components, spread, blanks):
    law = random_mixture(components, 6, spread)
    schema, X = whole_numbers(law, 2000, 100.0)
    law, X = moved(law, schema, 100.0), blank(X, blanks) if blanks else X
    expected = density_bits(law, schema, X)
    np.testing.assert_allclose(np.median(np.abs(negative_elbo(law, schema, X) - expected)), 0, atol=5e-3)
    found = rate(law, schema, X)
    assert found.first_rows <= 3 * (components > 1)
    assert found.marginal_bits - found.mask_bits == pytest.approx(
        expected[found.first_rows :].mean(), rel=0.01
    )
    assert found.negative_elbo_bits == pytest.approx(expected[found.first_rows :].mean(), rel=0.005)


def test_positive_columns_cost_their_density_in_data_units():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2000, 1)) + 0.2 * rng.normal(size=(2000, 3))
    X = np.round(np.exp(2 + 0.7 * z), 3)
    schema = Schema.infer(X, "positive")
    x, _ = schema.encode(X)
    law = GaussianMixtureLaw.gaussian(torch.zeros(3).double(), torch.cov(torch.from_numpy(x).T))
    expected = density_bits(law, schema, X) + 3 * np.log2(1000)
    assert rate(law, schema, X).marginal_bits == pytest.approx(expected.mean(), rel=0.005)


def test_cells_that_nearly_repeat_one_another_cost_what_they_differ_by():
    # a conditional scale of 1e-4, known through coefficients of 1e4, on a lattice of 1e-6
    near = (
        torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).double()
        + 1e-8 * torch.eye(3).double()
    )
    law = GaussianMixtureLaw.gaussian(torch.zeros(3).double(), near)
    schema, X = whole_numbers(law, 1500, 1e6)
    law = moved(law, schema, 1e6)
    found = rate(law, schema, X)
    assert found.marginal_bits == pytest.approx(density_bits(law, schema, X).mean(), rel=0.01)
    assert found.marginal_bits < 42  # 20 bits for one cell alone


def test_overlapping_components_are_not_named():
    one = random_mixture(1, 3, 0.0)
    eight = GaussianMixtureLaw(
        torch.zeros(8).double(), one.means.expand(8, 3), one.covariances.expand(8, 3, 3)
    )
    schema, X = whole_numbers(one, 3000, 50.0)
    single, many = (rate(moved(law, schema, 50.0), schema, X) for law in (one, eight))
    assert many.marginal_bits == pytest.approx(single.marginal_bits, abs=0.02)  # 3 bits a row if they were
    assert single.first_rows == 0 < many.first_rows <= 3


def test_k_means_costs_its_own_law_and_at_most_the_choice_of_a_centre_more():
    hard = HardMixtureLaw(torch.tensor([[-1.0, 0.0], [0.5, 0.5], [1.0, -1.0]]).double(), beta=4.0)
    X = np.rint(100 * hard.sample(3000, torch.Generator().manual_seed(0)).numpy()) + 0.0
    schema = Schema.infer(X, "real")
    x, _ = schema.encode(X)
    scale = schema.fields[0].scale
    # centres in the schema's space; one β for both cells, whose scales differ a little
    loc, scales = (np.array([getattr(f, a) for f in schema.fields]) for a in ("loc", "scale"))
    law = HardMixtureLaw(
        torch.from_numpy((100 * hard.centres.numpy() - loc) / scales), 4.0 * (scale / 100) ** 2
    )
    own = -(law.log_prob(Seen.whole(torch.from_numpy(x))).numpy() - np.log(scales).sum()) / np.log(2)
    found = rate(law, schema, X)
    extra = found.marginal_bits - own[found.first_rows :].mean()
    assert 0 < extra < np.log2(3)
    each = negative_elbo(law, schema, X) - own
    assert each.max() < np.log2(3) + 0.02
    w, b = law.centres.numpy(), law.beta
    soft = np.exp(-b * np.square(x[:, None] - w).sum(-1)).mean(1) * b / np.pi / scales.prod()
    assert found.marginal_bits == pytest.approx(-np.log2(soft).mean(), rel=0.01)


def test_one_row_costs_what_it_costs():
    schema, law = fitted(numbers(100), "mixture")
    X = numbers(1, seed=5)
    bits = negative_elbo(law, schema, X)[0]
    size = len(task.by_model(law, schema, X, NAME)) - 26  # header
    assert bits / 8 - 1 < size < bits / 8 + 3


def test_blank_rows_cost_next_to_nothing():
    schema, law = fitted(numbers(100), "mixture")
    assert len(task.by_model(law, schema, np.full((500, 4), np.nan), NAME)) < 60


# ------------------------------------------------------------------ bad input


def test_other_model_is_refused():
    X = numbers(100)
    schema, law = fitted(X, "mixture")
    data = task.by_model(law, schema, X, NAME)
    with pytest.raises(CompressedDataError, match="another model"):
        task.decompress(law, schema, data, b"some other law")
    _, other = fitted(X, "gaussian")  # under the first one's name: the checksum of the rows stands behind
    with pytest.raises(CompressedDataError, match="does not decode"):
        task.decompress(other, schema, data, NAME)


def test_families_with_nothing_to_code_with_say_that_they_are_not_used():
    X = numbers(20)
    schema, law = fitted(X, "gaussian")
    for model in (IndependentComponentsEnergy(4).double(), None):
        with pytest.warns(
            RuntimeWarning,
            match=rf"nothing of {type(model).__name__}.*neither latents.*PPCA, GMM and k-means",
        ):
            data = task.compress(model, schema, X, NAME)
        assert_same(task.decompress(model, schema, data, NAME), X)
        with pytest.raises(CompressedDataError, match="neither latents"):
            task.decompress(model, schema, task.by_model(law, schema, X, NAME), NAME)


def test_numbers_off_the_lattice_come_back():
    X = numbers(100)
    schema, law = fitted(X, "gaussian")
    round_trip(law, schema, X + np.pi)
    X[::9, 1] = np.pi
    round_trip(law, schema, X)


def test_energies_are_coded_by_their_own_law():
    X = numbers(100)
    schema, law = fitted(X, "k-means")
    assert isinstance(law, HardMixtureLaw)
    model = KMeansEnergy.of(law.centres)
    own = EnergyModel(model, beta=1.5).coder()
    data = task.by_model(own, schema, X, NAME)
    assert data == task.by_model(law, schema, X, NAME)
    assert_same(task.decompress(own, schema, data, NAME), X)
    _, law = fitted(X, "mixture")
    mixture = GaussianMixtureEnergy.of(law.log_weights, law.means, law.covariances)
    own = EnergyModel(mixture).coder()
    assert_same(task.decompress(own, schema, task.by_model(own, schema, X, NAME), NAME), X)
    with pytest.warns(RuntimeWarning, match=r"GaussianMixture.*neither latents"):  # no law at another β
        task.compress(EnergyModel(mixture, beta=0.5).coder(), schema, X, NAME)
    with pytest.raises(TypeError, match="float64"):
        task.compress(model.float(), schema, X, NAME)
