"""Which likelihood each column gets: the names, the kinds that each fits, and what was asked for.

Numbers, pixels and counts have several that fit, each for its own sort of noise; ``"auto"`` takes the first named for a
kind in ``AUTO``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from abduce.data.fields import Field, listing
from abduce.data.schema import Schema

FITS = {
    "gaussian": ("real", "positive", "pixel"),
    "student_t": ("real", "positive", "pixel"),
    "laplace": ("real", "positive", "pixel"),
    "lognormal": ("positive",),
    "discretized_logistic": ("pixel",),
    "discretized_logistic_mixture": ("pixel",),
    "continuous_bernoulli": ("pixel",),
    "beta_binomial": ("pixel", "count"),
    "negative_binomial": ("count",),
    "poisson": ("count",),
    "bernoulli": ("binary",),
    "ordinal": ("ordinal",),
    "categorical": ("categorical", "ordinal"),
}
AUTO = {
    "real": "gaussian",
    "positive": "gaussian",  # of the logarithm, which is the log-normal of the value
    "pixel": "gaussian",
    "count": "negative_binomial",
    "binary": "bernoulli",
    "ordinal": "ordinal",
    "categorical": "categorical",
}
LIKELIHOODS = ("auto", *FITS)


def choose_likelihoods(schema: Schema, likelihood: str | Mapping[Any, str] = "auto") -> list[str]:
    """Name the likelihood of each field.

    One name is for all columns that it fits, the others keep the default of their kind; a mapping goes from columns (by
    name; of arrays by position too) to names.  ValueError where a name is unknown or fits nothing, or a column is not there.

    >>> import numpy as np
    >>> schema = Schema.infer(np.array([[0.5, 0], [1.5, 1], [0.3, 1]]))
    >>> choose_likelihoods(schema, {"x0": "student_t"})
    ['student_t', 'bernoulli']
    """
    out = [AUTO[f.kind] for f in schema.fields]
    if not isinstance(likelihood, Mapping):
        _check_name(likelihood)
        if likelihood == "auto":
            return out
        if not any(f.kind in FITS[likelihood] for f in schema.fields):
            kinds = sorted({f.kind for f in schema.fields})
            raise ValueError(
                f"likelihood: {likelihood!r} fits no column; it is for the kinds {', '.join(FITS[likelihood])}, "
                f"the columns are {', '.join(kinds)}"
            )
        return [
            likelihood if f.kind in FITS[likelihood] else name
            for f, name in zip(schema.fields, out, strict=True)
        ]
    for key, name in likelihood.items():
        place = _place(schema, key)
        field = schema.fields[place]
        _check_name(name, key)
        if name == "auto":
            continue
        if field.kind not in FITS[name]:
            raise ValueError(
                f"likelihood: {name!r} does not fit the column {field.name!r} of kind {field.kind}, "
                f"which takes {', '.join(fitting(field))}"
            )
        out[place] = name
    return out


def by_name(schema: Schema, likelihood: str | Mapping[Any, str]) -> str | dict[str, str]:
    """What was asked for in a form that JSON can hold: columns by name; ValueError where it can't be had."""
    choose_likelihoods(schema, likelihood)
    if not isinstance(likelihood, Mapping):
        return likelihood
    return {schema.fields[_place(schema, key)].name: name for key, name in likelihood.items()}


def fitting(field: Field) -> list[str]:
    """The names that fit a column."""
    return [name for name, kinds in FITS.items() if field.kind in kinds]


def _check_name(name: Any, key: Any = None) -> None:
    if name not in LIKELIHOODS:
        where = "" if key is None else f" for the column {key!r}"
        raise ValueError(
            f"likelihood: unknown name {name!r}{where}; expected one of {', '.join(LIKELIHOODS)}"
        )


def _place(schema: Schema, key: Any) -> int:
    names = [f.name for f in schema.fields]
    if str(key) in names:
        return names.index(str(key))
    whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if whole and schema.container != "frame" and 0 <= key < len(names):
        return int(key)
    for field in schema.left_out:
        if field.name == str(key):
            raise ValueError(
                f"likelihood names the column {key!r}, which the model leaves out (kind {field.kind})"
            )
    raise ValueError(
        f"likelihood names the column {key!r}, which is not there; columns are {listing(names, 10)}"
    )
