"""Texts as numbers of symbols, characters or words, and how a symbol that is not known is spelled.

    characters   the code points
    words        runs of letters and digits, with the space before them; punctuation and other white space one by one

Symbols put side by side are the text again.  A symbol that is not among the known ones is symbol A, and then spelled: a
character by its code point, all that are not known alike; a word by a Kneser-Ney law of the characters of known words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from abduce.sequences.text.kneser_ney import KneserNey

CODE_POINTS = 0x110000
UNITS = ("char", "word")
SPELLING_ORDER = 5  # characters that the next one of a word that is not known depends on
_WORDS = re.compile(r" ?\w+| ?[^\w\s]|\s")


class Vocabulary:
    """The symbols of texts, numbered from 0 in order of their code points.

    >>> known = Vocabulary.of(["to be or not"], "word")
    >>> known.symbols, known.read("not to be")[0].tolist()
    (['to', ' be', ' not', ' or'], [4, 4, 1])
    """

    def __init__(self, unit: str, symbols: Sequence[str], spelling: Spelling | None):
        self.unit, self.symbols, self.spelling = unit, list(symbols), spelling
        self._number = {symbol: k for k, symbol in enumerate(self.symbols)}
        self._points = np.array([ord(c) for c in self.symbols], np.int64) if unit == "char" else None

    @classmethod
    def of(cls, texts: Sequence[str], unit: str) -> Vocabulary:
        """All symbols of texts."""
        if unit == "char":
            points = np.unique(np.concatenate([_code_points(""), *map(_code_points, texts)]))
            return cls(unit, [chr(p) for p in points], None)
        symbols = dict.fromkeys(word for text in texts for word in _WORDS.findall(text))
        ordered = sorted(symbols, key=lambda word: (word.startswith(" "), word))
        return cls(unit, ordered, Spelling.of(ordered))

    def __len__(self) -> int:
        return len(self.symbols)

    def split(self, text: str) -> list[str]:
        """The symbols of a text, side by side.

        >>> Vocabulary.of([], "word").split("To be,  or")
        ['To', ' be', ',', ' ', ' or']
        """
        return list(text) if self.unit == "char" else _WORDS.findall(text)

    def read(self, text: str) -> tuple[np.ndarray, list[str]]:
        """Numbers of a text's symbols (n,), A where one is not known, and those that are not known, one after the other."""
        if self._points is None:
            parts = self.split(text)
            x = np.array([self._number.get(word, len(self)) for word in parts], np.int64)
            return x, [parts[t] for t in np.flatnonzero(x == len(self))]
        points = _code_points(text)
        if not len(self._points):
            return np.zeros(len(points), np.int64), list(text)
        place = np.minimum(np.searchsorted(self._points, points), len(self._points) - 1)
        x = np.where(self._points[place] == points, place, len(self))
        return x, [text[t] for t in np.flatnonzero(x == len(self))]

    def read_growing(self, texts: Sequence[str]) -> tuple[list[np.ndarray], list[str]]:
        """Numbers of texts' symbols, those not known being A + 2, A + 3, .. as they come, and these in that order."""
        fresh: dict[str, int] = {}
        out = []
        for text in texts:
            x, others = self.read(text)
            x[x == len(self)] = [len(self) + 2 + fresh.setdefault(other, len(fresh)) for other in others]
            out.append(x)
        return out, list(fresh)

    def write(self, x: Sequence[int] | np.ndarray) -> str:
        """The text of known symbols."""
        return "".join(self.symbols[k] for k in x)

    def log_spelled(self, others: Sequence[str], grown: bool = False) -> np.ndarray:
        """log p of how symbols (m,) that are not known are spelled, nats; ``grown``: each is known afterwards."""
        if self.spelling is not None:
            return self.spelling.log_prob(others)
        return -np.log(CODE_POINTS - len(self) - np.arange(len(others)) * grown)


class Spelling:
    """A Kneser-Ney law of words' characters: p(word) sums to one over all words, each with its end."""

    def __init__(self, law: KneserNey, characters: Vocabulary):
        self.law, self.characters = law, characters  # the end is the last symbol, after all characters

    @classmethod
    def of(cls, words: Sequence[str]) -> Spelling:
        """Learn from different words."""
        characters = Vocabulary.of(words, "char")
        texts = [np.append(characters.read(word)[0], len(characters)) for word in words]
        return cls(KneserNey.fit(texts, SPELLING_ORDER, len(characters) + 1, edges=True), characters)

    @property
    def end(self) -> int:
        return len(self.characters)

    def numbers(self, word: str) -> np.ndarray:
        """The symbols of a word and its end; characters that are not known come after the end."""
        x = self.characters.read(word)[0]
        return np.append(np.where(x == self.end, self.end + 1, x), self.end)

    def log_prob(self, words: Sequence[str]) -> np.ndarray:
        """log p of words (m,), nats."""
        texts = [self.numbers(word) for word in words]
        stream = self.law.stream(texts)
        each = self.law.log_prob(stream)
        each = each - np.where(stream.x[stream.counted] > self.end, np.log(CODE_POINTS - self.end), 0.0)
        return np.bincount(np.repeat(np.arange(len(texts)), [len(x) for x in texts]), each, len(texts))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
