"""The variational auto-encoder behind scikit-learn's contract: fit once, ask anything."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.distributions.heads import SCALES
from abduce.estimators import refit
from abduce.estimators.latent import LatentModel
from abduce.fit import checkpoint as folders
from abduce.fit.bounds import ELBO, IWAE, Objective, objective_from_json, objective_to_json
from abduce.fit.loop import Settings, train
from abduce.inference.diagnostics import Diagnosis, diagnose
from abduce.models.build import start_vae
from abduce.models.choice import LIKELIHOODS, Choice
from abduce.models.parts import LAYERED, POSTERIORS, PRIORS
from abduce.models.vae import VariationalAutoencoder
from abduce.nets.mlp import ACTIVATIONS


@dataclass(eq=False, repr=False)
class VAE(LatentModel):
    """Fit one variational auto-encoder to data with holes, then fill, flag, clean, compress, embed, score and generate.

        max over θ, φ of  Σ_rows  E_{q_φ(z | x_obs)} [log p_θ(x_obs | z) + log p(z) − log q_φ(z | x_obs)]

    X is a 2-D array, a stack of images ``(n, H, W)`` or ``(n, H, W, C)``, or a DataFrame of mixed kinds; NaN, None and
    NA are blanks, at fit as at any question.  Scores are in nats.

    Parameters
    ----------
    latent_dim : int, sequence of int, or "auto"
        Number of latent units; several numbers are several layers of latents, from the top down, e.g. ``(50, 100)``.
    hidden : sequence of int or "auto"
        Widths of the encoder's hidden layers; the decoder has them reversed.
    network : "auto", "mlp" or "conv"
        "conv" are convolutional networks of images of any size; ``hidden`` are then their widths, and each halves the
        image.  They are slower than an MLP, some ten times on a processor.  "auto" is "mlp".
    likelihood : str or mapping of column to str
        p(x|z): one name for all columns that it fits, or one for each of some columns; "auto" goes by kind.  real, positive
        and pixel take "gaussian", "student_t", "laplace"; positive also "lognormal"; pixel also "discretized_logistic",
        "discretized_logistic_mixture", "continuous_bernoulli", "beta_binomial"; count "negative_binomial", "poisson",
        "beta_binomial"; binary "bernoulli"; ordinal "ordinal", "categorical"; categorical "categorical".
    scale : "network", "cell" or "shared"
        Noise scale of Gaussian, Laplace and Student-t cells: a function of z, one for each cell, or one for all.
    prior : "auto", "normal", "mixture", "vamp" or "flow"
        p(z), of several layers that of the top one.  "auto" is what the linear path gives, or standard normal.
    components : int
        Of a "mixture", or pseudo-inputs of a "vamp" prior.
    posterior : "auto", "diagonal", "full", "flow", "iaf"; of several layers "bottom_up" or "top_down"
        Family of q(z|x).  "auto" is what the linear path gives, or the first.  "iaf" is quick to draw from and slow to
        evaluate elsewhere: it goes with ``masking=False`` and ``gradient="plain"``.
    transforms : int
        Of a flow posterior.
    objective : "auto", "elbo", "iwae" or an objective
        "auto" is the ELBO on complete data and the multi-sample bound on incomplete data; objectives are
        :class:`~abduce.ELBO`, :class:`~abduce.IWAE`, :class:`~abduce.Renyi`, :class:`~abduce.MIWAE`,
        :class:`~abduce.PIWAE` and :class:`~abduce.CIWAE`.
    max_epochs : int or "auto"
        Passes over the data; "auto" goes by the data's size.
    batch_size, learning_rate, weight_decay
        Of the Adam optimiser.
    contamination : float in (0, 0.5]
        Share of training rows that ``predict`` flags, setting ``offset_``.
    trim : float in [0, 0.5)
        Share of rows, the least plausible, left out of each training step: robustness against anomalies in X.
    validation_fraction : float in [0, 1)
        Share of rows held out of training to pick the best weights and to stop by.
    masking : bool
        Hide random parts of rows in training, so that blanks are never new to the encoder.
    missing : "mar" or "mnar"
        Why cells are blank.  "mar" takes them as missing at random: which cells are blank says nothing beyond what the
        observed cells say.  "mnar" models the mask too, by ``mask_model``, and maximises a bound on log p(x_obs, s), s being
        the mask: fills, intervals, draws and scores then take into account that a cell is blank.  A mechanism is an
        assumption that the data can't check, and a wrong one does harm: choose it for what is known of the data.  Only
        cells that are blank somewhere in the training data have a mechanism.  Training then hides nothing further.
        ``transform``, ``sample``, ``denoise``, ``upscale`` and ``compress`` are of the values alone.
    mask_model : "self_masking", "self_masking_high", "self_masking_low", "logistic", or mapping of column to the first three
        p(s|x) of "mnar".  Self-masking: whether a number is observed is a logistic function of the number itself, of a class
        one probability a class; "high" and "low" say that high or low values go missing, where this is known.  "logistic":
        of all numbers of the row, which asks much of the data.  Blanks of numbers need the likelihood "gaussian",
        "lognormal" or "laplace", blanks of classes self-masking of no known direction; blanks of counts are refused.
    linear_path : bool or "auto"
        Start from, and keep beside the networks, a mixture of linear-Gaussian models whose posterior is exact for any
        pattern of blanks; "auto" does so when some cells are numbers, latents have one layer, and neither prior nor
        posterior is named.
    activation : "silu", "tanh", "relu", "gelu" or "elu"
    dropout : float in [0, 1)
        Of the hidden layers, in training.
    kinds : mapping of column to kind, one kind for all, or None
        Overrides what is inferred.
    samples : int
        Importance draws behind a score or a fill; four times as many behind draws and intervals of "mnar".
    device : "auto", "cpu", "cuda", ...
    random_state : int, RandomState or None
    verbose : int
        1 prints the training's progress on stderr.
    callback : callable or None
        Called after each epoch with its record.

    Attributes
    ----------
    schema_
        What the columns or pixels are.
    model_
        The torch module.
    history_
        One record an epoch.
    offset_
        The score below which a row is an outlier.
    n_features_in_, feature_names_in_
        As in scikit-learn.

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

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "latent_dim": [Interval(Integral, 1, None, closed="left"), tuple, list, StrOptions({"auto"})],
        "hidden": ["array-like", StrOptions({"auto"})],
        "network": [StrOptions({"auto", "mlp", "conv"})],
        "likelihood": [StrOptions(set(LIKELIHOODS)), Mapping],
        "scale": [StrOptions(set(SCALES))],
        "prior": [StrOptions({"auto", *PRIORS})],
        "components": [Interval(Integral, 1, None, closed="left")],
        "posterior": [StrOptions({"auto", *POSTERIORS, *LAYERED})],
        "transforms": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"auto", "elbo", "iwae"}), callable],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "trim": [Interval(Real, 0, 0.5, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "masking": ["boolean"],
        "missing": [StrOptions({"mar", "mnar"})],
        "mask_model": [str, Mapping],
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

    latent_dim: int | Sequence[int] | str = "auto"
    hidden: Sequence[int] | str = "auto"
    network: str = "auto"
    likelihood: str | Mapping[Any, str] = "auto"
    scale: str = "network"
    prior: str = "auto"
    components: int = 50
    posterior: str = "auto"
    transforms: int = 2
    objective: str | Objective = "auto"
    max_epochs: int | str = "auto"
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    contamination: float = 0.1
    trim: float = 0.0
    validation_fraction: float = 0.1
    masking: bool = True
    missing: str = "mar"
    mask_model: str | Mapping[Any, str] = "self_masking"
    linear_path: bool | str = "auto"
    activation: str = "silu"
    dropout: float = 0.0
    kinds: Mapping[Any, str] | str | None = None
    samples: int = 100
    device: str = "auto"
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0
    callback: Callable[[dict[str, float]], Any] | None = None

    # ------------------------------------------------------------------ fit

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X, y=None, *, checkpoint: str | Path | None = None, redraw: Callable[[int], Any] | None = None
    ):
        """Fit the model to the observed cells of X.

        ``checkpoint`` names a folder in which the run's state is kept; if it holds the state of the same run, training
        goes on from there to the same numbers.  ``redraw(epoch)``, called before each epoch with its number from 0, returns
        another draw of the rows of X in the same form: dynamic binarisation, augmentation.  Ctrl-C ends training early and
        leaves a usable model.
        """
        self._check_columns(X, reset=True)
        choice = Choice.of(self.get_params(deep=False))
        schema, values, observed = self._read(X)
        if not observed.any():
            raise ValueError("X has no observed cell at all: every value is missing")
        seed = self._seed()
        self.schema_ = schema
        if schema.container == "image":
            self.n_features_in_ = schema.n_cells
        x, mask = torch.from_numpy(values), torch.from_numpy(observed)
        choice = choice.named(schema)
        settings = self._settings(choice.wants_path(schema), schema.shape, seed)
        model = start_vae(schema, choice, x, mask, *settings.split(len(x)), seed, self.trim)
        run = train(
            model.joint(),
            self._objective(bool(mask.all())),
            x.float(),
            mask,
            settings,
            self._report,
            Path(checkpoint) if checkpoint else None,
            self._redraw(redraw, x.shape),
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
        shapes = self.model_.shapes
        dear = 20 if shapes.image else 1
        work = (10 * x.shape[1] + shapes.path * self.model_.latent_dim**2 // 10) * dear  # of one draw
        most = max(500, 500_000_000 // (work * self.samples))
        if len(x) <= most:
            return x, mask
        index = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.inference_seed_))[:most]
        return x[index], mask[index]

    def _redraw(
        self, redraw: Callable[[int], Any] | None, shape: torch.Size
    ) -> Callable[[int], Tensor] | None:
        if redraw is None:
            return None

        def rows(epoch: int) -> Tensor:
            values = torch.from_numpy(self.schema_.encode(redraw(epoch))[0]).float()
            if values.shape != shape:
                raise ValueError(
                    f"redraw must return the rows of X, {tuple(shape)}, got {tuple(values.shape)}"
                )
            return values

        return rows

    def _settings(self, path: bool, event_shape: tuple[int, ...], seed: int) -> Settings:
        return Settings(
            epochs=None if self.max_epochs == "auto" else int(self.max_epochs),
            steps=600 if path and self.missing == "mar" else 12_000,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            linear_rate=1.0 if self.missing == "mnar" else 0.1,
            mask_rate=30.0,
            partial=0.25 if path else 1.0,
            weight_decay=self.weight_decay,
            masking=self.masking and self.missing == "mar",
            validation=self.validation_fraction,
            trim=self.trim,
            device=self.device,
            seed=seed,
            event_shape=event_shape,
        )

    def _objective(self, complete: bool) -> Objective:
        if callable(self.objective):
            return self.objective
        name = ("elbo" if complete else "iwae") if self.objective == "auto" else self.objective
        return ELBO(warmup=0.1) if name == "elbo" else IWAE(samples=20 if self.missing == "mnar" else 5)

    def _report(self, record: dict[str, float]) -> None:
        if self.verbose:
            held = f", held out {record['valid']:.3f}" if "valid" in record else ""
            epoch = f"epoch {record['epoch']}/{record['epochs']}"
            print(f"{epoch}: bound {record['train']:.3f} nats{held}", file=sys.stderr)
        if self.callback is not None:
            self.callback(record)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    # ------------------------------------------------------------------ look inside

    def diagnose(self, X, samples: int = 16, surgery: bool = False) -> Diagnosis:
        """Split the ELBO of X into reconstruction and KL, and count the latent units in use; nats a row, densities in the
        data's own units.

        With ``surgery`` the KL is split further into mutual information I(x; z) and marginal KL(q(z) ‖ p(z)), q(z) being
        the average of q(z|x) over the rows of X (so that I is at most log of their number).
        """
        if not isinstance(samples, Integral) or samples < 1:
            raise ValueError(f"samples must be a positive int, got {samples!r}")
        x, observed = self._encode(X)
        found = diagnose(self.model_, x, observed, int(samples), surgery, self.inference_seed_)
        units = float(np.mean(self.schema_.log_jacobian(x.numpy(), observed.numpy())))
        return replace(found, elbo=found.elbo + units, reconstruction=found.reconstruction + units)

    def fit_prior(
        self, X, prior: str = "mixture", components: int = 20, draws: int = 4, max_epochs: int = 50
    ):
        """Refit the prior on the latents of X with encoder and decoder frozen (ex-post density estimation).

        ``prior`` is ``"mixture"`` (Gaussians with full covariances, by expectation-maximisation), ``"flow"`` or
        ``"normal"``.  The bound can only gain from it: for fixed encoder and decoder the best prior is the aggregate
        posterior.  ``X`` are the training rows.  Returns the estimator.

        Source: Ghosh et al. 2020 (arXiv:1903.12436).
        """
        check_is_fitted(self)
        if prior not in ("normal", "mixture", "flow"):
            raise ValueError(f"prior must be 'normal', 'mixture' or 'flow', got {prior!r}")
        if len(layers := self.model_.shapes.latent) > 1:
            raise ValueError(f"fit_prior needs one layer of latents, this model has {list(layers)}")
        for name, value in (("components", components), ("draws", draws), ("max_epochs", max_epochs)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        law = refit.prior(
            self.model_, *self._encode(X), prior, components, draws, max_epochs, self.inference_seed_
        )
        self.model_.set_prior(law)
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    # ------------------------------------------------------------------ keep

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What identifies the fitted model: JSON-able configuration and weights."""
        return {"model": self.model_.config}, {
            name: t.float() if t.is_floating_point() else t for name, t in self.model_.state_dict().items()
        }

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically."""
        check_is_fitted(self)
        config, tensors = self._state()
        arguments = self.get_params(deep=False) | asdict(self.model_.choice)
        del arguments["callback"]
        arguments["objective"] = objective_to_json(self.objective)
        arguments["random_state"] = self.random_state if isinstance(self.random_state, Integral) else None
        fitted = {"offset": self.offset_, "inference_seed": self.inference_seed_, "history": self.history_}
        fitted["feature_names"] = [str(c) for c in getattr(self, "feature_names_in_", [])]
        body = {"kind": "model", "estimator": "VAE", "arguments": arguments, "fitted": fitted, **config}
        folders.save(folder, body, tensors)

    @classmethod
    def _from_folder(cls, body: dict[str, Any], tensors: dict[str, Tensor]) -> VAE:
        arguments = body["arguments"]
        self = cls(**arguments | {"objective": objective_from_json(arguments["objective"])})
        with torch.random.fork_rng(devices=[]):
            model = VariationalAutoencoder(**body["model"])
        self.schema_ = model.schema
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise folders.ModelFolderError(
                f"the folder's weights do not fit its model.json: {error}"
            ) from None
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
