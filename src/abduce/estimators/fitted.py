"""Estimators of energies that are fitted or trained, and how an energy becomes a probability.

A preset names a family of energies, how it is fitted, and its arguments; everything else is here.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.checks import check_choice, check_count, check_number
from abduce.data.seen import Seen
from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.estimators.energies import Asked, EnergyEstimator
from abduce.estimators.estimator import Estimator, Rows, RunOptions
from abduce.fit.loop import train
from abduce.fit.loss import EnergyObjective
from abduce.fit.settings import Settings
from abduce.fit.steps import EnergyStep
from abduce.inference import partition as ladder
from abduce.inference.energy import Diverged, Energy, LogZ, NotNormalized
from abduce.inference.importance import chunks
from abduce.inference.kernels import Kernel
from abduce.inference.paths import Density
from abduce.models.energy_model import EnergyModel

MOST_BETA = 1e9  # inverse temperatures beyond it have no draws in double precision
WIDE = 2.0  # a base measure's standard deviation, in those of the data
BASES = ("auto", "none", "normal", "box")


class FittedEnergy(EnergyEstimator[EnergyModel]):
    """An energy that a method of its own fits, exactly or classically."""

    kept = (*Estimator.kept, "mean_energy_", "range_", "support_")
    beside_edge = 4  # another β or base moves single rows to and fro
    mean_energy_: float  # of rows held out
    range_: list[list[float]]  # lowest and highest training value of each cell, in model values

    @abc.abstractmethod
    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        """The fitted energy, from completed rows x (n, D), float64, of which ``rows`` train and ``held`` judge."""

    def _split(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Rows to train on and rows to judge by."""
        return Settings(validation=0.1, seed=seed).split(n)

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[EnergyModel, Seen]:
        if len(rows.x) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        self.support_ = self._support(rows.schema)
        x = self._completed(rows.x, rows.mask, self.support_, rows.seed)
        train, held = self._split(len(x), rows.seed)
        base = RatesBase if self.support_ == "binary" else NormalBase
        start = base.fit(x[train])
        self.range_ = [x.amin(0).tolist(), x.amax(0).tolist()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rows.seed)
            energy = self._learn(x, rows.mask, train, held, rows.seed, run)
        energy = energy.double().eval().requires_grad_(False)
        judged = held if len(held) else torch.arange(len(x))
        self.mean_energy_ = float(torch.cat([energy.energy(x[part]) for part in judged.split(1000)]).mean())
        measure = self._measure("auto", energy, start)
        beta = self._temperature("auto", EnergyModel(energy, start), measure)
        model = EnergyModel(energy, start, beta, measure)
        if model.knows_log_z():
            model.normalize("closed form" if energy.in_nats else "auto", seed=rows.seed)
        return model, Seen(rows.x, rows.mask) if model.exact else Seen.whole(x)

    # ------------------------------------------------------------------ from an energy to a probability

    @property
    def start_(self) -> Any:
        """Where annealing starts: a measure fitted to the data."""
        check_is_fitted(self, "model_")
        return self.model_.start

    def _know_log_z(self) -> None:
        if self.model_.partition is not None:
            return
        try:
            self.normalize()
        except (ValueError, Diverged) as error:
            raise NotNormalized(
                f"log p of this {type(self).__name__} is not known, as its log Z could not be estimated: {error}; call "
                "normalize() with another method, beta or base, or with more particles (anomaly_score, which needs no log Z, "
                "ranks rows as well)"
            ) from error

    def _estimate(self, asked: Asked) -> LogZ:
        old, beta, base = self.model_, asked.beta, asked.base
        measure = old.base if base is None else self._measure(base, old.energy, old.start)
        changed = base is not None and not old.energy.in_nats
        inverse = self._temperature("auto" if beta is None and changed else beta, old, measure)
        new = EnergyModel(old.energy, old.start, inverse, measure, None, old.layout.levels)
        given = asked.random_state
        seed = self.inference_seed_ if given is None else self._generator(given).initial_seed()
        found = new.normalize(asked.method, **asked.sampler, seed=seed, show=asked.show)
        self.model_ = new
        self._cuts = None
        self._place_offset()
        return found

    def _temperature(self, beta: float | str | None, model: EnergyModel, measure: Any) -> float:
        if beta is None:
            return model.beta
        if beta != "auto":
            check_number("beta", beta, 0, MOST_BETA, above=True)
            return float(beta)
        if model.energy.in_nats:
            return 1.0
        density = Density(model.energy, model.start, 1.0, measure)
        ladder.check_finite(density)
        return ladder.fit_beta(density, self.mean_energy_, seed=self.inference_seed_)

    def _measure(self, base: str, model: Energy, start: Any) -> Any:
        check_choice("base", base, BASES)
        if model.support == "binary":
            if base in ("normal", "box"):
                raise ValueError(f"base={base!r} is a measure of real cells; this model's are binary")
            return None
        if base == "none" or (base == "auto" and model.proper):
            return None
        if base == "box":
            # a box that left out training rows would call them impossible
            low, high = torch.tensor(self.range_, dtype=start.mean.dtype)
            wide = BoxBase.fit(torch.stack([low, high]))
            half = 3 * start.scale
            return BoxBase(
                torch.minimum(wide.low, start.mean - half), torch.maximum(wide.high, start.mean + half)
            )
        return NormalBase(start.mean.clone(), WIDE**2 * start.covariance)

    # ------------------------------------------------------------------ asked as an energy

    def energy(self, X) -> np.ndarray:
        """Energy of each row, ``(n,)``, in its own units; of a row with blanks −(1/β) log ∫ exp(−β E) over them."""
        seen, model = self._encode(X), self.model_
        if bool(seen.mask.all()):
            parts = [
                model.energy.energy(xs)[: part.stop - part.start] for part, xs, _ in chunks(seen.y, seen.mask)
            ]
            return torch.cat(parts).numpy() if parts else np.zeros(0)
        known = 0.0 if model.partition is None or model.exact else model.partition.value
        return -(self._plausibility(seen) - self._units(seen) + known) / model.beta

    def sampling_diagnostics(self, n: int = 100, random_state=None) -> dict[str, Any]:
        """How drawing ``n`` rows went: method, effective sample size, acceptance, split R̂ of the energy."""
        check_is_fitted(self)
        check_count("n", n)
        return self.model_.generate(n, self._generator(random_state)).diagnostics


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

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        model = self._make(x[rows], seed).float()
        generator, whole = torch.Generator().manual_seed(seed), x.float()
        loss = self._objective(model).start(model, whole[rows], generator, self._kernel(model))
        step, settings = EnergyStep(loss), self._settings(seed)
        done = train(step, whole, None, settings, self._report, run.checkpoint, run.redraw)
        self.history_, self.interrupted_ = done.history, done.interrupted
        return model
