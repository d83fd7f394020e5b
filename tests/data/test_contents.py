"""What columns hold, each with the first row that shows it: against a loop over all rows, and the same for any cut."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abduce.data import contents
from abduce.data.contents import BELOW, FEW, FRACTION, ZERO, Contents

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


def by_hand(rows: pd.DataFrame, name: str) -> tuple[dict | None, dict]:
    """Classes and facts of a column, cell by cell."""
    classes, facts = {}, {}
    number = pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name])
    for i, value in enumerate(rows[name]):
        if pd.isna(value):
            continue
        classes.setdefault(value, i)
        if number:
            for fact, shown in ((BELOW, value < 0), (ZERO, value == 0), (FRACTION, value != round(value))):
                if shown:
                    facts.setdefault(fact, i)
    if BELOW in facts:
        facts.pop(ZERO, None)
    return (None if number and len(classes) > FEW else classes), facts


@pytest.mark.parametrize("seed", range(5))
def test_each_is_found_where_it_first_is(seed):
    rows = frame(seed)
    held = Contents.of(0, rows).held
    for name in rows.columns.drop("time"):
        assert (held[name].classes, held[name].facts) == by_hand(rows, name), name
    assert held["time"].classes is None
    assert not held["time"].facts


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9), cuts=st.lists(st.integers(0, N), max_size=5), order=st.randoms())
def test_any_cut_and_any_order_of_merging_is_the_same(seed, cuts, order):
    rows = frame(seed)
    whole = Contents.of(0, rows).held
    ends = [0, *sorted(cuts), N]
    parts = [Contents.of(a, rows.iloc[a:b]) for a, b in itertools.pairwise(ends)]
    step_by_step = Contents()
    for a, b in itertools.pairwise(ends):
        step_by_step.add(np.arange(a, b), rows.iloc[a:b])
    assert step_by_step.held == whole
    order.shuffle(parts)
    assert functools.reduce(Contents.merge, parts).held == whole


def test_what_a_sample_lacks_is_found_and_no_more():
    rows = frame()
    at = np.arange(0, N, 3)
    every, some = Contents.of(0, rows), Contents()
    some.add(at, rows.iloc[at])
    lacking = every.lacking(some)
    assert not set(lacking) & set(at)
    both = np.sort([*at, *lacking])
    more = Contents()
    more.add(both, rows.iloc[both])
    assert every.lacking(more) == []
    for name, held in every.held.items():
        assert set(held.facts) == set(more.held[name].facts)
        assert held.classes is None or set(held.classes) == set(more.held[name].classes)
    assert every.lacking(every) == []
    assert len(lacking) < 12


def test_a_column_of_many_texts_holds_none(monkeypatch):
    monkeypatch.setattr(contents, "LEVELS", 20)
    names = pd.DataFrame({"id": [f"row {i}" for i in range(40)]})
    assert Contents.of(0, names).held["id"].classes is None
    parts = [Contents.of(start, names.iloc[start : start + 15]) for start in (0, 15)]
    assert parts[0].merge(parts[1]).held["id"].classes is None
    assert parts[0].merge(parts[1]).lacking(Contents()) == []


def test_new_rows_are_told_once():
    words = pd.DataFrame({"w": ["a", "b", "a", "c"]})
    found = Contents()
    assert found.add(np.arange(4), words) == [0, 1, 3]
    assert found.add(np.arange(4, 8), words) == []
