"""The scikit-learn face: its contract, what goes in and out, bad input."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from frames_for_tests import untouched
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import abduce
from abduce import VAE, Imputer, OutlierDetector
from abduce.fit.bounds import IWAE


def small(**kw) -> VAE:
    return VAE(**{"latent_dim": 2, "hidden": [8], "max_epochs": 2, "samples": 16, "random_state": 0} | kw)


# ---------------------------------------------------------------- scikit-learn's own checks


# whole numbers are ordinal in a frame and real in an array unless told; one check of outlier detectors wants the same of both
@parametrize_with_checks([small(), Imputer(small()), OutlierDetector(small())])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


EVERY = [
    "check_dataframe_column_names_consistency",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
]
TRANSFORMERS = [
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
]


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # the checks ask for both
@pytest.mark.parametrize(
    ("estimator", "name"),
    [(e, name) for e in (small(), Imputer(small())) for name in EVERY + TRANSFORMERS]
    + [(OutlierDetector(small()), name) for name in EVERY],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_names_of_features_and_output(estimator, name):
    getattr(estimator_checks, name)(type(estimator).__name__, clone(estimator))


# ---------------------------------------------------------------- data of every form


def table(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Columns of every kind, a fifth of the cells blank, an index of its own."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "height": z + 0.1 * rng.normal(size=n),
            "income": np.exp(2 * z + rng.normal(size=n)),
            "visits": rng.poisson(np.exp(0.8 * z + 1.5)).astype(float),
            "smoker": np.where(z + rng.normal(size=n) > 0, "yes", "no"),
            "grade": pd.Categorical.from_codes(
                np.clip((z + 2).astype(int), 0, 3), ["a", "b", "c", "d"], ordered=True
            ),
            "city": rng.choice(["Rome", "Oslo", "Lima"], n),
            "member": pd.array(rng.random(n) < 0.5, dtype="boolean"),
        },
        index=[f"row{i}" for i in range(n)],
    )
    for column in frame:
        frame.loc[rng.random(n) < 0.2, column] = pd.NA if column == "member" else np.nan
    frame.iloc[0] = [np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, pd.NA]
    return frame


def array(n: int = 100, d: int = 5, holes: float = 0.2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) + 0.3 * rng.normal(size=(n, d))
    X[rng.random(X.shape) < holes] = np.nan
    return X


def images(n: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = np.clip(8 + 3 * rng.normal(size=(n, 1, 1)) + rng.normal(size=(n, 4, 4)), 0, 16).round()
    X[rng.random(X.shape) < 0.2] = np.nan
    return X


@pytest.fixture(scope="module")
def on_table():
    return small().fit(table()), table()


@pytest.fixture(scope="module")
def on_array():
    return small().fit(array()), array()


@pytest.fixture(scope="module")
def on_images():
    return small().fit(images()), images()


# ---------------------------------------------------------------- fill


def test_fill_of_a_table(on_table):
    model, X = on_table
    before = X.copy()
    filled = model.fill(X)
    untouched(filled, X)
    pd.testing.assert_frame_equal(X, before)  # the caller's own is not changed
    blank = X.isna()
    assert filled["visits"][blank["visits"]].mod(1).eq(0).all()
    assert set(filled["smoker"]) <= {"yes", "no"}
    assert (filled["income"] > 0).all()


def test_fill_of_arrays_and_images(on_array, on_images):
    for model, X in (on_array, on_images):
        filled = model.fill(X)
        seen = ~np.isnan(X)
        assert filled.shape == X.shape
        assert filled.dtype == X.dtype
        assert filled[seen].tobytes() == X[seen].tobytes()
        assert np.isfinite(filled).all()


def test_fill_draws_vary_where_blank_and_nowhere_else(on_table, on_array):
    model, X = on_table
    copies = model.fill(X, draws=3, random_state=1)
    assert len(copies) == 3
    for copy in copies:
        untouched(copy, X)
    assert not copies[0].equals(copies[1])
    again = model.fill(X, draws=3, random_state=1)
    for a, b in zip(copies, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
    model, X = on_array
    mean = np.mean(model.fill(X, draws=200, random_state=0), 0)
    np.testing.assert_allclose(mean, model.fill(X), atol=0.8)
    for draws in (0, -1, 1.5, "two"):
        with pytest.raises(ValueError, match="draws must be an int >= 1"):
            model.fill(X, draws=draws)


def test_intervals_hold_the_fill(on_array, on_table):
    model, X = on_array
    low, high = model.fill_interval(X, 0.9)
    filled, blank = model.fill(X), np.isnan(X)
    assert (low[blank] < high[blank]).all()
    assert ((low <= filled) & (filled <= high))[blank].mean() > 0.97
    np.testing.assert_array_equal(low[~blank], X[~blank])
    narrow = model.fill_interval(X, 0.5)
    assert (narrow[1] - narrow[0])[blank].mean() < 0.7 * (high - low)[blank].mean()
    model, X = on_table
    low, high = model.fill_interval(X)
    untouched(low, X)
    untouched(high, X)
    assert (low["income"] <= high["income"]).all()
    for level in (0, 1, 1.5, "most", np.nan):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            model.fill_interval(X, level)


def test_nothing_missing_gives_an_equal_copy(on_array, on_table):
    model, X = on_array
    whole = model.fill(X)
    same = model.fill(whole)
    np.testing.assert_array_equal(same, whole)
    assert same is not whole
    assert not np.shares_memory(same, whole)
    low, high = model.fill_interval(whole)
    np.testing.assert_array_equal(low, whole)
    np.testing.assert_array_equal(high, whole)
    assert len(model.fill(whole, draws=2)) == 2
    model, X = on_table
    whole = model.fill(X)
    pd.testing.assert_frame_equal(model.fill(whole), whole)
    assert model.fill(whole) is not whole


def test_an_all_blank_row_is_filled_from_the_prior(on_array):
    model, X = on_array
    empty = np.full((1, X.shape[1]), np.nan)
    filled = model.fill(empty)
    assert np.isfinite(filled).all()
    draws = np.concatenate(model.fill(np.repeat(empty, 50, 0), draws=20, random_state=0))
    own = model.sample(1000, random_state=0)
    assert np.abs(draws.mean(0) - own.mean(0)).max() < 0.35
    np.testing.assert_allclose(draws.std(0), own.std(0), rtol=0.25)
    assert model.score_samples(empty)[0] == 0.0


def test_a_mask_of_trust(on_array, on_table):
    model, X = on_array
    trust = np.ones(X.shape, bool)
    trust[:, 1] = False
    hidden = X.copy()
    hidden[:, 1] = np.nan
    np.testing.assert_array_equal(model.fill(X, observed=trust), model.fill(hidden))
    for wrong in (trust[:5], trust.astype(float)):
        with pytest.raises(ValueError, match=r"observed must be a bool array of X's shape \(100, 5\)"):
            model.fill(X, observed=wrong)
    model, X = on_table
    trust = np.ones(X.shape, bool)
    trust[:, 0] = False
    filled = model.fill(X, observed=trust)
    hidden = X.assign(height=np.nan)
    np.testing.assert_allclose(filled["height"], model.fill(hidden)["height"])


# ---------------------------------------------------------------- score, flag, embed, sample


def test_scores_and_signs(on_array):
    model, X = on_array
    scores = model.score_samples(X)
    assert scores.dtype == np.float64
    assert scores.shape == (100,)
    assert model.score(X) == pytest.approx(scores.mean())
    np.testing.assert_array_equal(model.anomaly_score(X), -scores)
    whole = ~np.isnan(X).any(1)
    np.testing.assert_array_equal(model.decision_function(X)[whole], (scores - model.offset_)[whole])
    labels = model.predict(X)
    assert set(labels) == {-1, 1}
    assert (labels == -1).mean() == pytest.approx(0.1, abs=0.011)
    odd = np.full((1, 5), 25.0)
    assert model.predict(odd).tolist() == [-1]
    assert model.anomaly_score(odd)[0] > model.anomaly_score(X).max()
    assert model.realism(odd, references=100)[0] == 0.0
    realism = model.realism(X, references=100)
    assert ((realism >= 0) & (realism <= 1)).all()
    assert 0.25 < realism.mean() < 0.75
    assert (
        (model.effective_sample_size(X) >= 1 - 1e-9) & (model.effective_sample_size(X) <= 16 + 1e-9)
    ).all()


def test_densities_are_in_the_datas_units():
    X = array(holes=0.0)
    here = small().fit(X).score_samples(X)
    elsewhere = small().fit(1000 * X + 7).score_samples(1000 * X + 7)
    np.testing.assert_allclose(elsewhere, here - 5 * np.log(1000), atol=1e-3)


def test_transform_and_back(on_array, on_images, on_table):
    for model, X in (on_array, on_images, on_table):
        Z = model.transform(X)
        assert Z.shape == (len(X), 2)
        back = model.inverse_transform(Z)
        assert back.shape == X.shape
        assert type(back) is type(X)
    assert list(back.columns) == list(X.columns)
    with pytest.raises(ValueError, match=r"Z must have shape \(n, 2\), got \(4, 3\)"):
        model.inverse_transform(np.zeros((4, 3)))
    assert model.get_feature_names_out().tolist() == ["vae0", "vae1"]


def test_samples_come_in_the_datas_form(on_array, on_images, on_table):
    model, X = on_table
    new = model.sample(30, random_state=1)
    assert list(new.columns) == list(X.columns)
    assert (new.dtypes == X.dtypes).all()
    assert set(new["city"]) <= {"Rome", "Oslo", "Lima"}
    assert list(new["grade"].cat.categories) == ["a", "b", "c", "d"]
    assert new["grade"].cat.ordered
    assert (new["visits"].mod(1) == 0).all()
    assert (new["visits"] >= 0).all()
    assert (new["income"] > 0).all()
    assert not new.isna().any().any()
    pd.testing.assert_frame_equal(new, model.sample(30, random_state=1))
    assert not new.equals(model.sample(30, random_state=2))
    model, X = on_images
    new = model.sample(7)
    assert new.shape == (7, 4, 4)
    assert new.dtype == X.dtype
    assert set(np.unique(new)) <= set(range(17))
    for n in (0, -3, 2.5):
        with pytest.raises(ValueError, match="n must be an int >= 1"):
            model.sample(n)


def test_denoise_and_upscale(on_array, on_images):
    model, X = on_array
    clean = model.denoise(X, 0.5)
    assert clean.shape == X.shape
    assert np.isfinite(clean).all()
    each = model.denoise(X, [1e-4] * 4 + [2.0])
    seen = ~np.isnan(X)
    np.testing.assert_allclose(each[:, :4][seen[:, :4]], X[:, :4][seen[:, :4]], atol=0.02)
    for noise in (-1, np.nan, [1.0, 2.0]):
        with pytest.raises(ValueError, match="noise must be"):
            model.denoise(X, noise)
    with pytest.raises(ValueError, match="upscale needs a model of images"):
        model.upscale(X, 2)
    model, X = on_images
    coarse = np.nan_to_num(X, nan=8.0).reshape(-1, 2, 2, 2, 2).mean((2, 4))
    large = model.upscale(coarse, 2)
    assert large.shape == X.shape
    np.testing.assert_allclose(
        large.reshape(-1, 2, 2, 2, 2).mean((2, 4)), coarse, atol=0.3
    )  # it averages back
    for factor in (0, 3, 1.5):
        with pytest.raises(ValueError, match="factor must be a positive int that divides"):
            model.upscale(coarse, factor)
    with pytest.raises(ValueError, match=r"X must have shape \(n, 2, 2\), got \(60, 4, 4\)"):
        model.upscale(X, 2)


def test_denoising_binary_cells():
    X = (np.random.default_rng(0).random((80, 1)) < 0.5) * np.ones((1, 6))  # all six cells agree
    model = small(max_epochs=200, learning_rate=0.01).fit(X)
    noisy = X.copy()
    noisy[np.arange(80), np.arange(80) % 6] = 1 - noisy[np.arange(80), np.arange(80) % 6]
    assert (model.denoise(noisy, 0.15) == X).mean() > 0.97
    with pytest.raises(ValueError, match=r"flip probability in \[0, 0.5\)"):
        model.denoise(X, 0.7)


# ---------------------------------------------------------------- bad input


def test_wrong_columns_are_named(on_table):
    model, X = on_table
    for wrong, name in ((X.drop(columns="city"), "city"), (X.assign(extra=1.0), "extra")):
        for call in (model.score_samples, model.fill, model.transform):
            with pytest.raises(ValueError, match=name):
                call(wrong)
    with pytest.raises(ValueError, match="order"):
        model.score_samples(X[X.columns[::-1]])


def test_wrong_values_are_named(on_table):
    model, X = on_table
    with pytest.raises(ValueError, match=r"'city' holds numbers such as 3"):
        model.score_samples(X.assign(city=3))
    with pytest.raises(ValueError, match=r"height.*tall"):
        model.fill(X.assign(height="tall"))
    for call in (model.fill, small().fit):
        with pytest.raises(ValueError, match="'height' contains inf"):
            call(X.assign(height=np.inf))


def test_wrong_shapes_and_infinities(on_array, on_images):
    model, X = on_array
    with pytest.raises(ValueError, match=r"4 features.*5"):
        model.score_samples(X[:, :4])
    with pytest.raises(ValueError, match=r"(?i)expected 2D array|dim"):
        model.score_samples(X[0])
    bad = X.copy()
    bad[3, 2] = np.inf
    for call in (model.fill, model.score_samples, small().fit):
        with pytest.raises(ValueError, match="inf"):
            call(bad)
    model, X = on_images
    with pytest.raises(ValueError, match=r"4"):
        model.fill(X[:, :3])
    bad = X.copy()
    bad[0, 0, 0] = -np.inf
    with pytest.raises(ValueError, match="inf"):
        model.fill(bad)


@pytest.mark.filterwarnings("ignore:no value in any row")
@pytest.mark.parametrize("X", [np.full((5, 3), np.nan), pd.DataFrame({"a": [np.nan] * 4, "b": [np.nan] * 4})])
def test_all_blank_data_are_refused(X):
    with pytest.raises(ValueError, match="X has no observed cell at all"):
        small().fit(X)


def test_empty_data_are_refused():
    for X in (np.empty((0, 3)), pd.DataFrame({"a": []}), np.empty((4, 0))):
        with pytest.raises(ValueError, match=r"(?i)0 sample|0 row|no row|empty|0 feature|no column|at least"):
            small().fit(X)


@pytest.mark.filterwarnings("ignore:no value in any row")
def test_one_row_fits():
    model = small().fit(np.array([[1.0, 2.0, np.nan]]))
    assert np.isfinite(model.fill(np.array([[np.nan, 2.0, np.nan]]))).all()
    assert np.isfinite(model.score_samples(np.array([[1.0, 2.0, 3.0]]))).all()


def test_constant_and_all_blank_columns():
    X = array()
    X[:, 1] = 3.0
    X[:, 4] = np.nan
    with pytest.warns(UserWarning, match="no value in any row of 'x4'"):
        model = small().fit(X)
    filled = model.fill(X)
    assert np.isfinite(filled).all()
    assert np.isfinite(model.score_samples(X)).all()
    hidden = X.copy()
    hidden[:, 1] = np.nan
    np.testing.assert_allclose(model.fill(hidden)[:, 1], 3.0, atol=0.1)
    assert np.isfinite(model.sample(5)).all()


def test_arguments_are_checked():
    for kw in (
        {"latent_dim": 0},
        {"hidden": "wide"},
        {"hidden": [8, -1]},
        {"likelihood": "poisson"},
        {"objective": "vae"},
        {"max_epochs": 0},
        {"learning_rate": 0},
        {"contamination": 0.7},
        {"trim": 0.5},
        {"activation": "sine"},
        {"samples": 0},
    ):
        (name,) = kw
        with pytest.raises(ValueError, match=name):
            small(**kw).fit(array())


def test_an_unfitted_model_says_so(tmp_path):
    model = small()
    X = array()
    for call in (
        lambda: model.score_samples(X),
        lambda: model.fill(X),
        lambda: model.sample(),
        lambda: model.transform(X),
        lambda: model.upscale(X, 2),
        lambda: model.compress(X),
        lambda: model.save(tmp_path / "m"),
    ):
        with pytest.raises(NotFittedError):
            call()


# ---------------------------------------------------------------- keep and compose


@pytest.mark.parametrize("form", ["table", "array", "images"])
def test_saved_models_score_to_the_bit(form, request, tmp_path):
    model, X = request.getfixturevalue(f"on_{form}")
    model.save(tmp_path / "m")
    loaded = abduce.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    a, b = model.fill(X), loaded.fill(X)
    (pd.testing.assert_frame_equal if form == "table" else np.testing.assert_array_equal)(a, b)
    assert loaded.get_params() == {**model.get_params(), "callback": None}
    assert loaded.history_ == model.history_
    assert loaded.n_features_in_ == model.n_features_in_
    if form == "table":
        assert loaded.feature_names_in_.tolist() == model.feature_names_in_.tolist()
        with pytest.raises(ValueError, match="city"):
            loaded.score_samples(X.drop(columns="city"))
    loaded.save(tmp_path / "again")
    for name in ("weights.safetensors",):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_pickles_for_joblib(on_table, tmp_path):
    model, X = on_table
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    joblib.dump(model, tmp_path / "m.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "m.joblib").score_samples(X), model.score_samples(X))


def test_the_same_seed_fits_the_same_model():
    X = array()
    a, b, c = (small(random_state=s).fit(X).score_samples(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    state = torch.random.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002
    small().fit(X)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are touched
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002


def test_resuming_a_fit(tmp_path):
    X, stop = array(), {"on": True}

    def interrupt(record):
        if record["epoch"] == 3 and stop["on"]:
            raise KeyboardInterrupt

    straight = small(max_epochs=6).fit(X)
    broken = small(max_epochs=6, callback=interrupt).fit(X, checkpoint=tmp_path / "state")
    assert broken.interrupted_
    assert np.isfinite(broken.score_samples(X)).all()
    stop["on"] = False
    resumed = small(max_epochs=6).fit(X, checkpoint=tmp_path / "state")
    np.testing.assert_array_equal(resumed.score_samples(X), straight.score_samples(X))
    assert len(resumed.history_) == 6


def test_clone_pipeline_and_grid_search():
    X = array(150)
    y = (np.nan_to_num(X[:, 0]) > 0).astype(int)
    copy = clone(small(latent_dim=3))
    assert copy.get_params()["latent_dim"] == 3
    pipeline = make_pipeline(Imputer(small()), LogisticRegression())
    assert pipeline.fit(X, y).score(X, y) > 0.8
    assert make_pipeline(small(), LogisticRegression()).fit(X, y).predict(X).shape == (150,)
    search = GridSearchCV(small(max_epochs=10), {"latent_dim": [1, 2]}, cv=2).fit(X)
    assert search.best_params_ == {"latent_dim": 2}  # what the data have
    detector = OutlierDetector(small()).fit(X)
    np.testing.assert_array_equal(detector.predict(X), detector.model_.predict(X))
    assert ((detector.decision_function(X) < 0) == (detector.predict(X) == -1)).all()


def test_the_imputer_keeps_frames():
    X = table()
    filled = Imputer(small()).fit(X).transform(X)
    untouched(filled, X)
    assert Imputer(small()).fit(X).get_feature_names_out().tolist() == list(X.columns)


def test_pandas_output_of_the_embedding(on_table):
    _, X = on_table
    Z = small().set_output(transform="pandas").fit(X).transform(X)
    assert list(Z.columns) == ["vae0", "vae1"]
    assert Z.index.equals(X.index)


def test_history_and_progress(capsys):
    records: list = []
    model = small(verbose=1, callback=records.append).fit(array())
    assert [r["epoch"] for r in model.history_] == [1, 2]
    assert records == model.history_
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 2/2" in captured.err


def test_objectives_of_ones_own():
    X = array(holes=0.0)
    for objective in ("elbo", "iwae", IWAE(2, "plain")):
        model = small(objective=objective).fit(X)
        assert np.isfinite(model.score(X))


def test_kinds_can_be_told():
    X = pd.DataFrame({"code": [1, 2, 3, 4, 5, 6] * 10, "x": np.linspace(0, 1, 60) ** 2})
    model = small(kinds={"code": "categorical"}).fit(X)
    assert {f.name: f.kind for f in model.schema_.fields}["code"] == "categorical"
    with pytest.raises(ValueError, match="no_such"):
        small(kinds={"no_such": "real"}).fit(X)
    with pytest.raises(ValueError, match="wavelet"):
        small(kinds={"x": "wavelet"}).fit(X)
