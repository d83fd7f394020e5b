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
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.em import Scatter, alone, climb, heed, k_means, principal_factors, regressed, varying
from abduce.gaussians.factor_law import FEW, FactorMixtureLaw
from abduce.gaussians.mixture import patterns_of, slices

NEGLIGIBLE = 1e-3  # share of a row from which on a component learns from it
NEAR = 20.0  # nats below a row's likeliest component from which on the next steps do without
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
        self.many = self.blanks and len(patterns_of(seen.mask)[0]) > FEW
        self.taken, self.near = 0, None

    def __call__(self, law: FactorMixtureLaw) -> tuple[FactorMixtureLaw, float]:
        """One step; the mean log p that it started from comes with it."""
        single = FactorMixtureLaw(*(t.float() for t in (law.log_weights, law.means, law.loadings, law.noise)))
        sums = _Sums.zero(single, self.blanks)
        if self.many:
            if self.taken % AFRESH == 0:
                self.near = None
            total, self.near = _each_apart(single, self.seen, sums, self.near)
            self.taken += 1
        else:
            total = _alike(single, self.seen, sums, self.blanks)
        return _maximised(law, sums.whole(self.blanks), self.pseudo_rows, self.floor), total / len(
            self.seen.y
        )


class _Sums(NamedTuple):
    """What an M-step asks of the rows: for each component the rows (K,), Σ x² (K, D), Σ x E[(z, 1)] (K, D, q + 1), and
    Σ E[(z, 1) (z, 1)ᵀ], flattened, over the rows where a cell was seen (K, D or 1, ·) and over all (K, ·)."""

    size: Tensor
    design: Tensor
    target: Tensor
    power: Tensor
    every: Tensor

    @classmethod
    def zero(cls, law: FactorMixtureLaw, blanks: bool) -> _Sums:
        k, d, q = law.loadings.shape
        zeros, square = law.means.new_zeros, (q + 1) ** 2
        return cls(
            zeros(k), zeros(k, d if blanks else 1, square), zeros(k, d, q + 1), zeros(k, d), zeros(k, square)
        )

    def add(self, c: int, x: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
        """Add rows x (b, D), zero where not seen, that belong to a component by ``weight`` (b, 1): (E[z], 1), (b, q + 1)."""
        one = torch.cat([mean, torch.ones_like(weight)], 1)
        self.target[c] += x.mT @ (weight * one)
        self.power[c] += (weight * x * x).sum(0)
        return one

    def whole(self, blanks: bool) -> tuple[Tensor, ...]:
        """In double precision, as matrices."""
        d, width = self.target.shape[1:]
        design = self.design if blanks else self.every.unsqueeze(1).expand(-1, d, -1)
        square = (width, width)
        parts = (
            self.size,
            design.unflatten(2, square),
            self.target,
            self.power,
            self.every.unflatten(1, square),
        )
        return tuple(t.double() for t in parts)


def _each_apart(law: FactorMixtureLaw, seen: Seen, sums: _Sums, near: Tensor | None) -> tuple[float, Tensor]:
    """An E-step of rows that each have their own blanks, over the components that are ``near``, bool (n, K), None for all.

    Gives Σ log p, and which components are near in the end.
    """
    k, d, q = law.loadings.shape
    precision = 1 / law.noise
    scaled = law.loadings * precision.unsqueeze(-1)
    constant = law.noise.log() + LOG_2PI
    eye = torch.eye(q, dtype=law.means.dtype)
    outer = (scaled.unsqueeze(-1) * law.loadings.unsqueeze(-2)).flatten(2)  # (K, D, q²)
    total = 0.0
    found = torch.empty(len(seen.y), k, dtype=torch.bool)
    for rows in slices(len(seen.y), k * max(q * q, d)):
        x, mask = seen.y[rows], seen.mask[rows].to(seen.y)
        log_joint = x.new_full((len(x), k), -torch.inf)
        kept = []
        for c in range(k):
            heed()
            own = torch.arange(len(x)) if near is None else near[rows, c].nonzero().squeeze(1)
            observed, known = mask[own], x[own]
            root = torch.linalg.cholesky((observed @ outer[c]).unflatten(1, (q, q)) + eye)
            residual = known - observed * law.means[c]
            pulled = (residual @ scaled[c]).unsqueeze(-1)
            half = torch.linalg.solve_triangular(root, pulled, upper=False)
            log_det = 2 * torch.diagonal(root, dim1=1, dim2=2).log().sum(1) + observed @ constant[c]
            distance = residual.square() @ precision[c] - half.square().sum((1, 2))
            log_joint[own, c] = law.log_weights[c] - 0.5 * (distance + log_det)
            kept.append((own, root, half))
        total += float(torch.logsumexp(log_joint, 1).double().sum())
        found[rows] = log_joint > log_joint.amax(1, keepdim=True) - NEAR
        shares = torch.softmax(log_joint, 1)
        sums.size.add_(shares.sum(0))
        for c, (own, root, half) in enumerate(kept):
            some = shares[own, c] > NEGLIGIBLE
            own, root, half = own[some], root[some], half[some]
            mean = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
            weight = shares[own, c].unsqueeze(1)
            sums.add(c, x[own], weight, mean)
            # E[(z, 1) (z, 1)ᵀ] = Bᵀ B with B of rows (root⁻¹, 0) and (E[z], 1)
            both = x.new_zeros(len(own), q + 1, q + 1)
            both[:, :q, :q] = torch.linalg.solve_triangular(root, eye, upper=False)
            both[:, q, :q], both[:, q, q] = mean, 1.0
            second = (both.mT @ both).flatten(1)
            sums.every[c] += weight[:, 0] @ second
            sums.design[c] += (weight * mask[own]).mT @ second
    return total, found


def _alike(law: FactorMixtureLaw, seen: Seen, sums: _Sums, blanks: bool) -> float:
    """An E-step of rows of a few patterns of blanks: those with the same blanks are summed by one product.  Gives Σ log p."""
    q, total = law.loadings.shape[2], 0.0
    for rows, f in law.chunks(seen):
        heed()
        r, x = f.shares, seen.y[rows]
        total += float(torch.logsumexp(f.log_joint, 1).double().sum())
        sums.size.add_(r.sum(0))
        patterns = x.new_empty(len(f.root), x.shape[1])
        patterns[f.which] = seen.mask[rows].to(x)
        for c in range(len(law.means)):
            heed()
            own = (r[:, c] > NEGLIGIBLE).nonzero().squeeze(1)
            weight = r[own, c].unsqueeze(1)
            one = sums.add(c, x[own], weight, f.mean[own, c])
            if not blanks:
                second = (weight * one).mT @ one
                second[:q, :q] += weight.sum() * torch.cholesky_inverse(f.root[0, c])
                sums.every[c] += second.flatten()
                continue
            alike = f.which[own].argsort()
            counts = torch.bincount(f.which[own], minlength=len(patterns)).tolist()
            parts = zip(one[alike].split(counts), weight[alike].split(counts), strict=True)
            second = torch.stack([(w * o).mT @ o for o, w in parts])
            second[:, :q, :q] += second[:, q:, q:] * torch.cholesky_inverse(f.root[:, c])
            second = second.flatten(1)
            sums.every[c] += second.sum(0)
            sums.design[c] += patterns.mT @ second
    return total


def _maximised(
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
