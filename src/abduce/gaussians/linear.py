"""The linear path: a mixture of Gaussians in latent space seen through one linear map and noise, which all components share.

Apart from the mixture of factor analysers, as a VAE asks for the law of the latents: components have means in latent space.

    c ~ π,   z | c ~ N(m_c, S_c),   y | z ~ N(W z + b, diag(D))

With one component it is factor analysis.  It is the model that a VAE starts from and stands beside: for any pattern of
blanks its posterior over z is exact, a mixture of Gaussians with

    P_c = S_c⁻¹ + Wᵀ R W,   mean_c = P_c⁻¹ (Wᵀ R (y − b) + S_c⁻¹ m_c),   R = diag(observed / D),

and weights π_c N(y_obs; W m_c + b, W S_c Wᵀ + D).  Fitted by expectation-maximisation over observed cells.

Sources: Rubin & Thayer 1982 (EM for factor analysis); Baek, McLachlan & Flack 2010 (mixtures of common factor analysers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Generator, Tensor

from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.em import climb, k_means, one_thread, principal_factors, regressed
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.mixture import patterns_of, standard_normal

CHUNK = 256
COPIES = 3  # completed draws of each row that a mixture is grown on


@dataclass
class LinearPath:
    """Parameters of the mixture and the map: W (F, k), b (F,), noise D (F,), weights π (C,), means (C, k), covs (C, k, k)."""

    W: Tensor
    b: Tensor
    noise: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor

    @cached_property
    def precisions(self) -> Tensor:
        """S_c⁻¹, (C, k, k)."""
        return torch.linalg.inv(self.covariances)

    @cached_property
    def log_det_precisions(self) -> Tensor:
        """log det S_c⁻¹, (C,)."""
        return torch.linalg.slogdet(self.precisions)[1]

    def posterior(self, y: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Exact posterior over (c, z) for each row.

        Returns log responsibilities (B, C), means (B, C, k), Cholesky factors of the precisions (B or 1, C, k, k), and
        log p(y_obs), nats (B,).  Rows with everything observed share their precisions.
        """
        residual = y - self.b
        precision = self.precisions
        if observed is None:
            scaled = residual / self.noise
            gram = (self.W.T / self.noise) @ self.W
            constant = torch.log(self.noise).sum() + len(self.b) * LOG_2PI
        else:
            seen = observed.to(y.dtype)
            scaled = seen * residual / self.noise
            constant = (seen @ (torch.log(self.noise) + LOG_2PI)).unsqueeze(-1)
            # one factorisation for each pattern of blanks, of which a table often has few
            patterns, which = patterns_of(observed)
            outer = (self.W.unsqueeze(-1) * self.W.unsqueeze(-2)).flatten(1)
            gram = ((patterns / self.noise) @ outer).view(-1, 1, *precision.shape[1:])
        chol = torch.linalg.cholesky(precision + gram)
        chol = chol.unsqueeze(0) if observed is None else chol[which]
        pull = (precision @ self.means.unsqueeze(-1)).squeeze(-1)  # S⁻¹ m
        h = (scaled @ self.W).unsqueeze(1) + pull  # (B, C, k)
        if len(chol) == 1:  # all rows at once as right-hand sides
            half = torch.linalg.solve_triangular(chol[0], h.permute(1, 2, 0), upper=False)
            mean = torch.linalg.solve_triangular(chol[0].mT, half, upper=True).permute(2, 0, 1)
            half = half.permute(2, 0, 1)
        else:
            half = torch.linalg.solve_triangular(chol, h.unsqueeze(-1), upper=False)
            mean = torch.linalg.solve_triangular(chol.mT, half, upper=True).squeeze(-1)
            half = half.squeeze(-1)
        log_det = 2 * torch.diagonal(chol, dim1=-2, dim2=-1).log().sum(-1) - self.log_det_precisions
        energy = (scaled * residual).sum(-1, keepdim=True) + (self.means * pull).sum(-1)
        energy = energy - half.square().sum(-1)
        log_joint = self.weights.log() - 0.5 * (energy + constant + log_det)
        log_p = torch.logsumexp(log_joint, 1)
        return log_joint - log_p.unsqueeze(1), mean, chol, log_p

    def log_prob(self, y: Tensor, observed: Tensor | None) -> Tensor:
        """log p(y_obs) of each row, nats, streamed over chunks."""
        return torch.cat([self.posterior(*part)[3] for part in _chunks(y, observed)])

    def dense(self) -> GaussianMixtureLaw:
        """The law of y with its covariances W S_c Wᵀ + D written out."""
        covariances = self.W @ self.covariances @ self.W.mT + torch.diag(self.noise)
        return GaussianMixtureLaw(self.weights.log(), self.b + self.means @ self.W.mT, covariances)

    def canonical(self) -> LinearPath:
        """The same model with latents of mean zero and unit covariance, ordered by how much they move the data."""
        centre = self.weights @ self.means
        moved = self.means - centre
        total = torch.einsum("c,cij->ij", self.weights, self.covariances) + (self.weights * moved.T) @ moved
        root = torch.linalg.cholesky(total)
        W = self.W @ root
        _, turn = torch.linalg.eigh(W.T @ W)
        turn = turn.flip(1)
        change = torch.linalg.solve_triangular(root, moved.T, upper=False)  # root⁻¹ (m − centre)
        inverse = torch.linalg.inv(root)
        covariances = turn.T @ inverse @ self.covariances @ inverse.T @ turn
        covariances = 0.5 * (covariances + covariances.mT)
        return LinearPath(
            W @ turn, self.b + self.W @ centre, self.noise, self.weights, change.T @ turn, covariances
        )


def fit(
    y: Tensor,
    observed: Tensor | None,
    latent: int,
    components: int,
    generator: Generator,
    floor: float = 0.05,
    shared_noise: bool = False,
    iterations: int = 40,
) -> LinearPath:
    """Fit by EM: factor analysis on the observed cells, then, for more components, a mixture grown from its draws.

    ``y`` (n, F) float64, ``floor`` the smallest noise standard deviation, ``shared_noise`` one noise for all cells
    (probabilistic PCA).
    """

    def climbed(path: LinearPath, y: Tensor, observed: Tensor | None, iterations: int) -> LinearPath:
        step = partial(_step, y=y, observed=observed, floor=floor, shared_noise=shared_noise)
        return climb(path, step, iterations, -float("inf"))

    path = _principal_start(y, observed, latent, floor)
    path = climbed(path, y, observed, iterations if observed is None else iterations // 2)
    if components > 1:
        # grow the mixture on completed draws, where one Cholesky factor serves all rows; then on what was observed
        whole = y if observed is None else _complete(path, y, observed, generator)
        path = climbed(_split(path, whole, components, generator), whole, None, iterations)
        if observed is not None:
            path = climbed(path, y, observed, 1)
    return path.canonical()


def choose(
    y: Tensor,
    observed: Tensor | None,
    held: tuple[Tensor, Tensor | None],
    latent: int,
    generator: Generator,
    floor: float = 0.05,
    trim: float = 0.0,
    most: int = 20,
) -> LinearPath:
    """Fit with one component and, from 150 rows on, with one for every 75 rows (at most ``most``); keep the better.

    ``trim`` leaves out that share of rows, those least plausible under a first fit with one component.
    """
    with one_thread():
        best = fit(y, observed, latent, 1, generator, floor)
        if trim:
            value = best.log_prob(y, observed)
            kept = value >= torch.quantile(value, trim)
            y, observed = y[kept], None if observed is None else observed[kept]
            best = fit(y, observed, latent, 1, generator, floor)
        components = min(most, len(y) // 75)
        if components > 1 and len(held[0]):
            mixture = fit(y, observed, latent, components, generator, floor)
            if mixture.log_prob(*held).mean() > best.log_prob(*held).mean():
                best = mixture
    return best


def _chunks(y: Tensor, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    for i in range(0, len(y), CHUNK):
        yield y[i : i + CHUNK], None if observed is None else observed[i : i + CHUNK]


def _principal_start(y: Tensor, observed: Tensor | None, latent: int, floor: float) -> LinearPath:
    """Principal factors of the mean-filled data."""
    n, d = y.shape
    seen = torch.ones_like(y) if observed is None else observed
    b = (y * seen).sum(0) / seen.sum(0).clamp_min(1)
    centred = (y - b) * seen
    covariance = centred.T @ centred / n
    loadings, noise = principal_factors(covariance.unsqueeze(0), latent, floor, least=0.0)
    # more latents than cells: the others stay unused
    W = torch.nn.functional.pad(loadings[0], (0, max(0, latent - d)))
    return LinearPath(W, b, noise[0], y.new_ones(1), torch.zeros_like(W[:1]), torch.eye(latent).to(y)[None])


def _step(
    path: LinearPath, y: Tensor, observed: Tensor | None, floor: float, shared_noise: bool
) -> tuple[LinearPath, float]:
    """One step of EM, and the mean log p that it started from, which does not fall (but for shrinkage and floor)."""
    d = y.shape[1]
    c, k = path.means.shape
    zeros, total = path.means.new_zeros, 0.0
    size, first, second = zeros(c), zeros(c, k), zeros(c, k, k)
    design = zeros(1 if observed is None else d, k + 1, k + 1)
    target, power = zeros(d, k + 1), zeros(d)
    for yc, oc in _chunks(y, observed):
        log_r, mean, chol, log_p = path.posterior(yc, oc)
        total += float(log_p.sum())
        r = log_r.exp()
        spread = torch.cholesky_inverse(chol)  # (B or 1, C, k, k)
        weighted = r.unsqueeze(-1) * mean
        size += r.sum(0)
        first += weighted.sum(0)
        own = weighted.permute(1, 2, 0) @ mean.transpose(0, 1)  # Σ_b r mean meanᵀ of each component
        ez = torch.cat([weighted.sum(1), torch.ones_like(r[:, :1])], 1)  # (B, k + 1)
        known = yc if oc is None else oc.to(y.dtype) * yc
        target += known.T @ ez
        power += (known * yc).sum(0)
        if oc is None:
            second += own + r.sum(0)[:, None, None] * spread[0]
        else:
            second += own + torch.einsum("bc,bcij->cij", r, spread)
            ezz = ez.unsqueeze(-1) * ez.unsqueeze(-2)
            ezz[:, :k, :k] = weighted.mT @ mean + torch.einsum("bc,bcij->bij", r, spread)
            design += (oc.to(y.dtype).T @ ezz.flatten(1)).unflatten(1, (k + 1, k + 1))
    if observed is None:  # every cell has the same design
        design[0, :k, :k] = second.sum(0)
        design[0, k, :k] = design[0, :k, k] = first.sum(0)
        design[0, k, k] = len(y)
        design = design.expand(d, -1, -1)
    # regression of each cell on z, with a ridge of about one pseudo-row
    ridge = torch.eye(k + 1).to(y)
    ridge[k, k] = 1e-6
    if shared_noise:
        ridge = ridge * 1e-9
    solved, loss = regressed(design, target, power, ridge)
    count = design[:, k, k].clamp_min(1e-9)
    noise = (loss.sum() / count.sum()).expand(d).clone() if shared_noise else (loss + floor**2) / (count + 1)
    empty = count < 0.5
    W = torch.where(empty.unsqueeze(-1), 0.0, solved[:, :k])
    b = torch.where(empty, path.b, solved[:, k])
    noise = torch.where(empty, path.noise, noise).clamp_min(floor**2)
    if c == 1:
        weights, means, covariances = path.weights, torch.zeros_like(first), torch.eye(k).to(y).unsqueeze(0)
    else:
        weights = (size + 0.5) / (size + 0.5).sum()
        means = first / size.clamp_min(1e-6).unsqueeze(-1)
        scatter = second - size[:, None, None] * means.unsqueeze(-1) * means.unsqueeze(-2)
        covariances = _shrunk(scatter, size)
    return LinearPath(W, b, noise, weights, means, covariances), total / len(y)


def _shrunk(scatter: Tensor, size: Tensor) -> Tensor:
    """Covariances of the components, drawn toward the pooled one the more, the fewer rows a component has."""
    k = scatter.shape[-1]
    pooled = scatter.sum(0) / size.sum()
    own = scatter / size.clamp_min(1e-6)[:, None, None]
    share = (k / (k + 2 * size)).clamp_min(0.1)[:, None, None]
    return (1 - share) * own + share * pooled + 1e-6 * torch.eye(k).to(scatter)


def _complete(path: LinearPath, y: Tensor, observed: Tensor, generator: Generator) -> Tensor:
    """Completed draws of the data under a one-component path, COPIES of each row."""
    out = []
    for _ in range(COPIES):
        for yc, oc in _chunks(y, observed):
            assert oc is not None
            _, mean, chol, _ = path.posterior(yc, oc)
            noise = standard_normal(mean[:, 0].shape, y, generator).unsqueeze(-1)
            z = mean[:, 0] + torch.linalg.solve_triangular(chol[:, 0].mT, noise, upper=True).squeeze(-1)
            x = z @ path.W.T + path.b
            x = x + path.noise.sqrt() * standard_normal(x.shape, y, generator)
            out.append(torch.where(oc, yc, x))
    return torch.cat(out)


def _split(path: LinearPath, y: Tensor, components: int, generator: Generator) -> LinearPath:
    """Start a mixture: k-means on the latent means of a one-component path."""
    z = path.posterior(y, None)[1][:, 0]
    label, centres = k_means(z, components, generator)
    nearest = torch.nn.functional.one_hot(label, components).to(z.dtype)
    size = nearest.sum(0)
    moved = z.unsqueeze(1) - centres
    scatter = torch.einsum("nc,nci,ncj->cij", nearest, moved, moved)
    # the posterior's own spread is part of each component's
    spread = torch.cholesky_inverse(path.posterior(y[:1], None)[2])[0, 0]
    covariances = _shrunk(scatter + size[:, None, None] * spread, size)
    share = size.add(0.5)
    return LinearPath(path.W, path.b, path.noise, share / share.sum(), centres, covariances)
