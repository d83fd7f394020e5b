"""One face for every model: fit it, then ask it anything, behind scikit-learn's contract.

An estimator learns what the data are (``schema_``) and fits a model (``model_``); every question is turned into what was
:class:`~abduce.data.seen.Seen` in model space, asked once, and the answer reduced and turned back into the data's own form.
What a subclass says is how the model is fitted, and no more.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Iterator
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
from abduce.data.shards import to_fit
from abduce.estimators.bootstrap import Encoded
from abduce.estimators.cuts import Cuts
from abduce.estimators.folder import keep, state
from abduce.estimators.restoring import Restoring
from abduce.fit.checkpoint import fingerprint
from abduce.fit.settings import Settings
from abduce.models.model import Model

M = TypeVar("M", bound=Model)
HAIR = 1e-6  # nats below the row at the edge, so that rounding does not decide on which side it lies
JUDGED = 2000  # training rows, at most, that set where oddness begins
JUDGED_CELLS = 4_000_000  # and the cells of these, if that leaves enough of them


class Rows(NamedTuple):
    """Training rows in model space: values (n, D), 0 where blank, the mask, the schema that reads them, and the fit's seed."""

    x: Tensor
    mask: Tensor
    schema: Schema
    seed: int


class RunOptions(NamedTuple):
    """A folder that keeps the state of a run, and another draw of the rows for each epoch, in model space."""

    checkpoint: Path | None = None
    redraw: Callable[[int], Tensor] | None = None


class Estimator(
    Restoring,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    OutlierMixin,
    DensityMixin,
    BaseEstimator,
    Generic[M],
):
    """The questions: score, flag, represent, generate, compress; :class:`Restoring` has those about clean data."""

    kept: ClassVar[tuple[str, ...]] = (
        "offset_",
        "edge_",
        "inference_seed_",
        "history_",
    )  # fitted, beside model and schema
    progress: ClassVar[tuple[str, float, str]] = (
        "loss",
        -1.0,
        "",
    )  # what training reports: name, sign and unit
    model_: M  # pyright: ignore[reportIncompatibleVariableOverride]
    schema_: Schema
    offset_: float
    edge_: list[float | None]
    inference_seed_: int
    history_: list[dict[str, float]]
    _cuts: Cuts | None = None
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

    def _fit_rows(self, X, checkpoint: str | Path | None, redraw: Callable[[int], Any] | None) -> None:
        """Fit to what X holds, whatever its form."""
        X = native(to_fit(X, self.random_state))
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
        self.model_, judged = self._fit(rows, RunOptions(Path(checkpoint) if checkpoint else None, draws))
        self.n_iter_ = max(1, len(self.history_))
        self._set_offset(judged)

    def _redraws(self, redraw: Callable[[int], Any], shape: torch.Size) -> Callable[[int], Tensor]:
        def rows(epoch: int) -> Tensor:
            values = self.schema_.encode(native(redraw(epoch)))[0]
            if values.shape != tuple(shape):
                raise ValueError(f"redraw must return the rows of X, {tuple(shape)}, got {values.shape}")
            return torch.from_numpy(values).float()

        return rows

    def _set_offset(self, seen: Seen) -> None:
        """Where oddness begins: a share of ``contamination`` of the training rows is odder, given what is seen of each."""
        order = torch.randperm(len(seen.y), generator=torch.Generator().manual_seed(self.inference_seed_))
        some = seen.rows(order[: self._judged(len(seen.y))])
        values, self._cuts = self._plausibility(some), None
        whole = bool(some.mask.all())
        plain = values if whole else -self._cut().z(values, some.mask.numpy())
        last = float(np.quantile(plain, self.contamination, method="higher"))
        edge = some.rows(torch.tensor([int(np.flatnonzero(plain == last)[0])]))
        cells = zip(edge.y[0].tolist(), edge.mask[0].tolist(), strict=True)
        self.edge_ = [value if observed else None for value, observed in cells]
        self._place_offset()

    def _place_offset(self) -> None:
        """``offset_``, the log p that a complete row has at the edge of oddness, from the row that lies there."""
        y = torch.tensor([[0.0 if value is None else value for value in self.edge_]], dtype=torch.float64)
        edge = Seen(y, torch.tensor([[value is not None for value in self.edge_]]))
        value = self._plausibility(edge)
        if not bool(edge.mask.all()):
            z = float(self._cut().z(value, edge.mask.numpy())[0])
            value = self._cut().log_p(z, np.ones((1, len(self.edge_)), bool))
        self.offset_ = float(value[0]) - HAIR

    @torch.no_grad()
    def _cut(self) -> Cuts:
        """What log p rows should have, by what is seen of them; made when first asked for."""
        if self._cuts is None:
            rows = self.model_.sample(
                self._judged(JUDGED), torch.Generator().manual_seed(self.inference_seed_)
            )

            def score(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
                seen = Seen(torch.from_numpy(np.where(mask, y, 0.0)), torch.from_numpy(mask))
                return self._plausibility(seen)

            slopes = self.schema_.log_slopes(rows.numpy(), pixels=not self.model_.lattice_mass)
            self._cuts = Cuts(rows.numpy(), score, slopes, self.inference_seed_)
        return self._cuts

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {**state, "_cuts": None}  # made again when asked for

    def _judged(self, n: int) -> int:
        """How many training rows set ``offset_``; of very wide ones fewer."""
        return min(n, max(200, min(JUDGED, JUDGED_CELLS // self.model_.n_cells)))

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

    def anomaly_score(self, X) -> np.ndarray:
        """Oddness of each row, −log p in nats, up to a constant where log Z is not known: higher is odder (PyOD's sign)."""
        return -self._weighed(X)[1]

    def decision_function(self, X) -> np.ndarray:
        """``−anomaly_score(X)`` less what a row must have at the least, nats: below zero is an outlier (scikit-learn's sign,
        the opposite of PyOD's).

        A complete row must have ``offset_``; one with blanks what is as odd among rows with the same cells seen, so that the
        share of rows flagged depends neither on units nor on how much is blank (:mod:`abduce.estimators.cuts`).
        """
        seen, value = self._weighed(X)
        return self._decided(seen, value)

    def _decided(self, seen: Seen, value: np.ndarray) -> np.ndarray:
        """:meth:`decision_function` of rows whose log p is known."""
        mask = seen.mask.numpy()
        out = value - self.offset_
        some = np.flatnonzero(~mask.all(1))
        if len(some):
            cuts, whole = self._cut(), np.ones((1, mask.shape[1]), bool)
            z = float(cuts.z(np.array([self.offset_]), whole)[0])
            out[some] += self.offset_ - cuts.log_p(z, mask[some])
        return out

    def predict(self, X) -> np.ndarray:
        """+1 for inliers, −1 for outliers (scikit-learn's signs; PyOD says 0 and 1)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def realism(self, X, references: int = 1000) -> np.ndarray:
        """Share of the model's own samples that are less plausible than each row, in [0, 1], ``(n,)``.

        Like is compared with like: of rows with blanks, the share is that among samples with the same cells seen, from the
        mean and the variance that their log p has (:mod:`abduce.estimators.cuts`).
        """
        return self._realism(*self._weighed(X), references)

    @torch.no_grad()
    def _realism(self, seen: Seen, value: np.ndarray, references: int = 1000) -> np.ndarray:
        """:meth:`realism` of rows whose log p is known."""
        mask = seen.mask.numpy()
        whole = mask.all(1)
        out = np.empty(len(value))
        if whole.any():
            own = self.model_.sample(references, torch.Generator().manual_seed(self.inference_seed_))
            theirs = np.sort(self._plausibility(Seen.whole(own)))
            out[whole] = np.searchsorted(theirs, value[whole]) / len(own)
        if not whole.all():
            out[~whole] = self._cut().odder(value[~whole], mask[~whole])
        return out

    def _flags(self, X) -> dict[str, np.ndarray]:
        """``anomaly_score``, ``realism`` and ``predict`` of rows that are scored once."""
        seen, value = self._weighed(X)
        predicted = np.where(self._decided(seen, value) < 0, -1, 1)
        return {"anomaly_score": -value, "realism": self._realism(seen, value), "predict": predicted}

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
