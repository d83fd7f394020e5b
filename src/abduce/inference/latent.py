"""The interface of latent-variable models: prior, likelihood, posterior, and the importance weights they make."""

from __future__ import annotations

import abc

import torch
from torch import Generator, Tensor

from abduce.data.seen import Unanswerable
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import Posterior
from abduce.distributions.priors import Prior
from abduce.gaussians.linear import LinearPath
from abduce.inference.energy import Base, Energy, Traits
from abduce.inference.weights import Weights, multi_sample


class LatentVariableModel(Energy):
    """p(x) = ∫ p(x|z) p(z) dz with a learned proposal q(z|x).

    Its energy is −log p(x), so log Z = 0; the integral, marginals and conditionals are estimated from importance weights.
    """

    prior: Prior
    latent_dim: int
    noise_dim: int  # standard normal numbers that one posterior draw takes
    traits = Traits("mixed", views=frozenset({"blanks", "linear", "flips"}))
    sees_mask = False  # whether log p is of the mask too: even a row without any cell says something

    @abc.abstractmethod
    def posterior(self, x: Tensor, observed: Tensor | None = None) -> Posterior:
        """The proposal q(z | observed cells of x)."""

    @abc.abstractmethod
    def likelihood(self, z: Tensor) -> Product:
        """p(x|z) for latents ``(..., latent)``."""

    def point(self, moments: list[Tensor]) -> Tensor:
        """Best value of each cell from averaged moments of the likelihood, (..., D): means of numbers, modes of classes."""
        raise Unanswerable(f"{type(self).__name__} does not say what the best value of a cell is")

    def chances(self, moments: list[Tensor], cell: int) -> Tensor:
        """Probability of each level of a class cell from averaged moments, (..., levels)."""
        raise Unanswerable(f"{type(self).__name__} does not say which cells hold classes")

    def codes(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """What a row is embedded as, the posterior mean of the latents, (batch, latent)."""
        return self.posterior(x, observed).mean

    def linear_path(self) -> LinearPath | None:
        """A linear-Gaussian model over the same latents and cells that inference may start from, if there is one."""
        return None

    def log_joint(self, z: Tensor, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_obs | z) + log p(z), nats, shape ``(samples, batch)``; differentiable in z."""
        return self.likelihood(z).log_prob(x, observed) + self.prior.log_prob(z)

    def log_weights(self, x: Tensor, observed: Tensor | None, noise: Tensor) -> Weights:
        """Draw by standard normal ``noise`` (samples, batch or 1, noise_dim) from the posterior, and weigh."""
        q = self.posterior(x, observed)
        z, log_q = q.draw(noise)
        return Weights(self.log_joint(z, x, observed) - log_q, z)

    def energy(self, x: Tensor, observed: Tensor | None = None, samples: int = 64) -> Tensor:
        """−log p(x_obs), estimated from ``samples`` importance draws with fixed noise shared by all rows."""
        generator = Generator(device=x.device).manual_seed(0)
        noise = torch.randn(samples, 1, self.noise_dim, generator=generator, dtype=x.dtype, device=x.device)
        return -multi_sample(self.log_weights(x, observed, noise).log_w)

    def log_z(self, beta: float = 1.0, base: Base | None = None) -> Tensor | None:
        return torch.zeros((), dtype=torch.float64) if beta == 1.0 and base is None else None

    def represent(self, x: Tensor) -> Tensor:
        return self.codes(x)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        parameter = next(self.parameters())
        z = self.prior.sample(n, generator, dtype=parameter.dtype, device=parameter.device)
        return self.likelihood(z).sample(generator)
