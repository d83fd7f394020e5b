"""A mixture of many Gaussians of which groups share a covariance; apart, as a covariance for each takes 2 to 13 times as long.

That is for 200 centres in 4 groups, 20 cells; five Gaussians each of its own covariance take 29 times as long here, a group
and a pattern of blanks at a time, as by :mod:`abduce.gaussians.gaussian_law`, which takes many at once.

    p(x) = Σ_i π_i N(x; c_i, C_g(i)),     n centres c_i, G covariances

With every centre its own group this is the mixture of :mod:`abduce.gaussians.gaussian_law`; with few groups it is a set
of Parzen windows whose kernels are full Gaussians.  A pattern of blanks costs a Cholesky factorisation of the observed
cells' covariance, m³ / 3, for each group, and one solve for all its centres.

Where G is large and each row has its own blanks, that is still G factorisations a row.  With ``keep`` the groups are first
ranked, for each row, by a mixture of factor analysers with the groups' own moments, and only the best are factorised
(all, where no more than 32 cells were seen, and for whole rows).  This is an approximation: log p of a row with blanks is
then a lower bound.  On Fashion-MNIST, with 8 of 120 groups kept for trees and 4 of 40 for windows, images restored in five
tasks lose at most 0.01 dB, and log p of rows half of whose pixels are seen nothing that single precision shows.

Mixtures of Gaussians in hundreds of cells are too sure which component a row came from: cells that the components take as
independent are not, and their log-likelihoods add up.  ``temper`` t flattens the posterior of components on purpose,

    R_i ∝ π_i N(y; c_i, C)^t,

for conditional means and draws; log p does not know of it, and at t = 1 everything is exact.

Sources: Ghahramani & Jordan 1994 (mixtures with missing cells); Yu, Sapiro & Mallat 2012 (restoration by one factorisation a
Gaussian); Grünwald 2012, The safe Bayesian (powers of likelihoods); Journel & Huijbregts 1978 (conditional draws).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Generator, Tensor

from abduce.data.seen import Seen
from abduce.distributions.cells import LOG_2PI
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.mixture import DenseMixture, Given, Look, Sight, alike, patterns_of

FACTORS = 12  # of each group's moments, where groups are ranked
FEW = 32  # observed cells up to which a row is answered by all groups: it tells them apart badly, and costs little


class GroupedMixtureLaw(DenseMixture):
    """Mixture of n Gaussians over D cells, those of one group with one covariance.

    ``log_weights`` (n,) up to a constant, ``centres`` (n, D), ``group`` (n,) whole numbers below G, and ``covariances``
    (G, D, D), positive definite.  ``temper`` in (0, 1] flattens the posterior of components for means and draws; ``keep``
    is the number of groups a row is answered by, None for all.  Numbers are computed in the type of ``covariances``, and
    given back in the type of the rows.  Factors of covariances of whole rows are kept, as much memory again.

    >>> centres = torch.tensor([[-2.0, -2.0], [2.0, 2.0]])
    >>> law = GroupedMixtureLaw(torch.zeros(2), centres, torch.tensor([0, 0]), 0.01 * torch.eye(2).unsqueeze(0))
    >>> law.mean(Seen(torch.tensor([[1.8, torch.nan]]), torch.tensor([[True, False]])))
    tensor([[1.8000, 2.0000]])
    """

    partial = True

    rowwise = False

    def __init__(
        self,
        log_weights: Tensor,
        centres: Tensor,
        group: Tensor,
        covariances: Tensor,
        temper: float = 1.0,
        keep: int | None = None,
    ):
        n, d = centres.shape
        if log_weights.shape != (n,) or group.shape != (n,) or covariances.shape[1:] != (d, d):
            raise ValueError(
                f"log_weights, group and covariances must have shapes ({n},), ({n},) and (G, {d}, {d}) for centres of "
                f"shape ({n}, {d}), got {tuple(log_weights.shape)}, {tuple(group.shape)} and {tuple(covariances.shape)}"
            )
        if n and not 0 <= int(group.min()) <= int(group.max()) < len(covariances):
            raise ValueError(
                f"group must hold whole numbers from 0 to {len(covariances) - 1}, one below the number of covariances, "
                f"got {int(group.min())} to {int(group.max())}"
            )
        if not 0 < temper <= 1:
            raise ValueError(f"temper must be in (0, 1], got {temper}")
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1 or None, got {keep}")
        self.log_weights = torch.log_softmax(log_weights.to(covariances), 0)
        self.means, self.group, self.covariances = centres.to(covariances), group, covariances
        self.temper, self.keep = temper, None if keep is None or keep >= len(covariances) else keep
        self.members = [(group == g).nonzero().squeeze(1) for g in range(len(covariances))]
        self._roots: dict[int, Tensor] = {}

    def given(self, seen: Seen, singly: bool = False) -> Iterator[Given]:
        """Each group with each pattern of blanks, for the rows that have the one and are answered by the other."""
        view = _Image(self, seen)
        kept = None if self.keep is None else view.best(seen, self.keep)
        y = seen.y.to(self.means)
        patterns, which = patterns_of(seen.mask)
        places = [pattern.nonzero().squeeze(1) for pattern in patterns]
        every = torch.arange(len(y))
        for g, members in enumerate(self.members):
            rows = every if kept is None else kept[:, g].nonzero().squeeze(1)
            if not len(rows) or not len(members):
                continue
            moments = view.moments(g)
            for p, own in alike(rows, which):
                yield self._block(view, g, moments, places[p], own, y[own][:, places[p]])

    def _block(
        self, view: _Image, g: int, moments: tuple[Tensor, Tensor], place: Tensor, rows: Tensor, seen: Tensor
    ) -> Given:
        """One group given the cells ``place`` (m,) of rows, with the values ``seen`` (R, m)."""
        cross, covariance = moments
        root = self._root(view, g, covariance, place)
        members = self.members[g]
        centres = view.centres[members][:, place]
        middle = centres.mean(0)  # so that little is lost where squares are expanded
        both = torch.cat([seen - middle, centres - middle]).mT
        half = torch.linalg.solve_triangular(root, both, upper=False)
        row, centre = half[:, : len(rows)], half[:, len(rows) :]
        distance = row.square().sum(0).unsqueeze(1) + centre.square().sum(0) - 2 * row.mT @ centre
        log_det = 2 * torch.diagonal(root).log().sum()
        log_density = -0.5 * (distance.clamp_min(0) + log_det + LOG_2PI * len(place))
        log_weights = self.log_weights[members]

        def regress(shares: Tensor) -> Tensor:
            left = row * shares.sum(1) - centre @ shares.mT
            solved = torch.linalg.solve_triangular(root.mT, left, upper=True)
            return shares @ self.means[members] + (cross[:, place] @ solved).mT

        log_share = log_weights + self.temper * log_density
        return Given(rows, log_weights + log_density, regress, members, log_share)

    def sight(self, seen: Seen) -> Sight:
        view = _Image(self, seen)
        patterns, which = patterns_of(seen.mask)

        def pull(chosen: Tensor, residual: Tensor) -> Tensor:
            out = residual.new_empty(*chosen.shape, self.means.shape[1])
            group = self.group[chosen]
            for g in group.unique().tolist():
                cross, covariance = view.moments(g)
                mine = group == g
                for p, rows in alike(mine.any(0).nonzero().squeeze(1), which):
                    s, b = mine[:, rows].nonzero(as_tuple=True)
                    b, place = rows[b], patterns[p].nonzero().squeeze(1)
                    root = self._root(view, g, covariance, place)
                    solved = torch.cholesky_solve(residual[s, b][:, place].mT, root)
                    out[s, b] = (cross[:, place] @ solved).mT
            return out

        return Sight(self.shares(seen), pull, view.look)

    def _root(self, view: _Image, g: int, covariance: Tensor, place: Tensor) -> Tensor:
        """Cholesky factor of the covariance of the cells ``place`` of what is seen."""
        if len(place) == len(covariance):
            return self.root(g) if view.look is None else _cholesky(covariance, g)
        return _cholesky(covariance[place][:, place], g)

    def root(self, g: int) -> Tensor:
        if g not in self._roots:
            self._roots[g] = _cholesky(self.covariances[g], g)
        return self._roots[g]

    @cached_property
    def moments(self) -> FactorMixtureLaw:
        """The groups as factor analysers: the mean of each, and its covariance by a few factors and noise."""
        each = []
        for g, members in enumerate(self.members):
            log_w = self.log_weights[members]
            share = torch.softmax(log_w, 0)
            mean = share @ self.means[members]
            off = (self.means[members] - mean) * share.sqrt().unsqueeze(1)
            weight = torch.logsumexp(log_w, 0) if len(members) else log_w.new_tensor(-torch.inf)
            each.append((weight, mean, *_factors(self.covariances[g] + off.mT @ off)))
        return FactorMixtureLaw(*map(torch.stack, zip(*each, strict=True)))


class _Image:
    """What is seen of a law's rows: their cells themselves, or y = A x + noise."""

    def __init__(self, law: GroupedMixtureLaw, seen: Seen):
        self.law = law
        self.look: Look | None = None
        if not seen.exact:
            apply, noise = seen.view.affine(seen.y)
            # in double precision, for what A itself is made of
            self.look = (lambda x: apply(x.double()).to(x)), noise.to(law.means)
        self.centres = self.apply(law.means)

    def apply(self, x: Tensor) -> Tensor:
        """A x, (..., D) -> (..., d)."""
        return x if self.look is None else self.look[0](x)

    def linear(self, x: Tensor) -> Tensor:
        """A x without an offset."""
        return x if self.look is None else self.apply(x) - self.apply(torch.zeros_like(x[:1]))

    def moments(self, g: int) -> tuple[Tensor, Tensor]:
        """cov(x, y), (D, d), and cov(y), (d, d), of a group."""
        if self.look is None:
            return self.law.covariances[g], self.law.covariances[g]
        cross = self.linear(self.law.covariances[g])  # rows of a symmetric matrix: C Aᵀ
        covariance = self.linear(cross.mT)
        covariance = 0.5 * (covariance + covariance.mT) + torch.diag(self.look[1].square())
        return cross, covariance

    def best(self, seen: Seen, count: int) -> Tensor:
        """Which groups each row is answered by, (rows, G): those that explain it best, by a few factors of each.

        All groups answer rows of which no more than FEW cells were seen, and whole rows, which share their factors.
        """
        every = seen.mask.sum(1) <= FEW
        if self.look is None:
            every |= seen.mask.all(1)
        kept = every.unsqueeze(1).repeat(1, len(self.law.covariances))
        others = (~every).nonzero().squeeze(1)
        if not len(others):
            return kept
        with torch.no_grad():
            rank = self._ranking()
            for part, found in rank.chunks(seen.rows(others).to(rank.means.dtype)):
                rows = others[part]
                kept[rows] = kept[rows].scatter(1, found.log_joint.topk(count, 1).indices, True)
        return kept

    def _ranking(self) -> FactorMixtureLaw:
        """The groups' moments as they are seen."""
        rank = self.law.moments
        if self.look is None:
            return rank
        squared = self.linear(torch.eye(rank.means.shape[1]).to(rank.means)).square()  # (D, d)
        return FactorMixtureLaw(
            rank.log_weights,
            self.apply(rank.means),
            self.linear(rank.loadings.mT.flatten(0, 1)).unflatten(0, (len(rank.means), -1)).mT,
            rank.noise @ squared + self.look[1].square(),
        )


def _cholesky(covariance: Tensor, g: int) -> Tensor:
    root, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise ValueError(
            f"covariances must be positive definite, that of group {g} is singular in what is seen; "
            "use more regularisation, or a positive noise where cells of y repeat one another"
        )
    return root


def _factors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Principal factors of a covariance (D, D) by subspace iteration: loadings (D, q) and noise variances (D,)."""
    d = len(covariance)
    q = min(FACTORS, max(1, d // 2))
    generator = Generator().manual_seed(0)
    basis = torch.randn(d, min(d, q + 4), generator=generator).to(covariance)
    for _ in range(4):
        basis = torch.linalg.qr(covariance @ basis).Q
    values, vectors = torch.linalg.eigh(basis.mT @ covariance @ basis)
    values, vectors = values.flip(0)[:q], (basis @ vectors).flip(1)[:, :q]
    own = torch.diagonal(covariance)
    rest = (own.sum() - values.sum()).clamp_min(0) / max(1, d - q)
    loadings = vectors * (values - rest).clamp_min(0).sqrt()
    return loadings, torch.maximum(own - loadings.square().sum(1), 0.02 * own)
