"""How a file of text separates its fields: found from its first rows, and kept for what is written back.

separator   , ; tab or |: the one by which all rows have as many fields as the header
newline     LF or CR LF
mark        whether the file opens with the mark that says UTF-8 (BOM)
header      the names of the columns, as the file spells them
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from abduce.data.files import Clear

SEPARATORS = (",", ";", "\t", "|")
_OTHERS = (":", "^", "~", "\x1f", " ")  # what some files have; named when refused
_HEAD = 2**20  # bytes looked at
_ROWS = 100  # and rows
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*")
_SHOWN = {"\t": "a tab", " ": "a space", "\x1f": "a unit separator"}


@dataclass(frozen=True)
class Dialect:
    """How a text file is written; ``skipped`` blank lines stand above its header."""

    separator: str = ","
    newline: str = "\n"
    mark: bool = False
    header: tuple[str, ...] = ()
    skipped: int = 0


def usual(suffix: str) -> str:
    """The separator that a file's name promises."""
    return "\t" if ".tsv" in suffix else ","


def shown(separator: str) -> str:
    """A separator as a message says it."""
    return _SHOWN.get(separator, repr(separator))


def opened(path: Path) -> IO[bytes]:
    """A text file's bytes, unpacked."""
    binary: Any = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")  # noqa: SIM115
    return binary


def sniff(path: Path, suffix: str) -> Dialect:
    """Find the dialect of a file from its head; ValueError naming the path for one that is not read.

    The separator that the suffix promises is taken if it fits; else the first of , ; tab | by which all rows have as many
    fields as the header; else the one that fits most rows, so that the odd row can be named.
    """
    with opened(path) as file:
        head = file.read(_HEAD)
        cut = bool(file.read(1))
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:1000]:
        raise Clear(f"{path} is not UTF-8 text (it looks like UTF-16 or a binary file); save it as UTF-8")
    text = head.decode("utf-8-sig", errors="replace")
    lines = text.lstrip("\r\n")
    if not lines.strip():
        raise Clear(f"{path} is empty")
    skipped = len(text[: len(text) - len(lines)].splitlines())
    first = re.search(r"\r\n|\n|\r", lines)
    options = [usual(suffix), *(s for s in SEPARATORS if s != usual(suffix))]
    rows = {separator: _rows(lines, separator, cut) for separator in (*options, *_OTHERS)}
    separator = _choose(options, rows)
    if len(rows[separator][0]) == 1:
        _refuse_others(path, rows)
    return Dialect(
        separator,
        "\r\n" if first and first.group() == "\r\n" else "\n",
        head.startswith(b"\xef\xbb\xbf"),
        tuple(rows[separator][0]),
        skipped,
    )


def _rows(text: str, separator: str, cut: bool) -> list[list[str]]:
    """The first rows by a separator, blank ones left out, and the last one where the text was cut off; at least a header."""
    rows: list[list[str]] = []
    try:
        for row in itertools.islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), _ROWS):
            rows += [row] if row else []
    except csv.Error:  # a field without end, by this separator
        return rows or [[text]]
    return rows[:-1] if cut and 1 < len(rows) < _ROWS else rows


def _fit(rows: list[list[str]]) -> float:
    """The share of rows as wide as the header."""
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _choose(options: list[str], rows: dict[str, list[list[str]]]) -> str:
    wide = [s for s in options if len(rows[s][0]) > 1]
    return max(wide, key=lambda s: _fit(rows[s]), default=options[0])  # the first of several


def _refuse_others(path: Path, rows: dict[str, list[list[str]]]) -> None:
    """Name the separator of a file that has one that is not read."""
    for separator in _OTHERS:
        found = rows[separator]
        if len(found) < 2 or len(found[0]) < 2 or _fit(found) < 1:
            continue
        cells = [cell for row in found[1:] for cell in row]
        if separator not in " :" or all(not cell or _NUMBER.fullmatch(cell) for cell in cells):
            raise Clear(
                f"{path} seems to separate its fields by {shown(separator)}; expected one of "
                f"{', '.join(map(shown, SEPARATORS))}: save it with one of these"
            )


def odd_line(path: Path, dialect: Dialect) -> str | None:
    """Say which line has more or fewer fields than the header; None where all have as many."""
    wanted = len(dialect.header)
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="") as text:
        reader = csv.reader(text, delimiter=dialect.separator)
        line = 1
        try:
            for row in reader:
                if len(row) != wanted and row:
                    fields = f"{wanted} field{'s' * (wanted != 1)}"
                    return (
                        f"Expected {fields} in line {line}, as in the header, saw {len(row)} separated by "
                        f"{shown(dialect.separator)}; quote a field that holds the separator, and close every quote"
                    )
                line = reader.line_num + 1
        except csv.Error:
            return f"line {line} has a quote that is never closed"
    return None
