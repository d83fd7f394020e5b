"""One model of recordings: missing words, what came before and after, clicks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_count, check_number, check_share
from abduce.data.recordings import Recording, recordings
from abduce.data.wav import write_wav
from abduce.estimators import sound_folder
from abduce.fit import checkpoint
from abduce.sequences.burg import Autoregression, simulate, yule_walker
from abduce.sequences.clicks import oddness
from abduce.sequences.sound import MEMBERS, SoundPool, Spanned, fit_pool, hidden_gaps, placed, runs

LENGTHS = (0.02, 0.05, 0.08)  # seconds of gaps that are hidden, where the recordings have none
LONGEST_HIDDEN = 0.2
TEXTURE = 0.02  # seconds: the order of what `sample` draws from
EDGE = 0.008  # seconds beyond either end that samples are scored with
KEPT = 0.4  # seconds of either end that forecasts go on from


class Sound(BaseEstimator):
    """Fill gaps of recordings: an exact Gaussian for each, by autoregressions of the sound on both sides.

        p(gap | sound) = Σ_m w_m N(gap; mean_m, covariance_m)

    Members are autoregressions of 6 to 93 ms, by Burg's method, from 23 to 372 ms on either side of a gap.  Gaps hidden where
    the recordings were seen say how much each weighs, and how wide intervals must be.  Channels share the filter.

    Parameters
    ----------
    cells : int
        Gaps to hide: more of them say more of the weights, and take longer.
    random_state : int, RandomState or None
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far the fit has come, ``stage`` what it is at.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Sound
    >>> t = np.arange(8000) / 8000
    >>> tone = 1000 * np.sin(2 * np.pi * 220 * t) + 500 * np.sin(2 * np.pi * 331 * t)
    >>> model = Sound(random_state=0).fit(tone, rate=8000)
    >>> filled = model.fill(tone, gaps=[(0.50, 0.52)])
    >>> bool(np.abs(filled - tone).max() < 1)
    True
    """

    pool_: SoundPool
    rate_: int
    texture_: Autoregression

    def __init__(
        self,
        *,
        cells: int = 12,
        random_state: int | np.random.RandomState | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.cells, self.random_state, self.callback = cells, random_state, callback

    # ------------------------------------------------------------------ fit

    def fit(self, X, y=None, *, rate: int | None = None, gaps=None, unit: str = "seconds") -> Sound:
        """Fit to a WAV file, an array (T,) or (T, channels), or a list of these.

        Arrays need their ``rate``, samples a second.  What is missing is NaN, or lies in ``gaps``, pairs (start, stop).
        """
        check_count("cells", self.cells)
        given = recordings(X, rate, gaps, unit)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        if not any(np.nanstd(r.values, axis=0).any() for r in given):
            raise ValueError(f"{given[0].name} is silent: there is nothing to learn from")
        places = hidden_gaps(given, _lengths(given), int(self.cells), rng)
        self.pool_, sdr = fit_pool(MEMBERS, given, places, self._show)
        self.sdr_ = [None] * len(MEMBERS) if not len(sdr) else [float(v) for v in sdr.mean(0)]
        last = given[-1]
        self.rate_, keep = last.rate, round(KEPT * last.rate)
        self.ends_ = last.values[:keep], last.values[-keep:]
        self.centre_ = np.nanmean(last.values, 0)
        self.texture_, self.level_ = _texture(last)
        self.kind_ = last.wav.samples.dtype.str, last.wav.bits, last.wav.samples.ndim
        self.n_features_in_ = last.values.shape[1]
        return self

    def _show(self, text: str, share: float) -> None:
        if self.callback is not None:
            self.callback({"epoch": share, "epochs": 1.0, "stage": text})

    def __sklearn_is_fitted__(self) -> bool:
        return "pool_" in vars(self)

    # ------------------------------------------------------------------ fill

    def fill(
        self,
        X,
        gaps=None,
        *,
        rate: int | None = None,
        unit: str = "seconds",
        draws: int | None = None,
        random_state=None,
    ):
        """The samples of X, those that are missing filled; all others as they were, to the bit, in their type.

        Missing are ``gaps``, pairs (start, stop) in seconds or, by ``unit``, in samples, and whatever is NaN.  With ``draws``
        a list of so many copies, each filled by a sound that could have been.
        """
        if draws is not None:
            return self.fill_draws(X, gaps, draws, rate=rate, unit=unit, random_state=random_state)
        recording, found = self._asked(X, gaps, rate, unit)
        return recording.put(placed(recording.values.shape, found, [f.mean() for f in found]))

    def fill_draws(
        self,
        X,
        gaps=None,
        n: int = 10,
        *,
        rate: int | None = None,
        unit: str = "seconds",
        random_state=None,
    ) -> list[np.ndarray]:
        """``n`` copies of X, each filled by a draw of all that is missing: sounds that could have been."""
        check_count("n", n)
        recording, found = self._asked(X, gaps, rate, unit)
        rng = self._generator(random_state)
        drawn = [f.draws(int(n), rng) for f in found]
        return [
            recording.put(placed(recording.values.shape, found, [d[i] for d in drawn])) for i in range(int(n))
        ]

    def fill_interval(
        self, X, gaps=None, level: float = 0.9, *, rate: int | None = None, unit: str = "seconds"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two copies of X, filled with the ends of intervals that hold each missing sample with probability ``level``."""
        check_share("level", level)
        recording, found = self._asked(X, gaps, rate, unit)
        low, high = (
            recording.put(placed(recording.values.shape, found, [f.quantile(end) for f in found]))
            for end in (0.5 - level / 2, 0.5 + level / 2)
        )
        return low, high

    def fill_file(
        self, source: str | Path, target: Any, gaps=None, *, unit: str = "seconds", random_state=None
    ) -> int:
        """Fill a WAV file and write it to ``target``, atomically, in its own format; how many samples were missing.

        Of a list of targets each is filled by a draw.
        """
        recording, found = self._asked(source, gaps, None, unit)
        if isinstance(target, list):
            rng = self._generator(random_state)
            drawn = [f.draws(len(target), rng) for f in found]
            fills = {name: [d[i] for d in drawn] for i, name in enumerate(target)}
        else:
            fills = {target: [f.mean() for f in found]}
        for name, parts in fills.items():
            write_wav(name, recording.file(recording.put(placed(recording.values.shape, found, parts))))
        return int(recording.missing.sum())

    def _asked(self, X: Any, gaps: Any, rate: Any, unit: str) -> tuple[Recording, list[Spanned]]:
        recording = self._read(X, rate, gaps, unit)
        if not recording.missing.any():
            raise ValueError(
                f"nothing of {recording.name} is missing: name gaps=[(start, stop)], or mark samples by NaN"
            )
        return recording, self.pool_.ask(recording.values, recording.missing, recording.rate)

    def _read(self, X: Any, rate: Any = None, gaps: Any = None, unit: str = "seconds") -> Recording:
        """A recording, an array at the rate of the fit unless another is given."""
        check_is_fitted(self)
        return Recording(X, rate, gaps, unit, self.rate_)

    def _generator(self, random_state: Any) -> np.random.Generator:
        given = self.random_state if random_state is None else random_state
        return np.random.default_rng(check_random_state(given).randint(2**31 - 1))

    # ------------------------------------------------------------------ before, after, anew

    def forecast(self, seconds: float, X=None, *, rate: int | None = None) -> np.ndarray:
        """The sound after the last sample of the training data, or of X, as it most likely goes on: it dies away."""
        return self._beyond(seconds, X, rate, 1)

    def backcast(self, seconds: float, X=None, *, rate: int | None = None) -> np.ndarray:
        """The sound before the first sample."""
        return self._beyond(seconds, X, rate, -1)

    def sample_paths(
        self, seconds: float, n: int = 10, X=None, *, rate: int | None = None, random_state=None
    ) -> list[np.ndarray]:
        """``n`` sounds that could come after the last sample."""
        check_count("n", n)
        return self._beyond(seconds, X, rate, 1, int(n), self._generator(random_state))

    def _beyond(
        self,
        seconds: float,
        X: Any,
        rate: Any,
        sign: int,
        count: int = 0,
        rng: np.random.Generator | None = None,
    ) -> Any:
        check_is_fitted(self)
        check_number("seconds", seconds, 0, above=True)
        if X is None:
            edge = np.asarray(self.ends_[0 if sign < 0 else 1])
            recording = Recording(edge, self.rate_)
        else:
            recording = self._read(X, rate)
            keep = round(KEPT * recording.rate)
            edge = recording.values[:keep] if sign < 0 else recording.values[-keep:]
        new = max(1, round(seconds * recording.rate))
        blank = np.full((new, edge.shape[1]), np.nan)
        whole = np.concatenate([blank, edge] if sign < 0 else [edge, blank])
        first = 0 if sign < 0 else len(edge)
        found = self.pool_.ask(whole, np.isnan(whole), recording.rate)
        drawn = [f.draws(count, rng) for f in found] if rng is not None else []

        def rows(parts: list[np.ndarray]) -> np.ndarray:
            out = placed(whole.shape, found, parts)[first : first + new]
            return self._made(out, recording if X is not None else None)

        if rng is None:
            return rows([f.mean() for f in found])
        return [rows([d[i] for d in drawn]) for i in range(count)]

    def sample(self, seconds: float, n: int = 1, random_state=None) -> list[np.ndarray]:
        """``n`` new sounds of the texture of the training data: noise through its average filter, at its average level."""
        check_is_fitted(self)
        check_number("seconds", seconds, 0, above=True)
        check_count("n", n)
        rng, length = self._generator(random_state), max(1, round(seconds * self.rate_))
        drawn = [
            np.stack([simulate(self.texture_, length, rng) for _ in self.level_], 1) * self.level_
            for _ in range(int(n))
        ]
        return [self._made(x + self.centre_) for x in drawn]

    def _made(self, values: np.ndarray, like: Recording | None = None) -> np.ndarray:
        """Values (n, C) in the type and form of a recording, or of the training data."""
        if like is None:
            kind, bits, axes = self.kind_
            like = Recording(np.zeros((2, values.shape[1])[:axes], kind), self.rate_, bits=bits)
        return like.shaped(like.typed(values))

    # ------------------------------------------------------------------ how probable, how odd

    def score_samples(self, X, *, rate: int | None = None) -> np.ndarray:
        """log p of each sample given those before it, nats in the samples' unit, as they lie; NaN where missing."""
        recording = self._read(X, rate)
        return recording.shaped(-self._oddness(recording, False))

    def score(self, X, y=None, *, rate: int | None = None) -> float:
        """Mean of :meth:`score_samples` over what was seen."""
        return float(np.nanmean(self.score_samples(X, rate=rate)))

    def anomaly_score(self, X, *, rate: int | None = None) -> np.ndarray:
        """Oddness of each sample, −log p of it given those before and after it: clicks stand out; NaN where missing."""
        recording = self._read(X, rate)
        return recording.shaped(self._oddness(recording, True))

    def _oddness(self, recording: Recording, two_sided: bool) -> np.ndarray:
        """−log p (T, channels); what is missing, and a little beyond the ends, is filled first."""
        edge = max(2, round(EDGE * recording.rate))
        whole = np.pad(recording.values, ((edge, edge), (0, 0)), constant_values=np.nan)
        gone = np.isnan(whole)
        found = self.pool_.ask(whole, gone, recording.rate)
        full = np.where(gone, placed(whole.shape, found, [f.mean() for f in found]), whole)
        return oddness(full, gone, recording.rate, two_sided)[edge:-edge]

    def members(self) -> pd.DataFrame:
        """Members by context and order in ms, their weights, and their mean SDR on hidden gaps in dB."""
        check_is_fitted(self)
        rows = [(1000 * m.context, 1000 * m.order) for m in self.pool_.members]
        table = pd.DataFrame(rows, columns=["context_ms", "order_ms"])
        return table.assign(weight=self.pool_.weights, sdr_db=self.sdr_)

    # ------------------------------------------------------------------ keep

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically; :func:`~abduce.load` reads it."""
        check_is_fitted(self)
        checkpoint.save(folder, *sound_folder.describe(self))


def _lengths(given: list[Recording]) -> list[float]:
    """Seconds of gaps to hide: the quartiles of those that there are, else what is usual."""
    there = [(stop - start) / r.rate for r in given for gone in r.missing.T for start, stop in runs(gone)]
    if not there:
        return list(LENGTHS)
    return sorted({float(v) for v in np.quantile(there, (0.25, 0.5, 0.75)).clip(None, LONGEST_HIDDEN)})


def _texture(recording: Recording) -> tuple[Autoregression, np.ndarray]:
    """The average filter of a recording, for unit power, and the level of each channel."""
    centred = recording.values - np.nanmean(recording.values, 0)
    level = np.sqrt(np.nanmean(centred**2, 0))
    scaled = np.nan_to_num(centred / np.where(level > 0, level, 1.0))
    model = yule_walker(scaled.T.ravel(), min(round(TEXTURE * recording.rate), len(scaled) // 3))
    return model._replace(variance=model.variance * scaled.size / (~recording.missing).sum()), level
