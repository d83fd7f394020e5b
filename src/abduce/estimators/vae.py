"""The variational auto-encoder behind scikit-learn's contract: fit once, ask anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
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
    _fit_context,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from abduce import checkpoint as folders
from abduce.data.schema import Schema
from abduce.inference.importance import by_chunk, log_prob
from abduce.models.build import FLOOR, LIKELIHOODS, build_vae, default_latent_dim, features_of, wants_path
from abduce.models.linear import LinearPath, choose
from abduce.nets import ACTIVATIONS
from abduce.models.vae import VariationalAutoencoder
from abduce.objectives.bounds import ELBO, IWAE, Objective
from abduce.tasks import compress as coding
from abduce.tasks import score as scoring
from abduce.tasks.observation import Flips, Linear, Observation
from abduce.tasks.restore import Effort, posterior_draws, posterior_mean
from abduce.train import Settings, train


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, OutlierMixin, BaseEstimator):
    """Fit one variational auto-encoder to data with holes, then fill, flag, clean, compress, embed, score and generate.

        max over θ, φ of  Σ_rows  E_{q_φ(z | x_obs)} [log p_θ(x_obs | z) + log p(z) − log q_φ(z | x_obs)]

    X is a 2-D array, a stack of images ``(n, H, W)`` or ``(n, H, W, C)``, or a DataFrame of mixed kinds; NaN, None and
    NA are blanks, at fit as at any question.  Scores are in nats.

    Parameters
    ----------
    latent_dim : int or "auto"
        Number of latent units.
    hidden : sequence of int or "auto"
        Widths of the encoder's hidden layers; the decoder has them reversed.
    likelihood : "auto", "gaussian" or "discretized_logistic"
        p(x|z) of numeric cells; "auto" goes by kind.
    objective : "auto", "elbo", "iwae" or an objective
        "auto" is the ELBO on complete data and the multi-sample bound on incomplete data.
    max_epochs : int or "auto"
        Passes over the data; "auto" goes by the data's size.
    batch_size, learning_rate, weight_decay
        Of the Adam optimiser.
    contamination : float in (0, 0.5]
        Share of training rows that ``predict`` flags, setting ``offset_``.
    trim : float in [0, 0.5)
        Share of rows, the least plausible, left out of each training step: robustness against anomalies in X.
    masking : bool
        Hide random parts of rows in training, so that blanks are never new to the encoder.
    linear_path : bool or "auto"
        Start from, and keep beside the networks, a mixture of linear-Gaussian models whose posterior is exact for any
        pattern of blanks; "auto" does so when some cells are numbers.
    activation : "silu", "tanh", "relu", "gelu" or "elu"
    dropout : float in [0, 1)
        Of the hidden layers, in training.
    kinds : mapping of column to kind, one kind for all, or None
        Overrides what is inferred.
    samples : int
        Importance draws behind a score or a fill.
    device : "auto", "cpu", "cuda", ...
    random_state : int, RandomState or None
    verbose : int
        1 prints the training's progress on stderr.
    callback : callable or None
        Called after each epoch with its record.

    Attributes
    ----------
    schema_ : what the columns or pixels are.  model_ : the torch module.  history_ : one record an epoch.
    offset_ : the score below which a row is an outlier.  n_features_in_, feature_names_in_ : as in scikit-learn.

    References
    ----------
    Kingma & Welling 2014 (arXiv:1312.6114); Burda et al. 2016 (arXiv:1509.00519); Mattei & Frellsen 2019
    (arXiv:1812.02633).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import VAE
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 1)) * [1.0, 2.0] + [0.0, 1.0]
    >>> X[::5, 1] = np.nan
    >>> model = VAE(latent_dim=1, max_epochs=30, random_state=0).fit(X)
    >>> bool(np.isnan(model.fill(X)).any())
    False
    """

    _parameter_constraints: dict = {
        "latent_dim": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "hidden": ["array-like", StrOptions({"auto"})],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "objective": [StrOptions({"auto", "elbo", "iwae"}), callable],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "trim": [Interval(Real, 0, 0.5, closed="left")],
        "masking": ["boolean"],
        "linear_path": ["boolean", StrOptions({"auto"})],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "kinds": [dict, str, None],
        "samples": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callback": [callable, None],
    }

    def __init__(
        self,
        latent_dim: int | str = "auto",
        hidden: Sequence[int] | str = "auto",
        likelihood: str = "auto",
        objective: str | Objective = "auto",
        max_epochs: int | str = "auto",
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        contamination: float = 0.1,
        trim: float = 0.0,
        masking: bool = True,
        linear_path: bool | str = "auto",
        activation: str = "silu",
        dropout: float = 0.0,
        kinds: Mapping[Any, str] | str | None = None,
        samples: int = 100,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        callback: Callable[[dict[str, float]], Any] | None = None,
    ):
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.likelihood = likelihood
        self.objective = objective
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.contamination = contamination
        self.trim = trim
        self.masking = masking
        self.linear_path = linear_path
        self.activation = activation
        self.dropout = dropout
        self.kinds = kinds
        self.samples = samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.callback = callback

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # ------------------------------------------------------------------ fit

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, checkpoint: str | Path | None = None):
        """Fit the model to the observed cells of X.

        ``checkpoint`` names a folder in which the run's state is kept; if it holds the state of the same run, training
        goes on from there to the same numbers.  Ctrl-C ends training early and leaves a usable model.
        """
        self._check_columns(X, reset=True)
        if not self.hidden == "auto":
            self._check_hidden()
        schema = Schema.infer(X, self.kinds)
        values, observed = schema.encode(X)
        if not observed.any():
            raise ValueError("X has no observed cell at all: every value is missing")
        seed = self._seed()
        self.schema_ = schema
        self._set_shape(schema)
        x, mask = torch.from_numpy(values), torch.from_numpy(observed)
        settings = self._settings(schema, len(x), seed)
        means = (values.sum(0) / np.maximum(observed.sum(0), 1)).tolist()
        rows, held = settings.split(len(x))
        self._config, path = self._architecture(schema, x, mask, rows, held, means, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_vae(schema, means=means, path=path, **self._config)
        run = train(
            model,
            self._objective(bool(mask.all())),
            x.float(),
            mask,
            settings,
            self._report,
            Path(checkpoint) if checkpoint else None,
        )
        self.history_ = run.history
        self.interrupted_ = run.interrupted
        self.n_iter_ = len(run.history)
        self.model_ = model.double()
        self.inference_seed_ = seed
        self.offset_ = float(np.quantile(self._scores(*self._some_rows(x, mask)), self.contamination))
        return self

    def _some_rows(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """All rows, or of very large data as many as can be scored in seconds."""
        most = max(500, 10**8 // (x.shape[1] * self.samples))
        if len(x) <= most:
            return x, mask
        index = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.inference_seed_))[:most]
        return x[index], mask[index]

    def _check_hidden(self) -> None:
        widths = list(self.hidden)
        if not all(isinstance(w, (int, np.integer)) and w > 0 for w in widths):
            raise ValueError(f"hidden must be a sequence of positive ints or 'auto', got {self.hidden!r}")

    def _wants_path(self, schema: Schema) -> bool:
        return wants_path(schema) if self.linear_path == "auto" else bool(self.linear_path)

    def _settings(self, schema: Schema, n: int, seed: int) -> Settings:
        path = self._wants_path(schema)
        return Settings(
            epochs=None if self.max_epochs == "auto" else int(self.max_epochs),
            steps=600 if path else 12_000,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            linear_rate=0.1,
            partial=0.25 if path else 1.0,
            weight_decay=self.weight_decay,
            masking=self.masking,
            trim=self.trim,
            device=self.device,
            seed=seed,
            event_shape=schema.shape,
        )

    def _architecture(
        self, schema: Schema, x: Tensor, mask: Tensor, rows: Tensor, held: Tensor, means: list[float], seed: int
    ) -> tuple[dict[str, Any], LinearPath | None]:
        """The arguments that build the network, all JSON-able, and the linear path it starts from."""
        wants = self._wants_path(schema)
        features = features_of(schema, means, self.masking)
        n_inputs = features.n_features - self.masking * schema.n_cells
        latent = self.latent_dim
        if latent == "auto":
            latent = default_latent_dim(schema, len(x), n_inputs, wants)
        hidden = list(self.hidden) if self.hidden != "auto" else [64 if len(x) < 1000 else 128] * (1 if wants else 2)
        config = {
            "latent_dim": int(latent),
            "hidden": [int(w) for w in hidden],
            "likelihood": self.likelihood,
            "activation": self.activation,
            "masking": self.masking,
            "dropout": self.dropout,
            "pixel_components": 2 if wants else 3,
        }
        path = None
        if wants:
            generator = torch.Generator().manual_seed(seed)
            used = rows[:5000]  # enough to place a linear path; its cost must not grow with the data

            def part(index: Tensor) -> tuple[Tensor, Tensor | None]:
                y, seen = features.cells(x[index], mask[index])
                return (y.double(), None) if seen is None or bool(seen.all()) else (y.double() * seen, seen)

            path = choose(*part(used), part(held[:1000]), int(latent), generator, FLOOR)
            config["mixture"] = len(path.weights)
        return config, path

    def _objective(self, complete: bool) -> Objective:
        if callable(self.objective):
            return self.objective
        name = ("elbo" if complete else "iwae") if self.objective == "auto" else self.objective
        return ELBO(warmup=0.1) if name == "elbo" else IWAE(samples=5)

    def _report(self, record: dict[str, float]) -> None:
        if self.verbose:
            held = f", held out {record['valid']:.3f}" if "valid" in record else ""
            epoch = f"epoch {record['epoch']}/{record['epochs']}"
            print(f"{epoch}: bound {record['train']:.3f} nats{held}", file=sys.stderr)
        if self.callback is not None:
            self.callback(record)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _set_shape(self, schema: Schema) -> None:
        if schema.container == "image":
            self.n_features_in_ = schema.n_cells

    def _check_columns(self, X, reset: bool) -> None:
        """scikit-learn's checks: column names, number of columns, and plain arrays' shape and contents."""
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
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

    def _scores(self, x: Tensor, observed: Tensor, samples: int | None = None) -> np.ndarray:
        value = log_prob(self.model_, x, observed, samples or self.samples, self.inference_seed_)[0]
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

    def score(self, X, y=None) -> float:
        """Mean of :meth:`score_samples`, nats a row."""
        return float(np.mean(self.score_samples(X)))

    def effective_sample_size(self, X) -> np.ndarray:
        """Effective number of importance draws behind each row's score, between 1 and ``samples``, ``(n,)``."""
        x, observed = self._encode(X)
        return log_prob(self.model_, x, observed, self.samples, self.inference_seed_)[2].numpy()

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
        return self.schema_.decode(self.model_.sample(int(n), self._generator(random_state)).numpy(), snap=True)

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
            copies = [X.copy() if hasattr(X, "copy") else np.array(X) for _ in range(draws or 1)]
            return copies if draws else copies[0]
        rows = blank.any(1)
        values = x.numpy().copy()
        if draws is None:
            moments, _ = posterior_mean(self.model_, x[rows], seen[rows], effort=self._effort(), seed=self.inference_seed_)
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
        rows = blank.any(1)
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
                raise ValueError(f"denoise takes real, pixel or all-binary data, this model also has kinds {wrong}")
            scale = np.array([f.scale for f in self.schema_.fields])
            if sigma.ndim and sigma.shape != (len(scale),):
                raise ValueError(f"noise must be one number or one for each of {len(scale)} columns, got {sigma.shape}")
            observation = Linear(torch.from_numpy(np.broadcast_to(sigma / scale, (self.schema_.n_cells,)).copy()))
        return self.schema_.decode(self._clean(x, seen, observation))

    def upscale(self, X, factor: int, noise: float = 0.0):
        """Larger images that most plausibly averaged, over blocks of ``factor`` x ``factor`` pixels, to X.

        X has shape ``(n, H / factor, W / factor[, C])`` for a model of ``(n, H, W[, C])`` images.
        """
        check_is_fitted(self)
        schema = self.schema_
        if schema.container != "image":
            raise ValueError(f"upscale needs a model of images, this one was fitted to a {schema.container}")
        h, w, c = (*schema.shape, 1)[:3]
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
        moments, _ = posterior_mean(self.model_, y, seen, observation, effort=effort, seed=self.inference_seed_)
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

    # ------------------------------------------------------------------ keep

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What identifies the fitted model: JSON-able configuration and weights."""
        config = {"architecture": self._config, "schema": self.schema_.to_json()}
        return config, {name: t.float() if t.is_floating_point() else t for name, t in self.model_.state_dict().items()}

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically."""
        check_is_fitted(self)
        config, tensors = self._state()
        arguments = {k: v for k, v in self.get_params(deep=False).items() if k not in ("callback", "objective")}
        if callable(self.objective):
            arguments["objective"] = "auto"
        else:
            arguments["objective"] = self.objective
        arguments["random_state"] = self.random_state if isinstance(self.random_state, Integral) else None
        arguments["hidden"] = self.hidden if self.hidden == "auto" else [int(w) for w in self.hidden]
        fitted = {"offset": self.offset_, "inference_seed": self.inference_seed_, "history": self.history_}
        fitted["feature_names"] = [str(c) for c in getattr(self, "feature_names_in_", [])]
        body = {"kind": "model", "estimator": "VAE", "arguments": arguments, "fitted": fitted, **config}
        folders.save(folder, body, tensors)

    @classmethod
    def _from_folder(cls, body: dict[str, Any], tensors: dict[str, Tensor]) -> VAE:
        self = cls(**body["arguments"])
        self.schema_ = Schema.from_json(body["schema"])
        self._config = body["architecture"]
        with torch.random.fork_rng(devices=[]):
            model = build_vae(self.schema_, **self._config)
        model.load_state_dict(tensors)
        self.model_ = model.double().eval()
        fitted = body["fitted"]
        self.offset_, self.inference_seed_ = fitted["offset"], fitted["inference_seed"]
        self.history_ = fitted["history"]
        self.n_iter_ = len(self.history_)
        self.interrupted_ = False
        self.n_features_in_ = len(self.schema_.order) or self.schema_.n_cells
        if fitted["feature_names"]:
            self.feature_names_in_ = np.asarray(fitted["feature_names"], dtype=object)
        return self
