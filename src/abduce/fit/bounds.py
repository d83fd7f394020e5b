"""Variational bounds: what a latent-variable model maximises, each a reduction of one tensor of log weights.

With log w = log p(x_obs|z) + log p(z) − log q(z|x_obs) for S draws z ~ q:

    ELBO               E[log w]                                     closed-form KL where there is one, β, warm-up, free bits
    IWAE(S)            E[log (1/S) Σ_s w_s]
    Renyi(α, S)        E[1/(1−α) log (1/S) Σ_s w_s^(1−α)]           α = 1 the ELBO, 0 IWAE, −∞ the largest weight (VR-max)
    MIWAE(M, K)        the mean of M bounds of K draws each
    PIWAE(M, K)        the decoder climbs IWAE(M·K), the encoder MIWAE(M, K)
    CIWAE(β, S)        β ELBO + (1−β) IWAE(S)
    FIVO(S)            E[Σ_t log (1/S) Σ_s w_t^s], paths resampled on the way; of models of series

Where q can be anything all have the same optimum, p(x) = data and q = p(z|x); with a limited q they differ in how they
trade one for the other.  Rényi's bounds with (1−α)(S−1)/S > 1, VR-max among them, are the exception: they can exceed
log p(x), and a q wider than the posterior gains by it.  The *value* reported is always the bound itself; warm-up, β,
penalties and the gradient's estimator change only the gradient.  With c_s = ∂bound/∂log w_s and the chain rule, that
estimator is one of

    plain   Σ c_s ∇log w_s, through z and through the density q                    any posterior with reparameterised draws
    stl     Σ c_s ∂log w_s/∂z · ∂z/∂φ: the score term, zero on average for one draw, is left out: biased for several
    dreg    Σ (c_s − ∂c_s/∂log w_s) ∂log w_s/∂z · ∂z/∂φ: the score term is reparameterised once more, so unbiased

which agree for the decoder.  For Rényi's bounds dreg's factor is α c_s + (1−α) c_s².

Sources: Kingma & Welling 2014 (arXiv:1312.6114); Burda et al. 2016 (arXiv:1509.00519); Li & Turner 2016, Rényi bounds
(arXiv:1602.02311); Roeder et al. 2017, sticking the landing (arXiv:1703.09194); Rainforth et al. 2018, MIWAE, PIWAE, CIWAE
(arXiv:1802.04537); Maddison et al. 2017, Le et al. 2018 and Naesseth et al. 2018, FIVO, AESMC and VSMC (arXiv:1705.09279,
1705.10306, 1705.11140); Tucker et al. 2019, doubly reparameterised gradients (arXiv:1810.04152); Kingma et al. 2016, free bits
(arXiv:1606.04934).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from abduce.checks import check_choice, check_count, check_number
from abduce.distributions.posteriors import Posterior
from abduce.distributions.priors import closed_form_kl
from abduce.fit import regularizers
from abduce.inference.latent import LatentVariableModel
from abduce.inference.weights import (
    effective_sample_size,
    elbo,
    multi_sample,
    normalized,
    renyi,
    resample,
    sequential,
    take,
)
from abduce.together import gathered, of_rows

GRADIENTS = ("plain", "stl", "dreg")


class Bound(NamedTuple):
    """A bound on log p(x_obs) for a batch, and how the ELBO splits; nats."""

    loss: Tensor  # to minimise, (batch,); its gradient is the chosen estimator's
    value: Tensor  # the bound itself, (batch,)
    z: Tensor  # one posterior draw a row, (batch, latent), no gradient: what the partial encoder learns from
    reconstruction: Tensor  # E_q[log p(x_obs|z)], (batch,)
    kl: Tensor  # KL(q(z|x) ‖ p(z)), (batch,); reconstruction − kl is the ELBO


class Objective(Protocol):
    """Called as ``objective(model, x, observed, progress, generator, rows)``.

    ``progress`` runs from 0 to 1 over training; ``rows`` is the size of the data that the batch is from.
    """

    def __call__(
        self,
        model: LatentVariableModel,
        x: Tensor,
        observed: Tensor | None,
        progress: float,
        generator: Generator | None = None,
        rows: int | None = None,
    ) -> Bound: ...


def _noise(model: LatentVariableModel, x: Tensor, samples: int, generator: Generator | None) -> Tensor:
    shape = samples, len(x), model.noise_dim
    return of_rows(torch.randn, shape, 1, generator=generator, dtype=x.dtype, device=x.device)


def _posterior(model: LatentVariableModel, x: Tensor, observed: Tensor | None, gradient: str) -> Posterior:
    q = model.posterior(x, observed)
    if q.reparameterized:
        return q
    raise ValueError(
        f"gradient={gradient!r} needs a posterior with reparameterised draws, {type(q).__name__} has none"
    )


@dataclass(frozen=True)
class ELBO:
    """Evidence lower bound, E_q[log p(x|z)] − KL(q(z|x) ‖ p(z)).

    The KL is in closed form for a diagonal posterior and a standard normal prior, else estimated from the draws.
    Variants change what is minimised and not the value: the KL's weight is ``beta`` (β-VAE) and rises to it over
    ``warmup``, a share of the run that must end before the run does; a latent unit whose average KL is below
    ``free_bits`` nats is not pressed further.  Penalties of the aggregate posterior, each with its weight:
    ``total_correlation`` (β-TC-VAE has β − 1 here), ``mmd`` (InfoVAE), ``dip`` (DIP-VAE-II).

    ``gradient``: ``"plain"``, or ``"stl"`` (also ``"dreg"``: with this bound they are one).

    >>> ELBO(beta=4.0)
    ELBO(beta=4.0, free_bits=0.0, warmup=0.0, samples=1, gradient='plain', total_correlation=0.0, mmd=0.0, dip=0.0)
    """

    beta: float = 1.0
    free_bits: float = 0.0
    warmup: float = 0.0
    samples: int = 1
    gradient: str = "plain"
    total_correlation: float = 0.0
    mmd: float = 0.0
    dip: float = 0.0

    def __post_init__(self):
        check_number("beta", self.beta, 0)
        check_number("free_bits", self.free_bits, 0, unit=" nats")
        if not (isinstance(self.warmup, Real) and 0 <= self.warmup < 1):
            raise ValueError(f"warmup is a share of the run and must be in [0, 1), got {self.warmup!r}")
        check_count("samples", self.samples)
        check_choice("gradient", self.gradient, GRADIENTS)
        for name in ("total_correlation", "mmd", "dip"):
            check_number(name, getattr(self, name), 0)

    def __call__(self, model, x, observed, progress, generator=None, rows=None) -> Bound:
        q, plain = _posterior(model, x, observed, self.gradient), self.gradient == "plain"
        units = closed_form_kl(q, model.prior)
        noise = _noise(model, x, self.samples, generator)
        z, log_q = q.draw(noise) if units is None else (q.transport(noise), None)
        reconstruction = model.likelihood(z).log_prob(x, observed).mean(0)
        if units is None or not plain:
            log_q = log_q if plain and log_q is not None else q.detach().log_prob(z)
            pressed = (log_q - model.prior.log_prob(z)).mean(0)
            kl = pressed if units is None else units.sum(-1)
        else:
            kl = pressed = units.sum(-1)
        if self.free_bits:
            if units is None or not plain:
                raise ValueError(
                    "free_bits needs the KL of each unit in closed form: a diagonal posterior, a standard normal prior "
                    f"and gradient='plain'; got {type(q).__name__}, {type(model.prior).__name__}, {self.gradient!r}"
                )
            pressed = (units * (gathered(units.detach()).mean(0) > self.free_bits)).sum(-1)
        weight = self.beta * (min(1.0, progress / self.warmup) if self.warmup else 1.0)
        loss = weight * pressed - reconstruction
        if self.total_correlation:
            loss = loss + self.total_correlation * regularizers.total_correlation(q, z[0], rows)
        if self.mmd:
            drawn = gathered(z[0])
            prior = model.prior.sample(len(drawn), generator, dtype=x.dtype, device=x.device)
            loss = loss + self.mmd * regularizers.mmd(drawn, prior)
        if self.dip:
            loss = loss + self.dip * regularizers.dip(q)
        kl, reconstruction = kl.detach(), reconstruction.detach()
        return Bound(loss, reconstruction - kl, z[0].detach(), reconstruction, kl)


class Shares(NamedTuple):
    """A bound's value and how much each draw counts in its gradient, ``(samples, batch)``."""

    value: Tensor
    decoder: Tensor  # c_s = ∂bound/∂log w_s
    encoder: Tensor  # the same, of the bound that the encoder climbs: another one for PIWAE
    doubly: Tensor  # c_s − ∂c_s/∂log w_s of the encoder's


Share = Callable[[Tensor], Shares]


def _climb(share: Share, samples: int, gradient: str, model, x, observed, generator) -> Bound:
    """Assemble the loss of a bound: −Σ shares · log w, with the encoder's path through z reweighted on the way back."""
    q = _posterior(model, x, observed, gradient)
    z, log_q = q.draw(_noise(model, x, samples, generator))
    inner = z.view_as(z)
    if gradient != "plain":
        log_q = q.detach().log_prob(inner)
    reconstruction, log_prior = model.likelihood(inner).log_prob(x, observed), model.prior.log_prob(inner)
    log_w = (reconstruction + log_prior - log_q).detach()
    shares = share(log_w)
    path = shares.doubly if gradient == "dreg" else shares.encoder
    decoder = shares.decoder.clamp_min(1e-12)  # a path of some weight never comes through a draw of none
    if z.requires_grad and path is not shares.decoder:
        inner.register_hook(lambda g: g * (path / decoder).unsqueeze(-1))
    ascent = decoder * (reconstruction + log_prior) - (path if gradient == "plain" else decoder) * log_q
    drawn = take(z.detach(), resample(log_w, 1, generator))[0]
    kl = (log_q - log_prior).mean(0).detach()
    return Bound(-ascent.sum(0), shares.value, drawn, reconstruction.mean(0).detach(), kl)


def _climb_one(share: Share, samples: int, gradient: str, model, x, observed, generator) -> Bound:
    """The same gradient on average from one draw a row, picked in proportion to its share: one backward pass for all draws.

    The bound's value needs every draw forward only; at α = −∞ the largest weight has the whole share, and nothing is lost.
    """
    q = _posterior(model, x, observed, gradient)
    noise = _noise(model, x, samples, generator)
    with torch.no_grad():
        z, log_q = q.draw(noise)
        likely, log_prior = model.likelihood(z).log_prob(x, observed), model.prior.log_prob(z)
        log_w = likely + log_prior - log_q
        shares = share(log_w)
        index = resample(shares.decoder.clamp_min(1e-30).log(), 1, generator)
        drawn = take(z, resample(log_w, 1, generator))[0]
        picked = take(noise.expand(samples, len(x), -1), index)
        factor = take(shares.doubly / shares.decoder.clamp_min(1e-30), index)
    z, own = q.draw(picked)
    inner = z.view_as(z)
    if gradient != "plain":
        own = q.detach().log_prob(inner)
        if gradient == "dreg" and z.requires_grad:
            inner.register_hook(lambda g: g * factor.unsqueeze(-1))
    loss = own - model.log_joint(inner, x, observed)
    return Bound(loss[0], shares.value, drawn, likely.mean(0), (log_q - log_prior).mean(0))


def _power_shares(log_w: Tensor, alpha: float) -> Shares:
    if math.isinf(alpha):
        best = log_w.argmax(0) if alpha < 0 else log_w.argmin(0)
        c = torch.zeros_like(log_w).scatter_(0, best.unsqueeze(0), 1.0)
        return Shares(renyi(log_w, alpha), c, c, c)
    c = normalized((1 - alpha) * log_w)
    return Shares(renyi(log_w, alpha), c, c, c * (alpha + (1 - alpha) * c))


def _group_shares(log_w: Tensor, groups: int) -> Shares:
    grouped = log_w.unflatten(0, (groups, -1)).transpose(0, 1)  # (K, M, batch)
    w = torch.softmax(grouped, 0)
    c = (w / groups).transpose(0, 1).flatten(0, 1)
    doubly = (w.square() / groups).transpose(0, 1).flatten(0, 1)
    return Shares(multi_sample(grouped).mean(0), c, c, doubly)


class ManyDraws(abc.ABC):
    """A bound of several draws: it says how much each draw counts, and the gradient follows."""

    samples: int
    gradient: str | None
    groups = 1
    backward: str | None = "all"

    @abc.abstractmethod
    def share(self, log_w: Tensor) -> Shares:
        """The bound and the shares of the draws."""

    def __post_init__(self):
        check_count("groups", self.groups)
        check_count("samples", self.samples)
        check_choice("gradient", self.gradient, GRADIENTS)

    def __call__(self, model, x, observed, progress, generator=None, rows=None) -> Bound:
        climb = _climb if self.backward == "all" else _climb_one
        draws = self.groups * self.samples
        return climb(self.share, draws, str(self.gradient), model, x, observed, generator)


@dataclass(frozen=True)
class IWAE(ManyDraws):
    """Multi-sample bound, E[log (1/S) Σ_s w_s]: between the ELBO (S = 1) and log p(x), rising with S."""

    samples: int = 5
    gradient: str = "dreg"

    def share(self, log_w: Tensor) -> Shares:
        return _power_shares(log_w, 0.0)


@dataclass(frozen=True)
class Renyi(ManyDraws):
    """Rényi bound of order α: rising as α falls, above log p(x) for α < 0 and infinitely many draws.

    ``gradient`` None is ``"dreg"``, or ``"plain"`` at α = ±∞, where the share of a draw jumps and dreg does not exist.
    ``backward="one"`` sends a gradient through one draw a row only, picked in proportion to its share (always so at ±∞):
    with many draws a step then costs little more than their forward pass.

    >>> Renyi(alpha=-math.inf, samples=50).backward
    'one'
    """

    alpha: float = 0.5
    samples: int = 5
    gradient: str | None = None
    backward: str | None = None

    def __post_init__(self):
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, Real) or math.isnan(self.alpha):
            raise ValueError(f"alpha must be a real number or ±inf, got {self.alpha!r}")
        infinite = math.isinf(self.alpha)
        if self.gradient is None:
            object.__setattr__(self, "gradient", "plain" if infinite else "dreg")
        if self.backward is None:
            object.__setattr__(self, "backward", "one" if infinite else "all")
        super().__post_init__()
        check_choice("backward", self.backward, ("all", "one"))
        if infinite and self.gradient == "dreg":
            raise ValueError(f"gradient='dreg' does not exist at alpha={self.alpha}; take 'plain' or 'stl'")

    def share(self, log_w: Tensor) -> Shares:
        return _power_shares(log_w, self.alpha)


@dataclass(frozen=True)
class MIWAE(ManyDraws):
    """Mean of ``groups`` multi-sample bounds of ``samples`` draws each: less noise for the encoder than one bound of all."""

    groups: int = 8
    samples: int = 8
    gradient: str = "dreg"

    def share(self, log_w: Tensor) -> Shares:
        return _group_shares(log_w, self.groups)


@dataclass(frozen=True)
class PIWAE(ManyDraws):
    """The decoder climbs the bound of all ``groups · samples`` draws (the value), the encoder MIWAE's."""

    groups: int = 8
    samples: int = 8
    gradient: str = "dreg"

    def share(self, log_w: Tensor) -> Shares:
        every, grouped = _power_shares(log_w, 0.0), _group_shares(log_w, self.groups)
        return Shares(every.value, every.decoder, grouped.encoder, grouped.doubly)


@dataclass(frozen=True)
class CIWAE(ManyDraws):
    """β ELBO + (1 − β) IWAE, both from the same ``samples`` draws."""

    beta: float = 0.5
    samples: int = 5
    gradient: str = "dreg"

    def __post_init__(self):
        super().__post_init__()
        check_number("beta", self.beta, 0, 1)

    def share(self, log_w: Tensor) -> Shares:
        w, even = normalized(log_w), self.beta / log_w.shape[0]
        value = self.beta * elbo(log_w) + (1 - self.beta) * multi_sample(log_w)
        c = even + (1 - self.beta) * w
        return Shares(value, c, c, even + (1 - self.beta) * w.square())


@dataclass(frozen=True)
class FIVO:
    """Filtering bound of a model of series, E[log p̂(x_{1:T})], p̂ the unbiased estimate of a particle filter.

    ``samples`` particles are ``resampling`` "adaptive", where fewer than half of them carry the weight, "always", or "never":
    then it is the multi-sample bound of whole paths, whose error grows with the length of series faster than linearly.
    The gradient leaves out the discrete choice of resampling, as the sources do: biased, far less noisy.

    >>> FIVO(samples=3).due(torch.tensor([[0.0, 0.0], [0.0, -5.0], [0.0, -5.0]]))  # weights of three particles, two series
    tensor([False,  True])
    """

    samples: int = 8
    resampling: str = "adaptive"

    def __post_init__(self):
        check_count("samples", self.samples)
        check_choice("resampling", self.resampling, ("adaptive", "always", "never"))

    def due(self, log_w: Tensor) -> Tensor:
        """Which series' particles, of these log weights (samples, batch), are to be resampled now, (batch,)."""
        if self.resampling == "adaptive":
            return effective_sample_size(log_w.detach()) < log_w.shape[0] / 2
        return torch.full(log_w.shape[1:], self.resampling == "always", device=log_w.device)

    def __call__(self, log_w: Tensor, resampled: Tensor) -> Tensor:
        """The bound of each series, nats (batch,), from what steps added to log weights, (steps, samples, batch)."""
        return sequential(log_w, resampled).sum(0)


def forward_kl(model: LatentVariableModel, x: Tensor, seen: Tensor, z: Tensor) -> Tensor:
    """Fit the encoder of a more hidden row to draws ``z`` of the less hidden one: −log q(z | x_seen), nats, (batch,).

    Up to a constant this is the forward KL from the fuller posterior, averaged over what the hidden cells could have been,
    so its optimum is the true p(z | x_seen): the partial encoder covers every completion instead of picking one.
    """
    return -model.posterior(x, seen).log_prob(z)
