"""One model for series with blanks: the past, the present and the future of it are cells, and any of them may be asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from abduce.answers.answer import Effort
from abduce.checks import check_choice, check_count, check_number, check_share
from abduce.data.foreign import native, same_make
from abduce.estimators import series_folder
from abduce.sequences import writing
from abduce.sequences.asking import about, beyond
from abduce.sequences.backtest import backtest
from abduce.sequences.coding import coded, counted
from abduce.sequences.fit import SeriesPlan, fit_sequences
from abduce.sequences.look import Look, PanelQuestion
from abduce.sequences.mixed import Entries, MixedPool, fit_mixed
from abduce.sequences.naive import Interpolation
from abduce.sequences.panel import Form, SeriesPanel, form_of, read
from abduce.sequences.scale import Scaling
from abduce.sequences.surprise import flagged, surprises

WIDEST_DEEP = 32  # columns whose dynamics may bend: each step of each particle costs their square


class Series(BaseEstimator):
    """Fill, forecast, backcast, clean and flag series whose blanks may lie anywhere.

        p(x_blank | x_seen) = Σ_m w_m(situation) p_m(x_blank | x_seen)

    Members are a vector autoregression seen through noise, a Gaussian over windows of it, conditionals of windows of each
    series' past, interpolation, and the last season repeated.  Cells hidden from them, shaped like the blanks that the data
    have, and series cut off at several origins, say how much each weighs: between observed cells, beyond the last and before
    the first, near and far.  So the pool is hardly ever worse than a straight line or the last season.

    Time that elapsed between stamps decides what lies how far apart; gaps are blanks.  New stamps go on as the old ones do.

    Columns hold numbers, whole numbers, or classes: categories, text of few values, truth values.  Classes have Markov chains
    and seasonal frequencies of their own, weighed alike, and numbers are inferred given what is known of the classes.  What is
    drawn of whole numbers is whole; answers about classes are classes, in the column's dtype.

    Parameters
    ----------
    id : column name or None
        Of a frame of several series one after the other: which column tells them apart.
    time : column name or None
        The column of stamps; None: the index if it holds times, else the only column that does.
    horizon : int or None
        Steps ahead that forecasts are weighed for; more may be asked for.  None: a season, or 12.
    periods : sequence of int or None
        Lengths of seasons in steps; None: found in the data.
    scale : {"auto", "shared", "own"}
        Whether all series have one level and spread or each its own; "auto" goes by how far they lie apart.
    dynamics : {"linear", "deep"}
        With "deep" a model whose steps bend, a network beside the autoregression fitted by particles, is tried too; where it
        does not beat the autoregression on cells held out it is left out.  It costs half a minute or so, and up to
        32 columns: for oscillators, chaos, populations.  Series that follow calendars hardly gain.
    random_state : int, RandomState or None
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far the fit has come, ``stage`` what it is at.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from abduce import Series
    >>> days = pd.date_range("2024-01-01", periods=120, freq="D")
    >>> sales = pd.DataFrame({"sales": 20 + 5.0 * (days.day_of_week < 5)}, index=days)
    >>> sales.iloc[50:53] = np.nan
    >>> model = Series(random_state=0).fit(sales)
    >>> model.fill(sales).iloc[50:53, 0].round().tolist()
    [25.0, 25.0, 25.0]
    >>> model.forecast(7)["sales"].round().tolist()
    [25.0, 25.0, 25.0, 25.0, 20.0, 20.0, 25.0]
    """

    model_: MixedPool
    entries_: Entries
    form_: Form
    scaling_: Scaling
    panel_: SeriesPanel
    # what was asked last of the training data's rows: its other reductions are cheap
    _last: tuple[Any, _Beyond] | None = None

    def __init__(
        self,
        *,
        id: Any = None,
        time: Any = None,
        horizon: int | None = None,
        periods: Sequence[int] | None = None,
        scale: str = "auto",
        dynamics: str = "linear",
        random_state: int | np.random.RandomState | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.id, self.time, self.horizon, self.periods = id, time, horizon, periods
        self.scale, self.dynamics, self.random_state, self.callback = scale, dynamics, random_state, callback

    # ------------------------------------------------------------------ fit

    def fit(self, X, y=None) -> Series:
        """Fit to a frame, an array (T, F) or (N, T, F), or a list of arrays (T_i, F), with blanks as NaN."""
        self._check_arguments()
        self.make_ = writing.make_of(X)
        X = native(X)
        form = form_of(X, self.id, self.time)
        panel = read(X, form)
        writing.check_size(panel)
        self.form_, self.panel_, self.entries_ = form, panel, Entries.of(panel)
        self._check_width(self.entries_.pooled)
        self.inference_seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.n_features_in_ = len(form.columns)
        wide = self.entries_.spread(panel)
        self.scaling_ = self._scaling(wide)
        periods = None if self.periods is None else [int(p) for p in self.periods]
        seen = wide.seen(self.scaling_.fitted(wide.values, wide.mask).to(wide.values, wide.mask))
        g = self.entries_.pooled
        pool, trials = fit_sequences(
            seen._replace(y=seen.y[..., :g], mask=seen.mask[..., :g]),
            SeriesPlan(
                self.horizon,
                periods,
                form.grid.suggested(),
                self.scaling_.own,
                self.inference_seed_,
                self._show,
                self.dynamics == "deep",
                len(self.entries_.indicators),
                [places for j in form.classes if (places := self.entries_.places(j))],
            ),
        )
        levels = [len(form.kinds[j].levels) for j in self.entries_.classes]
        units = self.scaling_.loc, self.scaling_.scale
        self.model_ = fit_mixed(pool, trials, seen, levels, self.entries_, units, self.inference_seed_)
        return self

    def _scaling(self, panel: SeriesPanel) -> Scaling:
        """Units of the models, for a panel of the cells that enter them."""
        own, entries = {"auto": None, "shared": False, "own": True}[self.scale], self.entries_
        values, mask, seed = panel.values, panel.mask, self.inference_seed_
        scaling = Scaling.of(values, mask, own, entries.fixed, len(entries.classes))
        kinds = [self.form_.kinds[j].kind for j in entries.numbers]
        whole = [i for i, kind in enumerate(kinds) if kind == "whole"]
        return coded(counted(scaling, values, mask, whole, seed), values, mask, seed)

    def _check_arguments(self) -> None:
        if self.horizon is not None:
            check_count("horizon", self.horizon)
        check_choice("scale", self.scale, ("auto", "shared", "own"))
        check_choice("dynamics", self.dynamics, ("linear", "deep"))
        for period in () if self.periods is None else self.periods:
            if isinstance(period, bool) or int(period) != period or period < 2:
                raise ValueError(f"periods must be ints >= 2, got {period!r}")

    def _check_width(self, columns: int) -> None:
        if self.dynamics == "deep" and columns > WIDEST_DEEP:
            raise ValueError(
                f"dynamics='deep' is for at most {WIDEST_DEEP} columns, got {columns} with indicators of classes; take "
                "dynamics='linear'"
            )

    def _show(self, text: str, share: float) -> None:
        if self.callback is not None:
            self.callback({"epoch": share, "epochs": 1.0, "stage": text})

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_last": None}

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    # ------------------------------------------------------------------ ask

    def _read(self, X: Any) -> SeriesPanel:
        check_is_fitted(self)
        return read(X, self.form_)

    def _about(self, panel: SeriesPanel) -> PanelQuestion:
        wide, effort = self.entries_.spread(panel), Effort(seed=self.inference_seed_)
        return PanelQuestion(about(self.model_, self.scaling_, wide, effort), self.entries_, self.form_)

    def _generator(self, random_state: Any) -> torch.Generator:
        given = self.random_state if random_state is None else random_state
        return torch.Generator().manual_seed(int(check_random_state(given).randint(2**31 - 1)))

    @same_make
    def fill(self, X, draws: int | None = None, random_state=None):
        """X with its blanks filled; what was there stays as it was, to the bit.

        With ``draws`` a list of so many copies, each filled by a path that could have been.
        """
        panel = self._read(X)
        if draws is None:
            return writing.put(X, panel, self._about(panel).mean())
        check_count("draws", draws)
        drawn = self._about(panel).draws(int(draws), self._generator(random_state))
        return [writing.put(X, panel, copy) for copy in drawn]

    @same_make
    def fill_interval(self, X, level: float = 0.9):
        """Two copies of X, its blanks filled with the ends of the intervals that hold each with probability ``level``."""
        check_share("level", level)
        panel = self._read(X)
        return tuple(writing.put(X, panel, end) for end in self._about(panel).quantiles(_ends(level)))

    def forecast(self, n: int, known=None, X=None):
        """The ``n`` rows after the last of the training data, or of ``X``, other series of their form.

        ``known`` has what is known of these rows: a frame or array of as many, whose blanks are filled.
        """
        beyond = self._beyond(n, known, X)
        return beyond.rows(beyond.asked.mean())

    def backcast(self, n: int, X=None):
        """The ``n`` rows before the first."""
        beyond = self._beyond(n, None, X, -1)
        return beyond.rows(beyond.asked.mean())

    def forecast_interval(self, n: int, level: float = 0.9, known=None, X=None):
        """Lower and upper ends of the intervals that hold each of the next cells with probability ``level``."""
        check_share("level", level)
        beyond = self._beyond(n, known, X)
        return tuple(beyond.rows(end) for end in beyond.asked.quantiles(_ends(level)))

    def class_probabilities(self, X, column: Any) -> pd.DataFrame:
        """Probability of each class of a column in each row of X, (rows, classes): ones and zeros where it was seen."""
        panel = self._read(native(X))
        return self._of_classes(self._about(panel), panel, column, lambda chances: panel.rows(chances))

    def forecast_probabilities(self, n: int, column: Any, known=None, X=None) -> pd.DataFrame:
        """Probability of each class of a column in the ``n`` rows after the last, as :meth:`forecast` has them."""
        beyond = self._beyond(n, known, X)
        return self._of_classes(
            beyond.asked, beyond.panel, column, lambda chances: chances.reshape(-1, chances.shape[2])
        )

    def _of_classes(
        self, asked: PanelQuestion, panel: SeriesPanel, column: Any, rows: Callable
    ) -> pd.DataFrame:
        if column not in self.levels_:
            raise ValueError(
                f"column must be one of classes, of which there are {list(self.levels_)}; got {column!r}"
            )
        place = self.form_.columns.index(column)
        return pd.DataFrame(rows(asked.chances(place)), columns=list(self.levels_[column]))

    def sample_paths(self, horizon: int, n: int = 100, known=None, X=None, random_state=None) -> np.ndarray:
        """Draw ``n`` futures of ``horizon`` rows: an array (n, horizon, F), of several series (n, N, horizon, F).

        Classes are positions among the column's levels, ``levels_[column]``.
        """
        check_count("n", n)
        beyond = self._beyond(horizon, known, X, name="horizon")
        drawn = beyond.asked.draws(int(n), self._generator(random_state))
        return drawn if beyond.panel.form.many else drawn[:, 0]

    def _beyond(self, n: Any, known: Any, X: Any, sign: int = 1, name: str = "n") -> _Beyond:
        """What is asked of n rows after the last, or before the first."""
        check_is_fitted(self)
        check_count(name, n)
        asked = (sign * int(n), self.model_)
        if X is None and known is None and self._last is not None and self._last[0] == asked:
            return self._last[1]
        panel = self.panel_ if X is None else self._read(native(X))
        cells = writing.known_of(panel, int(n), None if known is None else native(known, "known"))
        places = writing.places_of(panel, sign * int(n))
        effort = Effort(seed=self.inference_seed_)
        wide, known_cells = self.entries_.spread(panel), self.entries_.to(cells)
        question = beyond(self.model_, self.scaling_, wide, places, known_cells, effort)
        asked_of = PanelQuestion(question, self.entries_, self.form_)
        found = _Beyond(asked_of, panel, sign * int(n), cells, self.make_)
        if X is None and known is None:
            self._last = asked, found
        return found

    # ------------------------------------------------------------------ what is odd, what is noise

    def anomaly_score(self, X, online: bool = False) -> np.ndarray:
        """Oddness of each row, −log p of what was seen of it given the rows before it, nats in the data's units; (rows,).

        Of rows with classes that of the classes given those before, and of the numbers given these and all rows before.

        Of arrays (N, T, F) the shape is (N, T); of a list it is a list.  A row of which nothing was seen has score 0.

        With ``online`` the score is learned from each series' own past alone, whatever its law and however that drifts, and no
        unit enters it: the root mean square of −log p that several members give, see :mod:`abduce.sequences.surprise`.
        """
        X = native(X)
        if online:
            panel = self._read(X)
            return writing.by_step(X, panel, surprises(self._drawn_out(panel), panel.size, self._repeats))
        panel = self._read(X)
        return writing.by_step(X, panel, self._look(panel).by_step())

    def flag(self, X, rate: float = 0.001, rest: int = 0) -> np.ndarray:
        """Whether each row is an alarm, told from the rows before it alone; booleans, (rows,) as `anomaly_score` has them.

        ``rate`` is the share of rows that are flagged where nothing is odd: a row is an alarm if at most that share of its
        past had such a score (``anomaly_score(X, online=True)``), so there is none before 1 / ``rate`` rows were seen.
        After an alarm there is none for ``rest`` rows.
        """
        check_share("rate", rate)
        check_number("rest", rest, 0)
        X = native(X)
        panel = self._read(X)
        found = flagged(self._drawn_out(panel), panel.size, float(rate), int(rest), self._repeats)
        return writing.by_step(X, panel, found)

    def _flags(self, X) -> dict[str, np.ndarray]:
        """``anomaly_score`` and ``predict``, -1 of alarms, told from the past alone."""
        return {
            "anomaly_score": self.anomaly_score(X, online=True),
            "predict": np.where(self.flag(X), -1, 1),
        }

    @same_make
    def explain(self, X):
        """Oddness of each cell, −log p of it given all other cells of its series, before it and after; NaN at blanks."""
        panel = self._read(X)
        surprise = self._look(panel).by_cell()
        return writing.whole(X, panel, np.where(panel.mask, surprise, np.nan))

    @same_make
    def smooth(self, X):
        """X without its noise, as far as the autoregression tells it from what lasts; blanks are filled, classes stay."""
        panel = self._read(X)
        clean = self._look(panel).clean()
        return writing.whole(X, panel, np.where(panel.mask, clean, self._about(panel).mean()), named=True)

    def decompose(self, X) -> dict[str, Any]:
        """``level``, ``season`` and ``rest`` of X, each in its form; they sum to what was seen.

        The level is what is left of the smoothed series without its seasons, averaged over a season; ``rest`` is
        NaN at blanks.  Columns of classes are NaN in all three.
        """
        check_is_fitted(self)
        X = native(X)
        panel = self._read(X)
        parts = self._look(panel).parts()
        return {name: writing.whole(X, panel, part) for name, part in parts.items()}

    def backtest(self, X, horizon: int, windows: int = 10, level: float = 0.8) -> pd.DataFrame:
        """How well the last steps of X would have been forecast, from ``windows`` origins, ``horizon`` steps apart.

        Of the columns of numbers: CRPS, WQL (weighted quantile loss), coverage of intervals of ``level``, MASE and MAE; rows
        for this model, the last season repeated and the last value.  Parameters stay those of the fit: leave the steps out of
        it that are judged.
        """
        check_is_fitted(self)
        check_count("horizon", horizon)
        check_count("windows", windows)
        check_share("level", level)
        numbers = len(self.entries_.numbers)
        if not numbers:
            raise ValueError(
                "backtest is of columns of numbers, and X has none; hold rows out and ask forecast_probabilities"
            )
        panel = self.entries_.spread(self._read(native(X)))
        period, width = self.season_, self.model_.n_cells
        models = {"abduce": (self.model_, True), "last value": (Interpolation(width, 1), False)}
        if period > 1:
            models["seasonal naive"] = (Interpolation(width, period), False)
        return backtest(models, self.scaling_, panel, int(horizon), int(windows), level, period, numbers)

    @property
    def season_(self) -> int:
        """Steps of the season that explains most, 1 if there is none."""
        seasons: Any = self._lead.seasons
        return seasons.periods[0] if seasons.periods else 1

    @property
    def levels_(self) -> dict[Any, tuple[Any, ...]]:
        """The classes of each column that holds some."""
        return {self.form_.columns[j]: self.form_.kinds[j].levels for j in self.entries_.classes}

    @property
    def _repeats(self) -> list[int]:
        """Periods in steps, the likeliest first: those given, found, or the calendar's."""
        seasons: Any = self._lead.seasons
        return [*(self.periods or ()), *seasons.periods, *self.form_.grid.suggested()]

    @property
    def _lead(self) -> Any:
        """The member that says what is odd and what lasts."""
        return self.model_.pool.parts[self.model_.pool.order]

    def _look(self, panel: SeriesPanel) -> Look:
        effort = Effort(seed=self.inference_seed_)
        return Look(self.model_, self.entries_, self.scaling_, panel, effort)

    def _drawn_out(self, panel: SeriesPanel) -> np.ndarray:
        """Numbers and indicators of classes (N, T, G), of which each is a series of its own."""
        return self.entries_.to(panel.values)[..., : self.entries_.pooled]

    # ------------------------------------------------------------------ keep

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically; :func:`~abduce.load` reads it."""
        check_is_fitted(self)
        series_folder.keep(self, folder)

    def members(self) -> pd.DataFrame:
        """Members with their weights, and their mean errors on hidden cells in standard deviations: between observed cells
        ("inside"), and beyond the last ("ahead")."""
        check_is_fitted(self)
        return pd.DataFrame(self.model_.pool.reports).set_index("member")

    def class_members(self, column: Any) -> pd.DataFrame:
        """The members of a column of classes with their weights: between observed cells ("inside") and beyond the last."""
        check_is_fitted(self)
        if column not in self.levels_:
            raise ValueError(
                f"column must be one of classes, of which there are {list(self.levels_)}; got {column!r}"
            )
        return pd.DataFrame(self.model_.classes[list(self.levels_).index(column)].report()).set_index(
            "member"
        )


class _Beyond(NamedTuple):
    """Rows beyond a panel that are asked for, ``count`` of them, negative before the first, with what is ``known`` of them."""

    asked: PanelQuestion
    panel: SeriesPanel
    count: int
    known: np.ndarray
    make: str | None

    def rows(self, values: np.ndarray) -> Any:
        """New rows of values (N, n, F), in the form of the training data."""
        whole = np.where(np.isfinite(self.known), self.known, values)
        return writing.made(writing.new(self.panel, whole, self.count), self.make)


def _ends(level: float) -> list[float]:
    return [0.5 - level / 2, 0.5 + level / 2]
