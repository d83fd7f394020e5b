"""Columns of text that are numbers but for a few cells: what is read so, what is not, and what comes back."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from abduce import Auto, GaussianMixture, load
from abduce.data.columns import read_column
from abduce.data.notes import describe_data
from abduce.data.readers import read, write
from abduce.data.schema import Schema
from abduce.data.spelled import slips, spelled_numbers

SLIPS = ["12,5x", "n/a?", "unknown"]


def texts(n: int = 400, decimals: int = 1) -> list[str]:
    return [f"{v:.{decimals}f}" for v in np.random.default_rng(0).normal(500, 100, n)]


def table(n: int = 400) -> pd.DataFrame:
    """Two columns that depend on each other, one of them text with slips and blanks."""
    rng = np.random.default_rng(1)
    size = rng.normal(500, 100, n).round(1)
    spelled = pd.Series([f"{v:.1f}" for v in size], dtype=object)
    spelled[[3, 50, 200]] = SLIPS
    spelled[[7, 8, 90]] = None
    return pd.DataFrame({"size": spelled, "price": (2 * size + rng.normal(0, 5, n)).round(2)})


def read_as(values: list[str]) -> bool:
    return spelled_numbers(read_column(pd.Series(values), "a")) is not None


def test_what_is_read_as_numbers():
    many = texts()
    assert read_as([*many, *SLIPS])
    assert read_as([" 1.50 ", "+2", "-3e4", ".5", *many])
    assert read_as([*texts(decimals=0), "unknown"])  # hundreds of whole numbers are no classes
    assert read_as([*many[:380], *[f"x{i}" for i in range(20)]])  # 5 %
    assert not read_as([*many[:379], *[f"x{i}" for i in range(21)]])
    assert not read_as([*texts(5000), *[f"x{i}" for i in range(60)]])  # more than 1 % of as many kinds
    assert read_as([*texts(5000), *(["unknown"] * 60)])
    assert not read_as([*map(str, [1, 2, 3, 4] * 100), "K"])  # grades, of which K is one
    assert not read_as([*texts(decimals=0), "02116"])  # names of places
    assert not read_as([f"{10**20 + i}" for i in range(400)])
    assert not read_as([text.replace(".", ",") for text in many])


def test_the_example_and_its_row_are_named():
    told = "3 cells hold no number, such as '12,5x' in row 3"
    assert slips(read_column(table()["size"], "size")) == told
    assert slips(read_column(pd.Series(texts()), "a")) == ""
    with pytest.warns(UserWarning, match=f"column 'size' is read as numbers, and {told}"):
        schema = Schema.infer(table())
    (note,) = [row["note"] for row in describe_data(schema, table()) if row["column"] == "size"]
    assert told in note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schema.infer(table(), kinds={"size": "identifier"})


@pytest.mark.parametrize("dtype", ["object", "str", "string"])
@pytest.mark.filterwarnings("ignore:column 'size' is read as numbers")
def test_slips_come_back_and_tell_nothing(dtype, tmp_path):
    frame = table().astype({"size": dtype})
    model = Auto(random_state=0).fit(frame)
    assert [f.kind for f in model.schema_.fields] == ["real", "real"]
    for answer in (
        model.fill(frame),
        *model.fill(frame, draws=2, random_state=0),
        *model.fill_interval(frame),
    ):
        assert answer["size"].dtype == frame["size"].dtype
        known = frame["size"].notna()
        assert answer["size"][known].tolist() == frame["size"][known].tolist()
        assert answer["size"].notna().all()
    filled = model.fill(frame)["size"][[7, 8, 90]].astype(float)
    np.testing.assert_allclose(filled, frame.price[[7, 8, 90]] / 2, atol=10)
    # a cell without a number tells as little as a blank, and is odder by the probability of what never came
    slip, blank = frame.iloc[[3]].assign(price=np.nan), frame.iloc[[7]].assign(price=np.nan)
    np.testing.assert_array_equal(model.fill(slip)["price"], model.fill(blank)["price"])
    seen = model.schema_.fields[0].seen
    assert seen == 394
    assert model.score_samples(slip)[0] == pytest.approx(-np.log(seen + 2))
    # the same numbers without slips, as a model of numbers
    plain = frame.assign(size=pd.to_numeric(frame["size"], errors="coerce"))
    other = Auto(random_state=0).fit(plain)
    np.testing.assert_allclose(other.fill(plain)["size"][[7, 8, 90]], filled, rtol=1e-12)
    np.testing.assert_array_equal(model.fill(plain)["size"], other.fill(plain)["size"])
    model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(load(tmp_path / "model").fill(frame), model.fill(frame))
    assert model.sample(3)["size"].dtype == frame["size"].dtype


@pytest.mark.filterwarnings("ignore:column 'size' is read as numbers")
def test_compression_keeps_the_spelling():
    frame = table()
    frame.loc[20, "size"] = "1.50"
    model = GaussianMixture(components=1, random_state=0).fit(frame)
    pd.testing.assert_frame_equal(model.decompress(model.compress(frame)), frame)


@pytest.mark.filterwarnings("ignore:column 'size' is read as numbers")
def test_a_file_comes_back_byte_for_byte(tmp_path):
    path = tmp_path / "homes.csv"
    frame = table()
    frame.loc[20, "size"] = " 1.50"
    frame.to_csv(path, index=False)
    model = Auto(random_state=0).fit(read(path))
    write(tmp_path / "filled.csv", model.fill(read(path)), like=path)
    before, after = path.read_text().splitlines(), (tmp_path / "filled.csv").read_text().splitlines()
    changed = [i - 1 for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert changed == [7, 8, 90]
    for i in changed:
        assert after[i + 1].endswith(before[i + 1])
        assert float(after[i + 1].split(",")[0]) == pytest.approx(frame.price[i] / 2, abs=10)
