"""Adapters: one role of a model as the only one, for pipelines that ask for that role."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, OutlierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted


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
    """Flag odd rows as a pipeline's last step: ``predict``, ``decision_function``, ``score_samples`` of the model."""

    def fit(self, X, y=None):
        """Fit a clone of the model."""
        super().fit(X)
        self.offset_ = self.model_.offset_
        return self

    def score_samples(self, X):
        """Log-probability of each row, nats."""
        check_is_fitted(self)
        return self.model_.score_samples(X)

    def decision_function(self, X):
        """The model's ``decision_function``: below zero is an outlier."""
        check_is_fitted(self)
        return self.model_.decision_function(X)

    def predict(self, X):
        """+1 for inliers, −1 for outliers."""
        check_is_fitted(self)
        return self.model_.predict(X)
