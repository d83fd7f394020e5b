"""Questions about odd rows: how odd each is, where oddness begins, which to flag at a false discovery rate, and which cells.

Where a model has an :class:`~abduce.models.oddness.Oddness` of its own, as `Auto`'s pool does, that tells how odd rows are;
elsewhere −log p does.  `predict` and `decision_function` go by log p, whose cut is ``offset_``.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_share
from abduce.data.foreign import native
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.estimators.cuts import Cuts
from abduce.estimators.plain_images import plain_length
from abduce.inference.discoveries import discoveries
from abduce.models.model import Model

HAIR = 1e-6  # nats below the row at the edge, so that rounding does not decide on which side it lies
JUDGED = 2000  # training rows, at most, that set where oddness begins
JUDGED_CELLS = 4_000_000  # and the cells of these, if that leaves enough of them
FEWEST = 20  # training images by which others are judged
REFERENCES = 1000  # of the model's own samples


class OddRows(abc.ABC):
    """Score, flag and explain odd rows."""

    judged: ClassVar[int] = JUDGED
    beside_edge: ClassVar[int] = 0  # rows on either side of the one at the edge that are kept with it
    model_: Model
    schema_: Schema
    offset_: float
    edge_: list[list[float | None]]
    usual_: list[float]  # of images: oddness of training images without blanks, sorted
    inference_seed_: int
    contamination: float
    _cuts: Cuts | None = None

    @abc.abstractmethod
    def _read_novel(self, X: Any) -> tuple[Seen, np.ndarray | None]:
        """Rows in model space, and which observed cells hold what the model has no value for."""

    @abc.abstractmethod
    def _plausibility(self, seen: Seen, samples: int | None = None) -> np.ndarray:
        """log p of rows in the data's units, nats (n,)."""

    @abc.abstractmethod
    def _weighed(self, X: Any, samples: int | None = None) -> tuple[Seen, np.ndarray]:
        """Rows in model space, and log p of each with that of values never seen in training."""

    @abc.abstractmethod
    def _novelty(self, novel: np.ndarray | None) -> np.ndarray | float:
        """Log-probability of values never seen in training, nats, of each row."""

    @abc.abstractmethod
    def _answers(self, seen: Seen, draws: int = 1) -> Any:
        """Answers about rows, a block at a time."""

    # ------------------------------------------------------------------ where oddness begins

    def _set_offset(self, seen: Seen) -> None:
        """Where oddness begins: a share of ``contamination`` of the training rows is odder, given what is seen of each."""
        order = torch.randperm(len(seen.y), generator=torch.Generator().manual_seed(self.inference_seed_))
        some = seen.rows(order[: self._judged(len(seen.y))])
        values, self._cuts = self._plausibility(some), None
        whole = bool(some.mask.all())
        plain = values if whole else -self._cut().z(values, some.mask.numpy())
        at, last = math.ceil(self.contamination * (len(plain) - 1)), len(plain) - 1
        beside = min(self.beside_edge, at, last - at)
        edge = some.rows(torch.from_numpy(np.argsort(plain, kind="stable")[at - beside : at + beside + 1]))
        self.edge_ = [
            [value if observed else None for value, observed in zip(*row, strict=True)]
            for row in zip(edge.y.tolist(), edge.mask.tolist(), strict=True)
        ]
        self._place_offset()
        if self.schema_.container == "image":
            full = some.mask.numpy().all(1)
            odd = self._beyond_plain(some.rows(torch.from_numpy(np.flatnonzero(full))), values[full])
            self.usual_ = np.sort(odd).tolist()

    def _place_offset(self) -> None:
        """``offset_``, the log p that a complete row has at the edge of oddness: the median of the rows that lie there."""
        y = torch.tensor([[0.0 if v is None else v for v in row] for row in self.edge_], dtype=torch.float64)
        edge = Seen(y, torch.tensor([[v is not None for v in row] for row in self.edge_]))
        value = self._plausibility(edge)
        if not bool(edge.mask.all()):
            z = np.median(self._cut().z(value, edge.mask.numpy()))
            value = self._cut().log_p(float(z), np.ones((1, y.shape[1]), bool))
        self.offset_ = float(np.median(value)) - HAIR
        self.usual_ = []  # was on the scale of a log Z that has changed

    @torch.no_grad()
    def _cut(self) -> Cuts:
        """What log p rows should have, by what is seen of them; made when first asked for."""
        if self._cuts is None:
            rows = self.model_.sample(
                self._judged(self.judged), torch.Generator().manual_seed(self.inference_seed_)
            )

            def score(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
                seen = Seen(torch.from_numpy(np.where(mask, y, 0.0)), torch.from_numpy(mask))
                return self._plausibility(seen)

            slopes = self.schema_.log_slopes(rows.numpy(), pixels=not self.model_.lattice_mass)
            self._cuts = Cuts(rows.numpy(), score, slopes, self.inference_seed_)
        return self._cuts

    def _judged(self, n: int) -> int:
        """How many training rows set ``offset_``; of very wide ones fewer."""
        return min(n, max(200, min(self.judged, JUDGED_CELLS // self.model_.n_cells)))

    # ------------------------------------------------------------------ how odd

    def anomaly_score(self, X) -> np.ndarray:
        """Oddness of each row, nats: higher is odder (PyOD's sign).

        Of `Auto` the surprise at how far a row lies from training rows, −log of about the share of them that are as far
        (:mod:`abduce.models.oddness`); of other models −log p, up to a constant where log Z is not known.  Of images, where
        log Z is known exactly, −log p less what a plain coder needs for them (:mod:`abduce.estimators.plain_images`): else
        plain images would be usual whatever they show.
        """
        check_is_fitted(self)
        if self.model_.odd is None:
            return self._beyond_plain(*self._weighed(X))
        return self._surprise(*self._read_novel(X))

    def _beyond_plain(self, seen: Seen, value: np.ndarray) -> np.ndarray:
        """−log p of rows, of images beyond what a plain coder needs, if log Z is known exactly: an estimate, or none yet, says
        nothing of how many nats the model needs."""
        log_z = self.model_.partition
        if self.schema_.container != "image" or log_z is None or log_z.kind != "exact":
            return -value
        return -value - plain_length(self.schema_, seen, self.model_.lattice_mass)

    def _surprise(self, seen: Seen, novel: np.ndarray | None) -> np.ndarray:
        """Oddness by the model's own; a value never seen in training adds −log of its probability."""
        return self.model_.odd.score(seen).numpy() - self._novelty(novel)

    def decision_function(self, X) -> np.ndarray:
        """``score_samples(X)`` less what a row must have at the least, nats: below zero is an outlier (scikit-learn's sign,
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

    def realism(self, X, references: int = REFERENCES) -> np.ndarray:
        """Share of the model's own samples that are less plausible than each row, in [0, 1], ``(n,)``.

        Like is compared with like: of rows with blanks, the share is that among samples with the same cells seen, from the
        mean and the variance that their log p has (:mod:`abduce.estimators.cuts`).
        """
        return self._realism(*self._weighed(X), references)

    @torch.no_grad()
    def _realism(
        self, seen: Seen, value: np.ndarray, references: int = REFERENCES, ties: bool = False
    ) -> np.ndarray:
        """:meth:`realism` of rows whose log p is known; with ``ties`` samples as plausible count too."""
        mask = seen.mask.numpy()
        whole = mask.all(1)
        out = np.empty(len(value))
        if whole.any():
            own = self.model_.sample(references, torch.Generator().manual_seed(self.inference_seed_))
            theirs = np.sort(self._plausibility(Seen.whole(own)))
            out[whole] = np.searchsorted(theirs, value[whole], "right" if ties else "left") / len(own)
        if not whole.all():
            out[~whole] = self._cut().odder(value[~whole], mask[~whole])
        return out

    def _flags(self, X) -> dict[str, np.ndarray]:
        """``anomaly_score``, ``realism``, ``p_value`` and ``predict`` of rows that are scored once."""
        seen, value = self._weighed(X)
        realism = self._realism(seen, value)
        if self.model_.odd is None:
            odd, p = self._beyond_plain(seen, value), self._share_as_odd(seen, value)
            predicted = np.where(self._decided(seen, value) < 0, -1, 1)
        else:
            odd = self._surprise(*self._read_novel(X))
            p = self.model_.odd.p_values(torch.from_numpy(odd)).numpy()
            predicted = np.where(odd > self.model_.odd.threshold(self.contamination) + HAIR, -1, 1)
        return {"anomaly_score": odd, "realism": realism, "p_value": p, "predict": predicted}

    # ------------------------------------------------------------------ at a false discovery rate

    def p_values(self, X) -> np.ndarray:
        """Probability that a row like the training rows is as odd as each, float64 ``(n,)``: uniform where nothing is odd.

        Of `Auto` conformal: the share of training rows as odd, each judged by bags of rows that it was not in; training rows
        that the others give away as odd do not count.  Of other models the share of their own samples, which holds as far as
        the model does; of images without blanks the share of training images that are as odd by :meth:`anomaly_score`, which
        holds as far as new images surprise the model no more than these.
        """
        check_is_fitted(self)
        if self.model_.odd is None:
            return self._share_as_odd(*self._weighed(X))
        odd = torch.from_numpy(self._surprise(*self._read_novel(X)))
        return self.model_.odd.p_values(odd).numpy()

    def _share_as_odd(self, seen: Seen, value: np.ndarray) -> np.ndarray:
        """p-values by the model's own samples, of whole images by training images; none of them nothing."""
        whole = seen.mask.numpy().all(1)
        if len(self.usual_) < FEWEST or not whole.any():
            return (1 + REFERENCES * self._realism(seen, value, ties=True)) / (1 + REFERENCES)
        out, n = np.empty(len(value)), len(self.usual_)
        full, rest = (torch.from_numpy(np.flatnonzero(part)) for part in (whole, ~whole))
        less = np.searchsorted(self.usual_, self._beyond_plain(seen.rows(full), value[whole]))
        out[whole] = (1 + n - less) / (1 + n)
        if len(rest):
            out[~whole] = self._share_as_odd(seen.rows(rest), value[~whole])
        return out

    def flag(self, X, alpha: float = 0.05) -> np.ndarray:
        """Which rows are odd, bool ``(n,)``: on average, at most a share ``alpha`` of those flagged is like the training rows.

        By Benjamini & Hochberg's rule on :meth:`p_values`, which asks more of each row the fewer rows are odd; so other than
        its score, whether a row is flagged depends on the rows that come with it.  No p-value is below 1 / (training
        rows + 1): a single odd row among very many stays unflagged.

        References
        ----------
        Benjamini & Hochberg 1995; Bates, Candès, Lei, Romano & Sesia 2023 (conformal p-values of outliers).
        """
        check_share("alpha", alpha)
        return discoveries(self.p_values(X), float(alpha))

    # ------------------------------------------------------------------ which cells

    def explain(self, X, expected: bool = False):
        """How much each cell makes its row odd: nats that the row gains if the cell holds what the others say it should.

            log p(x_j*, x_rest) − log p(x_j, x_rest),      x_j* = E[x_j | x_rest], of a class the likeliest

        so that units do not count, and cells of different kinds compare.  NaN where a cell is blank; a value never seen in
        training has −log of its probability.  An array in the form of X, a data frame of a data frame.  With ``expected``
        also X with what each cell should have been, given the other cells of its row.  It takes as many scores and fills of
        each row as it has cells: ask about rows that are flagged.

        >>> import numpy as np
        >>> from abduce import GaussianMixture
        >>> x = np.random.default_rng(0).normal(size=(500, 1))
        >>> X = np.hstack([x, x, x]) + 0.1 * np.random.default_rng(1).normal(size=(500, 3))
        >>> model = GaussianMixture(components=1, random_state=0).fit(X)
        >>> int(model.explain(np.array([[1.0, -1.0, 1.0]])).argmax())
        1
        """
        check_is_fitted(self)
        X = native(X)
        seen, novel = self._read_novel(X)
        y, mask = seen.y, seen.mask
        before = self._plausibility(seen)
        should, share = y.clone(), np.full(y.shape, np.nan)
        for j in range(y.shape[1]):
            hidden = mask.clone()
            hidden[:, j] = False
            for part, answer in self._answers(Seen(torch.where(hidden, y, 0.0), hidden)):
                should[part, j] = answer.mean()[:, j].double()
            rows = np.flatnonzero(mask[:, j].numpy())
            moved = y[rows].clone()
            moved[:, j] = should[rows, j]
            share[rows, j] = self._plausibility(Seen(moved, mask[rows])) - before[rows]
        if novel is not None:
            unlikely = [-field.log_novel for field in self.schema_.cell_fields]
            share = np.where(novel, unlikely, share)
        table: Any = share.reshape(len(share), *self.schema_.shape)
        if self.schema_.container == "frame":
            table = pd.DataFrame(share, X.index, self.schema_.names)
        if not expected:
            return table
        return table, self.schema_.complete(X, should.numpy(), np.ones(y.shape, bool))
