"""Adapters: one role of a model as the only one, for pipelines that ask for that role."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, OutlierMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_number
from abduce.data.foreign import native
from abduce.data.reservoir import Reservoir, some_rows
from abduce.data.shards import to_fit
from abduce.estimators.detector import Detector
from abduce.estimators.odd_rows import HAIR
from abduce.fit.oddness import MOST


class _Adapter(BaseEstimator):
    """Holds a model and fits a clone of it."""

    def __init__(self, model):
        self.model = model

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X, y=None):
        """Fit a clone of the model."""
        model: Any = clone(self.model)
        return self._fitted(model, X)

    def _fitted(self, model: Any, X: Any):
        """Fit a model, and take over what scikit-learn asks of a fitted one."""
        self.model_ = model.fit(X)
        self.n_features_in_ = self.model_.n_features_in_
        if hasattr(self.model_, "feature_names_in_"):
            self.feature_names_in_ = self.model_.feature_names_in_
        return self


class Imputer(OneToOneFeatureMixin, TransformerMixin, _Adapter):
    """Fill blanks as a pipeline step: ``transform`` is the model's ``fill``.

    >>> import numpy as np
    >>> from abduce import VAE, Imputer
    >>> X = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0]] * 10)
    >>> Imputer(VAE(max_epochs=2, random_state=0)).fit_transform(X).shape
    (30, 2)
    """

    def transform(self, X):
        """X with its blanks filled."""
        check_is_fitted(self)
        return self.model_.fill(X)


def _without_model(detector: Any) -> bool:
    """Whether there is a `partial_fit`: rows of a stream can be learnt by a detector without a model only."""
    if detector.model is not None:
        raise AttributeError(
            f"partial_fit is for a detector without a model, got model={type(detector.model).__name__}: use fit"
        )
    return True


class OutlierDetector(OutlierMixin, _Adapter):
    """Tell odd rows, as a detector or a pipeline's last step: how odd, odd or not, at which false discovery rate, which cells.

    Rows may mix numbers, dates, classes and blanks.  Without a model a row is odd by how far it lies from training rows,
    whether or not these hold anomalies themselves (:mod:`abduce.models.oddness`): seconds for ten thousand rows.  Rows that
    come in time go to ``partial_fit``.

    Parameters
    ----------
    model : estimator or None
        A model of the house that is fitted and tells by −log p, or as :class:`~abduce.Auto` does; None: no more than what
        tells odd rows, with one Gaussian to explain them.
    contamination : float in (0, 0.5], "auto" or None
        Share of training rows that ``predict`` flags, setting ``offset_``; "auto": those that the other training rows give
        away, none at the least.  None: the model's own, without one 0.1.
    random_state : int, RandomState or None
        Of the detector without a model.
    forget : float of at least 10, or None
        Of the detector without a model: rows are in time's order, and one counts half as much for every so many rows after it.
        None: all rows count alike.

    Attributes
    ----------
    model_ : estimator
        What was fitted; it has all questions of the house.
    offset_ : float
        Where ``score_samples`` parts outliers from inliers.
    seen_ : int
        Rows that a detector without a model has come by.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import OutlierDetector
    >>> X = np.random.default_rng(0).normal(size=(500, 3))
    >>> detector = OutlierDetector(random_state=0).fit(X)
    >>> new = np.array([[0.1, 0.2, np.nan], [0.0, 0.0, 9.0]])
    >>> detector.flag(new, alpha=0.05)
    array([False,  True])
    >>> int(detector.explain(new[1:]).argmax())
    2
    """

    _stream: Reservoir | None = None

    def __init__(self, model=None, contamination=None, random_state=None, forget=None):
        super().__init__(model)
        self.contamination, self.random_state, self.forget = contamination, random_state, forget

    def fit(self, X, y=None):
        """Fit a clone of the model, or the detector alone; rows of a stream that came before are forgotten."""
        self._check_arguments()
        if self.model is not None:
            return self._learnt(clone(self.model), X)
        X = native(to_fit(X, self.random_state)[0])
        given = self.random_state
        whole = isinstance(given, int | np.integer)
        seed = int(given if whole else check_random_state(given).randint(2**31 - 1))
        self._seed, stream = seed, Reservoir(MOST, seed, self.forget)
        if self.forget is None:
            self._learnt(Detector(random_state=seed), X)
        rows = X if isinstance(X, pd.DataFrame) else np.asarray(X)
        stream.until(len(rows))
        stream.add(rows)
        if self.forget is not None:
            self._learnt(Detector(random_state=seed), stream.rows)
        self._stream, self.seen_ = stream, stream.seen
        return self

    @available_if(_without_model)
    def partial_fit(self, X, y=None):
        """Learn from the next rows of a stream, any number of them, and go on from a ``fit``: without a model only.

        Of all rows that came a uniform sample of 10,000 is kept, with ``forget`` one of the fresher rows
        (:mod:`abduce.data.reservoir`), and the detector is fitted anew to it whenever a tenth of it is new: memory stays as it
        is, and time a row falls with the rows that came.  How rows are cut into chunks makes no difference to what is kept,
        nor, but for the rows of the first call, to what is fitted.  What a stream of rows is at its time: ask
        :meth:`anomaly_score` about a chunk, then learn from it.  A level that comes first in a later chunk is odd, as
        anywhere, until the next fit that it is kept for.

        >>> import numpy as np
        >>> from abduce import OutlierDetector
        >>> rng, detector = np.random.default_rng(0), OutlierDetector(random_state=0)
        >>> for _ in range(30):
        ...     detector = detector.partial_fit(rng.normal(size=(50, 2)))
        >>> detector.seen_, detector.flag([[0.0, 1.0], [9.0, 9.0]]).tolist()
        (1500, [False, True])
        """
        if self._stream is None:
            return self.fit(X)
        self._check_arguments()
        if self.forget != self._stream.half_life:
            raise ValueError(
                f"forget must stay what it was at the stream's first rows, {self._stream.half_life}, got {self.forget!r}"
            )
        rows = self.model_.checked(X)
        fresh = self._stream.until(len(rows)) or 0
        if fresh:
            self._stream.add(some_rows(rows, slice(fresh)))
            self._learnt(Detector(random_state=self._seed), self._stream.rows)
        self._stream.add(some_rows(rows, slice(fresh, None)))
        self.seen_ = self._stream.seen
        return self

    def _check_arguments(self) -> None:
        share = self.contamination
        if not (share is None or (isinstance(share, str) and share == "auto")):
            check_number("contamination", share, 0, 0.5, above=True)
        if self.forget is not None:
            check_number("forget", self.forget, 10, unit=" rows")
            if self.model is not None:
                raise ValueError(
                    f"forget is for a detector without a model, got model={type(self.model).__name__}"
                )

    def _learnt(self, model: Any, X: Any):
        """Fit a model, and place the cut."""
        share = self.contamination
        if share is not None and share != "auto":
            model.set_params(contamination=share)
        super()._fitted(model, X)
        odd = self.model_.model_.odd
        self.offset_ = self.model_.offset_
        if odd is not None:
            own = odd.contamination if share == "auto" else self.model_.contamination
            self.offset_ = -odd.threshold(own) - HAIR
        elif share == "auto":
            raise ValueError(
                f"contamination='auto' is for Auto or no model: {type(model).__name__} judges training rows that it has seen"
            )
        return self

    def anomaly_score(self, X) -> np.ndarray:
        """Oddness of each row, nats: higher is odder (PyOD's sign)."""
        check_is_fitted(self)
        return self.model_.anomaly_score(X)

    def score_samples(self, X) -> np.ndarray:
        """Minus ``anomaly_score`` (scikit-learn's sign): of a model that tells odd rows by it, log p in nats."""
        check_is_fitted(self)
        return -self.model_.anomaly_score(X)

    def decision_function(self, X) -> np.ndarray:
        """``score_samples`` less ``offset_``: below zero is an outlier."""
        check_is_fitted(self)
        if self.model_.model_.odd is None:
            return self.model_.decision_function(X)
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, −1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X) -> np.ndarray:
        """Probability that a row like the training rows is as odd as each."""
        check_is_fitted(self)
        return self.model_.p_values(X)

    def flag(self, X, alpha: float = 0.05) -> np.ndarray:
        """Which rows are odd, bool ``(n,)``, at a false discovery rate of ``alpha``: see :meth:`abduce.Auto.flag`."""
        check_is_fitted(self)
        return self.model_.flag(X, alpha)

    def explain(self, X, expected: bool = False):
        """How much each cell makes its row odd, nats: see :meth:`abduce.Auto.explain`."""
        check_is_fitted(self)
        return self.model_.explain(X, expected)
