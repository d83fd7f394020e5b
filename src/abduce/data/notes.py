"""What the values of a column say about how it will be read, beyond its kind: spikes, heavy tails, names of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from abduce.data.columns import read_column
from abduce.data.fields import CODED, Field
from abduce.data.schema import Schema
from abduce.data.spelled import slips

SPIKE = 0.1  # share of the observed cells from which on one value is worth a word
FEW = 12  # distinct values; of fewer, each is frequent
LEAST = 40  # observed cells; fewer say nothing about a shape
SKEWNESS = 2.0
KURTOSIS = 6.0  # in excess of a normal distribution's: a Laplace distribution has 3, an exponential 6


def describe_data(schema: Schema, X: Any) -> list[dict[str, Any]]:
    """List each column as :meth:`Schema.describe` does, its note completed by what the values of X say.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"gain": [0.0] * 70 + [float(k) for k in range(1, 31)]})
    >>> describe_data(Schema.infer(frame), frame)[0]["note"]
    '0 in 70 % of the cells'
    """
    rows = schema.describe()
    if schema.container == "image":
        return rows
    found: dict[str, list[str]] = {}
    values, observed = schema.encode(X)
    data = schema.transform.back(values)
    for j, field in enumerate(schema.fields):
        if field.kind not in CODED:
            found[field.name] = _of_numbers(field, data[observed[:, j], j])
    labels = {str(label): label for label in schema.order}
    for field in schema.fields:
        if field.spelled and (told := slips(read_column(X[labels[field.name]], field.name))):
            found[field.name].append(told)
    for field in schema.left_out:
        if field.kind == "identifier":
            column = X[labels[field.name]].dropna()
            found[field.name] = [f"{column.nunique()} values in {len(column)} rows"]
    for row in rows:
        row["note"] = "; ".join(filter(None, [row["note"], *found.get(row["column"], [])]))
    return rows


def _of_numbers(field: Field, v: np.ndarray) -> list[str]:
    """Words about the observed values of a column of numbers, in data units."""
    out = ["counted in days"] if field.temporal else []
    if len(v) < LEAST or v.min() == v.max():
        return out
    distinct, count = np.unique(v, return_counts=True)
    top = int(count.argmax())
    rest = v
    if len(distinct) > FEW and count[top] >= SPIKE * len(v):
        value = "one value" if field.temporal else f"{distinct[top]:.6g}"
        out.append(f"{value} in {100 * count[top] / len(v):.0f} % of the cells")
        rest = v[v != distinct[top]]
    if len(distinct) > FEW and _heavy(rest):
        out.append("heavy tail: read by normal scores too")
    return out


def _heavy(v: np.ndarray) -> bool:
    """Whether values beside a spike lie far out, on one side or both."""
    if len(v) < LEAST:
        return False
    z = (v / np.abs(v).max()) - np.mean(v / np.abs(v).max())
    spread = float(np.mean(z**2))
    if spread < 1e-30:
        return False
    skewness, kurtosis = np.mean(z**3) / spread**1.5, np.mean(z**4) / spread**2 - 3
    return bool(abs(skewness) > SKEWNESS or kurtosis > KURTOSIS)
