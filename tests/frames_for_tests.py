"""A table of every kind of column, and what every filled table must be."""

from __future__ import annotations

import numpy as np
import pandas as pd


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    """A table of ``n`` rows of every kind of column, with blanks."""
    rng = np.random.default_rng(seed)
    mood = rng.normal(size=n)
    out = pd.DataFrame(
        {
            "id": [f"u{seed}-{i}" for i in range(n)],
            "visits": rng.poisson(np.exp(1 + 0.5 * mood)),
            "clicks": rng.poisson(200 * rng.gamma(1.0, size=n)),
            "height": np.round(170 + 8 * mood + rng.normal(size=n), 1),
            "income": np.round(np.exp(3 + mood + rng.normal(size=n)) + 0.01, 2),
            "city": rng.choice(["Rome", "Oslo", "Lima", "Cairo"], n),
            "member": rng.random(n) < 0.4,
            "age": pd.array(np.where(rng.random(n) < 0.2, None, rng.integers(0, 90, n)), dtype="Int64"),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**9, n), unit="s"),
            "size": pd.Categorical(rng.choice(["s", "m", "l"], n), categories=["s", "m", "l"], ordered=True),
        }
    )
    for column, share in (("height", 0.2), ("city", 0.1), ("since", 0.1), ("size", 0.1)):
        out.loc[rng.random(n) < share, column] = None
    return out


def untouched(filled: pd.DataFrame, X: pd.DataFrame) -> None:
    """Same form, nothing blank, every observed cell as it was."""
    assert list(filled.columns) == list(X.columns)
    assert filled.index.equals(X.index)
    assert (filled.dtypes == X.dtypes).all()
    assert not filled.isna().any().any()
    for column in X:
        seen = X[column].notna()
        assert filled[column][seen].tolist() == X[column][seen].tolist()
