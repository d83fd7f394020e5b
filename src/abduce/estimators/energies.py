"""What is asked of estimators whose model is an energy, besides what is asked of every one.

Any energy becomes a probability by ``normalize``, which the first question that needs log p calls by itself; what needs no
log Z does without.
:mod:`abduce.estimators.fitted` has those that are fitted or trained as energies.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.checks import check_count, check_number
from abduce.data.fields import Field, listing
from abduce.data.infer import resolve_kinds
from abduce.data.partitioned import check_seen
from abduce.data.schema import Schema
from abduce.data.shards import in_files
from abduce.engines import ALONE, Engine
from abduce.estimators.estimator import Estimator, M
from abduce.fit import classical
from abduce.inference import partition as ladder
from abduce.inference.energy import LogZ

LEVELS = 100  # whole numbers between these are levels to a model of classes
REAL = ("real", "positive", "pixel")  # kinds of columns that are cells of a real energy


class Asked(NamedTuple):
    """What ``normalize`` was asked for; ``sampler`` has the arguments that are the sampler's own."""

    method: str
    beta: float | str | None
    base: str | None
    sampler: dict[str, int]
    random_state: Any
    show: Callable[[float], None] | None


class EnergyEstimator(Estimator[M]):
    """The questions that are put to energies, besides those put to every model."""

    supports: ClassVar[tuple[str, ...]] = ("real",)
    support_: str  # "real", "binary" or "mixed"

    # ------------------------------------------------------------------ fit

    def fit(
        self,
        X,
        y=None,
        *,
        checkpoint: str | Path | None = None,
        redraw: Callable[[int], Any] | None = None,
        engine: str | None = None,
        workers: int | None = None,
    ):
        """Fit the model to X: an array, images or a data frame; NaN is a blank.

        Of a table in files with more rows than a fit takes at once, mixtures of Gaussians and of factor analysers, principal
        components and k-means pass over all; other methods take a sample.  Methods that need complete rows are fitted to rows
        completed by draws of a Gaussian fitted to the observed cells.
        ``checkpoint`` and ``redraw`` as in :meth:`abduce.VAE.fit`, for energies that are trained by gradients, the first for
        passes too.  ``engine`` ("plain", "processes", "ray" or "ray://HOST:PORT") and ``workers`` say who sums the rows of
        files in a pass (:mod:`abduce.engines`); the model is the same to the bit.  Where log Z has a closed form it is known
        afterwards; elsewhere the first question that needs it estimates it, as :meth:`normalize` does.
        """
        self._fit_rows(X, checkpoint, redraw, self._passing(X, engine, workers))
        return self

    def _passing(self, X, engine: str | None, workers: int | None) -> Engine:
        """Who passes over all rows; ValueError where nobody does."""
        if (engine, workers) == (None, None):
            return ALONE
        name = "engine" if engine is not None else "workers"
        if not self.passes:
            raise ValueError(
                f"{name} is for methods that pass over all rows of files, and {type(self).__name__} takes a sample of them"
            )
        if not in_files(X):
            raise ValueError(
                f"{name} is for tables in files, got {type(X).__name__}, which one process fits to"
            )
        check_seen(X, engine)
        return Engine.of(engine, workers)

    def _check_arguments(self) -> None:
        check_number("contamination", self.contamination, 0, 0.5, above=True)
        self._check_own()

    def _check_own(self) -> None:
        """Refuse arguments of a preset that make no sense; by default there are none."""

    def _infer(self, X) -> Schema:
        """A kind that was guessed gives way to one that this model takes: PCA has grades for numbers, latent classes whole
        numbers for levels."""
        schema = super()._infer(X)
        if schema.container == "image":
            return schema
        labels = list(schema.order) or schema.names
        asked = resolve_kinds(self.kinds, labels)
        bits = {f.kind for f in schema.fields} == {"binary"} and "binary" in self.supports
        other = {f.name: kind for f in schema.fields if (kind := self._instead(f, bits)) != f.kind}
        kinds = [kind or other.get(str(label)) for kind, label in zip(asked, labels, strict=True)]
        if kinds == asked:
            return schema
        return Schema.infer(X, {j: kind for j, kind in enumerate(kinds) if kind}, self.bounds)

    def _instead(self, field: Field, bits: bool) -> str:
        """The kind that this model takes a column for, of which ``field`` is a guess; ``bits``: all are, and it takes them."""
        numbers = field.categories is None or type(field.categories[0]) in (int, float)
        if "real" in self.supports and field.kind not in REAL and numbers and not bits:
            return "real"
        if (
            "classes" in self.supports
            and field.kind in ("real", "count", "positive")
            and field.denominator == 1
        ):
            return "categorical" if field.high - field.low < LEVELS else field.kind
        # a Gaussian of logarithms has means beyond all data where it is unsure
        return "real" if field.kind == "positive" and "real" in self.supports else field.kind

    def _support(self, schema: Schema) -> str:
        """What this model's cells hold; ValueError naming the columns that do not fit."""
        kinds = {f.kind for f in schema.fields}
        if kinds == {"binary"} and "binary" in self.supports:
            return "binary"
        if kinds <= set(REAL) and "real" in self.supports:
            return "real"
        wanted = " or ".join("numbers" if s == "real" else "all-binary data" for s in self.supports)
        good = REAL if "real" in self.supports else ("binary",)
        wrong = [f for f in schema.fields if f.kind not in good] or list(schema.fields)
        raise ValueError(
            f"{type(self).__name__} takes {wanted}, but {listing([f.name for f in wrong])} "
            f"{'is' if len(wrong) == 1 else 'are'} {', '.join(sorted({f.kind for f in wrong}))}"
        )

    def _completed(self, x: Tensor, observed: Tensor, support: str, seed: int) -> Tensor:
        whole = classical.completed(x, observed, seed)
        if support == "binary" and not bool(observed.all()):
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(x.shape, generator=generator, dtype=x.dtype) < whole.clamp(0.01, 0.99)
            whole = torch.where(observed, x, drawn.to(x.dtype))
        return whole

    # ------------------------------------------------------------------ as an energy

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

        Questions that need log Z do so by themselves, with the defaults; this is how one chooses.

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
        sampler = {"particles": particles, "populations": populations, "refine": refine}
        return self._estimate(Asked(method, beta, base, sampler, random_state, show))

    @abc.abstractmethod
    def _estimate(self, asked: Asked) -> LogZ:
        """log Z of a fitted model, which is kept."""

    @abc.abstractmethod
    def energy(self, X) -> np.ndarray:
        """Energy of each row, ``(n,)``, in its own units; of a row with blanks −(1/β) log ∫ exp(−β E) over them."""

    @abc.abstractmethod
    def sampling_diagnostics(self, n: int = 100, random_state=None) -> dict[str, Any]:
        """How drawing ``n`` rows went: method, effective sample size, acceptance, split R̂ of the energy."""

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


class DensityEstimator(EnergyEstimator[M]):
    """A model that is a density by construction: its energy is −log p, and log Z = 0."""

    def _know_log_z(self) -> None:
        pass  # it is 0

    def _estimate(self, asked: Asked) -> LogZ:
        return self.model_.partition or LogZ.exact(0.0)  # there is nothing to estimate

    def energy(self, X) -> np.ndarray:
        """−log p of each row in model space, nats ``(n,)``."""
        seen = self._encode(X)
        return self._units(seen) - self._plausibility(seen)

    def sampling_diagnostics(self, n: int = 100, random_state=None) -> dict[str, Any]:
        """How drawing ``n`` rows goes: draws are exact."""
        check_is_fitted(self)
        check_count("n", n)
        return {"method": "exact"}
