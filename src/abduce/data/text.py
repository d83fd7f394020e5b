"""Tables of text: every cell as it is written, the column of values that it means, and text for values that are new.

A blank is an empty field, one of spaces, or one of the words that the caller names.  Everything else is a value, and its
text is kept: ``1.50``, ``true`` or ``02116`` come back as they were.  What a column means follows from all of its cells:

    Int64, UInt64   whole numbers without leading zeros
    Float64         numbers with a decimal point, or all with a decimal comma
    boolean         true and false, in any case
    string          anything else: zero-padded digits, and digits beyond 64 bits, are text
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pc

from abduce.data.dialect import Dialect, odd_line, opened, sniff, usual
from abduce.data.fields import listing
from abduce.data.files import Clear

_c: Any = pyarrow.compute
_BLOCK = 2**20  # bytes read at a time, more of wide tables; no row may be longer
_WHOLE = r"^[+-]?(?:0|[1-9]\d*)$"
_POWER = r"(?:[eE][+-]?\d+)?$"
_NUMBER = (
    r"^[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+|(?i:inf(?:inity)?))" + _POWER
)  # models refuse infinity by name
_COMMA = r"^[+-]?(?:(?:0|[1-9]\d*)(?:,\d*)?|,\d+)" + _POWER
_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"  # or a number with three decimals
_FLAG = r"^(?i:true|false)$"
# Words for a blank in other programs: they are text here, and said to be where a column holds numbers beside them.
_WORDS = (
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "NaN",
    "nan",
    "NULL",
    "Null",
    "null",
    "None",
    "none",
    "-",
    "--",
    "?",
    ".",
)


class NoRows(Clear):
    """A table has a header and nothing below it."""


@dataclass
class Meaning:
    """What the cells of a column may still mean, of those looked at so far."""

    forms: set[str] = field(
        default_factory=lambda: {"Int64", "UInt64", "digits", "Float64", "comma", "boolean"}
    )
    decimals: bool = False  # a comma that cannot part thousands
    seen: bool = False
    beside: set[str] | None = None  # forms of all cells but the words above
    words: set[str] = field(default_factory=set)

    def look(self, cells: Any, blank: Any) -> None:
        """Take note of some cells; which of them are ``blank`` is known."""
        known = _c.utf8_trim_whitespace(cells.filter(_c.invert(blank)))
        if not len(known):
            return
        self.seen = True
        before = set(self.forms)
        self.forms &= self._forms_of(known, self.forms)
        if self.forms or not (before or self.beside):
            return
        self.beside = before if self.beside is None else self.beside
        word = _c.is_in(known, pa.array(_WORDS))
        self.words |= set(_c.unique(known.filter(word)).to_pylist())
        rest = known.filter(_c.invert(word))
        self.beside &= self._forms_of(rest, self.beside) if len(rest) else self.beside

    def join(self, other: Meaning) -> None:
        """Take note of what cells elsewhere may mean, as if they had been looked at here."""
        self.forms &= other.forms
        self.decimals, self.seen = self.decimals | other.decimals, self.seen | other.seen
        self.words |= other.words
        if other.beside is not None:
            self.beside = other.beside if self.beside is None else self.beside & other.beside

    def _forms_of(self, cells: Any, wanted: set[str]) -> set[str]:
        out: set[str] = set()
        if wanted & {"Int64", "UInt64", "digits"} and _all(cells, _WHOLE):
            out = {"digits", "Float64", "comma"}
            for form, kind in (("Int64", pa.int64()), ("UInt64", pa.uint64())):
                if form in wanted:
                    try:
                        _cast(cells, kind)
                        out.add(form)
                    except pa.ArrowInvalid:
                        pass
            return out
        if "Float64" in wanted and _all(cells, _NUMBER):
            out.add("Float64")
        if "comma" in wanted and _all(cells, _COMMA):
            out.add("comma")
            with_comma = cells.filter(_c.match_substring(cells, ","))
            self.decimals |= len(with_comma) > 0 and not _all(with_comma, _THOUSANDS)
        if "boolean" in wanted and _all(cells, _FLAG):
            out.add("boolean")
        return out

    def form(self, separator: str) -> str:
        """The form of the whole column; a column without a value holds whole numbers."""
        for form in ("Int64", "UInt64", "digits", "Float64"):
            if form in self.forms:
                return "string" if form == "digits" else form
        # 1,234 alone is a number with decimals where semicolons part the fields, as they do where commas are decimal
        if "comma" in self.forms and (self.decimals or separator == ";"):
            return "comma"
        return "boolean" if "boolean" in self.forms else "string"


def _all(cells: Any, pattern: str) -> bool:
    return bool(_c.all(_c.match_substring_regex(cells, pattern)).as_py())


def _cast(cells: Any, kind: pa.DataType) -> Any:
    """Numbers of text; a plus sign says nothing."""
    if _c.any(_c.starts_with(cells, "+")).as_py():
        cells = _c.replace_substring_regex(cells, r"^\+", "")
    return cells.cast(kind)


# ---------------------------------------------------------------- in


class TextFile:
    """A CSV or TSV file, packed or not, as a table of the text of its cells; ``na`` are words that mean a blank.

    ``names`` tell its columns apart: the header's, numbered where one is missing or comes twice.  ValueError naming the path
    and the line for a file that cannot be read.
    """

    def __init__(self, path: Path, suffix: str, na: Iterable[str] = ()):
        self.path, self.suffix = path, suffix
        words = [na] if isinstance(na, str) else list(na)
        if not all(isinstance(word, str) for word in words):
            raise Clear(f"na must be words that mean a blank, got {listing(words)}")
        self.na = sorted({"", *(word.strip() for word in words)})
        self.dialect = sniff(path, suffix)
        self.names = _apart(self.dialect.header)
        self.meanings: dict[str, Meaning] = {name: Meaning() for name in self.names}

    @property
    def schema(self) -> pa.Schema:
        """All of its columns are text."""
        return pa.schema([(name, pa.string()) for name in self.names])

    def dialect_of(self, suffix: str) -> Dialect:
        """The dialect of an answer in a file of a suffix: its own, but for the separator where the suffix has another."""
        if usual(suffix) == usual(self.suffix):
            return self.dialect
        return replace(self.dialect, separator=usual(suffix))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The cells as text, some rows at a time."""
        read = pc.ReadOptions(
            use_threads=False,
            block_size=self._block(),
            column_names=self.names,
            skip_rows=self.dialect.skipped,
            skip_rows_after_names=1,
        )
        # A line without a character is a row of one blank, or no row.
        parse = pc.ParseOptions(
            delimiter=self.dialect.separator, newlines_in_values=True, ignore_empty_lines=len(self.names) > 1
        )
        convert: Any = pc.ConvertOptions(
            column_types=dict.fromkeys(self.names, pa.string()), strings_can_be_null=False
        )
        last = None
        with opened(self.path) as file:
            try:
                for last in pc.open_csv(file, read, parse, convert):
                    yield last
            except pa.ArrowInvalid as error:
                raise self._clear(str(error)) from error
        if last is not None and len(last) and "\n" in last.column(len(self.names) - 1)[-1].as_py():
            with opened(self.path) as file:  # the last cell goes over lines, so its quote must end the file
                if not b"".join(deque(file, 2)).rstrip().endswith(b'"'):
                    raise ValueError("a quote is never closed")

    def _block(self) -> int:
        return max(_BLOCK, 64 * len(self.names), 16 * sum(map(len, self.dialect.header)))

    def _clear(self, reason: str) -> Exception:
        if "UTF8" in reason:
            return ValueError("it is not utf-8 text; save it as UTF-8, for example with iconv -t utf-8")
        if "straddling" in reason:
            return ValueError(f"a row is longer than {self._block()} bytes, or a quote is never closed")
        if "Empty CSV" in reason:
            return NoRows(f"{self.path} has no rows")
        return ValueError(odd_line(self.path, self.dialect) or reason)

    def look(self, table: Any) -> None:
        """Take note of what the cells of some rows mean."""
        for name, cells in zip(self.names, table.columns, strict=True):
            self.meanings[name].look(cells, self.blank(cells))

    def blank(self, cells: Any) -> Any:
        """Which cells are blank."""
        return _c.is_in(_c.utf8_trim_whitespace(cells), pa.array(self.na))

    def warn(self) -> None:
        """Say which columns would be numbers but for words that stand for a blank elsewhere."""
        for name, meaning in self.meanings.items():
            if not meaning.forms and meaning.beside and meaning.words:
                words = sorted(meaning.words)
                warnings.warn(
                    f"{self.path}: column {name!r} is text because of {listing(words)} among "
                    f"{'flags' if meaning.beside == {'boolean'} else 'numbers'}; if that means a blank, "
                    f"say so with na={words} (--na {words[0]})",
                    UserWarning,
                    stacklevel=3,
                )

    def form(self, name: str) -> str:
        """What a column of the whole file holds."""
        return self.meanings[name].form(self.dialect.separator)

    def frame(self, table: Any) -> pd.DataFrame:
        """The values that the cells of some rows mean."""
        columns = {name: self._values(table.column(j), name) for j, name in enumerate(self.names)}
        frame = pd.DataFrame(columns)
        frame.columns = pd.Index(self.names)
        return frame

    def _values(self, cells: Any, name: str) -> Any:
        form = self.form(name)
        known = _c.if_else(self.blank(cells), None, cells)
        if form == "string":
            return pd.array(known.to_pandas(types_mapper=lambda _: pd.StringDtype()).array, dtype="string")
        known = _c.utf8_trim_whitespace(known)
        if form == "boolean":
            return _nullable(_c.equal(_c.utf8_lower(known), "true"), pd.BooleanDtype())
        if form == "comma":
            return _nullable(_cast(_c.replace_substring(known, ",", "."), pa.float64()), pd.Float64Dtype())
        kinds: dict[str, Any] = {"Int64": pa.int64(), "UInt64": pa.uint64(), "Float64": pa.float64()}
        return _nullable(_cast(known, kinds[form]), pd.api.types.pandas_dtype(form))


def _nullable(values: Any, dtype: Any) -> Any:
    return values.to_pandas(types_mapper=lambda _: dtype).array


def _apart(header: tuple[str, ...]) -> list[str]:
    """Names that tell columns apart, as pandas makes them: ``Unnamed: 0`` for none, ``a.1`` for a second ``a``."""
    names: list[str] = []
    taken = set(header)
    for place, given in enumerate(header):
        name = given or f"Unnamed: {place}"
        again = 0
        while name in names or (again and name in taken):
            again += 1
            name = f"{given or f'Unnamed: {place}'}.{again}"
        names.append(name)
    return names


# ---------------------------------------------------------------- out


def unchanged(before: pd.Series, after: pd.Series) -> np.ndarray:
    """Which cells hold the same value in two columns, whatever their dtypes, bool (n,); a blank is like none."""
    there = before.notna().to_numpy(dtype=bool) & after.notna().to_numpy(dtype=bool)
    both = (before.dtype, after.dtype)
    if all(pd.api.types.is_integer_dtype(dtype) for dtype in both) and before.dtype == after.dtype:
        plain = str(before.dtype).lower()
        left, right = (s.to_numpy(dtype=plain, na_value=0) for s in (before, after))
    elif all(pd.api.types.is_numeric_dtype(d) and not pd.api.types.is_bool_dtype(d) for d in both):
        left, right = (s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (before, after))
    else:
        left, right = before.to_numpy(dtype=object), after.to_numpy(dtype=object)
        out = np.zeros(len(there), dtype=bool)
        out[there] = left[there] == right[there]
        return out
    return there & (left == right)


def rewritten(cells: Any, before: Any, after: Any, form: str) -> Any:
    """Text of a column's new values, an object array (n,): the old ``cells`` where its value is as before, or blank now."""
    text = cells.to_numpy() if isinstance(cells, pa.ChunkedArray) else cells.to_numpy(zero_copy_only=False)
    text = text.astype(object)
    fresh = ~unchanged(before, after) & after.notna().to_numpy(dtype=bool)
    if fresh.any():
        text[fresh] = _spelled(after[fresh], form, text[before.notna().to_numpy(dtype=bool)])
    return text


def _spelled(values: pd.Series, form: str, known: np.ndarray) -> np.ndarray:
    """Values as text: flags as the file spells its own, numbers with its decimal mark."""
    if form == "boolean" and pd.api.types.is_bool_dtype(values.dtype):
        spelling = {word.strip().lower(): word.strip() for word in known[:1000][::-1]}
        yes = spelling.get("true") or _like("true", spelling.get("false", "False"))
        no = spelling.get("false") or _like("false", spelling.get("true", "True"))
        return np.where(values.to_numpy(dtype=bool), yes, no).astype(object)
    if pd.api.types.is_float_dtype(values.dtype):
        out = values.to_numpy(dtype=np.float64).astype(str).astype(object)
        return np.char.replace(out.astype(str), ".", ",").astype(object) if form == "comma" else out
    return values.astype(str).to_numpy(dtype=object)


def _like(word: str, other: str) -> str:
    """A word in the case of another.

    >>> _like("true", "FALSE"), _like("true", "False"), _like("true", "false")
    ('TRUE', 'True', 'true')
    """
    return word.upper() if other.isupper() else word.capitalize() if other[:1].isupper() else word


def restored(source: TextFile, table: Any, before: pd.DataFrame, after: Any) -> pd.DataFrame:
    """Rows of values ``after`` as text: the text of ``table`` where a cell is as ``before``, or has no value now."""
    out = {
        name: rewritten(table.column(j), before[name], after[name].reset_index(drop=True), source.form(name))
        for j, name in enumerate(source.names)
    }
    return pd.DataFrame(out, columns=pd.Index(source.names, dtype=object), dtype=object)


def write_text(
    file: Any, pieces: Iterable[pd.DataFrame], suffix: str = ".csv", dialect: Dialect | None = None
) -> None:
    """Write frames to an open file as one CSV or TSV, packed or not, the header once; blank names stay blank.

    In a ``dialect`` they are written as the file that it was found in.
    """
    dialect = dialect or Dialect(usual(suffix))
    binary = gzip.GzipFile(fileobj=file, mode="wb", mtime=0) if suffix.endswith(".gz") else file
    text = io.TextIOWrapper(binary, "utf-8", newline="") if isinstance(file, io.BufferedIOBase) else binary
    try:
        first = True
        for frame in pieces:
            names = ["" if re.fullmatch(r"Unnamed: \d+", str(c)) else c for c in frame.columns]
            if first and dialect.mark:
                out: Any = text
                out.write("\ufeff")
            header = list(dialect.header) if len(dialect.header) == len(names) else names
            frame.to_csv(
                text,
                index=False,
                header=header if first else False,
                sep=dialect.separator,
                lineterminator=dialect.newline,
            )
            first = False
        text.flush()
    finally:
        if text is not binary:
            text.detach()
        if binary is not file:
            binary.close()
