"""What columns can hold, each fact with its first row: against a loop over all cells, and the same for any cut."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abduce.data import facts
from abduce.data.facts import BELOW, FEW, FRACTION, ZERO, ColumnFacts, TableFacts

N = 60


def frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"real": rng.normal(size=N), "many": rng.integers(0, 40, N)})
    rows["grade"] = pd.array(rng.integers(0, 4, N), dtype="Int64")
    rows["word"] = rng.choice(["a", "b", "c", "rare"], N, p=[0.4, 0.3, 0.28, 0.02])
    rows["kind"] = pd.Categorical(rng.choice(["p", "q"], N), categories=["q", "p", "never"])
    rows["flag"] = pd.array(rng.random(N) < 0.1, dtype="boolean")
    rows["time"] = pd.Timestamp("2020") + pd.to_timedelta(rng.integers(0, 9, N), "D")
    rows["half"] = np.where(rng.random(N) < 0.05, 2.5, rng.integers(0, 3, N))
    rows["empty"] = np.nan
    for name in ("grade", "word", "kind", "flag", "half"):
        rows.loc[rng.random(N) < 0.3, name] = None
    return rows


def by_hand(rows: pd.DataFrame, name: str) -> tuple[dict, dict, bool]:
    """Values, facts of numbers, and whether the values are many, of a column, cell by cell."""
    values, numbers = {}, {}
    number = pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name])
    for i, value in enumerate(rows[name]):
        if pd.isna(value):
            continue
        values.setdefault(value, i)
        if number:
            for fact, shown in ((BELOW, value < 0), (ZERO, value == 0), (FRACTION, value != round(value))):
                if shown:
                    numbers.setdefault(fact, i)
    if BELOW in numbers:
        numbers.pop(ZERO, None)
    many = number and len(values) > FEW
    return (dict(list(values.items())[:2]) if many else values), numbers, many


def learnt(rows: pd.DataFrame, cuts: list[int]) -> list[ColumnFacts]:
    """Facts of rows that come in parts."""
    found = TableFacts()
    for a, b in itertools.pairwise([0, *sorted(cuts), len(rows)]):
        found.learn(np.arange(a, b), rows.iloc[a:b])
    return found.columns


@pytest.mark.parametrize("seed", range(5))
def test_each_is_found_where_it_first_is(seed):
    rows = frame(seed)
    for name, found in zip(rows.columns, TableFacts.of(rows).columns, strict=True):
        if name == "time":
            first, second = found.values.values()
            assert first == 0
            assert second == int(np.argmax(rows["time"] != rows["time"][0]))
        else:
            assert (found.values, found.numbers, found.many) == by_hand(rows, name), name


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 9), cuts=st.lists(st.integers(0, N), max_size=6))
def test_any_cut_is_the_same(seed, cuts):
    rows = frame(seed)
    rows["sparse"] = np.where(np.arange(N) % 7 == 5, np.arange(N) // 2, np.nan)
    rows["steady"] = np.where(np.arange(N) < 30, 5, np.arange(N))
    whole = learnt(rows, [])
    for name, one, other in zip(rows.columns, whole, learnt(rows, cuts), strict=True):
        assert (one.values, one.numbers, one.many) == (other.values, other.numbers, other.many), name


@pytest.mark.parametrize("seed", range(5))
def test_what_a_sample_lacks_is_found_and_no_more(seed):
    rows = frame(seed)
    rows["seldom"] = np.where(np.arange(N) % 3 == 1, np.arange(N) + 1.0, np.nan)  # blank in the sample
    rows["steady"] = np.where(np.arange(N) % 3 == 0, 5, np.arange(N))  # and this one does not vary there
    at = np.arange(0, N, 3)
    every, some = TableFacts.of(rows), TableFacts()
    some.learn(at, rows.iloc[at])
    lacking = every.lacking(some)
    assert not set(lacking) & set(at)
    both = np.sort([*at, *lacking])
    more = TableFacts()
    more.learn(both, rows.iloc[both])
    assert every.lacking(more) == []
    for facts_of_all, shown in zip(every.columns[-2:], more.columns[-2:], strict=True):
        assert facts_of_all.many
        assert len(shown.values) >= 2
    assert every.lacking(every) == []
    assert len(lacking) < 14


def test_a_column_of_many_texts_keeps_two(monkeypatch):
    monkeypatch.setattr(facts, "LEVELS", 20)
    names = pd.DataFrame({"id": [f"row {i}" for i in range(40)]})
    for cuts in ([], [15, 30], [1]):
        (found,) = learnt(names, cuts)
        assert found.many
        assert found.values == {"row 0": 0, "row 1": 1}
    assert TableFacts.of(names).lacking(TableFacts.of(names.iloc[20:])) == []


def test_new_rows_are_told_once():
    words = pd.DataFrame({"w": ["a", "b", "a", "c"], "o": [[1], [2], None, [3]]})
    found = TableFacts()
    assert found.learn(np.arange(4), words) == [0, 1, 3]
    assert found.learn(np.arange(4, 8), words) == []


def test_infinities_are_left_to_others():
    rows = pd.DataFrame({"x": [np.inf, 1.0, -np.inf, np.nan, 2.5]})
    (found,) = TableFacts.of(rows).columns
    assert (found.values, found.numbers) == ({1.0: 1, 2.5: 4}, {FRACTION: 4})


@pytest.mark.parametrize("dtype", ["float64", "Float64", "int64", "Int64", "uint8"])
def test_columns_that_can_tell_no_more_are_not_read(dtype, monkeypatch):
    """Numbers that are not below 0, of which a zero is known: only their least one is looked at."""
    rows = pd.DataFrame({"x": pd.array(np.arange(40) % 20, dtype=dtype)})
    if "loat" in dtype:
        rows.loc[3, "x"] = 0.5
    found = TableFacts.of(rows)
    monkeypatch.setattr(facts, "read_column", None)  # would fail
    assert found.learn(np.arange(40, 80), rows) == []
    if dtype != "uint8":
        monkeypatch.undo()
        rows.loc[7, "x"] = -1
        assert found.learn(np.arange(80, 120), rows) == [7]
        assert found.columns[0].numbers == {BELOW: 87} | ({FRACTION: 3} if "loat" in dtype else {})
