"""The words of the data room: what one column (or all pixels of an image) is.

A data container becomes one matrix of `n` rows by `D` cells. A `Field` says what a cell holds and how a data
value `v` becomes a model value `m`, by its `Field.transform`:

    real, pixel                    m = (v - loc) / scale
    positive                       m = (log v - loc) / scale
    count                          m = v
    binary, ordinal, categorical   m = code of v, 0..K-1
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np

from abduce.data.transform import Affine, Joined, Log, Transform, Whole, index_of, joined
from abduce.declared import conform

KINDS = ("real", "positive", "count", "binary", "ordinal", "categorical", "pixel")
CODED = ("binary", "ordinal", "categorical")
WHOLE = (*CODED, "count")
LEFT_OUT = ("identifier", "constant", "empty", "objects")

_FAR = 1e100  # model values from here on have squares that are no numbers
_NOTES = {
    "identifier": "left out: names a row rather than describing it",
    "constant": "left out: the same text in every row",
    "empty": "left out: no value in any row",
    "objects": "left out: holds no numbers, text or dates",
}


@dataclass(frozen=True)
class Field:
    """Describe one column, or the pixels of all images.

    Parameters
    ----------
    name : column name; `x0`, `x1`, ... for arrays, `pixel` for images.
    kind : one of `KINDS`, or of `LEFT_OUT` for a column kept out of the model.
    dtype : dtype of the column as it came in.
    categories : values by code for coded kinds (str, int, float or bool), else None.
    loc, scale : the map to model values above, in data units (log data units if positive).
    denominator : values are k / denominator for integers k; None if they are on no such lattice.
        Dates and durations are counted in days (dates: since 1970-01-01).
    low, high : observed range in data units (for pixels: of all levels); NaN if nothing was observed.
    missing : share of cells missing in the training data.
    seen : number of cells observed in the training data.
    bounds : least and greatest value that may ever be filled in or drawn, in data units; None where there is none.

    Examples
    --------
    >>> Field("age", "real", "int64", loc=40.0, scale=10.0, denominator=1).kind
    'real'
    """

    name: str
    kind: str
    dtype: str
    categories: tuple | None = None
    loc: float = 0.0
    scale: float = 1.0
    denominator: int | None = None
    low: float = math.nan
    high: float = math.nan
    missing: float = 0.0
    seen: int = 0
    bounds: tuple[float, float] | None = None

    @property
    def coded(self) -> bool:
        """Tell whether model values are codes of `categories`."""
        return self.kind in CODED

    @property
    def temporal(self) -> bool:
        """Tell whether the column holds dates or durations (counted in days)."""
        return self.dtype.startswith(("datetime64", "timedelta64"))

    @property
    def integral(self) -> bool:
        """Tell whether the column's dtype holds whole numbers only."""
        name = self.dtype.lower()
        return name.startswith(("int", "uint")) or name == "object[int]"

    @property
    def spelled(self) -> bool:
        """Tell whether the numbers are those of a column of text (:mod:`abduce.data.spelled`)."""
        text = self.dtype == "object" or self.dtype.startswith(("str", "arrow:", "large_string"))
        return text and self.seen > 0 and self.kind in KINDS and not self.coded

    @cached_property
    def transform(self) -> Transform:
        """The map from data values, codes of coded kinds, to model values."""
        if self.kind in CODED:
            return Whole(np.array([len(self.categories or ()) - 1.0]))
        if self.kind == "count":
            return Whole(np.array([np.inf]))
        if self.kind == "positive":
            return Log(np.array([self.loc]), np.array([self.scale]))
        if self.kind == "pixel" and not math.isnan(self.low):
            return Affine.of(self.loc, self.scale, self.low, self.high)
        return Affine.of(self.loc, self.scale)

    @property
    def line(self) -> tuple[float, float] | None:
        """``(loc, scale)`` where the data's numbers are loc + scale · model value, a binary column's too; else None."""
        if self.kind == "binary":
            try:
                low, high = (float(v) for v in self.categories or (0, 1))
            except ValueError:
                return None
            return low, high - low
        return None if self.transform.line is None else (self.loc, self.scale)

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest lattice code: of all classes or levels, of other numbers as seen in training."""
        if self.coded:
            return 0, len(self.categories or ()) - 1
        if math.isnan(self.low):
            return 0, 0
        low, high = (round(v * (self.denominator or 1)) for v in (self.low, self.high))
        return (0 if self.kind == "count" else low), high

    @property
    def levels(self) -> int | None:
        """Number of values a cell can take: K of a coded kind, the levels of a pixel, else None."""
        if self.categories is not None:
            return len(self.categories)
        if self.kind == "pixel" and self.denominator is not None:
            return self.ends[1] - self.ends[0] + 1
        return None

    @property
    def half(self) -> float:
        """Half the step between the levels of a pixel, in model units; 0 of other kinds."""
        return 1 / (2 * (self.denominator or 1) * self.scale) if self.kind == "pixel" else 0.0

    @property
    def constant(self) -> bool:
        """Tell whether all observed numbers were one value."""
        return self.kind in ("real", "positive") and self.low == self.high

    @property
    def stops(self) -> tuple[float, float]:
        """Least and greatest value that an answer may have, in data units; infinite where there is none.

        A constant is itself, and what was never negative stays so; ``bounds`` say it of all else.
        """
        if self.coded or self.kind == "pixel":
            return -math.inf, math.inf
        if self.constant:
            return self.low, self.high
        if self.bounds is not None:
            return self.bounds
        return (0.0 if self.low >= 0 and not self.dtype.startswith("datetime64") else -math.inf), math.inf

    @property
    def whole(self) -> bool:
        """Tell whether numbers of a data frame's column that could have had parts were whole in every row."""
        return self.kind in ("real", "positive") and self.denominator == 1 and not self.temporal

    @property
    def log_novel(self) -> float:
        """Log-probability, or log density, of an observed value that the field has no model value for, nats.

        By Laplace's rule of succession, what never came in n cells has the probability 1 / (n + 2); of a positive column it
        is spread over the range seen.
        """
        spread = self.high - self.low if self.kind == "positive" and self.high > self.low else 1.0
        return -math.log(self.seen + 2) - math.log(spread)

    def to_json(self) -> dict[str, Any]:
        """Turn into plain JSON values; NaN becomes null."""
        out = asdict(self)
        if self.bounds is not None:
            out["bounds"] = [v if math.isfinite(v) else None for v in self.bounds]
        out["categories"] = None if self.categories is None else list(self.categories)
        for key in ("low", "high"):
            out[key] = None if math.isnan(out[key]) else out[key]
        return out

    @classmethod
    def from_json(cls, data: Any, place: str = "field") -> Field:
        """Rebuild a field from `to_json`; ValueError naming the ``place`` for keys or values that make none."""
        conform(data, _FieldJson, place)
        out: dict[str, Any] = dict(data)
        for key in ("low", "high"):
            out[key] = math.nan if out[key] is None else float(out[key])
        if out["bounds"] is not None:
            low, high = out["bounds"]
            out["bounds"] = (-math.inf if low is None else low, math.inf if high is None else high)
        if out["categories"] is not None:
            out["categories"] = tuple(out["categories"])
        rules = {
            "kind": (out["kind"] in KINDS + LEFT_OUT, f"one of {KINDS + LEFT_OUT}"),
            "scale": (out["scale"] > 0, "above 0"),
            "denominator": (out["denominator"] is None or out["denominator"] > 0, "above 0"),
            "missing": (0 <= out["missing"] <= 1, "in [0, 1]"),
            "seen": (out["seen"] >= 0, "at least 0"),
            "high": (not out["high"] < out["low"], "no less than low"),
            "bounds": (out["bounds"] is None or out["bounds"][0] <= out["bounds"][1], "low, then high"),
            "categories": _categories_rule(out["kind"], out["categories"]),
        }
        for key, (good, expected) in rules.items():
            if not good:
                raise ValueError(f"{place}.{key} must be {expected}, got {data[key]!r}")
        field = cls(**out)
        if field.kind in ("real", "positive", "pixel") and not math.isnan(field.low):
            with np.errstate(all="ignore"):
                ends = field.transform.to(np.array([[field.low], [field.high]]))
            if not (np.abs(ends) < _FAR).all():
                raise ValueError(
                    f"{place}: loc {field.loc!r} and scale {field.scale!r} do not go with a range of {field.low!r} to"
                    f" {field.high!r}"
                )
        return field

    def describe(self) -> dict[str, Any]:
        """Summarise for a reader: column, kind, dtype, missing, range or categories, a note."""
        if self.categories is not None:
            shown = ", ".join(str(c) for c in self.categories[:6])
            extent = shown + (f", ... ({len(self.categories)} values)" if len(self.categories) > 6 else "")
        elif math.isnan(self.low):
            extent = ""
        elif self.temporal:
            second = np.timedelta64(1, "s")
            ends = [np.int64(round(v * 86400)) * second for v in (self.low, self.high)]
            if self.dtype.startswith("datetime64"):
                ends = [np.datetime64("1970-01-01") + v for v in ends]
            extent = " to ".join(map(str, ends))
        else:
            extent = f"{self.low:.6g} to {self.high:.6g}"
        note = _NOTES.get(self.kind, "")
        if not note and self.missing == 1.0:
            note = "no value in any row: filled from the prior"
        elif not note and self.low == self.high:
            note = "one value only"
        elif not note and self.denominator not in (None, 1) and not self.coded:
            note = f"steps of 1/{self.denominator}" + (" day" if self.temporal else "")
        known = {"column": self.name, "kind": self.kind, "dtype": self.dtype, "missing": self.missing}
        return known | {"range": extent, "note": note}


class _FieldJson(TypedDict):
    """What :meth:`Field.to_json` gives."""

    name: str
    kind: str
    dtype: str
    categories: list[bool | int | float | str] | None
    loc: float
    scale: float
    denominator: int | None
    low: float | None
    high: float | None
    missing: float
    seen: int
    bounds: tuple[float | None, float | None] | None


def _categories_rule(kind: str, categories: tuple | None) -> tuple[bool, str]:
    """Whether categories go with a kind, and which would."""
    if kind == "binary":
        return categories is None or len(set(categories)) == 2, "two values or none"
    if kind in CODED:
        return bool(categories) and len(set(categories or ())) == len(categories or ()), "values, each once"
    return categories is None or kind in LEFT_OUT, f"null for kind {kind!r}"


@dataclass(frozen=True, eq=False)
class Group:
    """Cells of one kind: their positions in 0..D-1 and a field for each (one shared field for images)."""

    kind: str
    cells: np.ndarray
    fields: tuple[Field, ...]

    @cached_property
    def index(self) -> slice | np.ndarray:
        """What picks the cells from the last axis of an array, without a copy where they follow each other."""
        return index_of(self.cells)

    @cached_property
    def transform(self) -> Transform:
        """The map from data values of these cells (..., d) to model values."""
        return joined([f.transform for f in self.fields])


def grouped(fields: Sequence[Field], n_cells: int) -> list[Group]:
    """Gather cells of one kind, in the order of `KINDS`; one field may stand for all cells."""
    if len(fields) == 1:
        return [Group(fields[0].kind, np.arange(n_cells), tuple(fields))]
    kinds = np.array([f.kind for f in fields])
    places = [(kind, np.flatnonzero(kinds == kind)) for kind in KINDS]
    return [Group(kind, cells, tuple(fields[int(j)] for j in cells)) for kind, cells in places if cells.size]


def side_by_side(groups: Sequence[Group], n_cells: int) -> Transform:
    """The transform of all cells of a row."""
    if len(groups) == 1:
        return groups[0].transform
    return Joined(tuple((group.index, group.transform) for group in groups), n_cells)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listing(values: Any, most: int = 5) -> str:
    """Write a few values for an error message.

    >>> listing(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    values = list(values)
    shown = ", ".join(_shorten(v) for v in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
