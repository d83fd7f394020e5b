"""Fit a mixture of factor analysers to rows with blanks by expectation-maximisation.

Each E-step integrates the blanks out exactly; each M-step regresses every cell on the factors over the rows where it was
observed.  A component is held to the others by ν pseudo-rows with the pooled covariance C̄ = Σ_k π_k C_k within components
about its own mean, a conjugate prior whose expected statistics under the component are

    E[z zᵀ] = I − β W + β C̄ βᵀ,   E[x zᵀ] = C̄ βᵀ,   β = Wᵀ C⁻¹,

and one pseudo-row of independent cells.  After each step the factors are made white again (parameter expansion), which
speeds EM up many times.

Sources: Ghahramani & Hinton 1996; Liu, Rubin & Wu 1998 (PX-EM); Fraley & Raftery 2007 (conjugate priors for mixtures).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.gaussians.em import Scatter, alone, climb, k_means, principal_factors, regressed, varying
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.factor_sums import Expected, each_apart, many_patterns, patternwise

AFRESH = 5  # steps after which all components are asked again
FLOOR = 0.01  # smallest noise standard deviation, in units of the cells


def factor_mixture(
    x: Tensor,
    observed: Tensor | None,
    components: int,
    factors: int,
    pseudo_rows: float = 20.0,
    floor: float = FLOOR,
    iterations: int = 40,
    tolerance: float = 1e-3,
    seed: int = 0,
    one: FactorMixtureLaw | None = None,
    start: FactorMixtureLaw | None = None,
    miss: Callable[[FactorMixtureLaw], float] | None = None,
) -> FactorMixtureLaw:
    """Fit K components of q factors to rows x (n, D), blank cells of which may hold anything.

    One component is fitted first (or given as ``one``); more grow from k-means clusters of rows completed by its draws.
    With ``start``, EM goes on from there.  It stops when the mean log p rises by less than ``tolerance`` nats a cell; that of
    more components also where ``miss``, by how much a law misses cells that were hidden from it, has risen.
    Constant and empty cells stand by themselves, so that the rest does not depend on them.
    """
    if not bool((some := varying(x, observed)).all()):
        old = {name: law and law.cells(some) for name, law in (("one", one), ("start", start))}
        inner = None if observed is None else observed[:, some]
        how = (components, min(factors, int(some.sum())), pseudo_rows, floor, iterations, tolerance, seed)
        rest = alone(x, observed, floor**2)
        misses = None if miss is None else lambda law, whole=miss: whole(law.among(some, *rest))
        return factor_mixture(x[:, some], inner, *how, **old, miss=misses).among(some, *rest)
    seen = Seen.whole(x) if observed is None else Seen(torch.where(observed, x, 0.0), observed)
    cells = float(seen.mask.double().sum(1).mean())

    def climbed(law: FactorMixtureLaw, pull: float) -> FactorMixtureLaw:
        judge = miss if len(law.means) > 1 else None
        return climb(law, _Steps(seen, pull, floor), iterations, tolerance * cells, judge)

    if start is not None:
        return climbed(start, pseudo_rows)
    if one is None:
        one = climbed(_principal(seen, factors, floor), 0.0)
    if components == 1:
        return one
    generator = Generator().manual_seed(seed)
    whole = x if bool(seen.mask.all()) else one.draws(seen, 1, generator)[0]
    label, _ = k_means(whole, components, generator)
    member = torch.nn.functional.one_hot(label, components).to(whole)
    return climbed(_grow(one, whole, member, factors, pseudo_rows, floor), pseudo_rows)


class _Steps:
    """Steps of EM over the same rows; ``law`` after ``law``.

    Expectations are taken in single precision, and only over the components that a row may belong to: what a row is far from
    it is not asked about in the next few steps.
    """

    def __init__(self, seen: Seen, pseudo_rows: float, floor: float):
        self.seen, self.pseudo_rows, self.floor = seen.to(torch.float32), pseudo_rows, floor
        self.blanks = not bool(seen.mask.all())
        self.many = many_patterns(seen.mask)
        self.taken, self.near = 0, None

    def __call__(self, law: FactorMixtureLaw) -> tuple[FactorMixtureLaw, float]:
        """One step; the mean log p that it started from comes with it."""
        single = FactorMixtureLaw(*(t.float() for t in (law.log_weights, law.means, law.loadings, law.noise)))
        sums = Expected.zero(single, self.blanks)
        if self.many:
            if self.taken % AFRESH == 0:
                self.near = None
            total, self.near = each_apart(single, self.seen, sums, self.near)
            self.taken += 1
        else:
            total = patternwise(single, self.seen, sums, self.blanks)
        return maximised(law, sums.whole(self.blanks), self.pseudo_rows, self.floor), total / len(self.seen.y)


def maximised(
    law: FactorMixtureLaw, sums: tuple[Tensor, ...], pseudo_rows: float, floor: float
) -> FactorMixtureLaw:
    """The M-step, with the pseudo-rows, from the sums over rows that the E-step made."""
    size, design, target, power, whole = sums
    k, _, q = law.loadings.shape
    W, share = law.loadings, law.log_weights.exp()
    eye = torch.eye(q, dtype=design.dtype)
    scaled = W / law.noise.unsqueeze(-1)
    beta = torch.linalg.solve(
        eye + W.mT @ scaled, scaled, left=False
    )  # βᵀ = C⁻¹ W, (K, D, q), by Woodbury's identity
    noise = share @ law.noise
    variances = share @ (W.square().sum(2) + law.noise)  # of the pooled covariance C̄
    pooled = torch.einsum("j,jdq,cjqr->cdr", share, W, torch.einsum("jdq,cdr->cjqr", W, beta))
    pooled = pooled + noise.unsqueeze(-1) * beta  # C̄ βᵀ
    for count, cross in (
        (pseudo_rows * (k > 1), pooled),
        (1.0, variances.unsqueeze(-1) * beta),
    ):  # E[x zᵀ], (K, D, q)
        zz = eye - beta.mT @ law.loadings + beta.mT @ cross
        centred = torch.zeros_like(target)
        centred[..., :q] = count * cross
        extra = torch.zeros_like(design[:, :1])
        extra[:, 0, :q, :q] = count * zz
        extra[:, 0, q, q] = count
        centred[..., q] = count * law.means
        design = design + extra
        target = target + centred
        power = power + count * (variances + law.means.square())
        whole = whole + extra[:, 0]
    solved, loss = regressed(design, target, power, 1e-9 * torch.eye(q + 1, dtype=design.dtype))
    noise = (loss / design[..., q, q]).clamp_min(floor**2)
    loadings, means = solved[..., :q], solved[..., q]
    # make the factors white again: mean and covariance of z over the component's rows
    count = whole[:, q, q].unsqueeze(-1)
    centre = whole[:, :q, q] / count
    spread = whole[:, :q, :q] / count.unsqueeze(-1) - centre.unsqueeze(-1) * centre.unsqueeze(-2)
    means = means + (loadings @ centre.unsqueeze(-1)).squeeze(-1)
    loadings = loadings @ torch.linalg.cholesky(spread)
    return FactorMixtureLaw((size + 1).log(), means, loadings, noise)


def _principal(seen: Seen, factors: int, floor: float) -> FactorMixtureLaw:
    """One component: principal factors of mean-filled rows, blank cells of which are zero."""
    x, mask = seen.y, seen.mask.to(seen.y)
    mean = x.sum(0) / mask.sum(0).clamp_min(1)
    centred = (x - mean) * mask
    pairs = (mask.mT @ mask).clamp_min(1)
    covariance = centred.mT @ centred / pairs.sqrt() / len(x) ** 0.5  # between pairwise and zero-filled
    covariance += 1e-6 * torch.eye(len(covariance), dtype=x.dtype)
    loadings, noise = principal_factors(covariance.unsqueeze(0), factors, floor)
    return FactorMixtureLaw(x.new_zeros(1), mean.unsqueeze(0), loadings, noise)


def _grow(
    one: FactorMixtureLaw, x: Tensor, member: Tensor, factors: int, pseudo_rows: float, floor: float
) -> FactorMixtureLaw:
    """Start a mixture from clusters of complete rows, ``member`` (n, K), the covariance of each shrunk to that within."""
    size = member.sum(0).clamp_min(1e-9)
    means = member.mT @ x / size.unsqueeze(1)
    means = torch.where((size < 0.5).unsqueeze(1), one.means, means)  # fewer rows apart than components
    moved = x - member @ means
    weights = member.mT + pseudo_rows / len(x)  # each row in its own cluster, and a little in all
    within = moved.square().mean(0).clamp_min(floor**2)
    total = (size + pseudo_rows + 1).unsqueeze(1)
    scatter = Scatter(moved, weights / total, within / total)
    return FactorMixtureLaw((size + 1).log(), means, *principal_factors(scatter, factors, floor))
