"""Texts with blanks asked of a law: filled at their best, or drawn; gaps of a length that is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from abduce.checks import check_count
from abduce.sequences.text.between import Between, Reply, ask
from abduce.sequences.text.gaps import Marked, mark, put, stretches
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import Vocabulary

LONGEST = 20  # symbols that a missing segment is taken to have at most


def lengths_asked(length: int | Iterable[int] | None) -> list[int]:
    """Lengths that a missing segment may have.

    >>> lengths_asked(3), lengths_asked(range(1, 4))
    ([3], [1, 2, 3])
    """
    if length is None:
        return list(range(1, LONGEST + 1))
    several: list[Any] = list(length) if isinstance(length, Iterable) else [length]
    if not several:
        raise ValueError("length must be an int >= 1, several of them, or None, got none")
    for one in several:
        check_count("length", one)
    return sorted({int(one) for one in several})


class FillQuestion:
    """Texts with blanks; a gap of unknown length is asked about once for each length that it may have.

    ``adaptive``: each text is asked of a law that has read what is seen of it, on both sides of its blanks.
    """

    def __init__(
        self,
        law: KneserNey,
        vocabulary: Vocabulary,
        texts: Sequence[str],
        blank: str,
        gap: str,
        length: int | Iterable[int] | None,
        beam: int,
        adaptive: bool = False,
    ):
        self.law, self.vocabulary, self.beam, self.adaptive = law, vocabulary, beam, adaptive
        self.lengths = lengths_asked(length)
        self.marked = [mark(text, vocabulary, blank, gap) for text in texts]
        for marked in self.marked:
            if marked.gap is not None and marked.gap == len(marked.x) and len(self.lengths) > 1:
                raise ValueError(
                    f"nothing comes after the gap {gap!r}, so nothing says where it ends: give its length"
                )

    def _asked(
        self, fills: Callable[[Between], np.ndarray], rng: np.random.Generator
    ) -> list[list[tuple[Marked, list[Reply]]]]:
        """Of each text the forms that it may have, one for each length of its gap, with the replies of their stretches."""
        forms = [[m] if m.gap is None else [m.filled(length) for length in self.lengths] for m in self.marked]
        asked = [[stretches(form, self.law.order, self.law.edge) for form in own] for own in forms]
        if self.adaptive:
            laws = (self.law.having_read(marked.pieces()) for marked in self.marked)
            groups = [(law, [s for some in own for s in some]) for law, own in zip(laws, asked, strict=True)]
        else:
            groups = [(self.law, [s for own in asked for some in own for s in some])]
        replies = (reply for law, flat in groups for reply in ask(law, flat, fills, self.beam, rng))
        return [
            [(form, [next(replies) for _ in some]) for form, some in zip(own, parts, strict=True)]
            for own, parts in zip(forms, asked, strict=True)
        ]

    def filled(
        self, fills: Callable[[Between], np.ndarray], rng: np.random.Generator
    ) -> list[tuple[str, float]]:
        """Each text filled, of the most probable length, and its effective sample size."""
        out = []
        for own in self._asked(fills, rng):
            form, replies = own[int(np.argmax(_chances(own)))]
            x = np.concatenate([np.zeros(0, np.int64), *(reply.fills for reply in replies)])
            out.append((put(form, x, self.vocabulary), _least_ess(replies)))
        return out

    def drawn(self, n: int, rng: np.random.Generator) -> list[tuple[list[str], float]]:
        """``n`` draws of each text, and its effective sample size."""
        out = []
        for own in self._asked(lambda between: between.draws(n), rng):
            which = rng.choice(len(own), n, p=_chances(own))
            texts = []
            for k in range(n):
                form, replies = own[which[k]]
                x = np.concatenate([np.zeros(0, np.int64), *(reply.fills[k] for reply in replies)])
                texts.append(put(form, x, self.vocabulary))
            out.append((texts, min(_least_ess(own[k][1]) for k in set(which))))
        return out

    def lengths_of(self, text: int, rng: np.random.Generator) -> dict[int, float]:
        """p of each length of a text's gap, given all that is seen."""
        own = self._asked(Between.best, rng)[text]
        return dict(zip(self.lengths, _chances(own).tolist(), strict=True))


def _chances(own: list[tuple[Marked, list[Reply]]]) -> np.ndarray:
    """p of the forms that a text may have, by the evidence of their stretches."""
    log_p = np.array([sum(reply.log_evidence for reply in replies) for _, replies in own])
    p = np.exp(log_p - log_p.max())
    return p / p.sum()


def _least_ess(replies: list[Reply]) -> float:
    return min((reply.ess for reply in replies), default=np.inf)
