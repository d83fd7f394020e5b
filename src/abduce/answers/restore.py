"""Restoring clean rows from what was seen of them: fill, denoise, upscale, all by one inference.

Draw z from the encoder, weigh the draws by how well they explain what was seen, and average p(x | z, y) under the
weights.  Where too few draws carry the weight (effective sample size below 5), resampled particles move on by
Hamiltonian Monte Carlo on log p(y|z) + log p(z).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from abduce.answers.observation import Blanks, Linear, Observation
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import MixtureNormal, Posterior
from abduce.inference import hmc
from abduce.inference.importance import ROWS, chunks, shared_noise
from abduce.inference.latent import LatentVariableModel
from abduce.inference.weights import Weights, effective_sample_size, expectation, multi_sample, resample, take

MIN_ESS = 5.0


@dataclass(frozen=True)
class Effort:
    """How much work a restoration may spend on each row."""

    samples: int = 200
    rounds: int = 0  # times the first guess is cleaned and encoded again (noise the encoder has never seen)
    particles: int = 32
    steps: int = 20
    leapfrogs: int = 5


@dataclass
class Restored:
    """Posterior draws of one chunk: weighted z, and how to turn them into clean rows."""

    model: LatentVariableModel
    observation: Observation
    y: Tensor
    seen: Tensor
    weights: Weights
    ess: Tensor  # effective sample size of the importance draws, before any HMC; (rows,)
    moved: Tensor  # which rows HMC moved, bool (rows,)

    @torch.no_grad()
    def mean(self) -> list[Tensor]:
        """Posterior moments of the clean rows, one tensor (rows, d, m) for each part of the likelihood."""
        law = self.observation.clean(self.model.likelihood(self.weights.z), self.y, self.seen)
        return [expectation(self.weights.log_w, m) for m in law.moments()]

    @torch.no_grad()
    def draws(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` posterior draws of each clean row, (n, rows, D)."""
        z = take(self.weights.z, resample(self.weights.log_w, n, generator))
        # systematic resampling leaves draws sorted; shuffle each row's own, so that draw i is not tied across rows
        order = torch.rand(z.shape[:2], generator=generator, device=z.device).argsort(0)
        z = take(z, order)
        return self.observation.clean(self.model.likelihood(z), self.y, self.seen).sample(generator)


@torch.no_grad()
def restore(
    model: LatentVariableModel,
    observation: Observation,
    y: Tensor,
    seen: Tensor,
    effort: Effort | None = None,
    seed: int = 0,
) -> Restored:
    """Infer the posterior over clean rows of one chunk of fixed shape; deterministic given ``seed``."""
    effort = effort or Effort()
    noise = shared_noise(effort.samples, model.noise_dim, seed, y)
    q = _proposal(model, observation, y, seen, effort)

    def target(z: Tensor, y: Tensor, seen: Tensor, observation: Observation) -> Tensor:
        return observation.log_prob(model.likelihood(z), y, seen) + model.prior.log_prob(z)

    z = q.transport(noise)
    if isinstance(observation, Linear):
        observation = observation.hold(model.likelihood(z), seen)
    log_w = target(z, y, seen, observation) - q.log_prob(z)
    ess = effective_sample_size(log_w)
    weak = ess < MIN_ESS
    if effort.steps and bool(weak.any()):
        rows = weak.nonzero().squeeze(-1)
        generator = torch.Generator(device=y.device).manual_seed(seed)
        start = torch.linspace(0, 1, effort.particles + 2, dtype=y.dtype, device=y.device)[1:-1]
        cumulative = torch.softmax(log_w[:, rows], 0).cumsum(0).T.contiguous()
        index = (
            torch.searchsorted(cumulative, start.expand(len(rows), -1).contiguous())
            .clamp_max(effort.samples - 1)
            .T
        )
        particles = take(z[:, rows], index)
        jitter = torch.randn(effort.particles, 1, model.latent_dim, generator=generator, dtype=y.dtype)
        particles = particles + 0.1 * jitter * z[:, rows].std(0)
        some = observation.rows(rows) if isinstance(observation, Linear) else observation
        state, _ = hmc.run(
            particles,
            lambda v: target(v, y[rows], seen[rows], some),
            effort.steps,
            seed + 1,
            0.1,
            effort.leapfrogs,
        )
        repeats = -(-effort.samples // effort.particles)
        z[:, rows] = state.x.repeat(repeats, 1, 1)[: effort.samples]
        log_w[:, rows] = 0.0
    return Restored(model, observation, y, seen, Weights(log_w, z), ess, weak)


def _proposal(
    model: LatentVariableModel, observation: Observation, y: Tensor, seen: Tensor, effort: Effort
) -> Posterior:
    """Where to look for z: the linear path's exact posterior given what was seen, or else the encoder's.

    The encoder has seen blanks but neither noise nor coarse pixels; without a path its first guess of the clean row is
    cleaned and encoded again, ``effort.rounds`` times.
    """
    path = model.linear_path()
    if isinstance(observation, Linear) and path is not None:
        log_r, means, chol = observation.path_posterior(path, y, seen)
        still = torch.zeros_like(means[:, 0])
        return MixtureNormal(log_r, means, chol, still, still)
    x, observed = observation.guess(y, seen)
    for _ in range(effort.rounds):
        z = model.posterior(x, observed).mean.unsqueeze(0)
        x = _centre(model, observation, z, y, seen)
    return model.posterior(x, observed)


def _centre(
    model: LatentVariableModel, observation: Observation, z: Tensor, y: Tensor, seen: Tensor
) -> Tensor:
    """Mean of the clean rows for one z of each, (rows, D)."""
    law = observation.clean(model.likelihood(z), y, seen)
    return law.gaussian().mean[0] if isinstance(law, Product) else law.moments()[0][0, ..., 0]


def restored_chunks(
    model: LatentVariableModel, y: Tensor, seen: Tensor, observation: Observation, rows: int = ROWS, **kw
) -> Iterator[tuple[slice, Restored]]:
    """Restore all rows, a padded chunk at a time; the slice says which rows the chunk's first ones are."""
    for part, ys, ss in chunks(y, seen, rows):
        yield part, restore(model, observation, ys, ss, **kw)


def posterior_mean(
    model: LatentVariableModel, y: Tensor, seen: Tensor, observation: Observation | None = None, **kw
) -> tuple[list[Tensor], Tensor]:
    """Posterior moments of all rows, a tensor (n, d, m) for each part of the likelihood, and effective sample sizes (n,)."""
    moments: list[list[Tensor]] = []
    sizes: list[Tensor] = []
    for part, restored in restored_chunks(model, y, seen, observation or Blanks(), **kw):
        n = part.stop - part.start
        moments.append([m[:n] for m in restored.mean()])
        sizes.append(restored.ess[:n])
    return [torch.cat(column) for column in zip(*moments, strict=True)], torch.cat(sizes)


def posterior_draws(
    model: LatentVariableModel,
    y: Tensor,
    seen: Tensor,
    n: int,
    generator: torch.Generator,
    observation: Observation | None = None,
    **kw,
) -> Iterator[tuple[slice, Tensor]]:
    """Posterior draws ``(n, rows, D)`` of clean rows, a chunk at a time."""
    for part, restored in restored_chunks(model, y, seen, observation or Blanks(), **kw):
        yield part, restored.draws(n, generator)[:, : part.stop - part.start]


def evidence(
    model: LatentVariableModel,
    y: Tensor,
    seen: Tensor,
    observation: Observation,
    effort: Effort | None = None,
    seed: int = 0,
) -> Tensor:
    """log p(y), nats ``(n,)``, from importance draws alone, the same for every observation of one ``seed``: for what an
    observation leaves open, such as the level of its noise.
    """
    effort = replace(effort or Effort(), steps=0)
    parts = [
        multi_sample(restored.weights.log_w)[: part.stop - part.start]
        for part, restored in restored_chunks(model, y, seen, observation, effort=effort, seed=seed)
    ]
    return torch.cat(parts)
