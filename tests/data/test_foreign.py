"""Data of other makes: masked arrays, polars, PyArrow, Python's own lists and dicts, objects in columns."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array, dok_array

from abduce import PCA, Auto, Blanks
from abduce.data.foreign import native
from abduce.data.readers import read, write
from abduce.data.schema import Schema

ROWS = 60


def numbers():
    """Three columns, the third the sum of the others; some cells are NaN."""
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).round(2)
    x[:, 2] = x[:, 0] + x[:, 1]
    x[::7, 1] = np.nan
    return x


def frame():
    x = numbers()
    days = pd.date_range("2024-01-01", periods=ROWS, unit="s")
    return pd.DataFrame(
        {
            "x": x[:, 0],
            "n": pd.array([None if i % 11 == 0 else i % 40 for i in range(ROWS)], dtype="Int64"),
            "y": x[:, 2],
            "day": days.where(np.arange(ROWS) % 13 > 0),
            "kind": pd.Categorical([None if i % 17 == 5 else "uvw"[i % 3] for i in range(ROWS)]),
        }
    )


# ---------------------------------------------------------------- masked arrays


@pytest.mark.parametrize("dtype", [float, np.float32, np.int32])
def test_what_is_masked_is_blank(dtype):
    x = (np.nan_to_num(numbers(), nan=0.0) * 100).round().astype(dtype)
    mask = np.zeros(x.shape, bool)
    mask[::7, 1] = True
    masked = np.ma.MaskedArray(np.where(mask, -9999, x), mask)
    plain = np.where(mask, np.nan, x).astype(np.float32 if dtype == np.float32 else np.float64)
    assert Schema.infer(masked) == Schema.infer(plain)
    a, b = PCA(components=1).fit(masked), PCA(components=1).fit(plain)
    np.testing.assert_array_equal(a.score_samples(masked), b.score_samples(plain))
    filled = a.fill(masked)
    assert type(filled) is np.ndarray
    np.testing.assert_array_equal(filled, b.fill(plain))
    np.testing.assert_array_equal(filled[~mask], x[~mask])
    assert filled[mask].min() > -1000


def test_a_mask_of_nothing_keeps_the_dtype():
    x = np.ma.MaskedArray(np.arange(6).reshape(3, 2))
    assert native(x).dtype == x.dtype


# ---------------------------------------------------------------- frames of other libraries


@pytest.mark.parametrize("make", ["polars", "pyarrow"])
def test_frames_come_back_in_their_make(make):
    given = frame()
    table = pa.Table.from_pandas(given, preserve_index=False)
    table = table.set_column(3, "day", table["day"].cast(pa.date32()))
    X = table if make == "pyarrow" else pl.from_arrow(table)
    model = Auto(random_state=0).fit(X)
    answer = model.fill(X)
    assert type(answer) is type(X)
    assert answer.schema == X.schema
    filled = answer if make == "pyarrow" else answer.to_arrow()
    for name in table.column_names:
        known = table[name].is_valid().to_pylist()
        assert filled[name].null_count == 0
        assert [v for v, k in zip(filled[name].to_pylist(), known, strict=True) if k] == [
            v for v in table[name].to_pylist() if v is not None
        ]
    reference = Auto(random_state=0).fit(given)
    np.testing.assert_array_equal(model.score_samples(X), reference.score_samples(given))
    low, high = model.fill_interval(X)
    assert type(low) is type(high) is type(X)
    assert [type(copy) for copy in model.fill(X, draws=2)] == [type(X)] * 2
    assert type(model.restore(X, observation=Blanks())) is type(X)


def test_a_lazy_frame_is_refused():
    with pytest.raises(TypeError, match=r"X is a lazy frame \(polars\); collect\(\) it first"):
        native(pl.LazyFrame({"a": [1]}))


# ---------------------------------------------------------------- lists and dicts


def test_lists_and_dicts_are_what_they_hold():
    x, names = numbers(), ["a", "b", "c"]
    table = pd.DataFrame(x, columns=names)
    reference = PCA(components=1).fit(table)
    for X in (table.to_dict("records"), table.to_dict("list"), {n: x[:, j] for j, n in enumerate(names)}):
        pd.testing.assert_frame_equal(PCA(components=1).fit(X).fill(X), reference.fill(table))
    array = PCA(components=1).fit(x)
    holes = [[None if np.isnan(v) else v for v in row] for row in x.tolist()]
    for X in (x.tolist(), holes, [tuple(row) for row in holes]):
        assert Schema.infer(X) == Schema.infer(x)
        np.testing.assert_array_equal(PCA(components=1).fit(X).fill(X), array.fill(x))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([[1, 2], [3]], ValueError, "X: row 1 has 1 cells, row 0 has 2"),
        ([[1, "a"], [2, "b"]], ValueError, r"list of rows with text \('a' in row 0, column 1\).*DataFrame"),
        ([{"a": 1}, [2]], TypeError, "X: row 1 is a list, the rows before it are dicts"),
        ({"a": [1, 2], "b": [1]}, ValueError, "X is a dict of columns that makes no table"),
        (dok_array(np.eye(3)), TypeError, r"X is sparse; dense data are required"),
        (csr_array(numbers()), TypeError, r"X is sparse; dense data are required, use X.toarray\(\)"),
    ],
)
def test_what_is_no_table(X, error, message):
    with pytest.raises(error, match=message):
        PCA(components=1).fit(X)
    with pytest.raises(error, match=message):
        PCA(components=1).fit(numbers()).fill(X)


# ---------------------------------------------------------------- columns of a frame


OBJECTS = {
    "date": [datetime.date(2024, 1, 1 + i % 28) for i in range(ROWS)],
    "time": [datetime.time(i % 24, 30) for i in range(ROWS)],
    "decimal": [Decimal("1.50") + i for i in range(ROWS)],
    "zones": [pd.Timestamp(2024, 1, 1 + i % 28, tz="Europe/Oslo" if i % 2 else None) for i in range(ROWS)],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_read_and_come_back(name):
    values = [None if i % 9 == 4 else v for i, v in enumerate(OBJECTS[name])]
    X = pd.DataFrame({"x": numbers()[:, 0], name: pd.Series(values, dtype=object)})
    model = Auto(random_state=0).fit(X)
    assert model.schema_.fields[1].kind in ("real", "positive")
    filled = model.fill(X)[name]
    assert filled.dtype == object
    assert all(type(v) is type(OBJECTS[name][0]) for v in filled)
    assert [v for v, old in zip(filled, values, strict=True) if old is not None] == [
        v for v in values if v is not None
    ]


def test_what_no_model_reads_is_left_out_with_a_word():
    X = pd.DataFrame({"x": numbers()[:, 0], "list": [[1, 2]] * ROWS, "y": numbers()[:, 1]})
    with pytest.warns(UserWarning, match=r"column 'list' holds list objects such as \[1, 2\].*left out"):
        model = PCA(components=1).fit(X)
    assert [(f.name, f.kind) for f in model.schema_.left_out] == [("list", "objects")]
    assert model.fill(X)["list"].tolist() == X["list"].tolist()
    assert Schema.from_json(model.schema_.to_json()) == model.schema_


def test_nothing_but_what_no_model_reads():
    with (
        pytest.warns(UserWarning, match="column 'a' holds set objects such as {1}"),
        pytest.raises(ValueError, match=r"X has no column to model; left out were 'a \(objects\)'"),
    ):
        Schema.infer(pd.DataFrame({"a": [{1}, {2}]}))
    with pytest.raises(ValueError, match=r"column 'a' holds set objects.*it cannot be real"):
        Schema.infer(pd.DataFrame({"a": [{1}, {2}]}), kinds={"a": "real"})


def test_sparse_columns_keep_their_dtype():
    X = pd.DataFrame(numbers(), columns=list("abc")).astype(pd.SparseDtype(float, np.nan))
    filled = PCA(components=1).fit(X).fill(X)
    assert (filled.dtypes == X.dtypes).all()
    assert not filled.isna().any().any()


def test_object_text_stays_object_and_names_stay():
    X = pd.DataFrame({"x": numbers()[:, 0], "s": pd.Series(["u", None, "v"] * 20, dtype=object)})
    X.columns.name, X.index = "field", pd.Index([f"r{i}" for i in range(ROWS)], name="row")
    model = Auto(random_state=0).fit(X)
    assert model.sample(3)["s"].dtype == object
    for answer in (model.fill(X), model.restore(X, Blanks())):
        assert answer["s"].dtype == object
        assert answer.columns.name == "field"
        pd.testing.assert_index_equal(answer.index, X.index)
    noisy = X[["x"]].assign(y=numbers()[:, 1]).convert_dtypes()
    clean = PCA(components=1).fit(noisy).denoise(noisy, 0.1)
    pd.testing.assert_index_equal(clean.index, X.index)
    assert not clean.isna().any().any()


def test_whole_numbers_beyond_63_bits():
    large = np.array([2**63 + 4096 * i for i in range(ROWS)], np.uint64)
    X = pd.DataFrame({"x": numbers()[:, 1], "n": large})
    filled = PCA(components=1).fit(X).fill(X)
    assert filled["n"].dtype == np.uint64
    np.testing.assert_array_equal(filled["n"], large)


def test_the_order_in_memory_changes_nothing():
    x = numbers()
    for model in (PCA(components=1), Auto(random_state=0)):
        c, f = model.fit(x).fill(x), model.fit(np.asfortranarray(x)).fill(np.asfortranarray(x))
        assert c.tobytes() == f.tobytes()


# ---------------------------------------------------------------- Parquet


def test_parquet_types_are_read_and_written(tmp_path):
    gone = np.arange(ROWS) % 9 == 4

    def column(values, kind):
        return pa.array([None if g else v for g, v in zip(gone, values, strict=True)], kind)

    table = pa.table(
        {
            "x": numbers()[:, 0],
            "date": column(OBJECTS["date"], pa.date32()),
            "time": column(OBJECTS["time"], pa.time64("us")),
            "decimal": column(OBJECTS["decimal"], pa.decimal128(30, 2)),
            "list": pa.array([[1, 2]] * ROWS),
            "bytes": pa.array([b"\xff"] * ROWS),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    X = read(path)
    with pytest.warns(UserWarning, match="left out"):
        model = Auto(random_state=0).fit(X)
    assert [f.name for f in model.schema_.fields] == ["x", "date", "time", "decimal"]
    out = pq.read_table(write(tmp_path / "o.parquet", model.fill(X), like=path))
    assert out.schema.equals(table.schema)
    for name in table.column_names:
        assert out[name].null_count == 0
        assert out[name].filter(pa.array(~gone)).equals(table[name].filter(pa.array(~gone)))


def test_a_file_of_one_number(tmp_path):
    np.save(tmp_path / "a.npy", np.array(3.0))
    with pytest.raises(ValueError, match=r"a.npy holds one number \(shape \(\)\); expected an array of rows"):
        read(tmp_path / "a.npy")
