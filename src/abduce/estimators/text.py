"""A model of text: what is missing is filled from both sides, what is there is scored, drawn, and coded in few bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_choice, check_count
from abduce.data.files import atomic, check_folder
from abduce.estimators import text_folder
from abduce.sequences.text import coding
from abduce.sequences.text.asking import FillQuestion
from abduce.sequences.text.between import BEAM, Between
from abduce.sequences.text.forms import Texts, texts_of
from abduce.sequences.text.gaps import check_marks
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.vocabulary import UNITS, Vocabulary

HOW = {"best": Between.best, "joint": Between.best_path}


class Text(BaseEstimator):
    """Fill, score, draw and compress text, by the symbols before each: interpolated modified Kneser-Ney.

        p_k(x | h) = max(c(h x) − D, 0) / C(h) + γ(h) p_{k−1}(x | h without its first symbol),        k = order, .., 0

    Counts are exact, discounts D are those that make the last tenth of the text most probable given the rest.  p sums to one
    over the symbols of the training text and any other, which is spelled by its code point: every text has a probability.

    Blanks are filled given both sides, by sums over all that may stand in them.  ``adaptive`` scores, and compression, take in
    every symbol once it is read.

    Parameters
    ----------
    order : int
        Symbols that the next one depends on.
    unit : {"char", "word"}
        Symbols are characters; or words, each with the space before it, and punctuation marks.
    beam : int
        Ways to fill several blanks in a row that are kept after each; where there are no more of them, answers are exact.
    random_state : int, RandomState or None

    Examples
    --------
    >>> from abduce import Text
    >>> model = Text(order=4).fit("to be or not to be, that is the question; to see or not to see. " * 4)
    >>> model.fill("not to b_, th_t is")
    'not to be, that is'
    >>> model.fill("or [...] to see", length=3)
    'or not to see'
    >>> packed = model.compress("to be or not to see")
    >>> len(packed), model.decompress(packed)
    (22, 'to be or not to see')

    References
    ----------
    Kneser & Ney 1995 (ICASSP); Chen & Goodman 1999 (Computer Speech & Language 13).
    """

    law_: KneserNey
    vocabulary_: Vocabulary

    def __init__(
        self,
        order: int = 8,
        *,
        unit: str = "char",
        beam: int = BEAM,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.order, self.unit, self.beam, self.random_state = order, unit, beam, random_state

    # ------------------------------------------------------------------ fit

    def fit(self, X, y=None) -> Text:
        """Fit to one text, or to several: a str, a ``pathlib.Path`` of a file, or a list, Series or array of these.

        A text that comes by itself is part of a longer one; those of a list begin where they begin, and the model learns how.
        """
        self._check_arguments()
        given = texts_of(X)
        if not any(given.texts):
            raise ValueError(f"X must have at least one character to fit to, got {_described(given)}")
        self.inference_seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.vocabulary_ = Vocabulary.of(given.texts, self.unit)
        numbers = [self.vocabulary_.read(text)[0] for text in given.texts]
        size = len(self.vocabulary_)
        self.law_ = KneserNey.fit(numbers, int(self.order), size, edges=not given.alone)
        return self

    def _check_arguments(self) -> None:
        check_count("order", self.order)
        if self.order > 64:
            raise ValueError(f"order must be at most 64, got {self.order}")
        check_choice("unit", self.unit, UNITS)
        check_count("beam", self.beam)

    def __sklearn_is_fitted__(self) -> bool:
        return "law_" in vars(self)

    # ------------------------------------------------------------------ fill

    def fill(
        self,
        X,
        blank: str = "_",
        gap: str = "[...]",
        length: int | Iterable[int] | None = None,
        how: str = "best",
        adaptive: bool = False,
    ):
        """X with its blanks filled; what was there stays as it was.

        Each ``blank`` is a missing character; of words, a run of them is a missing word.  ``gap`` is a missing segment of
        ``length`` symbols: a number, several to weigh by their probability, or None for 1 to 20.

        ``how``: "best" is the most probable symbol of each blank by itself, which is right most often; "joint" the most
        probable way to fill blanks that lie near each other together.

        ``adaptive``: the model first reads what is seen of each text, before its blanks and after; it pays where that is long.
        """
        check_choice("how", how, tuple(HOW))
        given, question = self._question(X, blank, gap, length, adaptive)
        generator = np.random.default_rng(self.inference_seed_)
        return given.like([reply[0] for reply in question.filled(HOW[how], generator)])

    def fill_draws(
        self,
        X,
        n: int = 10,
        blank: str = "_",
        gap: str = "[...]",
        length: int | Iterable[int] | None = None,
        random_state=None,
        return_ess: bool = False,
        adaptive: bool = False,
    ):
        """``n`` copies of X, filled as they could have been: draws given all that is seen; of several texts, a list for each.

        With ``return_ess`` also the effective sample size, of each text that of its hardest stretch: infinite where sums ran
        over all ways to fill it.  Where it is below a few hundred, chances are rough: a larger ``beam`` makes them exact.
        """
        check_count("n", n)
        given, question = self._question(X, blank, gap, length, adaptive)
        copies = question.drawn(int(n), self._generator(random_state))
        if given.alone:
            return copies[0] if return_ess else copies[0][0]
        draws = [copy for copy, _ in copies]
        return (draws, np.array([ess for _, ess in copies])) if return_ess else draws

    def lengths(self, X, gap: str = "[...]", length: int | Iterable[int] | None = None, blank: str = "_"):
        """Probabilities of the lengths of the missing segment of one text, all as likely before: a dict."""
        given, question = self._question(X, blank, gap, length)
        if not given.alone or gap not in given.texts[0]:
            raise ValueError(f"X must be one text with the gap {gap!r}, got {_described(given)}")
        return question.lengths_of(0, np.random.default_rng(self.inference_seed_))

    def _question(
        self, X: Any, blank: str, gap: str, length: Any, adaptive: bool = False
    ) -> tuple[Texts, FillQuestion]:
        check_is_fitted(self)
        given = texts_of(X)
        check_marks(given.texts, blank, gap)
        about = (given.texts, blank, gap, length, self.beam, adaptive)
        return given, FillQuestion(self.law_, self.vocabulary_, *about)

    def _generator(self, random_state: Any) -> np.random.Generator:
        given = self.random_state if random_state is None else random_state
        return np.random.default_rng(int(check_random_state(given).randint(2**31 - 1)))

    # ------------------------------------------------------------------ how probable

    def score_samples(self, X, adaptive: bool = False) -> np.ndarray:
        """log p of each text, nats; ``adaptive``: by a model that learns as it reads, from one text to the next too."""
        return np.array([part.sum() for part in self._log_prob(texts_of(X), adaptive)])

    def score(self, X, y=None, adaptive: bool = False) -> float:
        """Mean log p of a text, nats."""
        return float(self.score_samples(X, adaptive).mean())

    def bits_per_character(self, X, adaptive: bool = False) -> float:
        """−log₂ p of all texts over their characters."""
        given = texts_of(X)
        characters = sum(map(len, given.texts))
        if not characters:
            raise ValueError(f"X must have at least one character, got {_described(given)}")
        return float(-sum(p.sum() for p in self._log_prob(given, adaptive)) / np.log(2) / characters)

    def surprise(self, X, adaptive: bool = False):
        """−log p of each symbol given those before it, nats: an array for each text."""
        given = texts_of(X)
        parts = [-part for part in self._log_prob(given, adaptive)]
        return parts[0] if given.alone else parts

    def _log_prob(self, given: Texts, adaptive: bool) -> list[np.ndarray]:
        check_is_fitted(self)
        read = self.vocabulary_.read_growing(given.texts)
        return log_probs(self.law_, self.vocabulary_, *read, adaptive)

    # ------------------------------------------------------------------ draw, code, keep

    def sample(self, n: int = 500, start: str = "", random_state=None) -> str:
        """Go on from ``start`` with ``n`` more symbols, drawn one after the other."""
        check_is_fitted(self)
        check_count("n", n)
        before = self.vocabulary_.read(texts_of(start, "start").texts[0])[0]
        drawn = self.law_.draw(before, int(n), self._generator(random_state))
        return start + self.vocabulary_.write(drawn)

    def compress(self, X, path: str | Path | None = None) -> bytes:
        """X as few bytes, which are also written to ``path`` if given: by the model, which learns as it reads.

        Where a general compressor takes fewer bytes, it is used.  A model that is not fitted starts from nothing.
        """
        given = texts_of(X)
        if path is not None:
            check_folder(Path(path))
        self._check_arguments()
        data = coding.pack(given.texts, given.alone, *self._coded_with(), int(self.order))
        if path is not None:
            atomic(Path(path), lambda file: file.write(data))
        return data

    def decompress(self, data):
        """What :meth:`compress` was given, a str or a list: of its bytes, or of the file that it wrote.

        Raises CompressedDataError if they are not that, were changed, or belong to another model.
        """
        match data:
            case str() | Path():
                data = Path(data).read_bytes()
            case bytes() | bytearray() | memoryview():
                data = bytes(data)
            case _:
                raise TypeError(f"data must be bytes or the path of a file, got {type(data).__name__}")
        texts, alone = coding.unpack(data, *self._coded_with())
        return texts[0] if alone else texts

    def _coded_with(self) -> tuple[KneserNey | None, Vocabulary, bytes]:
        if not self.__sklearn_is_fitted__():
            return None, Vocabulary.of([], "char"), b""
        return self.law_, self.vocabulary_, text_folder.fingerprint(self)

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically; :func:`~abduce.load` reads it."""
        check_is_fitted(self)
        text_folder.keep(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Text:
        """Read a model that :meth:`save` wrote; :func:`~abduce.load` does, too."""
        return text_folder.read(cls, folder)


def log_probs(
    law: KneserNey, vocabulary: Vocabulary, texts: list[np.ndarray], fresh: list[str], adaptive: bool
) -> list[np.ndarray]:
    """log p of the symbols of texts, those that are not known with their spelling: an array for each text."""
    known = len(vocabulary) + 2
    stream = law.stream(texts if adaptive else [np.where(x >= known, len(vocabulary), x) for x in texts])
    out = law.adaptive_log_prob(stream) if adaptive else law.log_prob(stream)
    x = np.concatenate([np.zeros(0, np.int64), *texts])
    at = np.flatnonzero(x >= known)
    if adaptive:
        at = np.sort(at[np.unique(x[at], return_index=True)[1]])
    if len(at):
        out[at] += vocabulary.log_spelled(fresh, grown=adaptive)[x[at] - known]
    return np.split(out, np.cumsum([len(t) for t in texts])[:-1]) if texts else []


def _described(given: Texts) -> str:
    return repr(given.texts[0])[:60] if given.alone else f"{len(given.texts)} texts"
