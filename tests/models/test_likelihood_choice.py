"""Choosing likelihoods: names, columns, what fits what, and that each of them serves every question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rates_for_tests import rate
from scipy import stats

from abduce import VAE, load
from abduce.data.fields import KINDS
from abduce.data.schema import Schema
from abduce.distributions.heads import FITS
from abduce.models.build import build_vae
from abduce.models.choice import LIKELIHOODS, Choice, choose_likelihoods
from abduce.models.shapes import DataSummary, Shapes

QUICK = {"latent_dim": 1, "hidden": [8], "max_epochs": 2, "samples": 20, "random_state": 0}
N = 40


def table(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, 1))
    y = 2 * z * [1.0, -1.0, 0.5] + rng.normal(size=(N, 3))
    return {
        "real": np.round(y, 1) + 0.0,
        "positive": np.round(np.exp(y) + 0.01, 2),
        "count": np.minimum(rng.poisson(np.exp(1 + 0.2 * y)), 12).astype(float),
        "binary": (y > 0).astype(float),
        "ordinal": np.clip(np.round(y), -2, 2) + 2.0,
        "categorical": np.clip(np.round(y), -2, 2) + 2.0,
        "pixel": np.clip(np.round(8 + 2 * y[:, :2, None] + rng.normal(size=(N, 2, 2))), 0, 16),
    }[kind]


def test_the_table_covers_every_kind():
    assert {kind for kinds in FITS.values() for kind in kinds} == set(KINDS)
    defaults = {kind: next(name for name, kinds in FITS.items() if kind in kinds) for kind in KINDS}
    assert defaults == {
        "real": "gaussian", "positive": "gaussian", "pixel": "gaussian", "count": "negative_binomial",
        "binary": "bernoulli", "ordinal": "ordinal", "categorical": "categorical",
    }  # fmt: skip
    page = (Path(__file__).parents[2] / "docs" / "likelihoods.md").read_text()
    for name, kinds in FITS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert [k.strip() for k in row.split("|")[2].split(",")] == list(kinds)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in FITS.items() for kind in kinds])
def test_every_likelihood_serves_every_question(name, kind, tmp_path):
    X = table(kind)
    model = VAE(**QUICK, likelihood=name, kinds=kind).fit(X)
    scores = model.score_samples(X)
    assert np.isfinite(scores).all()
    if kind not in ("real", "positive"):
        assert (scores < 0).all()  # probabilities, of pixels too
    blank = X.copy()
    blank.reshape(N, -1)[::3, 0] = np.nan
    for filled in (model.fill(blank), *model.fill(blank, draws=2, random_state=0)):
        assert np.isfinite(filled).all()
        assert np.array_equal(filled[~np.isnan(blank)], X[~np.isnan(blank)])
    low, high = model.fill_interval(blank[:4])
    assert (low <= high).all()
    drawn = model.sample(7, random_state=0)
    assert drawn.shape == (7, *X.shape[1:])
    if kind == "pixel":
        assert np.isin(drawn, np.arange(17)).all()
        assert np.isfinite(model.denoise(X[:3], 1.0)).all()
        assert model.upscale(X[:3, :1, :1], 2).shape == (3, 2, 2)
    model.save(tmp_path / "model")
    back = load(tmp_path / "model")
    assert back.get_params()["likelihood"] == name
    np.testing.assert_array_equal(back.score_samples(X), scores)
    np.testing.assert_array_equal(model.decompress(model.compress(X)), X)
    found = rate(model.model_, model.schema_, np.concatenate([X] * 6))
    assert found.marginal_bits == pytest.approx(found.negative_elbo_bits, rel=0.05, abs=0.5)


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    z = rng.normal(size=N)
    return pd.DataFrame(
        {
            "height": z + 0.3 * rng.standard_t(3, N),
            "income": np.exp(2 + z + rng.normal(size=N)),
            "rooms": rng.binomial(9, 1 / (1 + np.exp(-z))),
            "smoker": rng.choice(["yes", "no"], N),
            "grade": pd.Categorical(rng.choice(["a", "b", "c"], N), ordered=True),
            "comment": [f"row {i}" for i in range(N)],
        }
    )


KIND = {"height": "real", "income": "positive", "rooms": "count"}
MIXED = {"height": "student_t", "income": "laplace", "rooms": "beta_binomial", "grade": "categorical"}


def test_one_likelihood_a_column(tmp_path):
    X = frame()
    asked = dict(MIXED)
    model = VAE(**QUICK, likelihood=asked, kinds=KIND).fit(X)
    assert asked == MIXED
    assert model.likelihood is asked
    heads = [getattr(h, "law", type(h).__name__) for h in model.model_.heads.heads]
    assert sorted(heads) == ["BernoulliHead", "BetaBinomialHead", "CategoricalHead", "laplace", "student_t"]
    blank = X.copy()
    blank.loc[::4, ["height", "grade"]] = None
    assert not model.fill(blank).isna().any().any()
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").score_samples(X), model.score_samples(X))


def test_one_name_is_for_all_it_fits():
    schema = Schema.infer(frame(), KIND)
    assert [f.kind for f in schema.fields] == ["real", "positive", "count", "binary", "ordinal"]
    auto = ["gaussian", "gaussian", "negative_binomial", "bernoulli", "ordinal"]
    assert choose_likelihoods(schema) == auto
    assert choose_likelihoods(schema, "lognormal") == ["gaussian", "lognormal", *auto[2:]]
    assert choose_likelihoods(schema, "student_t") == ["student_t", "student_t", *auto[2:]]
    assert choose_likelihoods(schema, "poisson") == [*auto[:2], "poisson", *auto[3:]]
    assert choose_likelihoods(schema, {"height": "laplace"}) == ["laplace", *auto[1:]]
    assert choose_likelihoods(schema, {"height": "auto"}) == auto


def test_columns_of_arrays_go_by_place_or_name():
    schema = Schema.infer(table("real"))
    wanted = ["gaussian", "student_t", "laplace"]
    for asked in ({1: "student_t", "x2": "laplace"}, {np.int64(1): "student_t", 2: "laplace"}):
        assert choose_likelihoods(schema, asked) == wanted
        kept = Choice(likelihood=asked).named(schema).likelihood
        assert kept == {"x1": "student_t", "x2": "laplace"}
        assert choose_likelihoods(schema, json.loads(json.dumps(kept))) == wanted
    images = Schema.infer(table("pixel"))
    assert choose_likelihoods(images, {"pixel": "laplace"}) == choose_likelihoods(images, {0: "laplace"})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("beta_binomail", "likelihood: unknown name 'beta_binomail'; expected one of auto, gaussian, "),
        (
            "continuous_bernoulli",
            "likelihood: 'continuous_bernoulli' fits no column; it is for the kinds pixel, the columns are binary, count, "
            "ordinal, positive, real",
        ),
        (
            {"height": "normal"},
            "likelihood: unknown name 'normal' for the column 'height'; expected one of auto",
        ),
        (
            {"rooms": "gaussian"},
            "likelihood: 'gaussian' does not fit the column 'rooms' of kind count, which takes negative_binomial, "
            "poisson, beta_binomial",
        ),
        (
            {"weight": "gaussian"},
            "likelihood names the column 'weight', which is not there; columns are 'height', ",
        ),
        ({0: "gaussian"}, "likelihood names the column 0, which is not there"),
        (
            {"comment": "gaussian"},
            "likelihood names the column 'comment', which the model leaves out .kind identifier.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        choose_likelihoods(Schema.infer(frame(), KIND), asked)
    if not isinstance(asked, str) or asked in LIKELIHOODS:
        with pytest.raises(ValueError, match=message):
            VAE(**QUICK, likelihood=asked, kinds=KIND).fit(frame())


def test_arguments_are_checked_as_in_scikit_learn():
    X = table("real")
    for arguments in ({"likelihood": "normal"}, {"likelihood": 3}, {"scale": "row"}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"The '{name}' parameter of VAE must be"):
            VAE(**QUICK, **arguments).fit(X)


@pytest.mark.parametrize("scale", ["network", "cell", "shared"])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
def test_where_the_noise_scale_comes_from(name, scale, tmp_path):
    X, varies = table("real"), scale == "network"
    for linear_path in (True, False):
        if linear_path and name == "gaussian":
            continue  # the default is fitted everywhere else
        model = VAE(**QUICK, likelihood=name, scale=scale, linear_path=linear_path).fit(X)
        (head,) = model.model_.heads.heads
        assert head.raw_scale.shape == ((1,) if scale == "shared" else (3,))
        law = model.model_.likelihood(3 * torch.randn(8, 1, dtype=torch.float64)).parts[0][1]
        assert (law.scale.std(0).max() > 1e-9) == varies
        model.save(tmp_path / "model")
        np.testing.assert_array_equal(load(tmp_path / "model").score_samples(X), model.score_samples(X))


def test_lognormal_in_the_units_of_the_data():
    """With a decoder that ignores z the score is the log-normal's log-density at the data."""
    X = table("positive")[:, :1]
    model = VAE(**QUICK, likelihood="lognormal", kinds="positive", scale="cell").fit(X)
    for parameter in model.model_.decoder.parameters():
        parameter.data.zero_()
    (head,) = model.model_.heads.heads
    (field,) = model.schema_.fields
    s = float(head(torch.zeros(1, 1).double()).scale.detach())
    law = stats.lognorm(field.scale * s, scale=np.exp(field.loc))
    # the estimate of p(x) = ∫ p(x) p(z) dz is exact where proposal and prior agree: take the likelihood by itself
    values, observed = model.schema_.encode(X)
    x = torch.from_numpy(values)
    inside = model.model_.likelihood(torch.zeros(1, 1).double()).log_prob(x)
    got = inside.detach().numpy() + model.schema_.log_jacobian(values, observed)
    np.testing.assert_allclose(got, law.logpdf(X[:, 0]), atol=1e-9)


def test_counts_start_from_the_spread_of_the_data():
    X = table("count")
    mean, variance = X.mean(0) + 1, 3 * X.mean(0) + 3
    schema = Schema.infer(X, "count")
    data = DataSummary(len(X), tuple(mean), tuple(variance), (1.0,) * 3)
    (head,) = build_vae(schema, Choice(2, [4]), data).heads.heads
    wanted = np.log(2 * mean**2 / (variance - mean))
    np.testing.assert_allclose(head.log_dispersion.detach(), wanted, rtol=1e-5)


def test_beyond_the_largest_bounded_count_is_novel():
    X = table("count")
    model = VAE(**QUICK, likelihood="beta_binomial", kinds="count").fit(X)
    before = model.score_samples(X)
    known = X.astype(float)
    known[3, 1] = np.nan
    X[3, 1] = X[:, 1].max() + 1
    after = model.score_samples(X)
    np.testing.assert_array_equal(np.delete(after, 3), np.delete(before, 3))
    assert after[3] == pytest.approx(model.score_samples(known)[3] - np.log(len(X) + 2))
    np.testing.assert_array_equal(model.decompress(model.compress(X)), X)  # a coder has room for it


def test_pixels_of_several_lattices_beside_numbers_compress():
    rng = np.random.default_rng(3)
    X = pd.DataFrame(
        {
            "a": rng.integers(0, 5, N) / 4,
            "b": rng.integers(0, 256, N),
            "c": np.round(rng.normal(size=N), 2) + 0.0,
            "d": rng.integers(0, 256, N),
        }
    )
    model = VAE(**QUICK, kinds={"a": "pixel", "b": "pixel", "c": "real", "d": "pixel"}).fit(X)
    assert len(model.model_.heads.heads) == 3
    pd.testing.assert_frame_equal(model.decompress(model.compress(X)), X)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([*FITS["gaussian"], "count", "binary"]), min_size=1, max_size=5), st.data())
def test_any_choice_builds_one_cell_each(kinds, data):
    columns = {f"c{i}": table(kind).reshape(N, -1)[:, i % 3] for i, kind in enumerate(kinds)}
    schema = Schema.infer(pd.DataFrame(columns), {f"c{i}": kind for i, kind in enumerate(kinds)})
    names = {
        f.name: data.draw(st.sampled_from([n for n, fits in FITS.items() if f.kind in fits]))
        for f in schema.fields
    }
    model = build_vae(schema, Choice(2, [4], likelihood=names))
    assert sorted(c for cells in model.heads.cells() for c in cells) == list(range(len(kinds)))
    x, observed = (torch.from_numpy(a) for a in schema.encode(pd.DataFrame(columns)))
    assert torch.isfinite(model.likelihood(torch.zeros(1, 2)).log_prob(x.float(), observed)).all()


# ---------------------------------------------------------------- what images are modelled by, where nothing is said


def shapes_of(images: np.ndarray, rows: int = 400, **asked) -> Shapes:
    schema = Schema.infer(images)
    cells = schema.n_cells
    return Shapes.of(
        schema, Choice(**asked), DataSummary(rows, (0.5,) * cells, (0.25,) * cells, (1.0,) * cells)
    )


def test_images_of_some_size_get_convolutions_unless_something_else_is_asked():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (30, 12, 12))
    found = shapes_of(bits)
    assert found.image == (12, 12)
    assert (found.posterior, found.prior, found.components) == (
        "full",
        "mixture",
        20,
    )  # twenty rows a component
    assert shapes_of(bits, rows=5000).components == 50
    assert shapes_of(bits, prior="normal", posterior="diagonal").posterior == "diagonal"
    for asked in ({"network": "mlp"}, {"hidden": (20,)}, {"latent_dim": (3, 5)}):
        assert shapes_of(bits, **asked).image is None
    assert shapes_of(bits[:, :11]).image is None
    assert shapes_of(bits[:, :11], network="conv").image == (11, 12)
    assert shapes_of(bits, network="mlp").prior == "normal"


@pytest.mark.parametrize(
    ("levels", "likelihood"), [(17, "discretized_logistic_mixture"), (256, "stopped_logistic_mixture")]
)
def test_grey_levels_have_masses_at_the_stops_where_they_are_many(levels, likelihood):
    greys = np.random.default_rng(0).integers(0, levels, (40, 8, 8)).astype(np.uint8)
    greys[0, 0, :2] = 0, levels - 1
    found = shapes_of(greys)
    assert found.likelihoods == (likelihood,)
    assert (found.latent, found.dropout, found.image) == ((28,), 0.2, None)
    assert shapes_of(greys, rows=50_000).dropout == 0.0
    light = np.random.default_rng(0).random((40, 8, 8))  # on no lattice
    assert shapes_of(light).likelihoods == ("gaussian",)
