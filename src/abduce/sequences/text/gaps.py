"""Texts with blanks: where they are, which symbols may stand there, and which stretches of text they depend on.

A symbol depends on K symbols before it.  So what stands in a blank matters to the K symbols after it, and blanks with K known
symbols or more between them are asked about apart: a :class:`Stretch` goes from its first blank to K symbols after its last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from abduce.sequences.text.vocabulary import Vocabulary

BLANK = -1  # in the place of a symbol


class Stretch(NamedTuple):
    """Symbols before (at most K), and then those of the stretch, BLANK where any of ``allowed`` (A,) may stand."""

    before: np.ndarray
    x: np.ndarray
    allowed: tuple[np.ndarray | None, ...]  # of each blank; None: all


class Marked(NamedTuple):
    """A text as symbols, BLANK at blanks, and which symbols each blank may hold; ``others`` are symbols not known, in order.

    ``gap`` is where a missing segment of unknown length would go, None if there is none.
    """

    x: np.ndarray
    allowed: list[np.ndarray | None]
    others: list[str]
    gap: int | None

    def pieces(self) -> list[np.ndarray]:
        """What is seen between blanks, piece by piece."""
        known = np.where(self.x == BLANK, np.nan, self.x)
        if self.gap is not None:
            known = np.insert(known, self.gap, np.nan)
        cut = np.split(known, np.flatnonzero(np.isnan(known)))
        return [own.astype(np.int64) for part in cut if len(own := part[~np.isnan(part)])]

    def filled(self, length: int) -> Marked:
        """The same with the missing segment as so many blanks."""
        if self.gap is None:
            return self
        before = int((self.x[: self.gap] == BLANK).sum())
        x = np.concatenate([self.x[: self.gap], np.full(length, BLANK), self.x[self.gap :]])
        allowed: list[np.ndarray | None] = [
            *self.allowed[:before],
            *[None] * length,
            *self.allowed[before:],
        ]
        return Marked(x, allowed, self.others, None)


def mark(text: str, vocabulary: Vocabulary, blank: str, gap: str) -> Marked:
    """Find the blanks of a text.

    Each ``blank`` is a missing character; of words a run of them is a missing word, with the space before it if it has one.
    ``gap`` stands for a missing segment of unknown length and may come once.
    """
    pieces = text.split(gap)
    if len(pieces) > 2:
        raise ValueError(
            f"a text may have one gap of unknown length, {gap!r}, got {len(pieces) - 1} in {_short(text)}"
        )
    if len(pieces) == 2 and vocabulary.unit == "word":
        pieces[0] = pieces[0].removesuffix(" ")  # words have the space before them
    parts = [_mark(piece, vocabulary, blank) for piece in pieces]
    return Marked(
        np.concatenate([p.x for p in parts]),
        [a for p in parts for a in p.allowed],
        [o for p in parts for o in p.others],
        len(parts[0].x) if len(parts) == 2 else None,
    )


def _mark(text: str, vocabulary: Vocabulary, blank: str) -> Marked:
    if vocabulary.unit == "char":
        x, others = vocabulary.read(text)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        holes = points == ord(blank)
        kept = [other for other in others if other != blank]
        x = np.where(holes, BLANK, x)
        return Marked(x, [None] * int(holes.sum()), kept, None)
    spaced = np.array([symbol.startswith(" ") for symbol in vocabulary.symbols], bool)
    words = np.array([symbol.strip().isalnum() for symbol in vocabulary.symbols], bool)
    xs, allowed, others = [], [], []
    for piece in re.split(f"( ?{re.escape(blank)}+)", text):
        if piece.endswith(blank):
            xs.append(np.array([BLANK]))
            fitting = words & (spaced == piece.startswith(" "))
            allowed.append(fitting if fitting.any() else None)
        else:
            x, more = vocabulary.read(piece)
            xs.append(x)
            others += more
    return Marked(np.concatenate(xs), allowed, others, None)


def stretches(marked: Marked, order: int, edge: int | None) -> list[Stretch]:
    """Stretches of a text, from left to right."""
    x = marked.x
    led = x if edge is None else np.concatenate([[edge], x])
    holes = np.flatnonzero(led == BLANK)
    if not len(holes):
        return []
    apart = np.flatnonzero(np.diff(holes) > order)
    firsts, lasts = np.concatenate([[0], apart + 1]), np.concatenate([apart, [len(holes) - 1]])
    out = []
    for first, last in zip(firsts, lasts, strict=True):
        begin, end = holes[first], holes[last] + 1
        allowed = tuple(marked.allowed[first : last + 1])
        out.append(Stretch(led[max(0, begin - order) : begin], led[begin : end + order], allowed))
    return out


def put(marked: Marked, fills: Sequence[int] | np.ndarray, vocabulary: Vocabulary) -> str:
    """The text with symbols in its blanks, from left to right."""
    x = marked.x.copy()
    x[x == BLANK] = fills
    others = iter(marked.others)
    return "".join(vocabulary.symbols[k] if k < len(vocabulary) else next(others) for k in x)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def check_marks(texts: Sequence[str], blank: str, gap: str) -> None:
    """Refuse marks that are none, and texts in none of which there is one."""
    if not isinstance(blank, str) or len(blank) != 1 or blank.isspace():
        raise ValueError(f"blank must be one character, no white space, got {blank!r}")
    if not isinstance(gap, str) or not gap or blank in gap:
        raise ValueError(f"gap must be text without the blank {blank!r}, got {gap!r}")
    if not any(blank in text or gap in text for text in texts):
        what = _short(texts[0]) if len(texts) == 1 else f"{len(texts)} texts without one"
        raise ValueError(
            f"X has nothing to fill: neither a blank {blank!r} nor a gap {gap!r}; blank= and gap= change them, got {what}"
        )
