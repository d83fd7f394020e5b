"""Approximate posteriors q(z|x): the proposals that the encoder learns, and the heads that make them of its output.

Each is a map from standard normal noise to z, so that a gradient passes through its draws, and a density.
"""

from __future__ import annotations

import functools
from typing import Protocol

import torch
from torch import Tensor, nn

from abduce.distributions.cells import LOG_2PI


class Posterior(Protocol):
    """What objectives and inference ask of q(z|x)."""

    reparameterized: bool  # whether a gradient passes through its draws

    @property
    def mean(self) -> Tensor: ...
    def transport(
        self, noise: Tensor
    ) -> Tensor: ...  # draws, from standard normal noise broadcast to their shape
    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]: ...  # transport, and log_prob of what it gives
    def log_prob(self, z: Tensor) -> Tensor: ...  # nats, summed over the last axis
    def detach(self) -> Posterior: ...  # with no gradient to its parameters


class DiagonalNormal:
    """Diagonal Gaussian N(z; mean, diag(scale²)), one for each row.

    ``mean`` and ``log_scale`` have shape ``(batch, latent)``; draws carry a leading samples axis.
    """

    reparameterized = True

    def __init__(self, mean: Tensor, log_scale: Tensor):
        self.mean = mean
        self.log_scale = log_scale

    @classmethod
    def read(cls, h: Tensor) -> DiagonalNormal:
        """Read ``[mean, log_scale]`` off a network's output; log-scales are kept in [-7, 3]."""
        mean, log_scale = h.chunk(2, -1)
        return cls(mean, log_scale.clamp(-7.0, 3.0))

    def detach(self) -> DiagonalNormal:
        return DiagonalNormal(self.mean.detach(), self.log_scale.detach())

    def transport(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_scale.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        standard = (z - self.mean) * torch.exp(-self.log_scale)
        return -(0.5 * standard.square() + self.log_scale).sum(-1) - 0.5 * self.mean.shape[-1] * LOG_2PI

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws and their log-density, which the noise gives without a pass back through the map."""
        constant = self.log_scale.sum(-1) + 0.5 * self.mean.shape[-1] * LOG_2PI
        return self.transport(noise), -0.5 * noise.square().sum(-1) - constant

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q || N(0, I)) of each latent unit in closed form, shape ``(batch, latent)``, nats."""
        return 0.5 * (self.mean.square() + torch.exp(2 * self.log_scale) - 1) - self.log_scale


class FullNormal:
    """Gaussian N(z; mean, L Lᵀ) with any covariance, one for each row: latents that are correlated given x.

    ``mean`` (batch, latent), ``root`` L (batch, latent, latent) lower triangular with a positive diagonal.
    """

    reparameterized = True

    def __init__(self, mean: Tensor, root: Tensor):
        self.mean, self.root = mean, root

    def detach(self) -> FullNormal:
        return FullNormal(self.mean.detach(), self.root.detach())

    def transport(self, noise: Tensor) -> Tensor:
        noise = noise.expand(*noise.shape[:-2], *self.mean.shape)
        return self.mean + torch.einsum("bij,...bj->...bi", self.root, noise)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.transport(noise), self._log_density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        moved = (z - self.mean).reshape(-1, *self.mean.shape).permute(1, 2, 0)  # (batch, latent, samples)
        white = torch.linalg.solve_triangular(self.root, moved, upper=False).permute(2, 0, 1)
        return self._log_density(white).view(z.shape[:-1])

    def _log_density(self, white: Tensor) -> Tensor:
        log_det = torch.diagonal(self.root, dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (white.square().sum(-1) + self.mean.shape[-1] * LOG_2PI) - log_det

    def mixture(self) -> MixtureNormal:
        """The same law as a mixture of one component."""
        still = torch.zeros_like(self.mean)
        eye = torch.eye(len(self.mean[0])).to(self.root)
        inverse = torch.linalg.solve_triangular(self.root, eye, upper=False)
        chol = torch.linalg.cholesky(inverse.mT @ inverse).unsqueeze(1)
        return MixtureNormal(torch.zeros_like(still[:, :1]), self.mean.unsqueeze(1), chol, still, still)


class MixtureNormal:
    """Mixture Σ_c r_c N(z; m_c, (L_c L_cᵀ)⁻¹) of Gaussians given by Cholesky factors of their precisions.

    ``log_r`` (B, C), ``means`` (B, C, k), ``chol`` (B, C, k, k) or (1, C, k, k) shared by all rows.  A network may move
    every component by ``shift`` (B, k), stretch it, in its own whitened axes, by exp(``log_stretch``) (B, k), and tie these
    axes by ``ties`` U (B, k, k), upper triangular with ones on its diagonal: U L_cᵀ (z − m_c − shift) = exp(log_stretch) e.
    """

    # in shift and stretch; which component is drawn does not depend on what is learned
    reparameterized = True

    def __init__(
        self,
        log_r: Tensor,
        means: Tensor,
        chol: Tensor,
        shift: Tensor,
        log_stretch: Tensor,
        ties: Tensor | None = None,
    ):
        self.log_r, self.means, self.chol = log_r, means, chol
        self.shift, self.log_stretch, self.ties = shift, log_stretch, ties

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, (B, k)."""
        return torch.einsum("bc,bck->bk", self.log_r.exp(), self.means) + self.shift

    def detach(self) -> MixtureNormal:
        moved = (t if t is None else t.detach() for t in (self.shift, self.log_stretch, self.ties))
        return MixtureNormal(self.log_r, self.means, self.chol, *moved)  # pyright: ignore[reportArgumentType]

    def transport(self, noise: Tensor) -> Tensor:
        """Draws (samples, B, k) from standard normal ``noise`` (samples, B or 1, k + 1), whose last column picks c.

        Noise without a samples axis gives one draw, (B, k).
        """
        if noise.ndim == 2:
            return self.transport(noise.unsqueeze(0))[0]
        samples, (batch, components, k) = noise.shape[0], self.means.shape
        uniform = torch.special.ndtr(noise[..., k]).expand(samples, batch)
        cumulative = self.log_r.exp().cumsum(1).unsqueeze(0)
        c = (uniform.unsqueeze(-1) >= cumulative).sum(-1).clamp_max(components - 1)  # (samples, B)
        e = (self.log_stretch.exp() * noise[..., :k]).expand(samples, batch, k)
        if self.ties is not None:
            tied = torch.linalg.solve_triangular(
                self.ties, e.permute(1, 2, 0), upper=True, unitriangular=True
            )
            e = tied.permute(2, 0, 1)
        if components == 1:
            moved = self._solve(e.permute(1, 2, 0).unsqueeze(1))[:, 0].permute(2, 0, 1)
            return self.means[:, 0] + self.shift + moved
        if len(self.chol) == 1 < batch:
            # one factor a component for all rows: solve for each component's own draws
            moved = torch.empty_like(e)
            for i in range(components):
                chosen = c == i
                if bool(chosen.any()):
                    own = torch.linalg.solve_triangular(self.chol[0, i].mT, e[chosen].T, upper=True)
                    moved = moved.masked_scatter(chosen.unsqueeze(-1), own.T.contiguous())
        else:
            every = self._solve(e.permute(1, 2, 0).unsqueeze(1).expand(batch, components, k, samples))
            index = c.T.reshape(batch, 1, 1, samples).expand(batch, 1, k, samples)
            moved = torch.gather(every, 1, index)[:, 0].permute(2, 0, 1)
        return self.means[torch.arange(batch), c] + self.shift + moved

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = self.transport(noise)
        return z, self.log_prob(z)

    @functools.cached_property
    def _wide(self) -> tuple[Tensor, Tensor]:
        """L_c side by side, (B or 1, k, C k), and L_cᵀ mean_c, (B, C k): draws are evaluated in slices, these once."""
        return self.chol.permute(0, 2, 1, 3).flatten(2), (self.means.unsqueeze(-2) @ self.chol).flatten(1)

    def _solve(self, e: Tensor) -> Tensor:
        """L_c⁻ᵀ e for right-hand sides (B, C, k, samples)."""
        if len(self.chol) > 1 or len(e) == 1:
            return torch.linalg.solve_triangular(self.chol.mT, e, upper=True)
        b, c, k, s = e.shape
        columns = e.permute(1, 2, 0, 3).reshape(c, k, b * s)
        solved = torch.linalg.solve_triangular(self.chol[0].mT, columns, upper=True)
        return solved.view(c, k, b, s).permute(2, 0, 1, 3)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; z (samples, B, k) or (B, k)."""
        flat = z if z.ndim == 3 else z.unsqueeze(0)
        components, k = self.means.shape[1:]
        moved = (flat - self.shift).permute(1, 0, 2)  # (B, samples, k)
        wide, offset = self._wide
        if len(wide) == 1:
            white = (moved.reshape(-1, k) @ wide[0]).view(*moved.shape[:2], -1)
        else:
            white = moved @ wide
        white = (white - offset.unsqueeze(1)).unflatten(2, (components, k))  # (B, samples, C, k)
        if self.ties is not None:
            white = (white.flatten(1, 2) @ self.ties.mT).view_as(white)
        white = white * torch.exp(-self.log_stretch)[:, None, None, :]
        log_det = torch.diagonal(self.chol, dim1=-2, dim2=-1).log().sum(-1)
        log_det = log_det - self.log_stretch.sum(-1, keepdim=True)
        constant = self.log_r + log_det - 0.5 * self.shift.shape[-1] * LOG_2PI
        total = torch.logsumexp(constant.unsqueeze(1) - 0.5 * white.square().sum(-1), 2).T
        return total if z.ndim == 3 else total[0]


class DiagonalHead(nn.Module):
    """Reads a :class:`DiagonalNormal` off an encoder's output."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.noise_dim, self.n_parameters = latent_dim, 2 * latent_dim

    def forward(self, h: Tensor) -> DiagonalNormal:
        return DiagonalNormal.read(h)


class FullHead(nn.Module):
    """Reads a :class:`FullNormal` off an encoder's output: the mean, then L's triangle row by row.

    The diagonal is exp of what is read, kept in [-7, 3]; below it, rows are in units of their own diagonal.
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        self.noise_dim, self.n_parameters = latent_dim, latent_dim + latent_dim * (latent_dim + 1) // 2

    def forward(self, h: Tensor) -> FullNormal:
        k = self.noise_dim
        mean, log_scale, below = h.tensor_split((k, 2 * k), -1)
        return FullNormal(mean, log_scale.clamp(-7.0, 3.0).exp().unsqueeze(-1) * unit_triangle(below, k))


class MovesHead(nn.Module):
    """Reads off an encoder's output how it moves a linear path's posterior: shift, log-stretch and, with ``tied``, ties.

    Zeros move nothing.  Log-stretches are kept in [-2, 2].
    """

    def __init__(self, latent_dim: int, tied: bool):
        super().__init__()
        self.latent_dim, self.tied = latent_dim, tied
        self.noise_dim = latent_dim + 1  # the last picks a component
        self.n_parameters = 2 * latent_dim + tied * latent_dim * (latent_dim - 1) // 2

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        k = self.latent_dim
        shift, log_stretch, ties = h.tensor_split((k, 2 * k), -1)
        return shift, log_stretch.clamp(-2.0, 2.0), unit_triangle(ties, k).mT if self.tied else None


def unit_triangle(below: Tensor, k: int) -> Tensor:
    """Lower triangles (..., k, k) with ones on their diagonals, of what lies below row by row, (..., k (k − 1) / 2).

    >>> unit_triangle(torch.tensor([5.0, 6.0, 7.0]), 3)
    tensor([[1., 0., 0.],
            [5., 1., 0.],
            [6., 7., 1.]])
    """
    unit = torch.eye(k, dtype=below.dtype, device=below.device).repeat(*below.shape[:-1], 1, 1)
    return unit.flatten(-2).index_copy(-1, _below(k, below.device), below).unflatten(-1, (k, k))


@functools.cache
def _below(k: int, device: torch.device) -> Tensor:
    """Where in a flat matrix (k, k) the cells below the diagonal are, row by row."""
    rows, columns = torch.tril_indices(k, k, -1, device=device)
    return rows * k + columns
