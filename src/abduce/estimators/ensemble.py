"""Mixtures of Gaussians for images: many full covariances, shrunk, and the average of what two kinds of mixture answer."""

from __future__ import annotations

import torch
from torch import Tensor

from abduce.checks import check_number
from abduce.data.seen import Seen
from abduce.estimators.arguments import Arguments, check_components, preset
from abduce.estimators.energies import DensityEstimator
from abduce.estimators.estimator import Rows, RunOptions
from abduce.gaussians import ensemble_fit
from abduce.models.energy_model import EnergyModel
from abduce.models.mixture import GroupedMixtureEnergy
from abduce.models.pool import Pool

COVARIANCES = 112 * 10**6  # numbers in all of them: 450 MB in single precision


@preset
class MixtureEnsemble(Arguments, DensityEstimator[Pool]):
    """Two mixtures of Gaussians with full covariances, whose answers are averaged: for filling and cleaning images.

    A tree has some hundred Gaussians, each with a covariance of its own, shrunk to that of its parent cluster and of all;
    windows are some thousand centres that share the covariances of some sixty clusters.  log p is that of the mixture of
    both; conditional means are averaged, and each draw is from one of them.  Fitting takes seconds to a minute for 60,000
    images of 28 x 28, and the model 4 G D² bytes for G covariances of D pixels.

    Blanks in the training rows are completed by draws of a Gaussian first.  Other arguments as in
    :class:`~abduce.estimators.arguments.Arguments`.

    Parameters
    ----------
    parents : int or "auto"
        Clusters that are split again; "auto": a third of ``children``.
    children : int or "auto"
        Gaussians of the tree; "auto": one for as many rows as 0.64 of the cells, but at least 30; at most 120, and no more
        than 300 MB hold.
    windows : int or "auto"
        Centres of the windows; "auto": one for 15 rows, at most 4,000.
    shapes : int or "auto"
        Clusters of the windows, each with one covariance; "auto": half of ``children``.
    shrinkage : float or "auto"
        Pseudo-rows of the parent's covariance in each child's; "auto": 0.38 for each cell.
    reg_covar : float
        Added to variances, in the model's units: those of standardised columns, or half the range of pixels.
    temper : float in (0, 1]
        Power of the likelihood in posteriors of components, for means and draws.  Gaussians in hundreds of cells are too
        sure which component a row came from; log p is left as it is.
    keep : int or None
        Gaussians of the tree that a row is answered by, and half as many clusters of windows, found by a quick score; None
        for all.  log p of a row with blanks is then a lower bound.

    References
    ----------
    Zoran & Weiss 2011; Yu, Sapiro & Mallat 2012 (Gaussian mixtures for restoration); Celeux & Govaert 1992 (hard EM).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import MixtureEnsemble
    >>> X = np.random.default_rng(0).normal(size=(300, 1)) + 0.1 * np.random.default_rng(1).normal(size=(300, 4))
    >>> model = MixtureEnsemble(random_state=0).fit(X)
    >>> bool(abs(model.fill([[2.0, 2.0, 2.0, np.nan]])[0, 3] - 2.0) < 0.2)
    True
    """

    parents: int | str = "auto"
    children: int | str = "auto"
    windows: int | str = "auto"
    shapes: int | str = "auto"
    shrinkage: float | str = "auto"
    reg_covar: float = 0.008
    temper: float = 0.5
    keep: int | None = 8

    def _check_own(self) -> None:
        if self.shrinkage != "auto":
            check_number("shrinkage", self.shrinkage, 0)
        check_number("reg_covar", self.reg_covar, 0)
        check_number("temper", self.temper, 0, 1, above=True)
        if self.keep is not None:
            check_components("keep", self.keep, 10**9)

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[Pool, Seen]:
        self._support(rows.schema)
        if len(rows.x) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        whole = self._completed(rows.x, rows.mask, "real", rows.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rows.seed)
            return self._pool(whole.float(), rows), Seen.whole(whole)

    def _pool(self, x: Tensor, rows: Rows) -> Pool:
        n, d = x.shape
        fit = max(1, COVARIANCES // d**2)  # covariances that the memory holds
        children = _count("children", self.children, min(round(n / max(30, 0.64 * d)), 120, 2 * fit // 3), n)
        parents = _count("parents", self.parents, round(children / 3), n)
        windows = _count("windows", self.windows, min(round(n / 15), 4000), n)
        shapes = _count("shapes", self.shapes, round(children / 2), n)
        shrinkage = 0.38 * d if self.shrinkage == "auto" else float(self.shrinkage)
        generator = torch.Generator().manual_seed(rows.seed)
        p = ensemble_fit.principal_features(x)
        given = shrinkage, float(self.reg_covar), generator
        members = [
            ensemble_fit.tree(x, p, parents, children, *given),
            ensemble_fit.windows(x, p, shapes, windows, *given),
        ]
        keep = [None, None] if self.keep is None else [self.keep, max(1, self.keep // 2)]
        models = [
            EnergyModel(GroupedMixtureEnergy.of(member, k, float(self.temper)))
            for member, k in zip(members, keep, strict=True)
        ]
        return Pool(rows.schema, models, codes=range(len(models)))


def _count(name: str, value: int | str, default: int, rows: int) -> int:
    return max(1, default) if value == "auto" else check_components(name, value, rows)
