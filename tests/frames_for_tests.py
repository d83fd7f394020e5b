"""What every filled table must be."""

from __future__ import annotations

import pandas as pd


def untouched(filled: pd.DataFrame, X: pd.DataFrame) -> None:
    """Same form, nothing blank, every observed cell as it was."""
    assert list(filled.columns) == list(X.columns)
    assert filled.index.equals(X.index)
    assert (filled.dtypes == X.dtypes).all()
    assert not filled.isna().any().any()
    for column in X:
        seen = X[column].notna()
        assert filled[column][seen].tolist() == X[column][seen].tolist()
