"""One face for every model: fit it, then ask it anything, behind scikit-learn's contract.

An estimator learns what the data are (``schema_``) and fits a model (``model_``); every question is turned into what was
:class:`~abduce.data.seen.Seen` in model space, asked once, and the answer reduced and turned back into the data's own form.
What a subclass says is how the model is fitted, and no more.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

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

from abduce.answers.answer import Answer, Effort, blocks, gather
from abduce.checks import check_count
from abduce.compress import codec
from abduce.data.foreign import native
from abduce.data.schema import Schema
from abduce.data.seen import Seen, Unanswerable
from abduce.data.shards import Shards, to_fit
from abduce.engines import ALONE, Engine, hired
from abduce.estimators.bootstrap import Encoded
from abduce.estimators.folder import estimator_to_json, keep, state
from abduce.estimators.odd_rows import OddRows
from abduce.estimators.restoring import Restoring
from abduce.fit.all_rows import AllRows, GroupSums
from abduce.fit.checkpoint import TrainingState, data_digest, fingerprint
from abduce.fit.passes import Passes
from abduce.fit.settings import Settings
from abduce.models.model import Model

M = TypeVar("M", bound=Model)


class Rows(NamedTuple):
    """Training rows in model space: values (n, D), 0 where blank, the mask, the schema that reads them, and the fit's seed."""

    x: Tensor
    mask: Tensor
    schema: Schema
    seed: int


class RunOptions(NamedTuple):
    """A folder that keeps the state of a run, and another draw of the rows for each epoch, in model space; where the rows are
    a sample of files and the fit is to pass over all, the passes."""

    checkpoint: Path | None = None
    redraw: Callable[[int], Tensor] | None = None
    passes: Passes | None = None


class Estimator(
    OddRows,
    Restoring,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    OutlierMixin,
    DensityMixin,
    BaseEstimator,
    Generic[M],
):
    """The questions: score, represent, generate, compress; :class:`OddRows` has those about odd rows, :class:`Restoring`
    those about clean data."""

    kept: ClassVar[tuple[str, ...]] = (
        "offset_",
        "edge_",
        "usual_",
        "inference_seed_",
        "history_",
    )  # fitted, beside model and schema
    progress: ClassVar[tuple[str, float, str]] = (
        "loss",
        -1.0,
        "",
    )  # what training reports: name, sign and unit
    passes: ClassVar[bool] = False  # whether a fit sums over all rows of files, of which others take a sample
    model_: M  # pyright: ignore[reportIncompatibleVariableOverride]
    schema_: Schema
    inference_seed_: int
    history_: list[dict[str, float]]
    samples: int = 100
    validation_fraction: float = Settings.validation
    random_state: Any
    contamination: float
    kinds: Any
    bounds: Any
    verbose: int = 0
    callback: Callable[[dict[str, Any]], Any] | None = None

    # ------------------------------------------------------------------ fit

    @abc.abstractmethod
    def _check_arguments(self) -> None:
        """Refuse arguments that make no sense, before any work."""

    @abc.abstractmethod
    def _fit(self, rows: Rows, run: RunOptions) -> tuple[M, Seen]:
        """The fitted model, and the rows whose log p set ``offset_``; sets ``history_`` and ``interrupted_``."""

    def _fit_rows(
        self,
        X,
        checkpoint: str | Path | None,
        redraw: Callable[[int], Any] | None,
        engine: Engine = ALONE,
    ) -> None:
        """Fit to what X holds, whatever its form; the ``engine`` is who passes over files."""
        X, source = to_fit(X, self.random_state, self.passes)
        X = native(X)
        self._check_columns(X, reset=True)
        self._check_arguments()
        schema, values, observed = self._read(X)
        if not observed.any():
            raise ValueError("X has no observed cell at all: every value is missing")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.schema_, self.inference_seed_ = schema, seed
        if schema.container == "image":
            self.n_features_in_ = schema.n_cells
        self.history_, self.interrupted_ = [], False
        rows = Rows(torch.from_numpy(values), torch.from_numpy(observed), schema, seed)
        draws = None if redraw is None else self._redraws(redraw, rows.x.shape)
        folder = Path(checkpoint) if checkpoint else None
        with self._passes_over(source, rows, folder, engine) as passes:
            self.model_, judged = self._fit(rows, RunOptions(folder, draws, passes))
        if passes is not None:
            self.history_, self.interrupted_ = passes.history, passes.interrupted
        self.n_iter_ = max(1, len(self.history_))
        self._set_offset(judged)

    @contextmanager
    def _passes_over(
        self, source: Shards | None, sample: Rows, folder: Path | None, engine: Engine
    ) -> Iterator[Passes | None]:
        """Passes over all rows of files, whose state is kept in a folder; None where there are no files to pass over."""
        if source is None:
            yield None
            return
        kept = None
        if folder is not None:
            files = [[shard.name, shard.size, shard.rows] for shard in source.shards]
            data = {"sample": data_digest(sample.x, sample.mask), "files": files}
            kept = TrainingState(folder, estimator_to_json(self) | data)
        with hired(GroupSums(source, sample.schema), engine) as crew:
            yield Passes(AllRows(source, engine, crew), self._report, kept)

    def _redraws(self, redraw: Callable[[int], Any], shape: torch.Size) -> Callable[[int], Tensor]:
        def rows(epoch: int) -> Tensor:
            values = self.schema_.encode(native(redraw(epoch)))[0]
            if values.shape != tuple(shape):
                raise ValueError(f"redraw must return the rows of X, {tuple(shape)}, got {values.shape}")
            return torch.from_numpy(values).float()

        return rows

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_cuts": None}  # made again when asked for

    def _report(self, record: dict[str, float]) -> None:
        """Tell the caller how training goes."""
        if self.verbose:
            held = f", held out {record['valid']:.3f}" if "valid" in record else ""
            name, sign, unit = self.progress
            value = f"{name} {sign * record['train']:.3f}{unit}{held}"
            print(f"epoch {record['epoch']}/{record['epochs']}: {value}", file=sys.stderr)
        if self.callback is not None:
            self.callback(record)

    # ------------------------------------------------------------------ in and out

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_columns(self, X, reset: bool, finite: bool = True) -> None:
        """scikit-learn's checks: column names, number of columns, and arrays' shape and contents, ``finite`` or blank."""
        if isinstance(X, Encoded):  # checked when it was encoded
            return
        if isinstance(X, pd.DataFrame):
            frame: Any = X
            validate_data(self, frame, reset=reset, skip_check_array=True)
        elif getattr(X, "ndim", 2) <= 2:
            kind = X.dtype.kind if isinstance(X, np.ndarray) else "O"
            dtype = None if kind in "bifu" else np.float64
            array: Any = X
            validate_data(
                self,
                array,
                reset=reset,
                dtype=dtype,
                ensure_all_finite="allow-nan" if finite else False,
                ensure_min_samples=int(reset),
            )

    def _read(self, X) -> tuple[Schema, np.ndarray, np.ndarray]:
        """What ``fit`` takes X for, and X in model space; a resample keeps the schema of what it was drawn from."""
        if isinstance(X, Encoded):
            return X.schema, X.values, X.observed
        schema = self._infer(X)
        return (schema, *schema.encode(X))

    def _infer(self, X) -> Schema:
        """What the columns or pixels of X are."""
        return Schema.infer(X, self.kinds, self.bounds)

    def _encode(self, X) -> Seen:
        """Rows like the training data's, in model space."""
        return self._read_novel(X)[0]

    def _read_novel(self, X) -> tuple[Seen, np.ndarray | None]:
        """The same, and which observed cells hold what the model has no value for (None: none); to it they are blank."""
        check_is_fitted(self)
        X = native(X)
        self._check_columns(X, reset=False)
        values, observed, novel = self.schema_.read(X)
        y, mask = torch.from_numpy(values), torch.from_numpy(observed)
        if self.model_.most is not None and bool((beyond := mask & (y > self.model_.most)).any()):
            y, mask = y.masked_fill(beyond, 0.0), mask & ~beyond
            novel = beyond.numpy() | (False if novel is None else novel)
        return Seen(y, mask), novel

    def _effort(self, samples: int | None = None) -> Effort:
        return Effort(samples=samples or self.samples, seed=self.inference_seed_)

    def _answers(self, seen: Seen, draws: int = 1) -> Iterator[tuple[slice, Answer]]:
        """Answers about rows, a block at a time."""
        return blocks(self.model_, seen, self._effort(), draws)

    def _generator(self, random_state) -> torch.Generator:
        given = self.random_state if random_state is None else random_state
        return torch.Generator().manual_seed(int(check_random_state(given).randint(2**31 - 1)))

    # ------------------------------------------------------------------ score

    def _plausibility(self, seen: Seen, samples: int | None = None) -> np.ndarray:
        """log p of rows in the data's units, nats, float64 (n,); up to a constant where log Z is not known."""
        value = gather(self.model_, seen, self._effort(samples), lambda answer: answer.log_evidence)
        return value.numpy() + self._units(seen)

    def _weighed(self, X, samples: int | None = None) -> tuple[Seen, np.ndarray]:
        """Rows in model space, and their :meth:`_plausibility`; values never seen in training count with theirs."""
        seen, novel = self._read_novel(X)
        return seen, self._plausibility(seen, samples) + self._novelty(novel)

    def _novelty(self, novel: np.ndarray | None) -> np.ndarray | float:
        """Log-probability of values never seen in training, nats, of each row."""
        return 0.0 if novel is None else self.schema_.log_novel(novel)

    def _units(self, seen: Seen) -> np.ndarray:
        """What turns a density of model values into one in the data's own units, nats (n,)."""
        return self.schema_.log_jacobian(
            seen.y.numpy(), seen.mask.numpy(), pixels=not self.model_.lattice_mass
        )

    def score_samples(self, X, samples: int | None = None) -> np.ndarray:
        """Log-probability of the observed cells of each row, nats, float64 ``(n,)``; densities in the data's own units.

        Models with latents estimate it from ``samples`` importance draws (None: the model's own number), the same seeded ones
        for every row, so that a row's score does not depend on which rows come with it; with ``missing="mnar"`` it is
        log p(x_obs, s), of the mask s too.  Of a pool of models it is the log of their averaged densities, with weights of
        their own (:meth:`fill` averages means).  A value that the training data had none like, as a new level of a class,
        counts with a small probability of its own.  Of an energy whose log Z is not known yet it is estimated first, and kept:
        see :meth:`normalize`; raises :class:`~abduce.NotNormalized` where that fails.
        """
        check_is_fitted(self)
        self._know_log_z()
        return self._weighed(X, samples)[1]

    @abc.abstractmethod
    def _know_log_z(self) -> None:
        """See to it that log Z of a fitted model is known: NotNormalized where it can't be."""

    def score(self, X, y=None) -> float:
        """Mean of :meth:`score_samples`, nats a row."""
        return float(np.mean(self.score_samples(X)))

    # ------------------------------------------------------------------ represent

    def transform(self, X) -> np.ndarray:
        """What the model makes of each row, ``(n, features)``: a code, responsibilities.

        Of a VAE the posterior mean of the latents, turned and stretched so that distances between codes are, to first order,
        distances between what they decode to (:mod:`abduce.inference.codes`); the widest axis comes first.
        """
        seen = self._encode(X)
        if not len(seen.y):
            return np.zeros((0, self._n_features_out))
        return gather(self.model_, seen, self._effort(), lambda answer: answer.latents()).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.model_.answer(Seen.whole(torch.zeros(1, self.model_.n_cells).double())).latents().shape[1]

    @torch.no_grad()
    def inverse_transform(self, Z):
        """Decode codes ``(n, features)`` to rows in the data's own form, for families with a decoder.

        Of a model with latents the mean of p(x|z).
        """
        check_is_fitted(self)
        z = torch.as_tensor(np.asarray(Z, dtype=np.float64))
        width = self._n_features_out
        if z.ndim != 2 or z.shape[1] != width:
            raise ValueError(f"Z must have shape (n, {width}), got {tuple(z.shape)}")
        try:
            rows = self.model_.decode(z)
        except Unanswerable:
            raise ValueError(f"{type(self).__name__} has no decoder from its features to rows") from None
        return self.schema_.decode(rows.detach().numpy())

    # ------------------------------------------------------------------ generate

    @torch.no_grad()
    def sample(self, n: int = 1, random_state=None):
        """Draw ``n`` new rows in the form the data came in."""
        check_is_fitted(self)
        check_count("n", n)
        return self.schema_.decode(
            self.model_.sample(int(n), self._generator(random_state)).numpy(), snap=True
        )

    # ------------------------------------------------------------------ compress

    def compress(self, X) -> bytes:
        """Compress X losslessly, bit for bit: about −log₂ p(x) bits a row, of a model with latents by bits back.

        No more bytes than xz, bz2 or the frequencies of each column take, to within 64: a table for which the model is no
        help is coded without it.  Cells that the model has no code for, as they are finer than the training data or were
        never seen there, a data frame's index and left-out columns are carried along.  RuntimeWarning where the family has
        neither latents nor tractable conditionals, so that nothing of it is used; ValueError for other columns than in
        training.
        """
        check_is_fitted(self)
        X = native(X)
        if len(X):
            self._check_columns(X, reset=False, finite=False)
        own = fingerprint(*state(self))
        return codec.compress(self.model_.coder(), self.schema_, X, own, type(self).__name__)

    def decompress(self, data: bytes):
        """Turn the bytes of :meth:`compress` back into X.

        Raises CompressedDataError (a ValueError) if they are of another model or format version, truncated or changed.
        """
        check_is_fitted(self)
        return codec.decompress(self.model_.coder(), self.schema_, data, fingerprint(*state(self)))

    # ------------------------------------------------------------------ keep

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically."""
        check_is_fitted(self)
        keep(self, folder)
