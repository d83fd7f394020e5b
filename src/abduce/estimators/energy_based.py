"""What an energy answers: exactly where its family has a law, by Markov chains elsewhere.

A preset names a family of energies, how it is fitted, and its arguments; everything else is here.  Any fitted energy becomes
a probability by :meth:`EnergyModel.normalize`, and can then be asked for log p; what needs no log Z can be asked before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.answers.complete import answers, evidence, free_energy, means
from abduce.answers.generate import generate
from abduce.answers.observation import Blanks, Flips, Observation
from abduce.compress import codec as coding
from abduce.data.fields import listing
from abduce.data.schema import Schema
from abduce.distributions.bases import BoxBase, NormalBase, RatesBase, restore
from abduce.estimators.generative import GenerativeModel, check_count
from abduce.fit import checkpoint as folders
from abduce.fit import classical as fitters
from abduce.fit import registry
from abduce.fit.loop import train_energy
from abduce.fit.loss import EnergyObjective
from abduce.fit.settings import Settings
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.inference import partition as ladder
from abduce.inference.energy import Energy, LogZ, NotNormalized
from abduce.inference.importance import chunks
from abduce.inference.kernels import Kernel
from abduce.inference.paths import Density
from abduce.models.families import FAMILIES

REAL = ("real", "positive", "pixel")  # kinds of columns that are cells of a real energy
PARTITIONS = ("closed form", "auto")
WIDE = 2.0  # a base measure's standard deviation, in those of the data


class EnergyModel(GenerativeModel):
    """The questions, of an energy."""

    supports: ClassVar[tuple[str, ...]] = ("real",)

    model_: Energy
    support_: str  # "real" or "binary"
    start_: Any
    log_z_: LogZ | None
    beta_: float
    base_: Any
    partition: str
    kinds: Any
    random_state: Any
    contamination: float

    # ------------------------------------------------------------------ what a preset says

    def _make(self, x: Tensor, seed: int) -> Energy:
        """An energy to train, for rows like x (n, D), float64."""
        raise NotImplementedError

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, **run: Any
    ) -> Energy:
        """The fitted energy; by default one that is made and trained by the objective."""
        model = self._make(x[rows], seed).float()
        settings = self._settings(seed)
        generator = torch.Generator().manual_seed(seed)
        whole = x.float()
        objective = self._objective(model)
        loss = objective.start(model, whole[rows], generator, self._kernel(model))
        redraw = run.get("redraw")
        done = train_energy(loss, whole, settings, self._report, run.get("checkpoint"), redraw)
        self.history_, self.interrupted_ = done.history, done.interrupted
        return model

    def _objective(self, model: Energy) -> EnergyObjective:
        """What trains the energy."""
        raise NotImplementedError

    def _loop(self) -> dict[str, Any]:
        """Settings of the training loop that differ from its own defaults."""
        return {}

    def _kernel(self, model: Energy) -> Kernel | None:
        """The sampler of an objective that needs one."""
        return None

    # ------------------------------------------------------------------ fit

    def fit(
        self, X, y=None, *, checkpoint: str | Path | None = None, redraw: Callable[[int], Any] | None = None
    ):
        """Fit the energy to X: an array, images or a data frame; NaN is a blank.

        Methods that need complete rows are fitted to rows completed by draws of a Gaussian fitted to the observed cells.
        ``checkpoint`` and ``redraw`` as in :meth:`abduce.VAE.fit`, for energies that are trained by gradients.  Where log Z
        has a closed form it is known afterwards; elsewhere :meth:`normalize` estimates it.
        """
        self._check_columns(X, reset=True)
        self._check_arguments()
        schema, values, observed = self._read(X)
        support = self._support(schema)
        if not observed.any():
            raise ValueError("X has no observed cell at all: every value is missing")
        if len(values) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.schema_, self.inference_seed_, self.support_ = schema, seed, support
        if schema.container == "image":
            self.n_features_in_ = schema.n_cells
        mask = torch.from_numpy(observed)
        x = self._completed(torch.from_numpy(values), mask, support, seed)
        rows, held = self._settings(seed).split(len(x))
        self.history_, self.interrupted_ = [], False
        base = RatesBase if support == "binary" else NormalBase
        self.start_ = base.fit(x[rows])
        draws = None if redraw is None else self._redraws(redraw, x)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            state = Path(checkpoint) if checkpoint else None
            self.model_ = self._learn(x, mask, rows, held, seed, checkpoint=state, redraw=draws)
        self.model_ = self.model_.double().eval().requires_grad_(False)
        self.n_iter_ = max(1, len(self.history_))
        if support != "mixed":  # rows are complete by now
            mask = torch.ones_like(mask)
        judged = held if len(held) else torch.arange(len(x))
        energies = [self.model_.energy(x[part], mask[part]) for part in judged.split(1000)]
        self.mean_energy_ = float(torch.cat(energies).mean())
        self.log_z_, self.base_ = None, self._measure("auto")
        self.beta_ = self._temperature("auto", self.base_)
        some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:2000]
        value = self._plausibility(x[some], mask[some])
        cut = np.quantile(value, self.contamination, method="higher")
        edge = some[int(np.flatnonzero(value == cut)[0])]
        self.edge_ = torch.where(mask[edge], x[edge], torch.nan)
        self.offset_ = float(cut)
        if self.partition == "auto":
            self.normalize()
        elif self._knows_log_z():
            self.normalize(method="closed form" if self.model_.in_nats else "auto")
        return self

    def _check_arguments(self) -> None:
        if self.partition not in PARTITIONS:
            raise ValueError(f"partition must be one of {list(PARTITIONS)}, got {self.partition!r}")
        if not isinstance(self.contamination, Real) or not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination!r}")

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
        whole = fitters.completed(x, observed, seed)
        if support == "binary" and not bool(observed.all()):
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(x.shape, generator=generator, dtype=x.dtype) < whole.clamp(0.01, 0.99)
            whole = torch.where(observed, x, drawn.to(x.dtype))
        return whole

    def _redraws(self, redraw: Callable[[int], Any], x: Tensor) -> Callable[[int], Tensor]:
        def rows(epoch: int) -> Tensor:
            values, seen = self.schema_.encode(redraw(epoch))
            if values.shape != tuple(x.shape) or not seen.all():
                raise ValueError(
                    f"redraw must return the complete rows of X, {tuple(x.shape)}, got {values.shape}"
                )
            return torch.from_numpy(values).float()

        return rows

    def _settings(self, seed: int) -> Settings:
        """How to train; presets without a loop use its split alone."""
        epochs = getattr(self, "max_epochs", "auto")
        given = {
            "epochs": None if epochs == "auto" else int(epochs),
            "batch_size": getattr(self, "batch_size", 128),
            "learning_rate": getattr(self, "learning_rate", 1e-3),
            "validation": getattr(self, "validation_fraction", 0.1),
            "device": getattr(self, "device", "cpu"),
            "masking": False,
            "seed": seed,
        }
        return Settings(**given | self._loop())

    def _report(self, record: dict[str, float]) -> None:
        if getattr(self, "verbose", 0):
            print(f"epoch {record['epoch']}/{record['epochs']}: loss {-record['train']:.4f}", file=sys.stderr)
        callback = getattr(self, "callback", None)
        if callback is not None:
            callback(record)

    # ------------------------------------------------------------------ from an energy to a probability

    @property
    def _density(self) -> Density:
        return Density(self.model_, self.start_, self.beta_, self.base_)

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
        seed = self.inference_seed_ if random_state is None else self._generator(random_state).initial_seed()
        measure = self.base_ if base is None else self._measure(base)
        changed = base is not None and not self.model_.in_nats
        new = self._temperature("auto" if beta is None and changed else beta, measure)
        density = Density(self.model_, self.start_, new, measure)
        found = ladder.log_z(density, method, particles, populations, refine=refine, seed=seed, show=show)
        found.diagnostics.update(beta=new, base="none" if measure is None else measure.name)
        self.beta_, self.base_, self.log_z_ = new, measure, found
        edge = self.edge_.unsqueeze(0)
        self.offset_ = float(self._plausibility(edge.nan_to_num(), ~edge.isnan())[0])
        return found

    def _temperature(self, beta: float | str | None, measure: Any) -> float:
        if beta is None:
            return self.beta_
        if beta == "auto":
            if self.model_.in_nats:
                return 1.0
            density = Density(self.model_, self.start_, 1.0, measure)
            ladder.check_finite(density)
            return ladder.fit_beta(density, self.mean_energy_, seed=self.inference_seed_)
        if isinstance(beta, bool) or not isinstance(beta, Real) or not 0 < float(beta) < np.inf:
            raise ValueError(f"beta must be a number above 0 or 'auto', got {beta!r}")
        return float(beta)

    def _measure(self, base: str) -> Any:
        if base not in ("auto", "none", "normal", "box"):
            raise ValueError(f"base must be 'auto', 'none', 'normal' or 'box', got {base!r}")
        if self.model_.support == "binary":
            if base in ("normal", "box"):
                raise ValueError(f"base={base!r} is a measure of real cells; this model's are binary")
            return None
        if base == "none" or (base == "auto" and self.model_.proper):
            return None
        start = self.start_
        if base == "box":
            half = 3 * start.scale
            return BoxBase(start.mean - half, start.mean + half)
        return NormalBase(start.mean.clone(), WIDE**2 * start.covariance)

    def _knows_log_z(self) -> bool:
        """Whether log Z needs no sampling."""
        if self.model_.law(self.beta_, self.base_) is not None:
            return True
        return self.model_.in_nats and self.model_.log_z(self.beta_, self.base_) is not None

    # ------------------------------------------------------------------ answers in model space

    def energy(self, X) -> np.ndarray:
        """Energy of each row, ``(n,)``, in its own units; of a row with blanks −(1/β) log ∫ exp(−β E) over them."""
        x, observed = self._encode(X)
        if bool(observed.all()):
            parts = [self.model_.energy(xs)[: part.stop - part.start] for part, xs, _ in chunks(x, observed)]
            return torch.cat(parts).numpy() if parts else np.zeros(0)
        return self._free_energy(x, observed).numpy() / self.beta_

    def _free_energy(self, x: Tensor, observed: Tensor) -> Tensor:
        return free_energy(self._density, x, observed, seed=self.inference_seed_)

    def _plausibility(self, x: Tensor, observed: Tensor) -> np.ndarray:
        units = self.schema_.log_jacobian(x.numpy(), observed.numpy(), pixels=True)
        known = 0.0 if self.log_z_ is None else self._log_z_of_energy()
        return units - self._free_energy(x, observed).numpy() - known

    def _log_z_of_energy(self) -> float:
        """log Z to subtract: an exact law's log p has it in already."""
        assert self.log_z_ is not None
        exact = self.model_.law(self.beta_, self.base_) is not None
        return 0.0 if exact else self.log_z_.value

    def _scores(self, x: Tensor, observed: Tensor) -> np.ndarray:
        if self.log_z_ is None:
            raise NotNormalized(
                f"log p of this {type(self).__name__} is not known: its partition function has no closed form; call "
                "normalize() first (anomaly_score, which needs no log Z, ranks rows as well)"
            )
        return self._plausibility(x, observed)

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
        assert self.log_z_ is not None
        error = 0.5 * (self.log_z_.high - self.log_z_.low) / 1.645
        size = float(self.log_z_.diagnostics.get("effective_sample_size", np.inf))
        return value, {
            "standard_error": np.full(len(value), error),
            "effective_sample_size": np.full(len(value), size),
        }

    def _whole(self, x: Tensor, observed: Tensor) -> Tensor:
        """Rows with their blanks at the posterior mean."""
        return x if bool(observed.all()) else self._means(x, observed)

    def _codes(self, x: Tensor, observed: Tensor) -> Tensor:
        whole = self._whole(x, observed)
        parts = [
            self.model_.represent(xs)[: part.stop - part.start].detach()
            for part, xs, _ in chunks(whole, observed)
        ]
        return torch.cat(parts)

    @property
    def _n_features_out(self) -> int:
        return self.model_.represent(self.edge_.nan_to_num().unsqueeze(0)).shape[1]

    def _new(self, n: int, generator: torch.Generator) -> Tensor:
        return generate(self._density, n, generator).x

    def sampling_diagnostics(self, n: int = 100, random_state=None) -> dict[str, Any]:
        """How drawing ``n`` rows went: method, effective sample size, acceptance, split R̂ of the energy."""
        check_is_fitted(self)
        check_count("n", n)
        return generate(self._density, n, self._generator(random_state)).diagnostics

    def _means(self, y: Tensor, seen: Tensor, observation: Observation | None = None) -> Tensor:
        return means(self._density, y, seen, observation, seed=self.inference_seed_)

    def _best(self, x: Tensor, seen: Tensor) -> Tensor:
        mean = self._means(x, seen)
        return (mean > 0.5).to(mean) if self.model_.support == "binary" else mean

    def _posterior_draws(
        self, x: Tensor, seen: Tensor, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        return self._clean_draws(x, seen, Blanks(), n, generator)

    def _clean_draws(
        self, y: Tensor, seen: Tensor, observation: Observation, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        for part, answer in answers(
            self._density, y, seen, observation, particles=min(256, max(64, n)), seed=self.inference_seed_
        ):
            yield part, answer.draw(n, generator)[:, : part.stop - part.start]

    def _evidence(self, y: Tensor, seen: Tensor, observation: Observation) -> Tensor | None:
        return evidence(self._density, y, seen, observation)

    def _clean(self, y: Tensor, seen: Tensor, observation: Observation) -> np.ndarray:
        mean = self._means(y, seen, observation)
        if isinstance(observation, Flips):
            mean = (mean > 0.5).to(mean)
        return mean.numpy()

    def inverse_transform(self, Z):
        """Decode codes to rows, in the data's own form; for families with a decoder."""
        check_is_fitted(self)
        decode: Any = getattr(self.model_, "decode", None)
        if decode is None:
            raise ValueError(f"{type(self).__name__} has no decoder from its features to rows")
        z = torch.as_tensor(np.asarray(Z, dtype=np.float64))
        width = self._n_features_out
        if z.ndim != 2 or z.shape[1] != width:
            raise ValueError(f"Z must have shape (n, {width}), got {tuple(z.shape)}")
        return self.schema_.decode(decode(z).detach().numpy())

    # ------------------------------------------------------------------ compress

    def _coder(self) -> Any:
        """What codes rows: an exact law with tractable conditionals; other families are refused."""
        law = self.model_.law(self.beta_, self.base_)
        if law is None:
            return self.model_
        return law.dense() if isinstance(law, FactorMixtureLaw) else law

    def compress(self, X) -> bytes:
        """Compress X losslessly, bit for bit: about −log₂ p(x) bits a row, for families of Gaussians.

        ValueError for others, which have neither latents nor tractable conditionals to code with.
        """
        check_is_fitted(self)
        if len(X):
            self._check_columns(X, reset=False)
        return coding.compress(self._coder(), self.schema_, X, folders.fingerprint(*self._state()))

    def decompress(self, data: bytes):
        """Turn the bytes of :meth:`compress` back into X.

        Raises CompressedDataError (a ValueError) if they are of another model or format version, truncated or changed.
        """
        check_is_fitted(self)
        return coding.decompress(self._coder(), self.schema_, data, folders.fingerprint(*self._state()))

    # ------------------------------------------------------------------ keep

    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config = {
            "energy": {"family": type(self.model_).__name__, "config": self.model_.config},
            "start": self.start_.name,
            "base": None if self.base_ is None else self.base_.name,
            "schema": self.schema_.to_json(),
        }
        parts = {"model": self.model_, "start": self.start_, "base": self.base_}
        tensors = {
            f"{part}.{name}": t
            for part, module in parts.items()
            if module is not None
            for name, t in module.state_dict().items()
        }
        return config, tensors | {"edge": self.edge_}

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically."""
        check_is_fitted(self)
        config, tensors = self._state()
        arguments = {k: _to_json(v) for k, v in self.get_params(deep=False).items() if k != "callback"}
        fitted = {
            "offset": self.offset_,
            "inference_seed": self.inference_seed_,
            "history": self.history_,
            "mean_energy": self.mean_energy_,
            "beta": self.beta_,
            "log_z": None if self.log_z_ is None else asdict(self.log_z_),
            "feature_names": [str(c) for c in getattr(self, "feature_names_in_", [])],
        }
        body = {
            "kind": "model",
            "estimator": type(self).__name__,
            "arguments": arguments,
            "fitted": fitted,
            **config,
        }
        folders.save(folder, body, tensors)

    @classmethod
    def _from_folder(cls, body: dict[str, Any], tensors: dict[str, Tensor]):
        self = cls(**{k: _from_json(v) for k, v in body["arguments"].items()})
        self.schema_ = Schema.from_json(body["schema"])
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            groups.setdefault(part, {})[name] = tensor
        try:
            family = FAMILIES[body["energy"]["family"]]
            with torch.random.fork_rng(devices=[]):
                model = family(**body["energy"]["config"]).double()
            model.load_state_dict(groups["model"])
            self.start_ = restore(body["start"], groups["start"])
            self.base_ = None if body["base"] is None else restore(body["base"], groups["base"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise folders.ModelFolderError(
                f"the folder's weights do not fit its model.json: {error}"
            ) from None
        self.model_, self.support_ = model.eval().requires_grad_(False), model.support
        self.edge_ = groups["edge"][""]
        fitted = body["fitted"]
        self.offset_, self.inference_seed_ = fitted["offset"], fitted["inference_seed"]
        self.history_, self.mean_energy_, self.beta_ = (
            fitted["history"],
            fitted["mean_energy"],
            fitted["beta"],
        )
        self.log_z_ = None if fitted["log_z"] is None else LogZ(**fitted["log_z"])
        self.n_iter_, self.interrupted_ = max(1, len(self.history_)), False
        self.n_features_in_ = len(self.schema_.order) or self.schema_.n_cells
        if fitted["feature_names"]:
            self.feature_names_in_ = np.asarray(fitted["feature_names"], dtype=object)
        return self


def _to_json(value: Any) -> Any:
    """A constructor argument as JSON; seeds that are no numbers are not kept."""
    if registry.is_objective(value):
        return {"objective": registry.to_json(value)}
    if isinstance(value, np.random.RandomState):
        return None
    if isinstance(value, np.generic):
        return value.item()
    return [_to_json(v) for v in value] if isinstance(value, tuple | list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"objective"}:
        return registry.from_json(value["objective"])
    return value
