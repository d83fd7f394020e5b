"""Everything that can be asked of a fitted generative model, behind scikit-learn's contract.

An estimator fits ``model_`` (a latent-variable model) and ``schema_`` (what the data are); every question is answered from
these two here, in the data's own form, whatever the method was.
"""

from __future__ import annotations

import warnings
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

from abduce import checkpoint as folders
from abduce.data.schema import Schema
from abduce.inference import annealing
from abduce.inference.annealing import check
from abduce.inference.importance import PRECISIONS, by_chunk, log_prob
from abduce.models.vae import VariationalAutoencoder
from abduce.tasks import compress as coding
from abduce.tasks import score as scoring
from abduce.tasks.observation import Flips, Linear, Observation
from abduce.tasks.restore import Effort, posterior_draws, posterior_mean


def check_count(name: str, given: Any) -> None:
    """Refuse what is not a positive int."""
    if not isinstance(given, Integral) or isinstance(given, bool) or given < 1:
        raise ValueError(f"{name} must be an int >= 1, got {given!r}")


def warn_of_heavy_tails(pareto_k: Tensor, few: float = 0.01) -> None:
    """Warn where more than a few rows' importance weights have tails too heavy to average (k̂ > 0.7)."""
    heavy = int((pareto_k > 0.7).sum())
    if heavy > max(1, few * len(pareto_k)):
        worst = float(pareto_k[pareto_k > 0.7].max())
        warnings.warn(
            f"log p of {heavy} of {len(pareto_k)} rows is doubtful: the Pareto k of their importance weights is above "
            f"0.7, the worst {worst:.2f}. Give more samples, or method='ais'.",
            RuntimeWarning,
            stacklevel=3,
        )


class GenerativeModel(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, DensityMixin, BaseEstimator
):
    """The questions: score, represent, generate, restore, compress."""

    model_: VariationalAutoencoder
    schema_: Schema
    offset_: float
    inference_seed_: int
    samples: int
    random_state: Any
    feature_names_in_: Any

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What identifies the fitted model: JSON-able configuration and weights."""
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
        beyond = observed & (values > self.model_.heads.limits().numpy())
        if beyond.any():
            row, j = np.argwhere(beyond)[0]
            raise ValueError(
                f"X: column {self.schema_.names[j]!r} has {values[row, j]:g} in row {row}, beyond the largest count of the "
                "training data, where likelihood 'beta_binomial' ends"
            )
        return torch.from_numpy(values), torch.from_numpy(observed)

    def _scores(self, x: Tensor, observed: Tensor, samples: int | None = None) -> np.ndarray:
        value = log_prob(self.model_, x, observed, samples or self.samples, self.inference_seed_).value
        return value.numpy() + self.schema_.log_jacobian(x.numpy(), observed.numpy())

    @property
    def _n_features_out(self) -> int:
        return self.model_.latent_dim

    # ------------------------------------------------------------------ score

    def score_samples(self, X, samples: int | None = None) -> np.ndarray:
        """Log-probability of the observed cells of each row, nats, float64 ``(n,)``, by importance sampling.

        Densities are in the data's own units.  The same seeded draws serve every row, so a row's score does not depend on
        which rows come with it.
        """
        return self._scores(*self._encode(X), samples)

    def log_prob(
        self,
        X,
        samples: int | None = None,
        method: str = "importance",
        return_diagnostics: bool = False,
        precision: str = "double",
        start: str = "posterior",
        temperatures: int = 100,
    ):
        """Estimate log p of the observed cells of each row, nats, float64 ``(n,)``, and say how far to trust it.

        Every estimate is a stochastic lower bound: in expectation at most log p.  Densities are in the data's own units.  All
        rows share their seeded random numbers, so a row's value does not depend on which rows come with it.

        Parameters
        ----------
        X : as in ``fit``
        samples : int or None
            Importance draws (None: the model's ``samples``), annealed chains (None: 16) or particles (None: 64).
        method : "importance", "ais" or "smc"
            Draws from the encoder's posterior; annealed importance sampling; tempered sequential Monte Carlo.
        return_diagnostics : bool
            Return also a dict of arrays ``(n,)``: standard_error (nats), effective_sample_size, and pareto_k (importance;
            the estimate is doubtful above 0.7) or acceptance (annealing; of the moves).
        precision : "double" or "single"
            Of the networks; "single" is about twice as fast.
        start : "posterior" or "prior"
            Where annealing starts: the encoder's posterior, or the prior, which no fault of the encoder can mislead.
        temperatures : int
            Steps of annealing; tempered SMC chooses its own, at most ten times as many.
        """
        check_is_fitted(self)
        check("method", method, ("importance", "ais", "smc"))
        check("precision", precision, PRECISIONS)
        check("start", start, annealing.STARTS)
        check_count("temperatures", temperatures)
        if samples is not None:
            check_count("samples", samples)
        x, observed = self._encode(X)
        if method == "importance":
            evidence = log_prob(
                self.model_, x, observed, samples or self.samples, self.inference_seed_, precision
            )
            extra = {"pareto_k": evidence.pareto_k.numpy()}
            warn_of_heavy_tails(evidence.pareto_k)
        else:
            evidence, acceptance = annealing.log_prob(
                self.model_,
                x,
                observed,
                method,
                samples or (16 if method == "ais" else 64),
                temperatures,
                start,
                seed=self.inference_seed_,
                precision=precision,
            )
            extra = {"acceptance": acceptance.numpy()}
        value = evidence.value.numpy() + self.schema_.log_jacobian(x.numpy(), observed.numpy())
        if not return_diagnostics:
            return value
        return value, {
            "standard_error": evidence.standard_error.numpy(),
            "effective_sample_size": evidence.effective_sample_size.numpy(),
            **extra,
        }

    def certify(
        self,
        n: int = 64,
        samples: int = 16,
        temperatures: int = 100,
        start: str = "posterior",
        random_state=None,
    ) -> dict[str, float]:
        """Bound log p from both sides on ``n`` rows simulated from the model: how far off can :meth:`log_prob` be?

        Annealed importance sampling with ``samples`` chains through ``temperatures`` steps bounds log p from below; run in
        reverse from the z that made each row, an exact posterior draw, it bounds log p from above (Grosse et al. 2015,
        arXiv:1511.02543).  Returns the means over rows ``lower`` and ``upper``, in the data's units, and their ``gap``, nats.
        """
        check_is_fitted(self)
        for name, value in (("n", n), ("samples", samples), ("temperatures", temperatures)):
            check_count(name, value)
        check("start", start, annealing.STARTS)
        seed = self._generator(random_state).initial_seed()
        bounds = annealing.bidirectional(self.model_, n, samples, temperatures, start, seed=seed)
        x = bounds.x.numpy()
        units = float(np.mean(self.schema_.log_jacobian(x, np.ones(x.shape, dtype=bool))))
        lower, upper = float(bounds.lower.mean()), float(bounds.upper.mean())
        return {"lower": lower + units, "upper": upper + units, "gap": upper - lower}

    def score(self, X, y=None) -> float:
        """Mean of :meth:`score_samples`, nats a row."""
        return float(np.mean(self.score_samples(X)))

    def effective_sample_size(self, X) -> np.ndarray:
        """Effective number of importance draws behind each row's score, between 1 and ``samples``, ``(n,)``."""
        x, observed = self._encode(X)
        evidence = log_prob(self.model_, x, observed, self.samples, self.inference_seed_)
        return evidence.effective_sample_size.numpy()

    def anomaly_score(self, X) -> np.ndarray:
        """Oddness of each row, −log p in nats: higher is odder (PyOD's sign)."""
        return -self.score_samples(X)

    def decision_function(self, X) -> np.ndarray:
        """``score_samples(X) − offset_``: below zero is an outlier (scikit-learn's sign, the opposite of PyOD's)."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, −1 for outliers (scikit-learn's signs; PyOD says 0 and 1)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def realism(self, X, references: int = 1000) -> np.ndarray:
        """Share of the model's own samples that are less plausible than each row, in [0, 1], ``(n,)``."""
        x, observed = self._encode(X)

        def log_jacobian(values: Tensor, seen: Tensor) -> Tensor:
            return torch.from_numpy(self.schema_.log_jacobian(values.numpy(), seen.numpy()))

        share = scoring.realism(
            self.model_, x, observed, log_jacobian, references, self.samples, self.inference_seed_
        )
        return share.numpy()

    # ------------------------------------------------------------------ represent

    def transform(self, X) -> np.ndarray:
        """Posterior mean of the latents, ``(n, latent)``."""
        (mean,) = by_chunk(lambda x, o: (self.model_.posterior(x, o).mean.detach(),), *self._encode(X))
        return mean.numpy()

    @torch.no_grad()
    def inverse_transform(self, Z):
        """Decode latents ``(n, latent)`` to the mean of p(x|z), in the data's own form."""
        check_is_fitted(self)
        z = torch.as_tensor(np.asarray(Z, dtype=np.float64))
        if z.ndim != 2 or z.shape[1] != self.model_.latent_dim:
            raise ValueError(f"Z must have shape (n, {self.model_.latent_dim}), got {tuple(z.shape)}")
        return self.schema_.decode(self.model_.heads.point(self.model_.likelihood(z).moments()).numpy())

    # ------------------------------------------------------------------ generate

    @torch.no_grad()
    def sample(self, n: int = 1, random_state=None):
        """Draw ``n`` new rows in the form the data came in."""
        check_is_fitted(self)
        if not isinstance(n, Integral) or n < 1:
            raise ValueError(f"n must be a positive int, got {n!r}")
        return self.schema_.decode(
            self.model_.sample(int(n), self._generator(random_state)).numpy(), snap=True
        )

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
            moments, _ = posterior_mean(
                self.model_, x[rows], seen[rows], effort=self._effort(), seed=self.inference_seed_
            )
            values[rows] = self.model_.heads.point(moments).numpy()
            return self.schema_.replace(X, values, blank)
        stack = np.repeat(values[None], draws, 0)
        where = np.flatnonzero(rows)
        for part, drawn in self._posterior_draws(x[rows], seen[rows], draws, random_state):
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
            for part, drawn in self._posterior_draws(x[rows], seen[rows], 1000, 0):
                ends = torch.quantile(drawn, q, dim=0).numpy()
                low[where[part]], high[where[part]] = ends
        return self.schema_.replace(X, low, blank), self.schema_.replace(X, high, blank)

    def _posterior_draws(self, x: Tensor, seen: Tensor, n: int, random_state):
        generator = self._generator(random_state)
        return posterior_draws(
            self.model_, x, seen, n, generator, effort=self._effort(), seed=self.inference_seed_
        )

    def _effort(self) -> Effort:
        return Effort(samples=self.samples)

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

    def denoise(self, X, noise):
        """The clean data that most plausibly produced X: the posterior mean given noisy values.

        ``noise`` is the noise's standard deviation in the data's units (one number, or one for each column); for
        all-binary data it is the probability that a cell was flipped.  Blanks are filled too.
        """
        x, seen = self._encode(X)
        kinds = {f.kind for f in self.schema_.fields}
        sigma = np.asarray(noise, dtype=np.float64)
        if not np.all(np.isfinite(sigma)) or np.any(sigma < 0):
            raise ValueError(f"noise must be finite and >= 0, got {noise!r}")
        observation: Observation
        if kinds == {"binary"}:
            if sigma.ndim or not sigma < 0.5:
                raise ValueError(f"noise of binary data is a flip probability in [0, 0.5), got {noise!r}")
            observation = Flips(max(float(sigma), 1e-9))
        else:
            wrong = sorted(kinds - {"real", "pixel"})
            if wrong:
                raise ValueError(
                    f"denoise takes real, pixel or all-binary data, this model also has kinds {wrong}"
                )
            scale = np.array([f.scale for f in self.schema_.fields])
            if sigma.ndim and sigma.shape != (len(scale),):
                raise ValueError(
                    f"noise must be one number or one for each of {len(scale)} columns, got {sigma.shape}"
                )
            observation = Linear(
                torch.from_numpy(np.broadcast_to(sigma / scale, (self.schema_.n_cells,)).copy())
            )
        return self.schema_.decode(self._clean(x, seen, observation))

    def upscale(self, X, factor: int, noise: float = 0.0):
        """Larger images that most plausibly averaged, over blocks of ``factor`` x ``factor`` pixels, to X.

        X has shape ``(n, H / factor, W / factor[, C])`` for a model of ``(n, H, W[, C])`` images.
        """
        check_is_fitted(self)
        schema = self.schema_
        if schema.container != "image":
            raise ValueError(f"upscale needs a model of images, this one was fitted to a {schema.container}")
        h, w = schema.shape[:2]
        if not isinstance(factor, Integral) or factor < 1 or h % factor or w % factor:
            raise ValueError(f"factor must be a positive int that divides both {h} and {w}, got {factor!r}")
        small = (h // int(factor), w // int(factor), *schema.shape[2:])
        array = np.asarray(X, dtype=np.float64)
        if array.shape[1:] != small:
            raise ValueError(f"X must have shape (n, {', '.join(map(str, small))}), got {array.shape}")
        if np.isinf(array).any():
            raise ValueError("X contains infinity")
        (field,) = schema.fields
        loc, scale = field.loc, field.scale
        if field.kind == "binary":
            low, high = (float(v) for v in field.categories or (0, 1))
            loc, scale = low, high - low
        y = torch.from_numpy((array.reshape(len(array), -1) - loc) / scale)
        seen = ~torch.isnan(y)
        observation = Linear(max(float(noise) / scale, 1e-3), int(factor), schema.shape)
        return schema.decode(self._clean(y.nan_to_num(), seen, observation))

    def _clean(self, y: Tensor, seen: Tensor, observation: Observation) -> np.ndarray:
        """Posterior mean of clean rows, model space."""
        effort = Effort(samples=self.samples, rounds=8)
        moments, _ = posterior_mean(
            self.model_, y, seen, observation, effort=effort, seed=self.inference_seed_
        )
        if isinstance(observation, Flips):
            return self.model_.heads.point(moments).numpy()
        return moments[0].squeeze(-1).numpy()

    # ------------------------------------------------------------------ compress

    def compress(self, X) -> bytes:
        """Compress X losslessly, bit for bit, by bits-back coding: about −log₂ p(x) bits a row.

        Numbers must have the fixed precision of the training data.  A data frame's index and left-out columns are carried
        along.  ValueError names the column of a value that the model has no code for.
        """
        check_is_fitted(self)
        if len(X):
            self._check_columns(X, reset=False)
        return coding.compress(self.model_, self.schema_, X, folders.fingerprint(*self._state()))

    def decompress(self, data: bytes):
        """Turn the bytes of :meth:`compress` back into X.

        Raises CompressedDataError (a ValueError) if they are of another model or format version, truncated or changed.
        """
        check_is_fitted(self)
        return coding.decompress(self.model_, self.schema_, data, folders.fingerprint(*self._state()))
