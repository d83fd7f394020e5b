"""Why cells are blank: a model of the mask, for data that are missing not at random.

Where a cell's being blank depends on what it holds, the mask s (1 observed, 0 blank) says something about it, and the
model is of both:

    p(x_obs, s) = ∫∫ p(x_obs | z) p(s | x_obs, x_mis) p(x_mis | z) p(z) dx_mis dz

With numbers written as x_mis = g(z, u) for standard normal u, the pair (z, u) is a latent variable like any other: its
prior is p(z) N(u; 0, I), its proposal q(z | x_obs) N(u; 0, I), and the importance weights become

    log w = log p(x_obs | z) + log p(s | x_obs, g(z, u)) + log p(z) − log q(z | x_obs).

So :class:`NotAtRandom` gives bounds, scores, fills and chains what they ask of any model with latents.  Blanks of classes
are summed out instead of drawn.

The mechanism is an assumption: observed data alone cannot tell one from another without a model of the values.

Source: Ipsen, Mattei & Frellsen 2021, not-MIWAE (arXiv:2006.12871); Rubin 1976 for the three mechanisms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from abduce.data.schema import Schema
from abduce.distributions.cells import put, standard_log_prob
from abduce.distributions.heads import DRAWABLE, SUMMABLE
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import Posterior
from abduce.distributions.priors import Prior
from abduce.inference.latent import LatentVariableModel
from abduce.nets.mlp import OwnRate

FORMS = ("self_masking", "self_masking_high", "self_masking_low", "logistic")
SIGNS = {"self_masking": 0, "self_masking_high": -1, "self_masking_low": 1}  # of b: how x moves "observed"
START = 3.0  # slope that a known direction starts from, a standard deviation


def describe(
    schema: Schema, likelihoods: Sequence[str], mask_model: str | Mapping[str, str], shares: Sequence[float]
) -> dict[str, Any]:
    """The arguments of the :class:`MaskModel` of a schema's cells, all JSON-able: of those that have blanks.

    ``likelihoods`` name one for each field, ``shares`` say how often each is observed.  ValueError where nothing is blank, or
    a mechanism does not fit a cell's likelihood.
    """
    cells = [c for c, share in enumerate(shares) if share < 1]
    if not cells:
        raise ValueError(
            "missing='mnar' learns from which cells are blank, and X has no blank; take missing='mar'"
        )
    fields = list(zip(schema.fields, likelihoods, strict=True))
    fields *= schema.n_cells // len(fields)  # images share one
    logistic = mask_model == "logistic"
    default = "self_masking" if logistic or not isinstance(mask_model, str) else mask_model
    chosen = {} if isinstance(mask_model, str) else mask_model
    if unknown := sorted(set(chosen) - {f.name for f in schema.fields}):
        raise ValueError(f"mask_model names columns that are not there or left out: {unknown}")
    levels, signs = [], []
    for c in cells:
        field, name = fields[c]
        sign = SIGNS[chosen.get(field.name, default)]
        fits = DRAWABLE if logistic or sign else (*DRAWABLE, *SUMMABLE)
        if name not in fits:
            raise ValueError(
                f"missing='mnar' with mask_model={mask_model!r} takes blanks of columns with likelihood "
                f"{', '.join(fits)}; column {field.name!r} (kind {field.kind}) has {name!r}"
            )
        classes = 2 if name == "bernoulli" else len(field.categories or ())
        levels.append(classes if name in SUMMABLE else 0)
        signs.append(sign)
    reads = [c for c, (_, name) in enumerate(fields) if name in DRAWABLE] if logistic else None
    observed = [shares[c] for c in cells]
    return {"cells": cells, "shares": observed, "levels": levels, "signs": signs, "reads": reads}


class MaskModel(OwnRate):
    """p(s | x) = Π_j Bernoulli(s_j; σ(logit_j)), over the cells j that were ever blank; s_j = 1 is observed.

        self-masking   logit_j = a_j + b_j x_j          numbers; the sign of b_j may be given
                       logit_j = c_{j, x_j}             classes: one logit a level
        logistic       logit_j = a_j + Σ_k b_jk x_k     numbers, k over all of the row's numbers

    ``cells`` are the cells whose mask is modelled and ``shares`` how often each is observed, where a_j starts from;
    ``levels`` are their numbers of classes (0: a number) and ``signs`` those of b_j (0: learned).  ``reads`` lists the cells
    of a logistic model's sum, and is None for self-masking.  A blank of any other cell carries no information.

    >>> mask = MaskModel(cells=[1], shares=[0.5], levels=[0], signs=[0])
    >>> s = torch.tensor([[True, False]])
    >>> round(mask.numbers(torch.zeros(1, 1), s).item(), 4)  # log ½
    -0.6931
    """

    rate = "mask"
    weight: nn.Parameter
    sign: Tensor

    def __init__(
        self,
        cells: Sequence[int],
        shares: Sequence[float],
        levels: Sequence[int],
        signs: Sequence[int],
        reads: Sequence[int] | None = None,
    ):
        super().__init__()
        rows = list(zip(cells, shares, levels, signs, strict=True))
        numeric, classes = [r for r in rows if not r[2]], [r for r in rows if r[2]]
        self.cells = [r[0] for r in numeric]  # whose mask is modelled: numbers
        self.class_cells = [r[0] for r in classes]
        self.reads = self.cells if reads is None else list(reads)  # numbers that some logit depends on
        self.read_at = {cell: i for i, cell in enumerate(self.reads)}
        self.class_at = {cell: i for i, cell in enumerate(self.class_cells)}
        self.linear = reads is not None
        start = torch.tensor([r[1] for r in rows]).clamp(0.01, 0.99).logit()
        kind = torch.tensor([r[2] for r in rows], dtype=torch.long)
        sign = torch.tensor([float(r[3]) for r in numeric])
        self.register_buffer("sign", sign, persistent=False)
        shape = (len(numeric), len(self.reads)) if self.linear else (len(numeric),)
        # a known direction starts from a clear threshold one deviation beyond the mean of what is observed
        self.bias = nn.Parameter(start[kind == 0] + START * sign.abs())
        self.weight = nn.Parameter(torch.zeros(shape) if self.linear else START * sign.abs())
        most = max([r[2] for r in classes], default=0)
        self.level_logits = nn.Parameter(start[kind > 0].unsqueeze(-1).repeat(1, most))

    def slopes(self) -> Tensor:
        """b: how the logit of being observed moves with x, per standard deviation of the observed data."""
        if self.linear:
            return self.weight
        return torch.where(self.sign == 0, self.weight, self.sign * F.softplus(self.weight))

    def numbers(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """log p(s | x) of the number cells, nats, (...,), from the values ``x`` of the cells it reads, (..., reads)."""
        b = self.slopes()
        logits = self.bias + (x @ b.T if self.linear else b * x)
        return _log_bernoulli(logits, None if observed is None else observed[..., self.cells]).sum(-1)

    def levels(self, cell: int) -> Tensor:
        """Logits of being observed, one for each level of a class cell, (K,)."""
        return self.level_logits[self.class_at[cell]]


def _log_bernoulli(logits: Tensor, observed: Tensor | None) -> Tensor:
    """log σ(l) where observed, log (1 − σ(l)) where not."""
    return F.logsigmoid(logits if observed is None else torch.where(observed, logits, -logits))


class MaskedLaw(Product):
    """p(x_obs, s | z, u): a row's likelihood with the mask's beside it."""

    parts: list[tuple[Tensor | slice, Any]]  # of what is drawable or summable, where the mask model reads it

    def __init__(self, base: Product, mask: MaskModel, u: Tensor):
        super().__init__(base.parts, base.n_cells)
        self.base, self.mask, self.u = base, mask, u

    def _places(self, cells: Tensor | slice, wanted: dict[int, int]) -> tuple[list[int], list[int]]:
        """Which cells of a part are among the ``wanted``, and where there."""
        own = range(self.n_cells) if isinstance(cells, slice) else cells.tolist()
        at = [i for i, c in enumerate(own) if c in wanted]
        return at, [wanted[own[i]] for i in at]

    def missing(self) -> Tensor:
        """What the cells that the mask model reads would hold if they were blank, (..., reads)."""
        out = torch.empty_like(self.u)
        for cells, part in self.parts:
            at, place = self._places(cells, self.mask.read_at)
            if at:
                out = put(out, place, part.moved(self.u[..., place], at))
        return out

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_obs | z) + log p(s | x_obs, x_mis), nats, (...)."""
        mask, total = self.mask, self.base.log_prob(x, observed)
        if mask.cells:
            read = x[..., mask.reads]
            if observed is not None:
                read = torch.where(observed[..., mask.reads], read, self.missing())
            total = total + mask.numbers(read, observed)
        for cells, part in self.parts:
            at, place = self._places(cells, mask.class_at)
            for i, k in zip(at, place, strict=True):
                cell = mask.class_cells[k]
                logits, code = mask.levels(cell), x[..., cell].long()
                seen = F.logsigmoid(logits)[code]
                if observed is not None:
                    log_p = part.class_log_probs(i)
                    blank = torch.logsumexp(log_p + F.logsigmoid(-logits[: log_p.shape[-1]]), -1)
                    seen = torch.where(observed[..., cell], seen, blank)
                total = total + seen
        return total

    def condition(self, x: Tensor, observed: Tensor) -> Product:
        """p(x_mis | z, u, x_obs, s): numbers that the mask model reads are what u says, classes tilted by their mask."""
        parts = []
        given: list[tuple[Tensor | slice, Any]] = list(self.base.condition(x, observed).parts)
        for cells, part in given:
            at, place = self._places(cells, self.mask.read_at)
            if at:
                part = part.fixed(at, part.moved(self.u[..., place], at))
            at, place = self._places(cells, self.mask.class_at)
            for i, k in zip(at, place, strict=True):
                part = part.tilted(i, F.logsigmoid(-self.mask.levels(self.mask.class_cells[k])))
            parts.append((cells, part))
        return Product(parts, self.n_cells)


class _WithNoise:
    """q(z | x) N(u; 0, I): a posterior of z with the noise of the blanks beside it."""

    def __init__(self, q: Posterior, noise_dim: int, latent_dim: int, blanks: int):
        self.q, self.noise_dim, self.latent_dim, self.blanks = q, noise_dim, latent_dim, blanks
        self.reparameterized = q.reparameterized

    @property
    def mean(self) -> Tensor:
        mean = self.q.mean
        return torch.cat([mean, mean.new_zeros(*mean.shape[:-1], self.blanks)], -1)

    def detach(self) -> _WithNoise:
        return _WithNoise(self.q.detach(), self.noise_dim, self.latent_dim, self.blanks)

    def _join(self, z: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([z, noise[..., self.noise_dim :].expand(*z.shape[:-1], -1)], -1)

    def transport(self, noise: Tensor) -> Tensor:
        return self._join(self.q.transport(noise[..., : self.noise_dim]), noise)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z, log_q = self.q.draw(noise[..., : self.noise_dim])
        return self._join(z, noise), log_q + standard_log_prob(noise[..., self.noise_dim :])

    def log_prob(self, z: Tensor) -> Tensor:
        return self.q.log_prob(z[..., : self.latent_dim]) + standard_log_prob(z[..., self.latent_dim :])


class _PriorWithNoise:
    """p(z) N(u; 0, I)."""

    def __init__(self, prior: Prior, blanks: int):
        self.prior, self.split, self.latent_dim = prior, prior.latent_dim, prior.latent_dim + blanks

    def log_prob(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z[..., : self.split]) + standard_log_prob(z[..., self.split :])

    def sample(self, n: int, generator: Generator | None = None, **factory) -> Tensor:
        z = self.prior.sample(n, generator, **factory)
        u = torch.randn(n, self.latent_dim - self.split, generator=generator, dtype=z.dtype, device=z.device)
        return torch.cat([z, u], -1)


class NotAtRandom(LatentVariableModel):
    """p(x_obs, s) of a model with latents and a model of its mask; latents are (z, u), of which u are the blanks' noise."""

    sees_mask = True

    def __init__(self, model: LatentVariableModel, mask: MaskModel):
        super().__init__()
        self.model = model
        self._mask = [mask]  # the model's own submodule: in its state once
        self.blanks = len(mask.reads)
        self.noise_dim = model.noise_dim + self.blanks
        self.latent_dim = model.latent_dim + self.blanks

    @property
    def prior(self) -> _PriorWithNoise:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _PriorWithNoise(self.model.prior, self.blanks)

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> _WithNoise:
        q = self.model.posterior(x, observed)
        return _WithNoise(q, self.model.noise_dim, self.model.latent_dim, self.blanks)

    def likelihood(self, z: Tensor) -> MaskedLaw:
        latent, u = z[..., : self.model.latent_dim], z[..., self.model.latent_dim :]
        return MaskedLaw(self.model.likelihood(latent), self._mask[0], u)

    def codes(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.model.codes(x, observed)

    def point(self, moments: list[Tensor]) -> Tensor:
        return self.model.point(moments)

    def chances(self, moments: list[Tensor], cell: int) -> Tensor:
        return self.model.chances(moments, cell)
