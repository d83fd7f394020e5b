"""Questions about clean data: what stands in the blanks, behind noise, beneath coarse pixels; one inference for all.

What was seen, in the data's own form, becomes a :class:`~abduce.data.seen.Seen`; the model's answer is reduced to a mean, to
draws, to quantiles or to chances, and turned back.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from abduce.answers.answer import Answer, gather
from abduce.answers.views import Flips, Linear
from abduce.checks import check_choice, check_count, check_share
from abduce.data.fields import listing
from abduce.data.foreign import same_make
from abduce.data.observations import Downsample, Noise, translate
from abduce.data.schema import Schema
from abduce.data.seen import Seen, Unanswerable
from abduce.estimators.bootstrap import Encoded, refit
from abduce.estimators.noise_level import most_likely, robust_noise
from abduce.models.model import Model

INTERVAL_DRAWS = 1000  # behind an interval
STD_DRAWS = 400  # behind a map of standard deviations, which they give to some 4 %
NOISE_ROWS = 64  # rows that tell a level of noise


class Restoring(abc.ABC):
    """Fill, denoise, upscale, restore: reductions of a model's answer."""

    model_: Model
    schema_: Schema
    inference_seed_: int

    @abc.abstractmethod
    def _encode(self, X: Any) -> Seen:
        """Rows like the training data's, in model space."""

    @abc.abstractmethod
    def _read_novel(self, X: Any) -> tuple[Seen, np.ndarray | None]:
        """The same, and which observed cells hold what the model has no value for."""

    @abc.abstractmethod
    def _effort(self, samples: int | None = None) -> Any:
        """How much work an answer may take."""

    @abc.abstractmethod
    def _answers(self, seen: Seen, draws: int = 1) -> Iterator[tuple[slice, Answer]]:
        """Answers about rows, a block at a time."""

    @abc.abstractmethod
    def _generator(self, random_state: Any) -> torch.Generator:
        """Random numbers of a seed; None: the model's own."""

    # ------------------------------------------------------------------ blanks

    @same_make
    def fill(
        self,
        X,
        draws: int | None = None,
        observed=None,
        random_state=None,
        parameters: str = "fixed",
    ):
        """Fill the blanks of X with the posterior mean (numbers) or mode (classes); observed cells stay to the bit.

        A row with nothing observed is filled from the prior.

        Parameters
        ----------
        X : as in ``fit``
            The answer is of the same make: a polars frame for one, in its types.  A masked array gives a plain one.
        draws : int or None
            A list of this many completed copies, each a draw from the posterior of the blanks: multiple imputation.
            :func:`abduce.pool` puts together what is estimated from each.
        observed : bool array of X's shape, or None
            Marks the cells to trust; others are filled as if they were blank.
        random_state : int, RandomState or None
            Of the draws; None: the model's own.
        parameters : "fixed" or "bootstrap"
            What the copies take the model's parameters to be.  "fixed": as fitted, the same for all.  That is improper
            imputation: it leaves out that the parameters are estimates too, so that intervals are too short on small
            data.  "bootstrap": each copy's own, of a clone of the model refitted to a bootstrap resample of the rows of X,
            as they are in the posterior of the parameters: proper multiple imputation, at the cost of ``draws`` fits.  X
            are then all the rows of the analysis, not some new ones.  Refits go by the constructor's arguments and the
            fitted ``schema_``; a later ``fit_prior`` or ``normalize`` is not done again.

        References
        ----------
        Rubin 1987, Multiple Imputation for Nonresponse in Surveys; Honaker, King & Blackwell 2011, Amelia II (a bootstrap
        for each copy); von Hippel & Bartlett 2021 (arXiv:1210.0870; what draws with fixed parameters are good for).
        """
        seen, blank = self._trusted(X, observed)
        _check_draws(draws)
        check_choice("parameters", parameters, ("fixed", "bootstrap"))
        if parameters == "bootstrap":
            self._check_refits(draws, seen)
        rows = np.flatnonzero(blank.any(1))
        values, some = seen.y.numpy().copy(), seen.rows(torch.from_numpy(rows))
        if draws is None:
            width = (values.shape[1],)
            values[rows] = gather(
                self.model_, some, self._effort(), lambda answer: answer.mean(), width
            ).numpy()
            return self.schema_.complete(X, values, blank)
        stack = np.repeat(values[None], draws, 0)
        generator = self._generator(random_state)
        if parameters == "fixed":
            for part, answer in self._answers(some, draws):
                stack[:, rows[part]] = answer.draws(draws, generator).numpy()
        else:
            data = Encoded(self.schema_, np.where(blank, 0.0, values), seen.mask.numpy())
            for k, completed in enumerate(stack):
                rng = np.random.default_rng([generator.initial_seed(), k])
                model = refit(self, data, rng)
                own = torch.Generator().manual_seed(int(rng.integers(2**31 - 1)))
                for part, answer in model._answers(some):
                    completed[rows[part]] = answer.draws(1, own)[0].numpy()
        return [self.schema_.complete(X, completed, blank) for completed in stack]

    def _check_refits(self, draws: int | None, seen: Seen) -> None:
        """Refuse refits that nothing could come of."""
        if draws is None:
            raise ValueError(
                "parameters='bootstrap' needs draws, the number of completed copies, each from a refit of its own; got "
                "draws=None"
            )
        if len(seen.y) < 2:
            raise ValueError(
                f"X must have at least 2 rows for parameters='bootstrap', which refits the model to X, got {len(seen.y)}"
            )
        if self.schema_.container == "image":
            return
        nothing = (~seen.mask).all(0).tolist()
        lost = [
            f.name for f, none in zip(self.schema_.fields, nothing, strict=True) if none and f.missing < 1
        ]
        if lost:
            raise ValueError(
                f"X has no observed value in {listing(lost)}, and parameters='bootstrap' refits the model to X: give the rows "
                "that the model was fitted to"
            )

    @same_make
    def fill_interval(self, X, level: float = 0.9, observed=None) -> tuple:
        """Interval of each blank cell: two copies of X, blanks replaced by the lower and the upper end.

        The ends are quantiles of 1,000 posterior draws, the parameters as fitted, at (1 − level)/2 and (1 + level)/2; class
        cells get the classes at these quantiles of the codes.
        """
        check_share("level", level)
        seen, blank = self._trusted(X, observed)
        rows = np.flatnonzero(blank.any(1))
        low, high = seen.y.numpy().copy(), seen.y.numpy().copy()
        q = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        generator = self._generator(0)
        for part, answer in self._answers(seen.rows(torch.from_numpy(rows)), INTERVAL_DRAWS):
            drawn = answer.draws(INTERVAL_DRAWS, generator, "cells")
            low[rows[part]], high[rows[part]] = torch.quantile(drawn, q, dim=0).numpy()
        return self.schema_.complete(X, low, blank), self.schema_.complete(X, high, blank)

    def class_probabilities(self, X, column: Any) -> pd.DataFrame:
        """Probability of each class of a column given the other cells of each row, (n, classes), whatever the column holds.

        ``column`` is a name, or the position in an array.  With the target of a classification as one more column of the
        training data, this predicts it for rows where it is blank.

        >>> import pandas as pd
        >>> from abduce import Auto
        >>> flower = pd.DataFrame({"size": [1.0, 1.1, 0.9, 3.0, 3.1, 2.9] * 10, "kind": ["a", "a", "a", "b", "b", "b"] * 10})
        >>> model = Auto(random_state=0).fit(flower)
        >>> new = pd.DataFrame({"size": [1.0, 3.0], "kind": [None, None]})
        >>> model.class_probabilities(new, "kind").round(1)
             a    b
        0  1.0  0.0
        1  0.0  1.0
        """
        seen = self._encode(X)
        names = self.schema_.names
        wanted = f"x{column}" if isinstance(column, Integral) and str(column) not in names else str(column)
        cells = self.model_.layout.classes
        if wanted not in names or names.index(wanted) not in cells:
            classes = listing([names[j] for j in cells]) if cells else "none"
            raise ValueError(f"column must be one of classes, of which there are {classes}; got {column!r}")
        j = names.index(wanted)
        seen.mask[:, j], seen.y[:, j] = False, 0.0
        field = self.schema_.fields[j if len(self.schema_.fields) > 1 else 0]
        levels = pd.Index(field.categories or (0, 1))
        chances = gather(self.model_, seen, self._effort(), lambda answer: answer.chances(j), (len(levels),))
        return pd.DataFrame(chances.numpy(), X.index if isinstance(X, pd.DataFrame) else None, levels)

    def _trusted(self, X, observed) -> tuple[Seen, np.ndarray]:
        """X in model space, and which cells are to be filled: those blank, and those the caller does not trust.

        An observed value that the model has no value for tells it nothing, but stays.
        """
        seen, novel = self._read_novel(X)
        if left := self.schema_.unfilled(X):
            warnings.warn(
                f"blanks in {listing(left)} stay: the model leaves such columns out, which name rows or hold nothing; "
                "kinds= can override this",
                UserWarning,
                stacklevel=3,
            )
        blank = ~seen.mask.numpy()
        if novel is not None:
            blank &= ~novel
        if observed is None:
            return seen, blank
        mask = np.asarray(observed)
        if mask.dtype != bool or mask.shape != np.shape(X):
            raise ValueError(
                f"observed must be a bool array of X's shape {np.shape(X)}, got {mask.dtype} of shape {mask.shape}"
            )
        if self.schema_.container == "frame":
            labels = [str(c) for c in self.schema_.order]
            mask = mask[:, [labels.index(f.name) for f in self.schema_.fields]]
        mask = mask.reshape(blank.shape)
        return seen._replace(mask=seen.mask & torch.from_numpy(mask)), blank | ~mask

    # ------------------------------------------------------------------ noise, blur, lower resolutions

    @same_make
    def restore(self, Y, observation, draws: int | None = None, return_std: bool = False, random_state=None):
        """Restore clean data from what was seen of them: the posterior mean, in the form of the training data.

        Noise, blur, a lower resolution, rounding, sums of cells, blanks, and any of these together with blanks (NaN in Y),
        are all an ``observation`` of clean data x; what is returned is E[x | y], or draws from p(x | y).  The model was
        not trained for any of them.

        Parameters
        ----------
        Y : array, images or data frame
            What was seen, in the shape that the observation gives: smaller images for :class:`~abduce.Downsample`, ``(n, d)``
            for :class:`~abduce.LinearMap`, else that of the training data.
        observation
            :class:`~abduce.Noise`, :class:`~abduce.Blur`, :class:`~abduce.Downsample`, :class:`~abduce.Quantise`,
            :class:`~abduce.LinearMap`, :class:`~abduce.Blanks`, of binary data :class:`~abduce.Flips`, or of counts
            :class:`~abduce.Thinned`; noise in the data's units.  For binary data the answer is the likelier value of each
            cell.
        draws : int or None
            A list of this many copies, each a draw: plausible as a whole, where a mean is blurred by what is not known.
        return_std : bool
            Return also the posterior standard deviation of each cell, float64, in the data's units, from 400 draws.
        random_state : int, RandomState or None
            Of the draws; None: the model's own.

        Notes
        -----
        Exact for PCA and mixtures of Gaussians.  A VAE weighs draws of z; its p(x|z) is taken at its first two moments, and
        where the observation couples pixels (blur, bicubic) its variance is held at the mean over these draws.  Other
        energies anneal particles; of a pool those members answer that can.

        Raises ValueError or TypeError, naming the argument, for noise below zero, a factor that does not divide, a width that
        is not above 0, Y of another shape, observations that the data are not of a kind for, and Unanswerable (a ValueError)
        for those that the model has no answer to.

        >>> import numpy as np
        >>> from abduce import PCA, Noise
        >>> X = np.random.default_rng(0).normal(size=(500, 1)) * [1.0, 1.0, 1.0]  # three columns that agree
        >>> model = PCA(components=1).fit(X + 0.1 * np.random.default_rng(1).normal(size=X.shape))
        >>> model.restore([[1.0, np.nan, 0.6]], Noise(0.5)).round(1)
        array([[0.7, 0.7, 0.7]])
        """
        check_is_fitted(self)
        _check_draws(draws)
        schema = self.schema_
        wrong = sorted({f.kind for f in schema.fields if f.line is None})
        if return_std and wrong:
            raise ValueError(
                f"return_std is for the kinds real, pixel, binary (of numbers); this model also has {wrong}: take draws"
            )
        seen = translate(schema, Y, observation, Linear, self._encode)
        answer: Any
        if seen.exact:
            answer = self.fill(Y, draws, random_state=random_state)
        elif draws is None:
            mean = gather(self.model_, seen, self._effort(), lambda answer: answer.mean(), (schema.n_cells,))
            answer = schema.decode(mean.numpy(), beside=Y)
        else:
            stack = self._drawn(seen, int(draws), self._generator(random_state))
            answer = [schema.decode(copy, beside=Y) for copy in stack]
        if not return_std:
            return answer
        return answer, self._std(seen, random_state)

    def _drawn(self, seen: Seen, n: int, generator: torch.Generator) -> np.ndarray:
        """Draws (n, rows, D) of clean rows."""
        stack = np.empty((n, len(seen.y), self.schema_.n_cells))
        for part, answer in self._answers(seen, n):
            stack[:, part] = answer.draws(n, generator).numpy()
        return stack

    def _std(self, seen: Seen, random_state) -> np.ndarray:
        """Standard deviation of each cell over posterior draws, in the shape and the units of the data."""
        schema = self.schema_
        out = np.zeros((len(seen.y), schema.n_cells))
        generator = self._generator(0 if random_state is None else random_state)
        for part, answer in self._answers(seen, STD_DRAWS):
            out[part] = answer.draws(STD_DRAWS, generator).std(0).numpy()
        if seen.exact:
            out[seen.mask.numpy()] = 0.0
        scale = [f.line[1] for f in schema.fields if f.line]  # all have one, as was asked before
        return (out * np.broadcast_to(scale, schema.n_cells)).reshape(-1, *schema.shape)

    def denoise(self, X, noise, draws: int | None = None, random_state=None):
        """The clean data that most plausibly produced X: the posterior mean given noisy values.

        ``noise`` is the noise's standard deviation in the data's units (one number, or one for each column); for
        all-binary data it is the probability that a cell was flipped; "estimate" is what :meth:`estimate_noise` says.  Blanks
        are filled too.  With ``draws=m``, a list of m draws.  See :meth:`restore`.
        """
        check_is_fitted(self)
        if isinstance(noise, str):
            if noise != "estimate":
                raise ValueError(f"noise must be a number, or 'estimate', got {noise!r}")
            noise = self.estimate_noise(X)
        return self.restore(X, self._noise(noise), draws, random_state=random_state)

    def _noise(self, level: Any) -> Noise | Flips:
        """Noise of a level as denoising takes it: flips of binary cells, else Gaussian."""
        return Flips(level) if {f.kind for f in self.schema_.fields} == {"binary"} else Noise(level)

    def upscale(
        self,
        X,
        factor: int,
        noise: float = 0.0,
        kernel: str = "box",
        draws: int | None = None,
        random_state=None,
    ):
        """Larger images that most plausibly averaged, over blocks of ``factor`` x ``factor`` pixels, to X.

        X has shape ``(n, H / factor, W / factor[, C])`` for a model of ``(n, H, W[, C])`` images.  ``kernel="bicubic"`` if
        that is how they were made smaller.  With ``draws=m``, a list of m draws.  See :meth:`restore`.
        """
        check_is_fitted(self)
        if self.schema_.container != "image":
            raise ValueError(
                f"upscale needs a model of images, this one was fitted to a {self.schema_.container}"
            )
        return self.restore(X, Downsample(factor, kernel, noise), draws, random_state=random_state)

    @same_make
    def estimate_noise(self, X) -> float:
        """Level of the noise in X, one standard deviation for all cells in the data's units, or the rate of flips.

            σ̂ = argmax Σ_rows log p(y; σ),      p(y; σ) = ∫ p(x) N(y; x, σ²) dx

        by a grid and golden section on 64 rows, with the model fitted to clean data: exact for PCA and mixtures of Gaussians,
        by importance sampling for a VAE.  Energies whose p(y; σ) is out of reach take the median absolute deviation of the
        finest diagonal Haar wavelets of images, over 0.6745, which needs no model but takes fine texture for noise; of tables
        they raise ValueError.

        Source: Donoho & Johnstone 1994 (the median).
        """
        check_is_fitted(self)
        schema = self.schema_
        seen = translate(schema, X, self._noise(0.0), Linear, self._encode)
        some = torch.randperm(len(seen.y), generator=torch.Generator().manual_seed(self.inference_seed_))
        index = some[:NOISE_ROWS]
        rows = seen.rows(index[seen.mask[index].any(1)])
        if not len(rows.y):
            raise ValueError("X has no observed cell to estimate a level of noise from")
        unit = torch.tensor([f.scale for f in schema.fields], dtype=torch.float64).expand(schema.n_cells)
        binary = seen.view.name == Flips.name

        def value(level: float) -> float:
            noisy = rows._replace(view=Flips(level) if binary else Linear(level / unit))
            return float(self.model_.answer(noisy, self._effort()).log_evidence.sum())

        if binary:
            low, high = 1e-4, 0.499
        else:
            step = float(unit.min())
            low, high = 1e-3 * step, step + 2 * float((rows.y * unit)[rows.mask].std(correction=0))
        try:
            return most_likely(value, low, high)
        except Unanswerable:
            if schema.container != "image" or binary:
                raise ValueError(
                    f"{type(self).__name__} has no log p of noisy rows to estimate the noise by; give noise as a number"
                ) from None
        pixels = np.where(seen.mask.numpy(), seen.y.numpy(), np.nan).reshape(-1, *(*schema.shape, 1)[:3])
        return robust_noise(pixels) * float(schema.fields[0].scale)


def _check_draws(draws: Any) -> None:
    if draws is not None:
        check_count("draws", draws)
