"""Fit a Gaussian process to transitions.

Lengths ℓ, sizes a and noise σ maximise the marginal likelihood of :data:`FEW` steps, each output's for itself (L-BFGS, with
the gradient ½ tr((K⁻¹ − α αᵀ) ∂K)).  Points are then chosen one by one, each where the ones before leave most open in units of
the noise, until that is little everywhere; the weights' posterior is that of all steps:

    A = σ² K + K_pn K_np,     w ~ N(A⁻¹ K_pn y, σ² A⁻¹),     K between points, K_pn from points to steps
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Generator, Tensor

from abduce.gaussians.em import heed
from abduce.world.episodes import Transitions
from abduce.world.gaussian_process import GaussianProcess
from abduce.world.linear_path import differences, linear_path

FEW = 400  # steps whose likelihood is maximised
CANDIDATES = 4000  # steps that points are chosen among, at most
POINTS = 300  # at most
OPEN = 0.1  # variance that points may leave open, in units of the noise's
MEMBERS = 32
ROUNDS = 60  # of L-BFGS
LENGTHS, SIZES, NOISE = (0.1, 100.0), (1e-3, 30.0), (1e-3, 3.0)
MARGIN = 0.5  # by which the box is wider than the data, in units of their range: what was not seen yet may be what is best
JITTER = 1e-9  # of a kernel's diagonal


def fit_process(
    steps: Transitions, seed: int, show: Callable[[float], None] | None = None
) -> GaussianProcess:
    """Fit to steps whose states and actions are whole; cells of ``after`` that are NaN do not count."""
    generator = Generator().manual_seed(seed)
    s, a = steps.state.shape[1], steps.action.shape[1]
    moved, seen = differences(steps)
    path = linear_path(steps, moved, seen, MARGIN)
    z = (torch.cat([steps.state, steps.action], 1) - path["centre"]) / path["scale"]
    rest = moved / path["step"] - (z @ path["path"].mT + path["offset"])
    found = []
    for j in range(s):  # each output has blanks of its own
        rows = seen[:, j].nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)[:FEW]]
        found.append(_most_likely(z[rows], rest[rows, j]))
        if show is not None:
            show(0.9 * (j + 1) / s)
    rates, power, sigma = (torch.stack(part) for part in zip(*found, strict=True))
    places = z[torch.randperm(len(z), generator=generator)[:CANDIDATES]]
    places = places[_points(places, rates, power, sigma)]
    model = GaussianProcess(s, a, len(places), MEMBERS)
    for name, value in (path | {"places": places, "rates": rates, "power": power, "sigma": sigma}).items():
        model.get_buffer(name).copy_(value)
    _weigh(model, z, rest, seen, generator)
    if show is not None:
        show(1.0)
    return model.requires_grad_(False).eval()


def _most_likely(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rates 1/ℓ (D,), power a² and noise σ of one output y (n,) at inputs z (n, D)."""
    n, d = z.shape
    if n == 0:  # nothing is known of it, and the linear path is all there is
        return torch.ones(d).double(), torch.tensor(SIZES[0]).double().square(), torch.tensor(1.0).double()
    spread = float(y.square().mean().sqrt().clamp(*SIZES))
    start = np.log([*[2.0] * d, spread, min(max(0.3 * spread, NOISE[0]), NOISE[1])])
    bounds = np.log([LENGTHS] * d + [SIZES, NOISE])
    eye = torch.eye(n).double()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        heed()
        rate = torch.from_numpy(np.exp(-theta[:d]))
        power, noise = float(np.exp(2 * theta[d])), float(np.exp(2 * theta[d + 1]))
        x = z * rate
        square = x.square().sum(1)
        kernel = power * (x @ x.mT - 0.5 * (square.unsqueeze(1) + square)).exp()
        root = torch.linalg.cholesky(kernel + (noise + JITTER * power) * eye)
        alpha = torch.cholesky_solve(y.unsqueeze(1), root)
        gap = torch.cholesky_inverse(root) - alpha @ alpha.mT  # twice the slope in K
        value = 0.5 * float(y @ alpha.squeeze(1)) + float(root.diagonal().log().sum())
        pulled = gap * kernel
        by_length = (pulled.sum(1) @ x.square()) - (x * (pulled @ x)).sum(0)
        slope = [*by_length.tolist(), float(pulled.sum()), noise * float(gap.diagonal().sum())]
        return value, np.array(slope)

    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ROUNDS}).x
    theta = torch.from_numpy(best).exp()
    return 1 / theta[:d], theta[d].square(), theta[d + 1]


def _points(z: Tensor, rates: Tensor, power: Tensor, sigma: Tensor) -> Tensor:
    """Numbers of the steps that are points, by pivoted Cholesky factors of all outputs' kernels."""
    n = len(z)
    most = min(n, POINTS)
    x = z * rates.unsqueeze(1)  # (S, n, D)
    left = power.unsqueeze(1).expand(-1, n).clone()  # variance that is open
    factors = torch.zeros(len(rates), most, n).double()
    chosen = []
    for k in range(most):
        share = (left / sigma.square().unsqueeze(1)).amax(0)
        i = int(share.argmax())
        if float(share[i]) < OPEN:
            break
        chosen.append(i)
        row = power.unsqueeze(1) * (-0.5 * (x - x[:, i : i + 1]).square().sum(2)).exp()
        row = row - torch.einsum("skn,sk->sn", factors[:, :k], factors[:, :k, i])
        factors[:, k] = row / left[:, i : i + 1].clamp_min(JITTER * power.unsqueeze(1)).sqrt()
        left = (left - factors[:, k].square()).clamp_min(0.0)
        left[:, i] = 0.0
    return torch.tensor(chosen or [0])


def _weigh(model: GaussianProcess, z: Tensor, rest: Tensor, seen: Tensor, generator: Generator) -> None:
    """Set the weights' posterior, its draws, and the points' factor."""
    n = len(model.places)
    eye = torch.eye(n).double()
    between = model.kernel(model.places) + (JITTER * model.power).view(-1, 1, 1) * eye
    inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(between), eye, upper=False)
    products, pulls = torch.zeros_like(between), torch.zeros_like(model.weights)
    for some, y, known in zip(*(part.split(2048) for part in (z, rest, seen)), strict=True):
        v = torch.bmm(model.kernel(some), inverse.mT) * known.mT.unsqueeze(2)  # (S, N, n)
        products += torch.bmm(v.mT, v)
        pulls += torch.einsum("snp,ns->sp", v, y)
    noise = model.sigma.square()
    root = torch.linalg.cholesky(eye + products / noise.view(-1, 1, 1))
    mean = torch.cholesky_solve((pulls / noise.unsqueeze(1)).unsqueeze(2), root)
    draws = torch.randn(len(model.weights), n, model.members, generator=generator, dtype=torch.float64)
    around = torch.linalg.solve_triangular(root.mT, draws, upper=True)
    model.root.copy_(inverse)
    model.weights.copy_(torch.bmm(inverse.mT, mean).squeeze(2))
    model.drawn.copy_(torch.bmm(inverse.mT, mean + around).permute(2, 0, 1))
