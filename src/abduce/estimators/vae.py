"""The variational auto-encoder behind scikit-learn's contract: fit once, ask anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from abduce.answers.answer import gather
from abduce.checks import check_choice, check_count
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.distributions.heads import SCALES
from abduce.estimators import refit
from abduce.estimators.estimator import Estimator, Rows, RunOptions
from abduce.fit.bounds import ELBO, IWAE, Objective
from abduce.fit.loop import train
from abduce.fit.settings import Settings
from abduce.fit.steps import LatentStep
from abduce.inference import annealing
from abduce.inference.diagnostics import Diagnosis, diagnose, warn_of_heavy_tails
from abduce.inference.importance import PRECISIONS, log_prob
from abduce.models.build import start_vae
from abduce.models.choice import LIKELIHOODS, Choice
from abduce.models.parts import LAYERED, POSTERIORS, PRIORS
from abduce.models.shapes import FEW
from abduce.models.vae import VariationalAutoencoder
from abduce.nets.mlp import ACTIVATIONS

CODED = 2000  # rows that place the codes' axes


@dataclass(eq=False, repr=False)
class VAE(Estimator[VariationalAutoencoder]):
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
        image.  A step is some ten times slower than an MLP's on a processor, and reaches more.  "auto" is "conv" of grey and
        binary images of 12 pixels a side or more where ``hidden`` is left to the data too, else "mlp".
    likelihood : str or mapping of column to str
        p(x|z): one name for all columns that it fits, or one for each of some columns; "auto" goes by kind.  real, positive
        and pixel take "gaussian", "student_t", "laplace"; positive also "lognormal"; pixel also "discretized_logistic",
        "discretized_logistic_mixture", "continuous_bernoulli", "beta_binomial"; count "negative_binomial", "poisson",
        "beta_binomial"; binary "bernoulli"; ordinal "ordinal", "categorical"; categorical "categorical".
    scale : "network", "cell" or "shared"
        Noise scale of Gaussian, Laplace and Student-t cells: a function of z, one for each cell, or one for all.
    prior : "auto", "normal", "mixture", "vamp" or "flow"
        p(z), of several layers that of the top one.  "auto" is what the linear path gives, without one a mixture of
        convolutions, else standard normal.
    components : int
        Of a "mixture", or pseudo-inputs of a "vamp" prior.
    posterior : "auto", "diagonal", "full", "flow", "iaf"; of several layers "bottom_up" or "top_down"
        Family of q(z|x).  "auto" is what the linear path gives, of images turned too, without one "full" of convolutions, else
        "diagonal" or, of several layers, "bottom_up".  "iaf" is quick to draw from and slow to evaluate elsewhere: it goes
        with ``masking=False`` and ``gradient="plain"``.
    transforms : int
        Of a flow posterior.
    objective : "auto", "elbo", "iwae" or an objective
        "auto" is the ELBO on complete data and the multi-sample bound on incomplete data; objectives are
        :class:`~abduce.ELBO`, :class:`~abduce.IWAE`, :class:`~abduce.Renyi`, :class:`~abduce.MIWAE`,
        :class:`~abduce.PIWAE` and :class:`~abduce.CIWAE`.
    max_epochs : int or "auto"
        Passes over the data; "auto" goes by the data's size.
    batch_size, learning_rate, weight_decay : numbers or "auto"
        Of the Adam optimiser; "auto" is 128, 1e-3 and 0.05; batches of 64 for convolutions, 2e-3 for grey images and for
        convolutions, a decay of 0.3 for convolutions without a linear path.
    contamination : float in (0, 0.5]
        Share of training rows that ``predict`` flags, setting ``offset_``.
    trim : float in [0, 0.5)
        Share of rows, the least plausible, left out of each training step: robustness against anomalies in X.
    validation_fraction : float in [0, 1)
        Share of rows held out of training to pick the best weights and to stop by.  Of fewer than 20,000 grey images they are
        learnt from too, in a quarter more epochs at the end, where ``max_epochs`` is "auto".
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
    dropout : float in [0, 1) or "auto"
        Of the hidden layers, in training; "auto" is 0.2 of few grey images, else 0.
    kinds : mapping of column to kind, one kind for all, or None
        Overrides what is inferred.
    bounds : (low, high), mapping of column to such pairs, or None
        No value that is filled in or drawn lies beyond; None stands for no end.  What was never negative stays so by itself.
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
        One record an epoch.  Where training fell and went back to its best, the records between are taken out, and the next
        says ``fell``: a list of the epoch, the value there, the epoch gone back to and the rate, a share of the learning rate.
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

    progress = ("bound", 1.0, " nats")
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
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "trim": [Interval(Real, 0, 0.5, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "masking": ["boolean"],
        "missing": [StrOptions({"mar", "mnar"})],
        "mask_model": [str, Mapping],
        "linear_path": ["boolean", StrOptions({"auto"})],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "kinds": [dict, str, None],
        "bounds": [dict, tuple, list, None],
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
    batch_size: int | str = "auto"
    learning_rate: float | str = "auto"
    weight_decay: float | str = "auto"
    contamination: float = 0.1
    trim: float = 0.0
    validation_fraction: float = 0.1
    masking: bool = True
    missing: str = "mar"
    mask_model: str | Mapping[Any, str] = "self_masking"
    linear_path: bool | str = "auto"
    activation: str = "silu"
    dropout: float | str = "auto"
    kinds: Mapping[Any, str] | str | None = None
    bounds: Any = None
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

        Training that falls far below its best, or to no number at all, goes back to its best and on at a tenth of the learning
        rate, with a warning; a posterior of which no unit says anything about a row is warned of.

        Raises
        ------
        Diverged
            Training fell at every learning rate tried, and nothing better than the start was reached.
        """
        self._fit_rows(X, checkpoint, redraw)
        return self

    def _check_arguments(self) -> None:
        Choice.of(self.get_params(deep=False))

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[VariationalAutoencoder, Seen]:
        x, mask, schema, seed = rows
        choice = Choice.of(self.get_params(deep=False)).named(schema)
        settings = self._settings(choice, schema, len(x), seed)
        model = start_vae(schema, choice, x, mask, *settings.split(len(x)), seed, self.trim)
        objective = self._objective(bool(mask.all()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # dropout draws from the global generator
            step = LatentStep(model.joint(), objective, settings, len(x))
            done = train(step, x.float(), mask, settings, self._report, run.checkpoint, run.redraw)
        self.history_, self.interrupted_ = done.history, done.interrupted
        model = model.double()
        if schema.container == "image" and choice.wants_path(schema):
            refit.settle(model, x, mask, seed)
        model.place_axes(x[:CODED], mask[:CODED])
        return model, Seen(x, mask)

    def _judged(self, n: int) -> int:
        """All rows, or of very large data as many as can be scored in seconds."""
        model, shapes = self.model_, self.model_.shapes
        work = (10 * model.n_cells + shapes.path * model.latent_dim**2 // 10) * (20 if shapes.image else 1)
        return min(n, max(500, 500_000_000 // (work * self.samples)))

    def _settings(self, choice: Choice, schema: Schema, n: int, seed: int) -> Settings:
        path, conv = choice.wants_path(schema), choice.wants_convolutions(schema)
        image = schema.container == "image"
        steps = 2400 if conv else 12_000
        if self.missing == "mar" and path:  # beside a linear path a table asks for little more, images do
            steps = 1500 if image else 600

        def given(value: Any, default: Any) -> Any:
            return default if value == "auto" else value

        return Settings(
            epochs=None if self.max_epochs == "auto" else int(self.max_epochs),
            steps=steps,
            batch_size=given(self.batch_size, 64 if conv else 128),
            learning_rate=given(self.learning_rate, 2e-3 if conv or (image and path) else 1e-3),
            linear_rate=1.0 if self.missing == "mnar" else 0.1,
            mask_rate=30.0,
            partial=0.25 if path or conv else 1.0,
            weight_decay=given(self.weight_decay, 0.3 if conv and not path else 0.05),
            masking=self.masking and self.missing == "mar",
            validation=self.validation_fraction,
            patience=None if image and path else Settings.patience,
            finish=0.25 if image and path and n < FEW and self.max_epochs == "auto" else 0.0,
            trim=self.trim,
            device=self.device,
            seed=seed,
            event_shape=schema.shape,
        )

    def _objective(self, complete: bool) -> Objective:
        if callable(self.objective):
            return self.objective
        name = ("elbo" if complete else "iwae") if self.objective == "auto" else self.objective
        return ELBO(warmup=0.1) if name == "elbo" else IWAE(samples=20 if self.missing == "mnar" else 5)

    # ------------------------------------------------------------------ score

    def _know_log_z(self) -> None:
        pass  # it is 0

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

        With ``missing="mnar"`` it is log p(x_obs, s), of the mask s too.
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
        check_choice("method", method, ("importance", "ais", "smc"))
        check_choice("precision", precision, PRECISIONS)
        check_choice("start", start, annealing.STARTS)
        check_count("temperatures", temperatures)
        if samples is not None:
            check_count("samples", samples)
        seen, novel = self._read_novel(X)
        model = self.model_.joint()
        if method == "importance":
            evidence = log_prob(
                model, seen.y, seen.mask, samples or self.samples, self.inference_seed_, precision
            )
            extra = {"pareto_k": evidence.pareto_k.numpy()}
            warn_of_heavy_tails(evidence.pareto_k)
        else:
            evidence, acceptance = annealing.log_prob(
                model,
                seen.y,
                seen.mask,
                method,
                samples or (16 if method == "ais" else 64),
                temperatures,
                start,
                seed=self.inference_seed_,
                precision=precision,
            )
            extra = {"acceptance": acceptance.numpy()}
        value = evidence.value.numpy() + self._units(seen) + self._novelty(novel)
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
        check_choice("start", start, annealing.STARTS)
        seed = self._generator(random_state).initial_seed()
        bounds = annealing.bidirectional(self.model_, n, samples, temperatures, start, seed=seed)
        units = float(np.mean(self._units(Seen.whole(bounds.x))))
        lower, upper = float(bounds.lower.mean()), float(bounds.upper.mean())
        return {"lower": lower + units, "upper": upper + units, "gap": upper - lower}

    def effective_sample_size(self, X) -> np.ndarray:
        """Effective number of importance draws behind each row's score, between 1 and ``samples``, ``(n,)``."""
        return gather(self.model_, self._encode(X), self._effort(), lambda answer: answer.ess).numpy()

    # ------------------------------------------------------------------ look inside

    def diagnose(self, X, samples: int = 16, surgery: bool = False) -> Diagnosis:
        """Split the ELBO of X into reconstruction and KL, and count the latent units in use; nats a row, densities in the
        data's own units.

        With ``surgery`` the KL is split further into mutual information I(x; z) and marginal KL(q(z) ‖ p(z)), q(z) being
        the average of q(z|x) over the rows of X (so that I is at most log of their number).
        """
        check_count("samples", samples)
        seen = self._encode(X)
        found = diagnose(self.model_, seen.y, seen.mask, int(samples), surgery, self.inference_seed_)
        units = float(np.mean(self._units(seen)))
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
        check_choice("prior", prior, ("normal", "mixture", "flow"))
        if len(layers := self.model_.shapes.latent) > 1:
            raise ValueError(f"fit_prior needs one layer of latents, this model has {list(layers)}")
        for name, value in (("components", components), ("draws", draws), ("max_epochs", max_epochs)):
            check_count(name, value)
        seen = self._encode(X)
        law = refit.prior(
            self.model_, seen.y, seen.mask, prior, components, draws, max_epochs, self.inference_seed_
        )
        self.model_.set_prior(law)
        self._set_offset(seen)
        return self
