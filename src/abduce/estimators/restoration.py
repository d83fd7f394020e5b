"""Clean data from what was seen of them: one question, whatever was done to the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from abduce.answers.observation import Blanks, Flips, Linear, Observation
from abduce.data.observations import Downsample, Noise, translate
from abduce.data.schema import Schema
from abduce.estimators.noise_level import most_likely, robust_noise

STD_DRAWS = 400  # behind a map of standard deviations, which they give to some 4 %
NOISE_ROWS = 64  # rows that tell a level of noise


class Restoration:
    """Restore, denoise, upscale: what an estimator answers in model space, asked in the data's form."""

    schema_: Schema
    inference_seed_: int
    fill: Callable[..., Any]
    _encode: Callable[[Any], tuple[Tensor, Tensor]]
    _generator: Callable[[Any], torch.Generator]

    def _clean(self, y: Tensor, seen: Tensor, observation: Observation) -> np.ndarray:
        """The best clean rows behind what an observation of them saw, (n, D)."""
        raise NotImplementedError

    def _clean_draws(
        self, y: Tensor, seen: Tensor, observation: Observation, n: int, generator: torch.Generator
    ) -> Iterator[tuple[slice, Tensor]]:
        """Draws (n, rows, D) of the clean rows, a chunk of rows at a time."""
        raise NotImplementedError

    def _evidence(self, y: Tensor, seen: Tensor, observation: Observation) -> Tensor | None:
        """log p(y) of each row, nats; None where it is out of reach."""
        raise NotImplementedError

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
            :class:`~abduce.LinearMap`, :class:`~abduce.Blanks` or, of binary data, :class:`~abduce.Flips`; noise in the
            data's units.  For binary data the answer is the likelier value of each cell.
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
        energies anneal particles.

        Raises ValueError or TypeError, naming the argument, for noise below zero, a factor that does not divide, a width that
        is not above 0, Y of another shape, and observations that the data are not of a kind for.

        >>> import numpy as np
        >>> from abduce import PCA, Noise
        >>> X = np.random.default_rng(0).normal(size=(500, 1)) * [1.0, 1.0, 1.0]  # three columns that agree
        >>> model = PCA(components=1).fit(X + 0.1 * np.random.default_rng(1).normal(size=X.shape))
        >>> model.restore([[1.0, np.nan, 0.6]], Noise(0.5)).round(1)
        array([[0.7, 0.7, 0.7]])
        """
        check_is_fitted(self)
        if draws is not None and (isinstance(draws, bool) or not isinstance(draws, Integral) or draws < 1):
            raise ValueError(f"draws must be a positive int or None, got {draws!r}")
        schema = self.schema_
        wrong = sorted({f.kind for f in schema.fields if f.line is None})
        if return_std and wrong:
            raise ValueError(
                f"return_std is for the kinds real, pixel, binary (of numbers); this model also has {wrong}: take draws"
            )
        y, seen, inner = translate(schema, Y, observation, Linear, self._encode)
        answer: Any
        if isinstance(inner, Blanks):
            answer = self.fill(Y, draws, random_state=random_state)
        elif draws is None:
            answer = schema.decode(self._clean(y, seen, inner))
        else:
            stack = np.empty((int(draws), len(y), schema.n_cells))
            generator = self._generator(random_state)
            for part, drawn in self._clean_draws(y, seen, inner, int(draws), generator):
                stack[:, part] = drawn.numpy()
            answer = [schema.decode(copy) for copy in stack]
        if not return_std:
            return answer
        return answer, self._std(y, seen, inner, random_state)

    def _std(self, y: Tensor, seen: Tensor, observation: Observation, random_state) -> np.ndarray:
        """Standard deviation of each cell over posterior draws, in the shape and the units of the data."""
        schema = self.schema_
        out = np.zeros((len(y), schema.n_cells))
        generator = self._generator(0 if random_state is None else random_state)
        for part, drawn in self._clean_draws(y, seen, observation, STD_DRAWS, generator):
            out[part] = drawn.std(0).numpy()
        if isinstance(observation, Blanks):
            out[seen.numpy()] = 0.0
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
        y, seen, inner = translate(schema, X, self._noise(0.0), Linear, self._encode)
        some = torch.randperm(len(y), generator=torch.Generator().manual_seed(self.inference_seed_))
        index = some[:NOISE_ROWS]
        index = index[seen[index].any(1)]
        if not len(index):
            raise ValueError("X has no observed cell to estimate a level of noise from")
        ys, os = y[index], seen[index]
        unit = torch.tensor([f.scale for f in schema.fields], dtype=torch.float64).expand(schema.n_cells)

        def evidence(level: float) -> Tensor | None:
            return self._evidence(ys, os, Flips(level) if isinstance(inner, Flips) else Linear(level / unit))

        def value(level: float) -> float:
            found = evidence(level)
            assert found is not None
            return float(found.sum())

        if isinstance(inner, Flips):
            low, high = 1e-4, 0.499
        else:
            step = float(unit.min())
            low, high = 1e-3 * step, step + 2 * float((ys * unit)[os].std(correction=0))
        if evidence(high) is not None:
            return most_likely(value, low, high)
        if schema.container != "image" or isinstance(inner, Flips):
            raise ValueError(
                f"{type(self).__name__} has no log p of noisy rows to estimate the noise by; give noise as a number"
            )
        pixels = np.where(seen.numpy(), y.numpy(), np.nan).reshape(-1, *(*schema.shape, 1)[:3])
        return robust_noise(pixels) * float(schema.fields[0].scale)
