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

from abduce.answers import score as scoring
from abduce.compress import codec as coding
from abduce.data.fields import listing
from abduce.data.schema import Schema
from abduce.estimators.bootstrap import Encoded, refit
from abduce.estimators.restoration import Restoration
from abduce.fit.checkpoint import fingerprint
from abduce.inference.energy import Energy


def check_count(name: str, given: Any) -> None:
    """Refuse what is not a positive int."""
    if not isinstance(given, Integral) or isinstance(given, bool) or given < 1:
        raise ValueError(f"{name} must be an int >= 1, got {given!r}")


class GenerativeModel(
    Restoration, ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, DensityMixin, BaseEstimator
):
    """The questions: score, represent, generate, restore, compress."""

    model_: Energy
    beta_: float = 1.0  # p(x) ∝ exp(−β E(x)) b(x)
    base_: Any = None  # the base measure b, if the energy needs one
    schema_: Schema
    offset_: float
    inference_seed_: int
    random_state: Any
    contamination: float
    kinds: Any
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

    def _marginal_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        """The same where only each cell's own law matters, which may cost less."""
        return self._posterior_draws(x, seen, n, generator)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_columns(self, X, reset: bool) -> None:
        """scikit-learn's checks: column names, number of columns, and plain arrays' shape and contents."""
        if isinstance(X, Encoded):  # checked when it was encoded
            return
        if isinstance(X, pd.DataFrame):
            frame: Any = X
            validate_data(self, frame, reset=reset, skip_check_array=True)
        elif getattr(X, "ndim", 2) <= 2:
            kind = getattr(getattr(X, "dtype", None), "kind", "O")
            dtype = None if kind in "bifu" else np.float64
            validate_data(self, X, reset=reset, dtype=dtype, ensure_all_finite="allow-nan")

    # ------------------------------------------------------------------ in and out

    def _read(self, X) -> tuple[Schema, np.ndarray, np.ndarray]:
        """What ``fit`` takes X for, and X in model space; a resample keeps the schema of what it was drawn from."""
        if isinstance(X, Encoded):
            return X.schema, X.values, X.observed
        schema = Schema.infer(X, self.kinds)
        return (schema, *schema.encode(X))

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

    def fill(
        self,
        X,
        draws: int | None = None,
        observed=None,
        random_state=None,
        parameters: str = "fixed",
    ):
        """Fill the blanks of X with the posterior mean (numbers) or mode (classes); observed cells stay to the bit.

        A row with nothing observed is filled from the prior.

        Parameters
        ----------
        X : as in ``fit``
        draws : int or None
            A list of this many completed copies, each a draw from the posterior of the blanks: multiple imputation.
            :func:`abduce.pool` puts together what is estimated from each.
        observed : bool array of X's shape, or None
            Marks the cells to trust; others are filled as if they were blank.
        random_state : int, RandomState or None
            Of the draws; None: the model's own.
        parameters : "fixed" or "bootstrap"
            What the copies take the model's parameters to be.  "fixed": as fitted, the same for all.  That is improper
            imputation: it leaves out that the parameters are estimates too, so that intervals are too short on small
            data.  "bootstrap": each copy's own, of a clone of the model refitted to a bootstrap resample of the rows of X,
            as they are in the posterior of the parameters: proper multiple imputation, at the cost of ``draws`` fits.  X
            are then all the rows of the analysis, not some new ones.  Refits go by the constructor's arguments and the
            fitted ``schema_``; a later ``fit_prior`` or ``normalize`` is not done again.

        References
        ----------
        Rubin 1987, Multiple Imputation for Nonresponse in Surveys; Honaker, King & Blackwell 2011, Amelia II (a bootstrap
        for each copy); von Hippel & Bartlett 2021 (arXiv:1210.0870; what draws with fixed parameters are good for).
        """
        x, seen = self._encode(X)
        seen = self._seen(X, seen, observed)
        blank = ~seen.numpy()
        if draws is not None and (not isinstance(draws, Integral) or draws < 1):
            raise ValueError(f"draws must be a positive int or None, got {draws!r}")
        if parameters not in ("fixed", "bootstrap"):
            raise ValueError(f"parameters must be 'fixed' or 'bootstrap', got {parameters!r}")
        if parameters == "bootstrap":
            self._check_refits(draws, seen)
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
        generator = self._generator(random_state)
        if parameters == "fixed":
            for part, drawn in self._posterior_draws(x[rows], seen[rows], draws, generator):
                stack[:, where[part]] = drawn.numpy()
        else:
            data = Encoded(self.schema_, np.where(blank, 0.0, values), seen.numpy())
            for k, completed in enumerate(stack):
                rng = np.random.default_rng([generator.initial_seed(), k])
                model = refit(self, data, rng)
                own = torch.Generator().manual_seed(int(rng.integers(2**31 - 1)))
                for part, drawn in model._posterior_draws(x[rows], seen[rows], 1, own):
                    completed[where[part]] = drawn[0].numpy()
        return [self.schema_.replace(X, completed, blank) for completed in stack]

    def _check_refits(self, draws: int | None, seen: Tensor) -> None:
        """Refuse refits that nothing could come of."""
        if draws is None:
            raise ValueError(
                "parameters='bootstrap' needs draws, the number of completed copies, each from a refit of its own; got "
                "draws=None"
            )
        if len(seen) < 2:
            raise ValueError(
                f"X must have at least 2 rows for parameters='bootstrap', which refits the model to X, got {len(seen)}"
            )
        if self.schema_.container == "image":
            return
        nothing = (~seen).all(0).tolist()
        lost = [
            f.name for f, none in zip(self.schema_.fields, nothing, strict=True) if none and f.missing < 1
        ]
        if lost:
            raise ValueError(
                f"X has no observed value in {listing(lost)}, and parameters='bootstrap' refits the model to X: give the rows "
                "that the model was fitted to"
            )

    def fill_interval(self, X, level: float = 0.9, observed=None) -> tuple:
        """Interval of each blank cell: two copies of X, blanks replaced by the lower and the upper end.

        The ends are quantiles of 1,000 posterior draws, the parameters as fitted, at (1 − level)/2 and (1 + level)/2; class
        cells get the classes at these quantiles of the codes.
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
            for part, drawn in self._marginal_draws(x[rows], seen[rows], 1000, self._generator(0)):
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

    # ------------------------------------------------------------------ compress

    def compress(self, X) -> bytes:
        """Compress X losslessly, bit for bit: about −log₂ p(x) bits a row, by models with latents and mixtures of Gaussians.

        Numbers must have the fixed precision of the training data.  A data frame's index and left-out columns are carried
        along.  ValueError names the column of a value that the model has no code for, or the family of a model that has
        neither latents nor tractable conditionals to code with.
        """
        check_is_fitted(self)
        if len(X):
            self._check_columns(X, reset=False)
        name = fingerprint(*self._state())
        return coding.compress(self.model_, self.schema_, X, name, self.beta_, self.base_)

    def decompress(self, data: bytes):
        """Turn the bytes of :meth:`compress` back into X.

        Raises CompressedDataError (a ValueError) if they are of another model or format version, truncated or changed.
        """
        check_is_fitted(self)
        name = fingerprint(*self._state())
        return coding.decompress(self.model_, self.schema_, data, name, self.beta_, self.base_)
