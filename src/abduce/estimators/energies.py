"""Estimators of energies: how one is fitted, and how it becomes a probability.

A preset names a family of energies, how it is fitted, and its arguments; everything else is here or in
:mod:`abduce.estimators.estimator`.  Any fitted energy becomes a probability by :meth:`EnergyEstimator.normalize`, and can then
be asked for log p; what needs no log Z can be asked before.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.checks import check_count
from abduce.data.fields import listing
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.estimators.estimator import Estimator, Rows, Run
from abduce.fit import classical
from abduce.fit.loop import train_energy
from abduce.fit.loss import EnergyObjective, Kernel
from abduce.fit.settings import Settings
from abduce.inference import partition as ladder
from abduce.inference.energy import Energy, LogZ
from abduce.inference.importance import chunks
from abduce.inference.paths import Density
from abduce.models.energy_model import EnergyModel
from abduce.models.model import Model

REAL = ("real", "positive", "pixel")  # kinds of columns that are cells of a real energy
PARTITIONS = ("closed form", "auto")
WIDE = 2.0  # a base measure's standard deviation, in those of the data


class EnergyEstimator(Estimator):
    """The questions that are put to energies, besides those put to every model."""

    supports: ClassVar[tuple[str, ...]] = ("real",)
    support_: str  # "real", "binary" or "mixed"
    mean_energy_: float  # of rows held out
    partition: str

    # ------------------------------------------------------------------ fit

    def fit(
        self, X, y=None, *, checkpoint: str | Path | None = None, redraw: Callable[[int], Any] | None = None
    ):
        """Fit the model to X: an array, images or a data frame; NaN is a blank.

        Methods that need complete rows are fitted to rows completed by draws of a Gaussian fitted to the observed cells.
        ``checkpoint`` and ``redraw`` as in :meth:`abduce.VAE.fit`, for energies that are trained by gradients.  Where log Z
        has a closed form it is known afterwards; elsewhere :meth:`normalize` estimates it.
        """
        self._fit_rows(X, checkpoint, redraw)
        model = self.model_
        if isinstance(model, EnergyModel):
            if self.partition == "auto":
                self.normalize()
            elif model.knows_log_z():
                self.normalize(method="closed form" if model.energy.in_nats else "auto")
        return self

    def _check_arguments(self) -> None:
        if self.partition not in PARTITIONS:
            raise ValueError(f"partition must be one of {list(PARTITIONS)}, got {self.partition!r}")
        if not isinstance(self.contamination, Real) or not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination!r}")
        self._check_own()

    def _check_own(self) -> None:
        """Refuse arguments of a preset that make no sense; by default there are none."""

    def _support(self, schema: Schema) -> str:
        """What this model's cells hold; ValueError naming the columns that do not fit."""
        kinds = {f.kind for f in schema.fields}
        if kinds == {"binary"} and "binary" in self.supports:
            return "binary"
        if kinds <= set(REAL) and "real" in self.supports:
            return "real"
        wanted = " or ".join("numbers" if s == "real" else "all-binary data" for s in self.supports)
        fits = {"real": REAL, "binary": ("binary",)}
        good = (
            {kind for s in self.supports for kind in fits[s]}
            if len(kinds) == 1 or self.supports != ("binary",)
            else {"binary"}
        )
        wrong = [f for f in schema.fields if f.kind not in good] or list(schema.fields)
        hint = (
            " (kinds='real' takes them as numbers)"
            if "real" in self.supports and kinds <= {*REAL, "binary", "count", "ordinal"}
            else ""
        )
        raise ValueError(
            f"{type(self).__name__} takes {wanted}, but {listing([f.name for f in wrong])} "
            f"{'is' if len(wrong) == 1 else 'are'} {', '.join(sorted({f.kind for f in wrong}))}{hint}"
        )

    def _completed(self, x: Tensor, observed: Tensor, support: str, seed: int) -> Tensor:
        whole = classical.completed(x, observed, seed)
        if support == "binary" and not bool(observed.all()):
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(x.shape, generator=generator, dtype=x.dtype) < whole.clamp(0.01, 0.99)
            whole = torch.where(observed, x, drawn.to(x.dtype))
        return whole

    # ------------------------------------------------------------------ from an energy to a probability

    @property
    def log_z_(self) -> LogZ | None:
        """log Z; None where it is not known yet."""
        check_is_fitted(self, "model_")
        return self.model_.partition

    @property
    def beta_(self) -> float:
        """Inverse temperature β."""
        check_is_fitted(self, "model_")
        return self.model_.beta

    @property
    def base_(self) -> Any:
        """Base measure b; None where there is none."""
        check_is_fitted(self, "model_")
        return self.model_.base

    def normalize(
        self,
        method: str = "auto",
        beta: float | str | None = None,
        base: str | None = None,
        particles: int = 128,
        populations: int = ladder.POPULATIONS,
        refine: int = 1,
        random_state=None,
        show: Callable[[float], None] | None = None,
    ) -> LogZ:
        """Make the energy a probability, p(x) = exp(−β E(x)) b(x) / Z: estimate log Z and keep it.

        Parameters
        ----------
        method : "auto" or a rung of the ladder
            "closed form", "enumeration", "quadrature", "importance", "smc" or "ais"; "auto" is the first that holds.
        beta : float, "auto" or None
            Inverse temperature; None keeps what ``fit`` found, "auto": 1 where training gave the energy its scale, else the
            maximum likelihood β, at which the model's mean energy is that of held-out rows.
        base : "auto", "none", "normal", "box" or None
            Base measure b, fitted to the data; None keeps what ``fit`` found, "auto": a Gaussian twice as wide as the data
            where the integral would be infinite without one, else none.
        particles, populations, refine
            Of the sampler, where one is needed: populations never meet, and their spread is the error; ``refine`` cuts each
            step of temperature into as many.
        random_state : int, RandomState or None
            Of the sampler; None: the seed of the fit.
        show : callable or None
            Called with the share of the way that the sampler has gone.

        Returns
        -------
        LogZ
            In nats, of model space (standardised cells), with the interval that holds it with 90 % probability and
            ``diagnostics`` that say which rung it was, β, the base measure, effective sample size, acceptance.

        Raises
        ------
        ValueError
            For a rung that does not hold, or an infinite integral.
        Diverged
            Where chains run away or stand still.
        """
        check_is_fitted(self)
        for name, count in (("particles", particles), ("populations", populations), ("refine", refine)):
            check_count(name, count)
        model = self.model_
        if not isinstance(model, EnergyModel):  # a pool of densities is one
            assert model.partition is not None
            return model.partition
        seed = self.inference_seed_ if random_state is None else self._generator(random_state).initial_seed()
        changed = base is not None and not model.energy.in_nats
        if base is not None:
            model.measure = self._measure(base, model.energy, model.start)
        model.beta = self._temperature("auto" if beta is None and changed else beta, model)
        found = model.normalize(method, particles, populations, refine, seed, show)
        self.offset_ = float(self._plausibility(self._edge())[0])
        return found

    def _temperature(self, beta: float | str | None, model: EnergyModel) -> float:
        if beta is None:
            return model.beta
        if beta == "auto":
            if model.energy.in_nats:
                return 1.0
            density = Density(model.energy, model.start, 1.0, model.base)
            ladder.check_finite(density)
            return ladder.fit_beta(density, self.mean_energy_, seed=self.inference_seed_)
        if isinstance(beta, bool) or not isinstance(beta, Real) or not 0 < float(beta) < np.inf:
            raise ValueError(f"beta must be a number above 0 or 'auto', got {beta!r}")
        return float(beta)

    def _measure(self, base: str, model: Energy, start: Any) -> Any:
        if base not in ("auto", "none", "normal", "box"):
            raise ValueError(f"base must be 'auto', 'none', 'normal' or 'box', got {base!r}")
        if model.support == "binary":
            if base in ("normal", "box"):
                raise ValueError(f"base={base!r} is a measure of real cells; this model's are binary")
            return None
        if base == "none" or (base == "auto" and model.proper):
            return None
        if base == "box":
            half = 3 * start.scale
            return BoxBase(start.mean - half, start.mean + half)
        return NormalBase(start.mean.clone(), WIDE**2 * start.covariance)

    # ------------------------------------------------------------------ asked as an energy

    def energy(self, X) -> np.ndarray:
        """Energy of each row, ``(n,)``, in its own units; of a row with blanks −(1/β) log ∫ exp(−β E) over them."""
        seen = self._encode(X)
        model = self.model_
        if isinstance(model, EnergyModel) and bool(seen.mask.all()):
            parts = [
                model.energy.energy(xs)[: part.stop - part.start] for part, xs, _ in chunks(seen.y, seen.mask)
            ]
            return torch.cat(parts).numpy() if parts else np.zeros(0)
        known = 0.0 if model.partition is None or model.exact else model.partition.value
        value = self._plausibility(seen) - self._units(seen) + known
        return -value / model.beta

    def log_prob(
        self, X, samples: int | None = None, method: str = "importance", return_diagnostics: bool = False
    ):
        """log p of the observed cells of each row, nats; with diagnostics also how far log Z may be off.

        ``standard_error`` is that of log Z, the same for all rows; ``samples`` and ``method`` are for models with latents.
        """
        del samples, method
        value = self.score_samples(X)
        if not return_diagnostics:
            return value
        found = self.model_.partition
        assert found is not None
        error = 0.5 * (found.high - found.low) / 1.645
        size = float(found.diagnostics.get("effective_sample_size", np.inf))
        return value, {
            "standard_error": np.full(len(value), error),
            "effective_sample_size": np.full(len(value), size),
        }

    def sampling_diagnostics(self, n: int = 100, random_state=None) -> dict[str, Any]:
        """How drawing ``n`` rows went: method, effective sample size, acceptance, split R̂ of the energy."""
        check_is_fitted(self)
        check_count("n", n)
        if not isinstance(self.model_, EnergyModel):
            return {"method": "exact"}
        return self.model_.generate(n, self._generator(random_state)).diagnostics


class FittedEnergy(EnergyEstimator):
    """An energy that a method of its own fits, exactly or classically."""

    kept = (*Estimator.kept, "mean_energy_", "support_")

    @abc.abstractmethod
    def _learn(self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: Run) -> Energy:
        """The fitted energy, from completed rows x (n, D), float64, of which ``rows`` train and ``held`` judge."""

    def _split(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Rows to train on and rows to judge by."""
        return Settings(validation=0.1, seed=seed).split(n)

    def _fit(self, rows: Rows, run: Run) -> tuple[Model, Seen]:
        self.support_ = self._support(rows.schema)
        if len(rows.x) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        x = self._completed(rows.x, rows.mask, self.support_, rows.seed)
        train, held = self._split(len(x), rows.seed)
        base = RatesBase if self.support_ == "binary" else NormalBase
        start = base.fit(x[train])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rows.seed)
            energy = self._learn(x, rows.mask, train, held, rows.seed, run)
        energy = energy.double().eval().requires_grad_(False)
        judged = held if len(held) else torch.arange(len(x))
        self.mean_energy_ = float(torch.cat([energy.energy(x[part]) for part in judged.split(1000)]).mean())
        model = EnergyModel(energy, start, base=self._measure("auto", energy, start))
        model.beta = self._temperature("auto", model)
        return model, Seen.whole(x)


class TrainedEnergy(FittedEnergy):
    """An energy that is trained by gradients, by an objective; with the arguments of
    :class:`~abduce.estimators.arguments.TrainingArguments`.
    """

    max_epochs: int | str
    batch_size: int
    learning_rate: float | str
    validation_fraction: float
    device: str

    @abc.abstractmethod
    def _make(self, x: Tensor, seed: int) -> Energy:
        """An energy to train, for rows like x (n, D), float64."""

    @abc.abstractmethod
    def _objective(self, model: Energy) -> EnergyObjective:
        """What trains the energy."""

    @abc.abstractmethod
    def _kernel(self, model: Energy) -> Kernel | None:
        """The sampler of an objective that needs one."""

    @abc.abstractmethod
    def _loop(self) -> dict[str, Any]:
        """Settings of the training loop that differ from its own defaults."""

    def _split(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        return self._settings(seed).split(n)

    def _settings(self, seed: int) -> Settings:
        given = {
            "epochs": None if self.max_epochs == "auto" else int(self.max_epochs),
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "validation": self.validation_fraction,
            "device": self.device,
            "masking": False,
            "seed": seed,
        }
        return Settings(**given | self._loop())

    def _learn(self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: Run) -> Energy:
        model = self._make(x[rows], seed).float()
        generator, whole = torch.Generator().manual_seed(seed), x.float()
        loss = self._objective(model).start(model, whole[rows], generator, self._kernel(model))
        done = train_energy(loss, whole, self._settings(seed), self._report, run.checkpoint, run.redraw)
        self.history_, self.interrupted_ = done.history, done.interrupted
        return model
