"""Everything that can be asked of a fitted generative model, behind scikit-learn's contract.

An estimator fits ``model_`` and ``schema_`` (what the data are); every question is turned from the data's own form into
model space and back here, whatever the method was.  A subclass answers in model space: :class:`LatentModel` by importance
weights, :class:`EnergyModel` by exact laws or Markov chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from abduce.data.schema import Schema
from abduce.estimators.restoration import Restoration
from abduce.models.energy import Energy
from abduce.tasks import score as scoring


def check_count(name: str, given: Any) -> None:
    """Refuse what is not a positive int."""
    if not isinstance(given, Integral) or isinstance(given, bool) or given < 1:
        raise ValueError(f"{name} must be an int >= 1, got {given!r}")


class GenerativeModel(
    Restoration, ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, DensityMixin, BaseEstimator
):
    """The questions: score, represent, generate, restore, compress."""

    model_: Energy
    schema_: Schema
    offset_: float
    inference_seed_: int
    random_state: Any
    contamination: float
    feature_names_in_: Any

    # ------------------------------------------------------------------ what a subclass answers, in model space

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What identifies the fitted model: JSON-able configuration and weights."""
        raise NotImplementedError

    def _scores(self, x: Tensor, observed: Tensor) -> np.ndarray:
        """log p of the observed cells of each row in the data's units, nats, float64."""
        raise NotImplementedError

    def _plausibility(self, x: Tensor, observed: Tensor) -> np.ndarray:
        """log p up to a constant."""
        return self._scores(x, observed)

    def _codes(self, x: Tensor, observed: Tensor) -> Tensor:
        """What ``transform`` gives."""
        raise NotImplementedError

    def _new(self, n: int, generator: torch.Generator) -> Tensor:
        """New rows (n, D)."""
        raise NotImplementedError

    def _best(self, x: Tensor, seen: Tensor) -> Tensor:
        """The best completion of rows, by cell: mean of numbers, mode of classes."""
        raise NotImplementedError

    def _posterior_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        """Completions (n, rows, D), a chunk of rows at a time."""
        raise NotImplementedError

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_columns(self, X, reset: bool) -> None:
        """scikit-learn's checks: column names, number of columns, and plain arrays' shape and contents."""
        if isinstance(X, pd.DataFrame):
            frame: Any = X
            validate_data(self, frame, reset=reset, skip_check_array=True)
        elif getattr(X, "ndim", 2) <= 2:
            kind = getattr(getattr(X, "dtype", None), "kind", "O")
            dtype = None if kind in "bifu" else np.float64
            validate_data(self, X, reset=reset, dtype=dtype, ensure_all_finite="allow-nan")

    # ------------------------------------------------------------------ in and out

    def _encode(self, X) -> tuple[Tensor, Tensor]:
        check_is_fitted(self)
        self._check_columns(X, reset=False)
        values, observed = self.schema_.encode(X)
        return torch.from_numpy(values), torch.from_numpy(observed)

    # ------------------------------------------------------------------ score

    def score_samples(self, X) -> np.ndarray:
        """Log-probability of the observed cells of each row, nats, float64 ``(n,)``; densities in the data's own units."""
        return self._scores(*self._encode(X))

    def score(self, X, y=None) -> float:
        """Mean of :meth:`score_samples`, nats a row."""
        return float(np.mean(self.score_samples(X)))

    def anomaly_score(self, X) -> np.ndarray:
        """Oddness of each row, −log p in nats, up to a constant where log Z is not known: higher is odder (PyOD's sign)."""
        return -self._plausibility(*self._encode(X))

    def decision_function(self, X) -> np.ndarray:
        """``−anomaly_score(X) − offset_``: below zero is an outlier (scikit-learn's sign, the opposite of PyOD's)."""
        return -self.anomaly_score(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, −1 for outliers (scikit-learn's signs; PyOD says 0 and 1)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def realism(self, X, references: int = 1000) -> np.ndarray:
        """Share of the model's own samples that are less plausible than each row, in [0, 1], ``(n,)``."""
        x, observed = self._encode(X)
        with torch.no_grad():
            own = self._new(references, torch.Generator().manual_seed(self.inference_seed_))
        share = scoring.realism(lambda v, o: torch.from_numpy(self._plausibility(v, o)), own, x, observed)
        return share.numpy()

    # ------------------------------------------------------------------ represent

    def transform(self, X) -> np.ndarray:
        """What the model makes of each row, ``(n, features)``: the posterior mean of latents, a code, responsibilities."""
        return self._codes(*self._encode(X)).numpy()

    # ------------------------------------------------------------------ generate

    @torch.no_grad()
    def sample(self, n: int = 1, random_state=None):
        """Draw ``n`` new rows in the form the data came in."""
        check_is_fitted(self)
        if not isinstance(n, Integral) or n < 1:
            raise ValueError(f"n must be a positive int, got {n!r}")
        return self.schema_.decode(self._new(int(n), self._generator(random_state)).numpy(), snap=True)

    def _generator(self, random_state) -> torch.Generator:
        state = self.random_state if random_state is None else random_state
        return torch.Generator().manual_seed(int(check_random_state(state).randint(2**31 - 1)))

    # ------------------------------------------------------------------ restore

    def fill(self, X, draws: int | None = None, observed=None, random_state=None):
        """Fill the blanks of X with the posterior mean (numbers) or mode (classes); observed cells stay to the bit.

        With ``draws=k``, a list of k completed copies, each a draw from the posterior (multiple imputation).
        ``observed`` marks cells to trust, as a bool array of X's shape; others are filled as if they were blank.
        A row with nothing observed is filled from the prior.
        """
        x, seen = self._encode(X)
        seen = self._seen(X, seen, observed)
        blank = ~seen.numpy()
        if draws is not None and (not isinstance(draws, Integral) or draws < 1):
            raise ValueError(f"draws must be a positive int or None, got {draws!r}")
        if not blank.any():
            copies = [X.copy() if isinstance(X, pd.DataFrame) else np.array(X) for _ in range(draws or 1)]
            return copies if draws else copies[0]
        rows: Any = blank.any(1)
        values = x.numpy().copy()
        if draws is None:
            values[rows] = self._best(x[rows], seen[rows]).numpy()
            return self.schema_.replace(X, values, blank)
        stack = np.repeat(values[None], draws, 0)
        where = np.flatnonzero(rows)
        for part, drawn in self._posterior_draws(x[rows], seen[rows], draws, self._generator(random_state)):
            stack[:, where[part]] = drawn.numpy()
        return [self.schema_.replace(X, completed, blank) for completed in stack]

    def fill_interval(self, X, level: float = 0.9, observed=None) -> tuple:
        """Interval of each blank cell: two copies of X, blanks replaced by the lower and the upper end.

        The ends are quantiles of 1,000 posterior draws at (1 − level)/2 and (1 + level)/2; class cells get the classes
        at these quantiles of the codes.
        """
        if not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level!r}")
        x, seen = self._encode(X)
        seen = self._seen(X, seen, observed)
        blank = ~seen.numpy()
        rows: Any = blank.any(1)
        low, high = x.numpy().copy(), x.numpy().copy()
        where = np.flatnonzero(rows)
        if len(where):
            q = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
            for part, drawn in self._posterior_draws(x[rows], seen[rows], 1000, self._generator(0)):
                ends = torch.quantile(drawn, q, dim=0).numpy()
                low[where[part]], high[where[part]] = ends
        return self.schema_.replace(X, low, blank), self.schema_.replace(X, high, blank)

    def _seen(self, X, seen: Tensor, observed) -> Tensor:
        """Combine what is not NaN with the caller's mask."""
        if observed is None:
            return seen
        mask = np.asarray(observed)
        if mask.dtype != bool or mask.shape != np.shape(X):
            raise ValueError(
                f"observed must be a bool array of X's shape {np.shape(X)}, got {mask.dtype} of shape {mask.shape}"
            )
        if isinstance(X, pd.DataFrame):
            labels = [str(c) for c in X.columns]
            mask = mask[:, [labels.index(f.name) for f in self.schema_.fields]]
        return seen & torch.from_numpy(mask.reshape(len(mask), -1))
