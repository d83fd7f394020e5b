"""Schema: kinds, model values, and the way back, bit for bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abduce.data import examples
from abduce.data.fields import Field
from abduce.data.schema import Schema

rng = np.random.default_rng(0)


def kinds(schema: Schema) -> dict[str, str]:
    return {f.name: f.kind for f in (*schema.fields, *schema.left_out)}


def through_json(schema: Schema) -> Schema:
    return Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# ---------------------------------------------------------------- kinds


def frame_of_every_kind(n: int = 200) -> pd.DataFrame:
    r = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "height": r.normal(170, 10, n).round(1),
            "income": np.exp(r.normal(8, 1.5, n)),
            "visits": r.negative_binomial(3, 0.3, n),
            "smoker": r.random(n) < 0.3,
            "sex": r.choice(["f", "m"], n),
            "grade": r.integers(1, 6, n),
            "size": pd.Categorical(r.choice(["S", "M", "L"], n), ["S", "M", "L"], ordered=True),
            "city": r.choice(["Oslo", "Rome", "Lima"], n),
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(r.integers(0, 900, n), unit="D"),
            "mass": r.integers(2700, 6300, n),
            "patient_id": r.permutation(n) + 5000,
            "row": np.arange(n) * 2,
            "note": [f"text {i}" for i in range(n)],
            "country": "NO",
        }
    )


def test_frame_kinds():
    schema = Schema.infer(frame_of_every_kind())
    assert kinds(schema) == {
        "height": "real",
        "income": "positive",
        "visits": "count",
        "smoker": "binary",
        "sex": "binary",
        "grade": "ordinal",
        "size": "ordinal",
        "city": "categorical",
        "when": "real",
        "mass": "real",
        "patient_id": "identifier",
        "row": "identifier",
        "note": "identifier",
        "country": "constant",
    }
    by_name = {f.name: f for f in schema.fields}
    assert by_name["height"].denominator == 10
    assert by_name["income"].denominator is None
    assert by_name["when"].denominator == 1
    assert by_name["size"].categories == ("S", "M", "L")
    assert by_name["grade"].categories == (1, 2, 3, 4, 5)
    assert schema.n_cells == 10
    assert [g.kind for g in schema.groups] == [
        "real",
        "positive",
        "count",
        "binary",
        "ordinal",
        "categorical",
    ]
    assert sorted(np.concatenate([g.cells for g in schema.groups])) == list(range(10))
    assert all(len(g.cells) == len(g.fields) for g in schema.groups)


def test_frame_in_and_out():
    X = frame_of_every_kind()
    schema = Schema.infer(X)
    values, observed = schema.encode(X)
    assert values.dtype == np.float64
    assert observed.all()
    reals = [j for j, f in enumerate(schema.fields) if f.kind in ("real", "positive")]
    np.testing.assert_allclose(values[:, reals].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(values[:, reals].std(axis=0), 1, atol=1e-9)
    back = schema.decode(values, snap=True)
    assert list(back.columns) == list(X.columns)
    assert back["note"].isna().all()
    assert (back["country"] == "NO").all()
    kept = [f.name for f in schema.fields]
    assert (back.dtypes[kept] == X.dtypes[kept]).all()
    exact = [name for name in kept if name != "income"]
    pd.testing.assert_frame_equal(back[exact], X[exact])
    np.testing.assert_allclose(back["income"], X["income"], rtol=1e-12)


def test_heavy_tails_need_a_logarithm_that_helps():
    n = 5000
    uniform = rng.random(n)  # largest / smallest is over 1000, yet the logarithm would only skew it
    assert kinds(Schema.infer(pd.DataFrame({"u": uniform, "e": np.exp(2 * rng.normal(size=n))}))) == {
        "u": "real",
        "e": "positive",
    }


def test_narrow_whole_numbers_are_not_counts():
    X = pd.DataFrame({"narrow": rng.normal(60, 4, 500).round(), "wide": rng.poisson(60, 500)})
    assert kinds(Schema.infer(X)) == {"narrow": "real", "wide": "count"}


def test_penguins():
    X = examples.penguins()
    schema = Schema.infer(X)
    assert kinds(schema) == {
        "species": "categorical",
        "island": "categorical",
        "bill_length_mm": "real",
        "bill_depth_mm": "real",
        "flipper_length_mm": "real",
        "body_mass_g": "real",
        "sex": "binary",
        "year": "ordinal",
    }
    values, observed = schema.encode(X)
    assert (~observed).sum() == X.isna().to_numpy().sum() == 19
    np.testing.assert_array_equal(observed, X.notna().to_numpy())
    assert (values[~observed] == 0).all()
    k, seen = schema.to_integers(X)
    pd.testing.assert_frame_equal(schema.from_integers(k, seen), X)
    pd.testing.assert_frame_equal(schema.replace(X, values, np.zeros_like(observed)), X)
    whole = schema.replace(X, values, ~observed)
    assert not whole.isna().any().any()
    assert whole["body_mass_g"][3] == round(X["body_mass_g"].mean())  # whole in every row
    assert through_json(schema) == schema


def test_adult():
    try:
        X = examples.table("adult")
    except FileNotFoundError as error:
        pytest.skip(f"needs Adult: {error}")
    schema = Schema.infer(X)
    assert schema.n_cells == 12
    assert kinds(schema)["workclass"] == "categorical"
    k, seen = schema.to_integers(X)
    pd.testing.assert_frame_equal(schema.from_integers(k, seen), X)


def test_array_kinds():
    X = np.column_stack([rng.normal(size=50), rng.integers(0, 2, 50), rng.integers(0, 9, 50), np.zeros(50)])
    assert [f.kind for f in Schema.infer(X).fields] == ["real", "binary", "real", "real"]
    assert [f.denominator for f in Schema.infer(X).fields] == [None, 1, 1, 1]
    assert {f.kind for f in Schema.infer(X[:, 2:3].astype(int)).fields} == {"real"}
    assert {f.kind for f in Schema.infer(X[:, 1:2] > 0).fields} == {"binary"}


def test_rare_ones_are_not_binary():
    X = np.zeros((1000, 3))
    X[:5, 0] = 1
    X[:200, 1] = 1
    assert [f.kind for f in Schema.infer(X[:, :2]).fields] == ["binary", "binary"]  # a table of bits
    X[:, 2] = np.arange(1000)
    assert [f.kind for f in Schema.infer(X).fields] == ["real", "binary", "real"]


def test_byte_arrays_are_pixels_with_one_range():
    X = rng.integers(0, 200, (30, 5)).astype(np.uint8)
    X[:, 0] = 0
    schema = Schema.infer(X)
    assert {(f.kind, f.low, f.high, f.levels) for f in schema.fields} == {("pixel", 0.0, 255.0, 256)}
    values, _ = schema.encode(X)
    np.testing.assert_allclose(values, X / 127.5 - 1)
    np.testing.assert_array_equal(schema.decode(values), X)


@pytest.mark.parametrize(
    ("X", "kind", "levels"),
    [
        (rng.integers(0, 256, (40, 4, 4)).astype(np.uint8), "pixel", 256),
        (rng.integers(0, 17, (40, 4, 4)).astype(float), "pixel", 17),
        (rng.integers(0, 17, (40, 4, 4)) / 16, "pixel", 17),
        ((rng.integers(0, 256, (40, 4, 4)) / 255).astype(np.float32), "pixel", 256),
        (rng.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8), "pixel", 256),
        (rng.integers(0, 2, (40, 4, 4)) > 0, "binary", 2),
        (rng.integers(0, 2, (40, 4, 4)) * np.uint8(255), "binary", 2),
        (rng.normal(size=(40, 4, 4)), "real", None),
        (rng.integers(0, 4000, (40, 4, 4)).astype(np.uint16), "real", None),
    ],
)
def test_image_kinds(X, kind, levels):
    schema = Schema.infer(X)
    (field,) = schema.fields
    assert (field.kind, field.levels) == (kind, levels)
    assert schema.shape == X.shape[1:]
    assert len(schema.names) == schema.n_cells == np.prod(X.shape[1:])
    values, observed = schema.encode(X)
    assert observed.all()
    if kind == "pixel":
        assert values.min() >= -1
        assert values.max() <= 1
    back = schema.decode(values, snap=True)
    assert back.dtype == X.dtype
    if field.denominator:
        np.testing.assert_array_equal(back, X)
        k, seen = schema.to_integers(X)
        assert bits(schema.from_integers(k, seen)) == bits(X)
    else:
        np.testing.assert_allclose(back, X, rtol=1e-12)
    single, _ = schema.encode(X, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, values, atol=1e-5)
    assert through_json(schema) == schema


def test_digits_are_seventeen_levels():
    X, _ = examples.load_digits_images()
    (field,) = Schema.infer(X).fields
    assert (field.kind, field.low, field.high, field.loc, field.scale) == ("pixel", 0.0, 16.0, 8.0, 8.0)


def test_kinds_can_be_overridden():
    X = pd.DataFrame({"a": [1, 2, 3, 4] * 5, "b": np.arange(20) * 3 + 7})
    schema = Schema.infer(X, kinds={"a": "categorical", 1: "real"})
    assert kinds(schema) == {"a": "categorical", "b": "real"}
    assert kinds(Schema.infer(X, kinds={"a": "identifier", "b": "positive"})) == {
        "a": "identifier",
        "b": "positive",
    }
    Y = np.column_stack([rng.integers(3, 7, 40), rng.integers(0, 5, 40)]).astype(float)
    found = Schema.infer(Y, kinds={0: "categorical", "x1": "count"})
    assert [f.kind for f in found.fields] == ["categorical", "count"]
    assert found.fields[0].categories == (3.0, 4.0, 5.0, 6.0)
    values, _ = found.encode(Y)
    np.testing.assert_array_equal(values[:, 0], Y[:, 0] - 3)
    np.testing.assert_array_equal(found.decode(values), Y)
    assert {f.kind for f in Schema.infer(Y + 1, kinds="positive").fields} == {"positive"}
    with pytest.raises(ValueError, match="column 1 has values at or below 0; kind positive"):
        Schema.infer(Y, kinds="positive")


def test_small_counts_with_a_thin_tail_are_counts():
    X = pd.DataFrame({"count": rng.poisson(2.5, 500), "score": rng.integers(0, 6, 500)})
    assert kinds(Schema.infer(X)) == {"count": "count", "score": "ordinal"}


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"a": "colour"}, ValueError, "unknown kind 'colour' for column 'a'"),
        ({"z": "real"}, ValueError, "names the column 'z'"),
        (["real"], TypeError, "kinds must be a kind or a mapping"),
        ({"a": "positive"}, ValueError, "column 'a' has the value -1; kind positive needs values above 0"),
        ({"a": "count"}, ValueError, "column 'a' has values such as -1.0; kind count"),
        ({"a": "binary"}, ValueError, "column 'a' has 3 distinct values"),
        ({"t": "real"}, ValueError, "column 't' holds text such as 'x'; it cannot be real"),
        ({"a": "pixel", "t": "identifier", "f": "pixel"}, ValueError, "f: kind pixel needs values k/q"),
    ],
)
def test_kinds_that_cannot_be(asked, error, message):
    X = pd.DataFrame({"a": [-1, 0, 5], "t": ["x", "y", "x"], "f": [0.1234567, math.pi, 1.0]})
    with pytest.raises(error, match=message):
        Schema.infer(X, kinds=asked)


# ---------------------------------------------------------------- bad input at fit


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.array([[1.0, np.inf]]), ValueError, r"X contains infinity: inf in row 0, column x1"),
        (np.full((1, 2, 2), -np.inf), ValueError, r"-inf in row 0, pixel"),
        (pd.DataFrame({"a": [1.0, -np.inf]}), ValueError, r"column 'a' contains -inf \(first in row 1\)"),
        (np.zeros((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\)"),
        (np.zeros((3, 0)), ValueError, r"0 feature\(s\)"),
        (pd.DataFrame({"a": []}), ValueError, r"0 sample\(s\)"),
        (pd.DataFrame(index=[0, 1]), ValueError, r"0 feature\(s\)"),
        (np.zeros(3), ValueError, "Reshape your data"),
        (np.array([["a", "b"]], dtype=object), ValueError, "use a pandas DataFrame"),
        (np.array([[1 + 2j]]), ValueError, "Complex data not supported"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), ValueError, "X has dtype datetime64"),
        (pd.DataFrame({"a": [1, "x", 2]}), ValueError, "column 'a' mixes int and str, first odd value 'x'"),
        (pd.DataFrame({"a": ["x", "y", 3]}), ValueError, "first odd value 3"),
        (pd.DataFrame({"a": [1 + 1j]}), ValueError, "column 'a' has dtype complex128"),
        (pd.DataFrame({"a": ["x", "x"]}), ValueError, r"no column to model; left out were 'a \(constant\)'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "column 'a' more than once"),
        (pd.DataFrame([[1, 2]], columns=[1.5, "a"]), TypeError, "str or int, got 1.5"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])), TypeError, "several levels"),
        (pd.DataFrame({"a": pd.cut([1, 2, 3], 2)}), ValueError, "categories must be str, int, float or bool"),
        (pd.DataFrame({"a": [2**70, 1]}), ValueError, "column 'a': integers must lie between"),
    ],
)
def test_bad_training_data(X, error, message):
    with pytest.raises(error, match=message):
        Schema.infer(X)


def test_sparse_is_refused():
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"X is sparse; dense data are required"):
        Schema.infer(csr_array(np.eye(3)))


def test_blank_and_constant_columns():
    X = pd.DataFrame({"a": [1.5, 2.5, 7.25], "blank": [np.nan] * 3, "same": [4.0] * 3, "nothing": [None] * 3})
    with pytest.warns(UserWarning, match="no value in any row of 'blank'"):
        schema = Schema.infer(X)
    assert kinds(schema) == {"a": "real", "blank": "real", "same": "real", "nothing": "empty"}
    values, observed = schema.encode(X)
    assert observed.sum() == 6
    assert (values[:, 1:] == 0).all()
    assert (schema.decode(values)["same"] == 4.0).all()
    k, seen = schema.to_integers(X)
    pd.testing.assert_frame_equal(schema.from_integers(k, seen), X)
    notes = {d["column"]: d["note"] for d in schema.describe()}
    assert notes["blank"] == "no value in any row: filled from the prior"
    assert notes["same"] == "one value only"
    assert notes["nothing"].startswith("left out")
    with pytest.warns(UserWarning, match="x1"):
        array = Schema.infer(np.array([[1.0, np.nan], [2.0, np.nan]]))
    assert (array.fields[1].kind, array.fields[1].scale, array.fields[1].missing) == ("real", 1.0, 1.0)
    assert through_json(array) == array


def test_one_row():
    for X in (np.array([[1.0, 2.0]]), pd.DataFrame({"a": [1.0], "b": [3]}), np.ones((1, 2, 2))):
        schema = Schema.infer(X)
        values, observed = schema.encode(X)
        assert observed.all()
        back = schema.decode(values)
        assert np.asarray(back == X).all()


def test_extreme_magnitudes_do_not_overflow():
    X = np.array([[1e300, 1e-300], [-1e300, 3e-300], [0.0, 2e-300]])
    schema = Schema.infer(X)
    values, _ = schema.encode(X)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values.std(axis=0), 1)


# ---------------------------------------------------------------- bad input later


@pytest.fixture(scope="module")
def fitted() -> Schema:
    X = frame_of_every_kind()[["height", "income", "visits", "smoker", "city", "when"]]
    return Schema.infer(X)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda X: X.drop(columns="city"),
            ValueError,
            "X must have the columns seen in training: it is missing 'city'",
        ),
        (lambda X: X.assign(extra=1), ValueError, "has unknown 'extra'"),
        (
            lambda X: X.assign(height="tall"),
            ValueError,
            "column 'height' expects numbers, got 'tall' in row 0",
        ),
        (lambda X: X.assign(when="today"), ValueError, "column 'when' expects dates, got 'today'"),
        (lambda X: X.assign(when=3.0), ValueError, r"column 'when' expects dates \(datetime64"),
        (lambda X: X.assign(height=X["when"]), ValueError, "column 'height' expects numbers"),
        (lambda X: X.assign(height=np.inf), ValueError, "column 'height' contains inf"),
        (
            lambda X: X.assign(city=3.5),
            ValueError,
            "column 'city' holds numbers such as 3.5; expected values like",
        ),
        (lambda X: X.to_numpy()[:, 1:], TypeError, "X must be a DataFrame with columns 'height', 'income'"),
    ],
)
def test_bad_frames(fitted, change, error, message):
    X = frame_of_every_kind()[list(fitted.order)]
    with pytest.raises(error, match=message):
        fitted.encode(change(X))


@pytest.mark.parametrize(
    ("column", "value"),
    [("city", "Mars"), ("income", 0.0), ("visits", -2.0), ("visits", 0.5), ("smoker", 2.0)],
)
def test_a_kind_is_a_guess_and_refuses_no_value(fitted, column, value):
    """What a column never held is novel: observed, unknown to the model, with a small probability of its own."""
    X = frame_of_every_kind()[list(fitted.order)]
    wide = X[column].astype(float) if column != "city" else X[column]
    X = X.assign(**{column: wide.where(np.arange(len(X)) != 1, value)})
    values, known, novel = fitted.read(X)
    j = fitted.names.index(column)
    assert novel is not None
    assert novel[1, j]
    assert novel.sum() == 1
    assert not known[1, j]
    assert values[1, j] == 0
    field = fitted.fields[j]
    spread = field.high - field.low if column == "income" else 1.0
    assert fitted.log_novel(novel)[1] == pytest.approx(-np.log(field.seen + 2) - np.log(spread))
    if column != "income":
        _, coded = Schema.infer(frame_of_every_kind()[[column]]).to_integers(X[[column]])
        np.testing.assert_array_equal(coded[:, 0], X[column].notna() & (np.arange(len(X)) != 1))


def test_an_array_of_bits_takes_other_numbers():
    schema = Schema.infer(np.array([[1.0, 0.0], [2.5, 1.0], [3.0, 1.0]]))
    _, known, novel = schema.read(np.array([[0.0, 0.5], [1.0, 1.0], [2.0, np.nan]]))
    np.testing.assert_array_equal(known, [[True, False], [True, True], [True, False]])
    np.testing.assert_array_equal(novel, [[False, True], [False, False], [False, False]])


def test_columns_are_matched_by_name(fitted):
    X = frame_of_every_kind()[list(fitted.order)]
    values, _ = fitted.encode(X)
    again, _ = fitted.encode(X[X.columns[::-1]])
    np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((2, 3)), "X has 3 features, but 2 features are expected"),
        (np.zeros((2, 2, 2)), r"X has shape \(2, 2, 2\), expected \(n, 2\)"),
        (np.array([[0.0, np.inf]]), "X contains infinity"),
    ],
)
def test_bad_arrays(X, message):
    schema = Schema.infer(np.array([[1.0, 0.0], [2.5, 1.0], [3.0, 1.0]]))
    with pytest.raises(ValueError, match=message):
        schema.encode(X)


def test_bad_images():
    schema = Schema.infer(rng.random((3, 4, 5)))
    with pytest.raises(ValueError, match=r"X has shape \(3, 5, 4\), expected \(n, 4, 5\)"):
        schema.encode(np.zeros((3, 5, 4)))
    with pytest.raises(ValueError, match=r"values must have shape \(n, 20\), got \(3, 4\)"):
        schema.decode(np.zeros((3, 4)))


def test_what_is_off_the_lattice_has_no_code():
    X = pd.DataFrame({"a": [0.5, 1.5, 3.0], "b": [math.pi, math.e, 0.1]})
    k, coded = Schema.infer(X).to_integers(X)
    np.testing.assert_array_equal(coded, [[True, False]] * 3)
    np.testing.assert_array_equal(k, [[1, 0], [3, 0], [6, 0]])
    schema = Schema.infer(X[["a"]])
    odd = pd.DataFrame({"a": [0.5, 0.25, -0.0, np.inf, 2.0**53, 9.0]})
    np.testing.assert_array_equal(schema.to_integers(odd)[1][:, 0], [True, False, False, False, False, True])
    assert not schema.to_integers(pd.DataFrame({"a": ["u", "v"]}))[1].any()  # of another kind
    images = Schema.infer(rng.integers(0, 17, (30, 2, 2)).astype(float))
    _, coded = images.to_integers(np.array([[[0.0, 17.0], [1.0, 2.5]]]))
    np.testing.assert_array_equal(coded, [[True, False, True, False]])
    named = pd.DataFrame({"id": [7, 9, 4], "a": [0.5, 1.5, 3.0]})
    schema = Schema.infer(named)
    k, seen = schema.to_integers(named)
    assert schema.from_integers(k, seen)["id"].isna().all()
    with pytest.raises(ValueError, match="k must be whole numbers"):
        schema.from_integers(k.astype(float), seen)
    binary = Schema.infer(np.array([[0.0], [1.0]]))
    with pytest.raises(ValueError, match="outside the categories"):
        binary.from_integers(np.array([[2]]), np.array([[True]]))


def test_a_negative_zero_takes_no_column_off_its_lattice():
    X = np.array([[0.5, 1.0], [-0.0, 2.0], [1.5, -0.0]])
    for schema in (Schema.infer(X), Schema.infer(pd.DataFrame(X, columns=["a", "b"]))):
        assert [f.denominator for f in schema.fields] == [2, 1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: [], "schema must be a dict"),
        (lambda d: {k: v for k, v in d.items() if k != "fields"}, "schema lacks 'fields'"),
        (lambda d: d | {"version": 99}, "schema.version must be 1, got 99"),
        (lambda d: d | {"container": "cube"}, "container must be"),
        (lambda d: d | {"fields": d["fields"][:1]}, "cannot have 1 fields"),
        (lambda d: d | {"fields": [{"name": "a"}, {}]}, r"schema.fields\[0\] lacks 'bounds'"),
        (lambda d: d | {"fields": [d["fields"][0] | {"kind": "odd"}, d["fields"][1]]}, "kind must be one of"),
    ],
)
def test_bad_json(spoil, message):
    data = Schema.infer(np.array([[1.0, 0.0], [2.5, 1.0]])).to_json()
    with pytest.raises(ValueError, match=message):
        Schema.from_json(spoil(data))


# ---------------------------------------------------------------- jacobian


def test_log_jacobian_turns_a_normal_into_a_log_normal():
    from scipy.stats import lognorm, norm

    X = pd.DataFrame(
        {"r": rng.normal(5, 3, 300), "p": np.exp(rng.normal(2, 1.4, 300)), "c": rng.poisson(3, 300)}
    )
    X.loc[0, "r"] = np.nan
    schema = Schema.infer(X)
    assert [f.kind for f in schema.fields] == ["real", "positive", "count"]
    values, observed = schema.encode(X)
    model = np.where(observed[:, :2], norm.logpdf(values[:, :2]), 0).sum(axis=1)
    real, positive, _ = schema.fields
    data = np.where(observed[:, 0], norm.logpdf(X["r"].fillna(0), real.loc, real.scale), 0)
    data = data + lognorm.logpdf(X["p"], positive.scale, scale=np.exp(positive.loc))
    np.testing.assert_allclose(model + schema.log_jacobian(values, observed), data, rtol=1e-10)


def test_log_jacobian_of_images_counts_every_pixel():
    X = rng.normal(0, 4, (10, 2, 3))
    schema = Schema.infer(X)
    values, observed = schema.encode(X)
    observed[0, :2] = False
    expected = -np.log(schema.fields[0].scale) * observed.sum(axis=1)
    np.testing.assert_allclose(schema.log_jacobian(values, observed), expected)


# ---------------------------------------------------------------- replace


def test_replace_keeps_the_rest_to_the_bit():
    X = rng.normal(size=(6, 3))
    X[1, 2] = np.nan
    X[0, 0] = -0.0
    schema = Schema.infer(X)
    where = np.isnan(X)
    out = schema.replace(X, np.zeros((6, 3)), where)
    assert bits(out[~where]) == bits(X[~where])
    assert out[1, 2] == pytest.approx(np.nanmean(X[:, 2]))
    assert np.isnan(X[1, 2])


def test_replace_widens_only_where_it_must():
    schema = Schema.infer(np.array([[1.25], [2.5], [7.0]]))
    out = schema.replace(np.array([[1], [2]]), np.zeros((2, 1)), np.array([[True], [False]]))
    assert out.dtype == np.float64
    assert out[1, 0] == 2
    assert out[0, 0] == pytest.approx(schema.fields[0].loc)
    whole = Schema.infer(np.array([[1], [2], [9]]))
    assert whole.replace(np.array([[1], [2]]), np.zeros((2, 1)), np.ones((2, 1))).dtype == np.int64
    frame = pd.DataFrame({"a": [1.25, 2.5, 7.0]})
    out = Schema.infer(frame).replace(pd.DataFrame({"a": [1, 2]}), np.zeros((2, 1)), np.array([[1], [0]]))
    assert out["a"].dtype == np.float64
    assert out["a"].tolist() == [pytest.approx(frame["a"].mean()), 2.0]


def test_replace_keeps_index_order_and_left_out_columns():
    X = pd.DataFrame(
        {"id": [3, 8, 5], "a": pd.array([1, None, 30], dtype="Int64"), "c": pd.Categorical(["u", None, "v"])},
        index=["x", "y", "y"],
    )
    schema = Schema.infer(X)
    values, observed = schema.encode(X)
    values[1] = [0.0, 1.0]
    shuffled = X[["c", "id", "a"]]
    out = schema.replace(shuffled, values, ~observed)
    assert list(out.columns) == ["c", "id", "a"]
    assert out.index.tolist() == ["x", "y", "y"]
    assert out["id"].tolist() == [3, 8, 5]
    assert out["c"].tolist() == ["u", "v", "v"]
    assert (out.dtypes == shuffled.dtypes).all()
    fewer = shuffled.assign(c=pd.Categorical(["u", None, "u"]))
    assert schema.replace(fewer, values, ~observed)["c"].tolist() == ["u", "v", "u"]


def test_replace_checks_shapes():
    X = np.array([[1.5], [2.5]])
    schema = Schema.infer(X)
    with pytest.raises(ValueError, match="X has 2 rows but values has 3"):
        schema.replace(X, np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="same shape"):
        schema.replace(X, np.zeros((3, 1)), np.zeros((2, 1)))


def test_decode_stays_inside_what_the_dtype_holds():
    X = pd.DataFrame(
        {
            "small": np.array([1, 2, 40, 90, 7], np.int8),
            "p": np.array([1, 900, 3, 20000, 5]),
            "f": np.array([0.5, 1.5, 3.25, 1, 2], np.float32),
        }
    )
    schema = Schema.infer(X, kinds={"small": "real", "p": "positive", "f": "real"})
    for size in (1e6, -1e6):
        out = schema.decode(np.full((2, 3), size))
        assert (out.dtypes == X.dtypes).all()
        assert np.isfinite(out.to_numpy(float)).all()
        assert (out["p"] >= 1).all()
        schema.encode(out)


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None, 39, 4], dtype="Int64"),
        pd.array([1, 2, 39, 4], dtype="UInt8"),
        np.array([1, 2, 39, 4], dtype=np.int16),
        np.array([2**60 + 1, 2**60 + 3, 5, 17]),
        pd.array([2**60 + 1, None, 5, 17], dtype="Int64"),
        pd.array([0.1, None, 39.3, 4.0], dtype="Float32"),
        pd.array([0.1, None, 39.3, 4.0], dtype="Float64"),
        np.array([0.1, np.nan, 39.3, 4.0], dtype=np.float32),
        np.array([0.5, np.nan, 39.25, 4.0], dtype=np.float16),
        np.array([0.25, np.nan, 1e6, -4.0]),
        pd.array([True, None, False, True], dtype="boolean"),
        np.array([True, False, False, True]),
        np.array([True, None, False, True], dtype=object),
        np.array([3, None, 8, 15], dtype=object),
        np.array([3.5, None, 8.5, 15.0], dtype=object),
        np.array(["a", None, "b", "a"], dtype=object),
        pd.array(["a", None, "b", "a"], dtype="str"),
        pd.array(["a", None, "b", "a"], dtype="string"),
        pd.Categorical(["a", None, "b", "a"], ["b", "a", "unused"]),
        pd.Categorical(["a", None, "b", "a"], ["b", "a", "unused"], ordered=True),
        pd.Categorical([3, None, 7, 3]),
        pd.Categorical([True, None, False, True]),
        pd.Categorical(np.array(["a", None, "b", "a"], dtype=object)),
        pd.to_datetime(["2020-01-01", None, "2021-05-03", "1960-07-07"], format="ISO8601"),
        pd.to_datetime(["2020-01-01 10:00", None, "2021-05-03 11:30:15.25", "1960-07-07"], format="ISO8601"),
        pd.to_datetime(["2020-01-01", None, "2021-05-03", "1960-07-07"], format="ISO8601").tz_localize(
            "Europe/Oslo"
        ),
        pd.to_timedelta(["1h", None, "3h", "2D"]),
        pd.array([1, None, 3, 8], dtype="int64[pyarrow]"),
        pd.array([0.1, None, 3.5, 8.0], dtype="float[pyarrow]"),
        pd.array([0.1, None, 3.5, 8.0], dtype="double[pyarrow]"),
        pd.array(["a", None, "b", "a"], dtype="string[pyarrow]"),
        pd.Series(["a", None, "b", "a"], dtype=pd.ArrowDtype(__import__("pyarrow").string())).array,
        pd.array([True, None, False, True], dtype="bool[pyarrow]"),
    ],
    ids=lambda c: str(c.dtype),
)
def test_every_dtype_there_and_back(column):
    X = pd.DataFrame({"c": column})
    schema = through_json(Schema.infer(X))
    values, observed = schema.encode(X)
    np.testing.assert_array_equal(observed[:, 0], X["c"].notna())
    assert np.isfinite(values).all()
    k, seen = schema.to_integers(X)
    back = schema.from_integers(k, seen)
    pd.testing.assert_frame_equal(back, X)
    assert back["c"].dtype == X["c"].dtype
    new = schema.decode(values)
    assert new["c"].dtype == X["c"].dtype or X["c"].dtype == np.int64
    assert not new["c"].isna().any()
    filled = schema.replace(X, values, ~observed)
    assert filled["c"].dtype == X["c"].dtype
    assert not filled["c"].isna().any()
    pd.testing.assert_series_equal(filled["c"][observed[:, 0]], X["c"][observed[:, 0]])
    nothing = schema.encode(X.iloc[:0])[0]
    assert nothing.shape == (0, 1)
    assert schema.decode(nothing)["c"].dtype == X["c"].dtype
    assert len(schema.describe()) == 1


# ---------------------------------------------------------------- round trips


def columns(n: int) -> st.SearchStrategy:
    def of(element: st.SearchStrategy, make) -> st.SearchStrategy:
        return st.lists(element, min_size=n, max_size=n).map(make)

    tenth = st.integers(-(10**6), 10**6).map(lambda k: k / 10)
    blank = st.none()
    word = st.sampled_from(["a", "bb", "ccc", "é", "x,y", " "])
    whole = st.integers(-(2**62), 2**62)
    return st.one_of(
        of(tenth, np.array),
        of(tenth | blank, lambda v: np.array(v, float)),
        of(st.integers(0, 255), lambda v: np.array(v, np.uint8)),
        of(whole, lambda v: np.array(v, np.int64)),
        of(whole | blank, lambda v: pd.array(v, dtype="Int64")),
        of(st.booleans() | blank, lambda v: pd.array(v, dtype="boolean")),
        of(st.integers(0, 3) | blank, lambda v: pd.array(v, dtype="Int32")),
        of(word | blank, lambda v: pd.array(v, dtype="str")),
        of(word | blank, lambda v: np.array(v, dtype=object)),
        of(word | blank, lambda v: pd.Categorical(v, ["ccc", "a", "bb", "é", "x,y", " "], ordered=True)),
        of(st.integers(-(10**15), 10**15), lambda v: np.array(v).astype("M8[us]")),
    )


@st.composite
def frames(draw) -> pd.DataFrame:
    n = draw(st.integers(1, 12))
    return pd.DataFrame({f"c{j}": draw(columns(n)) for j in range(draw(st.integers(1, 5)))})


@pytest.mark.filterwarnings("ignore:no value in any row")
@settings(max_examples=200, deadline=None)
@given(frames())
def test_random_frames_round_trip(X):
    try:
        schema = Schema.infer(X)
    except ValueError as error:
        assert "no column to model" in str(error)  # noqa: PT017
        return
    schema = through_json(schema)
    values, observed = schema.encode(X)
    kept = [f.name for f in schema.fields]
    np.testing.assert_array_equal(observed, X[kept].notna().to_numpy())
    assert np.isfinite(values).all()
    pd.testing.assert_frame_equal(schema.replace(X, values, np.zeros_like(observed)), X)
    filled = schema.replace(X, values, ~observed)
    assert not filled[kept].isna().any().any()
    new = schema.decode(values, snap=True)
    assert list(new.columns) == list(X.columns)
    again, seen = schema.encode(new)
    assert seen.all()
    np.testing.assert_allclose(again[observed], values[observed], rtol=1e-6, atol=1e-6)
    k, seen = schema.to_integers(X)
    pd.testing.assert_frame_equal(schema.from_integers(k, seen)[kept], X[kept])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 8).flatmap(
        lambda n: st.lists(st.integers(-999, 999) | st.none(), min_size=2 * n, max_size=2 * n).map(
            lambda v: np.array(v, float).reshape(n, 2)
        )
    ),
    st.sampled_from([1, 4, 10, 1000]),
    st.sampled_from([np.float32, np.float64]),
)
@pytest.mark.filterwarnings("ignore:no value in any row")
def test_random_arrays_round_trip(k, q, dtype):
    X = (k / q).astype(dtype)
    schema = through_json(Schema.infer(X))
    values, observed = schema.encode(X)
    np.testing.assert_array_equal(observed, ~np.isnan(X))
    assert bits(schema.replace(X, values, np.zeros_like(observed))) == bits(X)
    codes, seen = schema.to_integers(X)
    back = schema.from_integers(codes, seen)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, X)
    np.testing.assert_array_equal(schema.decode(values, snap=True)[observed], X[observed])


def test_describe_says_what_matters():
    by_name = {d["column"]: d for d in Schema.infer(frame_of_every_kind()).describe()}
    assert list(by_name) == list(frame_of_every_kind().columns)
    assert by_name["height"]["note"] == "steps of 1/10"
    assert by_name["city"]["range"] == "Lima, Oslo, Rome"
    assert by_name["when"]["range"].startswith("2020-01-0")
    assert by_name["note"]["note"].startswith("left out")


def test_field_levels():
    assert Field("a", "binary", "bool", categories=(False, True)).levels == 2
    assert Field("a", "real", "float64").levels is None
