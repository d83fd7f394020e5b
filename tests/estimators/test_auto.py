"""Auto and mixtures of factor analysers through the estimators' face.

Auto takes tables only, so it is no case of ``test_every_energy``, whose rows are images; its tasks are tested here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from frames_for_tests import untouched
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import FactorAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

import abduce
from abduce import PCA, Auto, GaussianMixture, MixtureOfFactorAnalyzers, Noise
from abduce.fit import pool as pool_fit


def quick(**kw) -> Auto:
    return Auto(**{"components": (1, 4), "random_state": 0} | kw)


def table(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """Columns of every kind, a tenth of the cells blank, an index of its own."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "height": z + 0.1 * rng.normal(size=n),
            "income": np.exp(2 * z + rng.normal(size=n)),
            "visits": rng.poisson(np.exp(0.8 * z + 1.5)),
            "spent": np.where(rng.random(n) < 0.5, 0.0, np.exp(z)),
            "smoker": np.where(z + rng.normal(size=n) > 0, "yes", "no"),
            "grade": pd.Categorical.from_codes(
                np.clip((z + 2).astype(int), 0, 3), ["a", "b", "c", "d"], ordered=True
            ),
            "city": pd.Categorical(rng.choice(["Rome", "Oslo", "Lima"], n)),
            "member": pd.array(rng.random(n) < 0.5, dtype="boolean"),
            "flag": z + 0.5 * rng.normal(size=n) > 0.3,
            "joined": pd.Timestamp("2021-03-01") + pd.to_timedelta((100 * z).round(), "D"),
        },
        index=[f"row{i}" for i in range(n)],
    )
    for column in ("height", "income", "spent", "smoker", "grade", "city", "joined"):
        frame.loc[rng.random(n) < 0.1, column] = np.nan
    frame.loc[rng.random(n) < 0.1, "member"] = pd.NA
    return frame


@pytest.fixture(scope="module")
def on_table():
    return quick().fit(table()), table()


def holes(X: np.ndarray, share: float = 0.3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    blank = np.random.default_rng(seed).random(X.shape) < share
    return np.where(blank, np.nan, X), blank


def rmse(model, gaps: np.ndarray, X: np.ndarray, blank: np.ndarray) -> float:
    return float(np.sqrt(np.mean((model.fill(gaps) - X)[blank] ** 2)))


# ---------------------------------------------------------------- scikit-learn's own checks


@parametrize_with_checks(
    [
        Auto(components=(1,)),
        MixtureOfFactorAnalyzers(components=2, factors=1),
    ]
)
def test_scikit_learns_checks(estimator, check, monkeypatch):
    monkeypatch.setattr(pool_fit, "TURNS", 1)  # small tables hide cells several times: for good weights only
    with threadpool_limits(1):
        check(estimator.set_params(random_state=0))


# ---------------------------------------------------------------- as good as the best member, or nearly


def test_on_linear_gaussian_data_it_is_no_worse_than_a_gaussian():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(2, 5))
    X, new = (rng.normal(size=(n, 2)) @ W + 0.4 * rng.normal(size=(n, 5)) for n in (300, 600))
    gaps, blank = holes(new)
    ours = rmse(Auto(random_state=0).fit(X), gaps, new, blank)
    assert ours < 1.03 * rmse(PCA(components=2).fit(X), gaps, new, blank)
    assert ours < 1.03 * rmse(GaussianMixture(components=1).fit(X), gaps, new, blank)


def test_on_a_curve_it_beats_a_gaussian_by_far():
    rng = np.random.default_rng(0)

    def curve(n: int) -> np.ndarray:
        t = rng.uniform(-2, 2, n)
        return np.stack([t, np.sin(2 * t), np.cos(2 * t), t**2], 1) + 0.05 * rng.normal(size=(n, 4))

    X, new = curve(300), curve(300)
    gaps, blank = holes(new)
    model = Auto(random_state=0).fit(X)
    gaussian = GaussianMixture(components=1).fit(X)
    assert rmse(model, gaps, new, blank) < 0.65 * rmse(gaussian, gaps, new, blank)
    assert model.score_samples(new).mean() > gaussian.score_samples(new).mean() + 1.0
    low, high = model.fill_interval(gaps, 0.9)
    assert 0.82 < ((low <= new) & (new <= high))[blank].mean() < 0.98


def test_members_say_who_got_which_weight(on_table):
    members = on_table[0].members()
    for column in ("weight", "class_weight", "row_weight"):
        assert members[column].sum() == pytest.approx(1.0)
        assert (members[column] >= 0).all()
    assert (members["error"] > 0).all()
    assert (members["log_loss"] > 0).all()
    assert members.index.is_unique
    assert members.index[0] == "Gaussian of numbers"


# ---------------------------------------------------------------- tables in, the same tables out


def test_fill_of_a_table(on_table):
    model, X = on_table
    before = X.copy()
    filled = model.fill(X)
    untouched(filled, X)
    pd.testing.assert_frame_equal(X, before)
    assert set(filled["smoker"]) <= {"yes", "no"}
    assert (filled["income"] > 0).all()
    low, high = model.fill_interval(X)
    untouched(low, X)
    untouched(high, X)
    assert (low["income"] <= high["income"]).all()
    copies = model.fill(X, draws=3, random_state=1)
    for copy, again in zip(copies, model.fill(X, draws=3, random_state=1), strict=True):
        untouched(copy, X)
        pd.testing.assert_frame_equal(copy, again)
    assert not copies[0].equals(copies[1])
    assert not copies[0].equals(model.fill(X, draws=1, random_state=2)[0])


def test_new_rows_of_a_table(on_table):
    model, X = on_table
    new = model.sample(2000, random_state=0)
    assert list(new.columns) == list(X.columns)
    assert (new.dtypes.drop("visits") == X.dtypes.drop("visits")).all()
    assert (new["visits"] >= 0).all()
    assert new["visits"].mod(1).eq(0).all()
    assert (new["income"] > 0).all()
    assert (new["spent"] == 0).mean() == pytest.approx((X["spent"] == 0).sum() / X["spent"].count(), abs=0.08)
    assert (new["smoker"] == "yes").mean() == pytest.approx((X["smoker"] == "yes").mean() / 0.9, abs=0.08)
    assert new["height"].corr(np.log(new["income"])) == pytest.approx(
        X["height"].corr(np.log(X["income"])), abs=0.15
    )
    assert new[new["flag"]]["height"].mean() > new[~new["flag"]]["height"].mean() + 0.5


def test_blanks_are_filled_from_what_was_seen(on_table):
    """A hidden height is told from income, a hidden flag from height."""
    model, _ = on_table
    new = table(400, seed=1).dropna()
    for column in ("height", "flag", "joined"):
        hidden = np.zeros(new.shape, bool)
        hidden[:, new.columns.get_loc(column)] = True
        filled = model.fill(new, observed=~hidden)
        if column == "flag":
            assert (filled["flag"] == new["flag"]).mean() > 0.75
            continue
        a, b = (np.asarray(f[column]).astype(float) for f in (filled, new))
        assert np.corrcoef(a, b)[0, 1] > 0.85


def test_every_question_of_a_table(on_table):
    model, X = on_table
    assert np.isfinite(model.score_samples(X)).all()
    assert set(model.predict(X)) == {-1, 1}
    assert (model.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.03)
    codes = model.transform(X)
    assert codes.shape == (len(X), len(model.get_feature_names_out()))
    assert np.isfinite(codes).all()
    with pytest.warns(RuntimeWarning, match="compress uses nothing of Auto"):
        packed = model.compress(X)
    pd.testing.assert_frame_equal(model.decompress(packed), X)


def test_odd_rows_stand_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) * [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=(300, 3))
    model = quick().fit(X)
    odd = model.anomaly_score(np.array([[1.0, 2.0, 0.5], [-1.0, -2.0, -0.5]]))
    assert odd.min() > np.quantile(model.anomaly_score(X), 0.99)


def test_noise_is_taken_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) * [1.0, -2.0, 0.5, 1.5] + 0.05 * rng.normal(size=(300, 4))
    model = quick().fit(X)
    noisy = X + 0.5 * rng.normal(size=X.shape)
    assert ((model.denoise(noisy, 0.5) - X) ** 2).mean() < 0.4 * ((noisy - X) ** 2).mean()
    assert model.restore(noisy, Noise(0.5)).shape == X.shape


@pytest.mark.parametrize("dtype", ["float32", "int64", "float64"])
def test_arrays_keep_their_dtype_and_their_bits(dtype):
    rng = np.random.default_rng(0)
    X = (20 * rng.normal(size=(60, 1)) * [1, -2, 0.5] + 3 * rng.normal(size=(60, 3))).astype(dtype)
    seen = rng.random(X.shape) < 0.8
    model = quick(components=(1,), kinds="real").fit(X)
    filled = model.fill(X, observed=seen)
    assert filled.dtype == X.dtype
    assert filled[seen].tobytes() == X[seen].tobytes()
    assert np.corrcoef(filled[~seen], X[~seen])[0, 1] > 0.8
    low, high = model.fill_interval(X, observed=seen)
    assert low.dtype == high.dtype == X.dtype
    assert (low <= high).all()
    assert model.sample(3).dtype == X.dtype


# ---------------------------------------------------------------- spikes, classes, targets


def test_a_spike_is_drawn_as_often_as_it_was_seen():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 2))
    z[:, 1] += z[:, 0]
    X = np.column_stack([z[:, 0], np.where(z[:, 1] < 0.2, 0.0, np.exp(z[:, 1])), np.rint(3 * z[:, 1])])
    model = quick().fit(X)
    gaps = np.full((300, 3), np.nan)
    gaps[:, 0] = X[:300, 0]
    drawn = np.stack(model.fill(gaps, draws=10, random_state=0))
    assert (drawn[..., 1] == 0).mean() == pytest.approx((X[:, 1] == 0).mean(), abs=0.12)
    high, low = X[:300, 0] > 0.5, X[:300, 0] < -0.5
    assert (drawn[:, low, 1] == 0).mean() > (drawn[:, high, 1] == 0).mean() + 0.2


def test_a_hidden_target_is_classification():
    frame = load_iris(as_frame=True).frame
    frame["target"] = np.array(["setosa", "versicolor", "virginica"])[frame["target"]]
    order = np.random.default_rng(0).permutation(150)
    model = quick().fit(frame.iloc[order[:100]])
    new = frame.iloc[order[100:]]
    gaps = new.assign(target=None)
    assert (model.fill(gaps)["target"] == new["target"]).mean() > 0.9


def test_a_table_of_classes_only():
    rng = np.random.default_rng(0)
    a = rng.choice(3, 200)
    b = np.where(rng.random(200) < 0.9, a, rng.choice(3, 200))
    X = pd.DataFrame({"a": np.array(list("xyz"))[a], "b": np.array(list("pqr"))[b]})
    model = quick().fit(X)
    filled = model.fill(pd.DataFrame({"a": [None, "y", None], "b": ["p", None, None]}))
    assert filled["a"][0] == "x"
    assert filled["b"][1] == "q"
    every = pd.DataFrame([(i, j) for i in "xyz" for j in "pqr"], columns=["a", "b"])
    p = np.exp(model.score_samples(every))
    assert p.sum() == pytest.approx(1.0)
    share = X.value_counts(normalize=True)
    assert p[0] == pytest.approx(share["x", "p"], abs=0.06)
    new = model.sample(1000, random_state=0)
    assert (
        np.array(list("xyz")).searchsorted(new["a"]) == np.array(list("pqr")).searchsorted(new["b"])
    ).mean() > 0.75
    assert set(model.members().columns) == {"class_weight", "log_loss", "row_weight"}


# ---------------------------------------------------------------- small and odd tables, bad input


def test_five_rows():
    X = np.random.default_rng(0).normal(size=(5, 3))
    model = quick().fit(X)
    gaps = X.copy()
    gaps[[0, 1], [1, 2]] = np.nan
    filled = model.fill(gaps)
    assert np.isfinite(filled).all()
    assert np.abs(filled).max() < 5
    assert model.sample(4).shape == (4, 3)
    assert np.isfinite(model.score_samples(X)).all()


def test_a_column_blank_in_all_rows():
    X = np.random.default_rng(0).normal(size=(60, 3))
    X[:, 1] = np.nan
    with pytest.warns(UserWarning, match="no value in any row of 'x1'"):
        model = quick().fit(X)
    filled = model.fill(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[:, [0, 2]], X[:, [0, 2]])
    assert np.isfinite(model.score_samples(X)).all()


def test_a_constant_column_and_duplicated_rows():
    X = np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 5, 0)
    X[:, 0] = 7.0
    model = quick(kinds="real").fit(X)
    gaps = X.copy()
    gaps[::3, 0] = np.nan
    np.testing.assert_allclose(model.fill(gaps)[:, 0], 7.0, atol=0.05)
    assert np.isfinite(model.score_samples(X)).all()


def test_a_row_with_nothing_seen(on_table):
    model, X = on_table
    row = X.iloc[:1].copy().astype({"visits": float, "flag": object})
    for column in row:
        row[column] = pd.NA if column == "member" else None if column == "flag" else np.nan
    filled = model.fill(X, observed=np.zeros(X.shape, bool))
    assert filled["height"].nunique() == 1
    assert float(filled["height"].iloc[0]) == pytest.approx(X["height"].mean(), abs=0.25)


def test_what_auto_refuses(on_table):
    model, X = on_table
    numbers = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(ValueError, match="Auto is for tables; for images take MixtureEnsemble"):
        Auto().fit(np.random.default_rng(0).normal(size=(20, 4, 4)))
    stranger = X.iloc[:3].copy()
    stranger["smoker"] = ["sometimes", "yes", None]
    assert model.fill(stranger)["smoker"].tolist()[:2] == ["sometimes", "yes"]
    with pytest.raises(ValueError, match=r"observed must be a bool array of X's shape \(240, 10\)"):
        model.fill(X, observed=np.ones((240, 9), bool))
    with pytest.raises(ValueError, match="yet now missing:\n- income"):
        model.fill(X.drop(columns="income"))
    for components in ((2,), (), (5, 1), 3, None):
        with pytest.raises(ValueError, match="components must"):
            Auto(components=components).fit(numbers)
    for components in ((1, 2.5), (1, 0)):
        with pytest.raises(ValueError, match="components must be an int >= 1"):
            Auto(components=components).fit(numbers)
    with pytest.raises(ValueError, match="rows must be an int >= 1, got 0"):
        Auto(rows=0).fit(numbers)
    with (
        pytest.raises(ValueError, match="no observed cell at all"),
        pytest.warns(UserWarning, match="no value in any row"),
    ):
        Auto().fit(np.full((5, 2), np.nan))


# ---------------------------------------------------------------- kept, repeated


def test_saved_and_loaded(on_table, tmp_path):
    model, X = on_table
    model.save(tmp_path / "m")
    loaded = abduce.load(tmp_path / "m")
    assert type(loaded) is Auto
    pd.testing.assert_frame_equal(loaded.fill(X), model.fill(X))
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    pd.testing.assert_frame_equal(loaded.sample(5, random_state=1), model.sample(5, random_state=1))
    pd.testing.assert_frame_equal(loaded.members(), model.members())
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert tuple(loaded.get_params()["components"]) == (1, 4)


def test_a_seed_is_a_model():
    X = np.random.default_rng(0).normal(size=(40, 3))
    gaps, _ = holes(X)
    one, two, other = (quick(random_state=s).fit(X) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.fill(gaps), two.fill(gaps))
    np.testing.assert_array_equal(one.score_samples(gaps), two.score_samples(gaps))
    np.testing.assert_array_equal(one.sample(5), two.sample(5))
    assert not np.array_equal(one.fill(gaps), other.fill(gaps))
    before = torch.random.get_rng_state()
    clone(one).fit(X)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's draws are moved


def test_fill_of_a_row_does_not_depend_on_the_rows_beside_it(on_table):
    model, X = on_table
    pd.testing.assert_frame_equal(model.fill(X).iloc[5:9], model.fill(X.iloc[5:9]), rtol=1e-9)
    np.testing.assert_allclose(
        model.score_samples(X)[5:9], model.score_samples(X.iloc[5:9]), rtol=1e-9, atol=1e-9
    )


def test_progress_is_told():
    said = []
    quick(callback=said.append).fit(np.random.default_rng(0).normal(size=(50, 2)))
    assert [r["epoch"] for r in said] == sorted(r["epoch"] for r in said)
    assert said[-1]["epoch"] == said[-1]["epochs"] == 1.0


# ---------------------------------------------------------------- mixtures of factor analysers


def test_one_component_scores_as_factor_analysis():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 6)) + rng.uniform(0.3, 1, 6) * rng.normal(
        size=(600, 6)
    )
    ours = MixtureOfFactorAnalyzers(components=1, factors=2, random_state=0).fit(X)
    peer = FactorAnalysis(2, tol=1e-8, max_iter=5000, svd_method="lapack").fit(X)
    np.testing.assert_allclose(ours.score_samples(X).mean(), peer.score(X), atol=0.02)
    assert ours.transform(X).shape == (600, 2)
    whole = np.corrcoef(ours.transform(X).T, peer.transform(X).T)[:2, 2:]
    np.testing.assert_allclose(np.linalg.svd(whole)[1], 1.0, atol=0.35)


def test_clusters_are_told_apart_behind_blanks():
    rng = np.random.default_rng(0)
    label = np.arange(300) % 3
    X = 6 * rng.normal(size=(3, 5))[label] + rng.normal(size=(300, 5))
    gaps, blank = holes(X)
    model = MixtureOfFactorAnalyzers(components=3, factors=2, random_state=0).fit(gaps)
    found = model.transform(X).argmax(1)
    assert len(pd.crosstab(found, label).to_numpy().nonzero()[0]) == 3
    gaussian = GaussianMixture(components=1).fit(gaps)
    assert rmse(model, gaps, X, blank) < 0.6 * rmse(gaussian, gaps, X, blank)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"components": 0}, "components must be"),
        ({"components": 26}, "components must be"),
        ({"factors": 0}, "factors must be an int >= 1, got 0"),
        ({"factors": "many"}, "factors must be an int >= 1, got 'many'"),
        ({"pseudo_rows": -1}, "pseudo_rows must be >= 0, got -1"),
        ({"pseudo_rows": "few"}, "pseudo_rows must be >= 0, got 'few'"),
    ],
)
def test_what_mixtures_of_factor_analysers_refuse(kw, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfFactorAnalyzers(**kw).fit(np.random.default_rng(0).normal(size=(50, 3)))


class TestClassProbabilities:
    def test_of_a_hidden_target(self):
        from sklearn.datasets import load_iris

        frame = load_iris(as_frame=True).frame
        frame["target"] = frame["target"].map({0: "setosa", 1: "versicolor", 2: "virginica"})
        order = np.random.default_rng(0).permutation(len(frame))
        train, test = frame.iloc[order[:100]], frame.iloc[order[100:]]
        model = Auto(random_state=0).fit(train)
        p = model.class_probabilities(test, "target")
        assert list(p.columns) == ["setosa", "versicolor", "virginica"]
        assert p.index.equals(test.index)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert (p.idxmax(axis=1) == test["target"]).mean() > 0.9
        blank = test.assign(target=pd.Series([None] * len(test), index=test.index, dtype=object))
        pd.testing.assert_frame_equal(
            p, model.class_probabilities(blank, "target")
        )  # the cell itself has no say
        filled = model.fill(blank)["target"]
        assert (filled == p.idxmax(axis=1)).all()

    def test_only_of_classes(self):
        frame = pd.DataFrame({"size": np.arange(20.0), "kind": ["a", "b"] * 10})
        model = Auto(random_state=0).fit(frame)
        with pytest.raises(ValueError, match=r"'kind'.*got 'size'"):
            model.class_probabilities(frame, "size")
