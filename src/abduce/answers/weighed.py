"""Answers of a model with latents: draws of z from its encoder, weighed by how well they explain what was seen.

    log w = log p(y | z) + log p(z) − log q(z | y)

The weights' mean is the evidence p(y), their softmax averages p(x | z, y).  Where too few draws carry the weight (effective
sample size below 5), resampled particles move on by Hamiltonian Monte Carlo on log p(y | z) + log p(z).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abduce.answers.answer import Answer, Effort
from abduce.answers.views import Linear
from abduce.data.seen import Seen
from abduce.distributions.posteriors import MixtureNormal, Posterior
from abduce.inference import hmc
from abduce.inference.importance import Evidence, by_chunk, log_prob, pad, shared_noise
from abduce.inference.latent import LatentVariableModel
from abduce.inference.weights import Weights, effective_sample_size, expectation, resample, take

MIN_ESS = 5.0
MASK_DRAWS = (
    4  # with a mask model blanks are among what is drawn and weighed: more of them fill the gaps between
)
ROWS = 64


class WeightedDraws(NamedTuple):
    """Weighted draws of z for one chunk, p(x | z) at them, and the chunk's rows."""

    seen: Seen
    weights: Weights
    likelihood: Any


class Weighed(Answer):
    """What a :class:`LatentVariableModel` says of rows; deterministic given ``effort.seed``, whatever rows come along."""

    kind = "estimate"

    def __init__(self, model: LatentVariableModel, seen: Seen, effort: Effort):
        self.model, self.seen, self.effort = model, seen, effort

    # ------------------------------------------------------------------ evidence

    @cached_property
    def evidence(self) -> Evidence:
        """log p(seen) from importance draws alone, with how far each can be trusted."""
        if self.seen.exact:
            return log_prob(self.model, self.seen.y, self.seen.mask, self.effort.samples, self.effort.seed)
        parts = [
            Evidence.of(drawn.weights.log_w[:, :n])
            for drawn, n in self._chunks(self.effort.samples, polish=False)
        ]
        return Evidence(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @property
    def log_evidence(self) -> Tensor:
        return self.evidence.value

    @property
    def ess(self) -> Tensor:
        return self.evidence.effective_sample_size

    # ------------------------------------------------------------------ clean rows

    def mean(self) -> Tensor:
        return self.seen.view.point(self.model, self.moments())

    def chances(self, cell: int) -> Tensor:
        return self.model.chances(self.moments(), cell)

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator, what: str = "rows") -> Tensor:
        samples = self.effort.samples * (MASK_DRAWS if self.model.sees_mask else 1)
        out = []
        for (seen, weights, _), rows in self._chunks(samples):
            z = take(weights.z, resample(weights.log_w, n, generator))
            # systematic resampling leaves draws sorted; shuffle each row's own, so that draw i is not tied across rows
            order = torch.rand(z.shape[:2], generator=generator, device=z.device).argsort(0)
            clean = seen.view.clean(self.model.likelihood(take(z, order)), seen.y, seen.mask)
            out.append(clean.sample(generator)[:, :rows])
        return torch.cat(out, 1)

    @torch.no_grad()
    def latents(self) -> Tensor:
        x, observed = self.seen.view.guess(self.seen.y, self.seen.mask)
        return by_chunk(lambda v, o: (self.model.codes(v, o),), x, observed)[0]

    def points(self, count: int) -> Tensor:
        return self.draws(count, torch.Generator().manual_seed(self.effort.seed), "cells")

    @torch.no_grad()
    def moments(self) -> list[Tensor]:
        """Posterior moments of all rows, a tensor (rows, d, m) for each part of the likelihood."""
        out: list[list[Tensor]] = []
        for (seen, weights, likelihood), n in self._chunks(self.effort.samples):
            clean = seen.view.clean(likelihood, seen.y, seen.mask)
            out.append([expectation(weights.log_w, m)[:n] for m in clean.moments()])
        return [torch.cat(column) for column in zip(*out, strict=True)]

    # ------------------------------------------------------------------ draws of z

    def _chunks(self, samples: int, polish: bool = True) -> Iterator[tuple[WeightedDraws, int]]:
        """Weighted draws of all rows, a padded chunk of fixed shape at a time, with the number of rows that count."""
        for start in range(0, len(self.seen.y), ROWS):
            y, mask = self.seen.y[start : start + ROWS], self.seen.mask[start : start + ROWS]
            chunk = Seen(*pad(y, mask, ROWS), self.seen.view)
            yield weigh(self.model, chunk, samples, self.effort, polish), len(y)


@torch.no_grad()
def weigh(
    model: LatentVariableModel, seen: Seen, samples: int, effort: Effort, polish: bool = True
) -> WeightedDraws:
    """Weighted draws of the latents of one chunk; with ``polish`` HMC moves those of rows whose weights are too uneven."""
    y, mask, view = seen[:3]
    noise = shared_noise(samples, model.noise_dim, effort.seed, y)
    q = _proposal(model, seen, effort.rounds)

    def target(z: Tensor, seen: Seen, likelihood: Any) -> Tensor:
        return seen.view.log_prob(likelihood, seen.y, seen.mask) + model.prior.log_prob(z)

    z = q.transport(noise)
    likelihood = model.likelihood(z)
    seen = seen._replace(view=view.hold(likelihood, mask))
    log_w = target(z, seen, likelihood) - q.log_prob(z)
    weak = effective_sample_size(log_w) < MIN_ESS
    if polish and effort.hmc_steps and bool(weak.any()):
        rows = weak.nonzero().squeeze(-1)
        generator = torch.Generator(device=y.device).manual_seed(effort.seed)
        start = torch.linspace(0, 1, effort.hmc_particles + 2, dtype=y.dtype, device=y.device)[1:-1]
        cumulative = torch.softmax(log_w[:, rows], 0).cumsum(0).T.contiguous()
        index = torch.searchsorted(cumulative, start.expand(len(rows), -1).contiguous())
        particles = take(z[:, rows], index.clamp_max(samples - 1).T)
        jitter = torch.randn(effort.hmc_particles, 1, model.latent_dim, generator=generator, dtype=y.dtype)
        particles = particles + 0.1 * jitter * z[:, rows].std(0)
        some = Seen(y[rows], mask[rows], seen.view.rows(rows))
        state, _ = hmc.run(
            particles,
            lambda v: target(v, some, model.likelihood(v)),
            effort.hmc_steps,
            effort.seed + 1,
            0.1,
            effort.leapfrogs,
        )
        repeats = -(-samples // effort.hmc_particles)
        z[:, rows] = state.x.repeat(repeats, 1, 1)[:samples]
        log_w[:, rows] = 0.0
        likelihood = model.likelihood(z)
    return WeightedDraws(seen, Weights(log_w, z), likelihood)


def _proposal(model: LatentVariableModel, seen: Seen, rounds: int) -> Posterior:
    """Where to look for z: the linear path's exact posterior given what was seen, or else the encoder's.

    The encoder has seen blanks but neither noise nor coarse pixels; without a path its first guess of the clean row is
    cleaned and encoded again, ``rounds`` times.
    """
    y, mask = seen.y, seen.mask
    view: Any = seen.view
    path: Any = model.linear_path()
    if view.name == Linear.name and path is not None:
        log_r, means, chol = view.path_posterior(path, y, mask)
        still = torch.zeros_like(means[:, 0])
        return MixtureNormal(log_r, means, chol, still, still)
    x, observed = view.guess(y, mask)
    for _ in range(0 if seen.exact else rounds):
        z = model.posterior(x, observed).mean.unsqueeze(0)
        x = view.centre(view.clean(model.likelihood(z), y, mask))
    return model.posterior(x, observed)
