"""Adapters: one role of a model as the only one, for pipelines that ask for that role."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, OutlierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_number
from abduce.estimators.detector import Detector
from abduce.estimators.odd_rows import HAIR


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


class OutlierDetector(OutlierMixin, _Adapter):
    """Tell odd rows, as a detector or a pipeline's last step: how odd, odd or not, at which false discovery rate, which cells.

    Rows may mix numbers, dates, classes and blanks.  Without a model a row is odd by how far it lies from training rows,
    whether or not these hold anomalies themselves (:mod:`abduce.models.oddness`): seconds for ten thousand rows.

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

    Attributes
    ----------
    model_ : estimator
        What was fitted; it has all questions of the house.
    offset_ : float
        Where ``score_samples`` parts outliers from inliers.

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

    def __init__(self, model=None, contamination=None, random_state=None):
        super().__init__(model)
        self.contamination, self.random_state = contamination, random_state

    def fit(self, X, y=None):
        """Fit a clone of the model, or the detector alone."""
        share = self.contamination
        if not (share is None or (isinstance(share, str) and share == "auto")):
            check_number("contamination", share, 0, 0.5, above=True)
        model: Any = Detector(random_state=self.random_state) if self.model is None else clone(self.model)
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
