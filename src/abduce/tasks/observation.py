"""Observations: how what we see came from the clean data that we ask for.

Every restoration is the posterior of a clean row x under an observation of it.  An observation says, for latents z, how
likely the seen values are and what the clean row then looks like:

    Blanks              some cells seen exactly, the others not at all
    Linear(factor, σ)   y = A x + σ · noise, A the mean over blocks of factor x factor pixels (factor 1: plain noise)
    Flips(ε)            binary cells, each turned over with probability ε
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from abduce.distributions.continuous import Gaussian
from abduce.distributions.discrete import Bernoulli
from abduce.distributions.likelihoods import Distribution, Product
from abduce.models.linear import LinearPath


class Observation(Protocol):
    """Relates what was seen, ``y`` with the mask ``seen``, to clean rows."""

    def guess(self, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """A first idea of the clean row, for the encoder: ``(x, observed)``."""
        ...

    def log_prob(self, likelihood: Product, y: Tensor, seen: Tensor) -> Tensor:
        """log p(y | z), nats, (samples, batch)."""
        ...

    def clean(self, likelihood: Product, y: Tensor, seen: Tensor) -> Product:
        """p(x | z, y), the law of the clean row."""
        ...


class Blanks:
    """Some cells are seen exactly; the others are to be filled in."""

    def guess(self, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return y, seen

    def log_prob(self, likelihood: Product, y: Tensor, seen: Tensor) -> Tensor:
        return likelihood.log_prob(y, seen)

    def clean(self, likelihood: Product, y: Tensor, seen: Tensor) -> Product:
        return likelihood.condition(y, seen)


class Linear:
    """y = A x + noise: Gaussian noise of standard deviation ``noise`` (model units) after averaging blocks of pixels.

    The likelihood is taken at its first two moments given z, for which everything is exact: the blocks are disjoint, so
    A diag(s²) Aᵀ stays diagonal and only the likelihood's low-rank factor couples cells.
    """

    def __init__(self, noise: Tensor | float, factor: int = 1, shape: tuple[int, ...] = ()):
        self.noise, self.factor, self.shape = noise, factor, shape

    def spread(self, y: Tensor) -> Tensor:
        """Standard deviation of each cell of y, at least a thousandth."""
        return torch.as_tensor(self.noise, dtype=y.dtype).expand(y.shape[-1]).clamp_min(1e-3)

    def apply(self, x: Tensor) -> Tensor:
        """A x: the mean over blocks, (..., D) -> (..., D / factor²)."""
        if self.factor == 1:
            return x
        h, w, c = (*self.shape, 1)[:3]
        f = self.factor
        return x.unflatten(-1, (h // f, f, w // f, f, c)).mean((-4, -2)).flatten(-3)

    def _spread(self, y: Tensor) -> Tensor:
        """Repeat each block's value over its pixels, the transpose of pooling times factor²."""
        if self.factor == 1:
            return y
        h, w, c = (*self.shape, 1)[:3]
        f = self.factor
        y = y.unflatten(-1, (h // f, 1, w // f, 1, c))
        return y.expand(*y.shape[:-5], h // f, f, w // f, f, c).flatten(-5)

    def guess(self, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self._spread(y), self._spread(seen)

    def through(self, path: LinearPath) -> LinearPath:
        """The linear path of what is seen: y = A (W z + b + noise) + σ · noise is linear-Gaussian too."""
        noise = (
            self.apply(path.noise) / self.factor**2
            + torch.as_tensor(self.noise, dtype=path.noise.dtype).square()
        )
        return replace(path, W=self.apply(path.W.mT).mT, b=self.apply(path.b), noise=noise)

    def _seen_law(self, g: Gaussian) -> Gaussian:
        variance = self.apply(g.scale.square()) / self.factor**2 + torch.as_tensor(self.noise).square()
        factor = None if g.factor is None else self.apply(g.factor.mT).mT
        return Gaussian(self.apply(g.mean), variance.clamp_min(1e-8).sqrt(), factor)

    def log_prob(self, likelihood: Product, y: Tensor, seen: Tensor) -> Tensor:
        return self._seen_law(likelihood.gaussian()).log_prob(y, seen)

    def clean(self, likelihood: Product, y: Tensor, seen: Tensor) -> Product:
        g = likelihood.gaussian()
        law = self._seen_law(g)
        mean, factor = g.mean, g.factor
        if factor is not None:
            u, root = law.factor_posterior(y, seen)
            mean = mean + (factor @ u.unsqueeze(-1)).squeeze(-1)
            factor = factor @ root
        gain = g.scale.square() / (self.factor**2 * self._spread(law.scale.square())) * self._spread(seen)
        shift = self._spread(y - self.apply(mean))
        scale = g.scale * (1 - gain / self.factor**2).clamp_min(1e-12).sqrt()
        if factor is not None:
            factor = factor - gain.unsqueeze(-1) * self._spread(self.apply(factor.mT)).mT
        return Product([(slice(None), Gaussian(mean + gain * shift, scale, factor))], mean.shape[-1])


class Flips:
    """Binary cells, each turned over with probability ``rate``; cells of other kinds are seen exactly."""

    def __init__(self, rate: float):
        self.rate = rate

    def field(self, y: Tensor, seen: Tensor) -> Tensor:
        """log p(y | x = 1) − log p(y | x = 0) of each cell: what an energy's field of the clean row is."""
        odds = float(torch.logit(torch.tensor(1 - self.rate, dtype=torch.float64)))
        return torch.where(seen, odds * (2 * y - 1), 0.0)

    def guess(self, y: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return y, seen

    def _noisy(self, part: Distribution) -> Distribution:
        if not isinstance(part, Bernoulli):
            return part
        p = torch.sigmoid(part.logits)
        return Bernoulli(torch.logit((1 - self.rate) * p + self.rate * (1 - p), eps=1e-12))

    def log_prob(self, likelihood: Product, y: Tensor, seen: Tensor) -> Tensor:
        parts = [(cells, self._noisy(part)) for cells, part in likelihood.parts]
        return Product(parts, likelihood.n_cells).log_prob(y, seen)

    def clean(self, likelihood: Product, y: Tensor, seen: Tensor) -> Product:
        field = self.field(y, seen)
        parts: list[tuple[Tensor | slice, Distribution]] = []
        for cells, part in likelihood.parts:
            if isinstance(part, Bernoulli):
                parts.append((cells, Bernoulli(part.logits + field[..., cells])))
            else:
                parts.append((cells, part.condition(y[..., cells], seen[..., cells])))
        return Product(parts, likelihood.n_cells)
