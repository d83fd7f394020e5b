"""Fit the members of an ensemble of mixtures: clusters of clusters, whose covariances are shrunk to those above them.

Rows are put into clusters in the space of their first principal components, by k-means and then by hard EM: each row goes to
the one Gaussian that explains it best.  Parents p are split again into children k.  Written for covariances S within clusters,
n rows in each, and ν pseudo-rows,

    W_p = Σ_{k in p} n_k S_k / n_p          within the children of a parent
    G   = Σ_p n_p W_p / n                   within all children
    T_p = (1 − a) W_p + a G                 a = ν_p / (ν_p + n_p)
    tree      C_k = (1 − b) S_k + b T_p + ridge I,      b = ν_k / (ν_k + n_k)
    windows   C_p = T_p + ridge I, shared by all centres of a parent

The tree has some hundred Gaussians, each of its own shape; the windows thousands of centres of few shapes.

Sources: Celeux & Govaert 1992 (classification EM); Ledoit & Wolf 2004 (shrinkage); Zoran & Weiss 2011 (Gaussian mixtures as
priors of images); Arthur & Vassilvitskii 2007 (k-means++).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.gaussians.em import k_means

FEATURES = 50  # principal components in which rows are put into clusters
Rounds = tuple[int, int]  # of k-means and of hard EM
PARENTS: Rounds = (15, 3)
CHILDREN: Rounds = (8, 2)


class Member(NamedTuple):
    """A grouped mixture's parameters: log weights (n,), centres (n, D), group (n,), covariances (G, D, D)."""

    log_weights: Tensor
    centres: Tensor
    group: Tensor
    covariances: Tensor


def principal_features(x: Tensor) -> Tensor:
    """Coordinates of rows (n, D) along their first principal directions, (n, min(FEATURES, D))."""
    centred = x - x.mean(0)
    _, vectors = torch.linalg.eigh(centred.mT @ centred)
    return centred @ vectors.flip(1)[:, :FEATURES]


def hard_em(
    p: Tensor, label: Tensor, components: int, rounds: int, pseudo_rows: float, ridge: float
) -> Tensor:
    """Move rows (n, q) to the Gaussian that explains each best, ``rounds`` times: labels (n,).

    Covariances are (1 − a) S_k + a W + ridge I with a = pseudo_rows / (pseudo_rows + n_k).
    """
    n, q = p.shape
    eye = torch.eye(q, dtype=p.dtype)
    for _ in range(rounds):
        size = torch.bincount(label, minlength=components).to(p)
        means, spreads = p.new_zeros(components, q), p.new_zeros(components, q, q)
        for k in size.nonzero().flatten().tolist():
            means[k], spreads[k] = _moments(p[label == k])
        within = torch.einsum("k,kij->ij", size, spreads) / n
        score = p.new_full((n, components), -torch.inf)
        for k in size.nonzero().flatten().tolist():
            a = pseudo_rows / (pseudo_rows + size[k])
            root = torch.linalg.cholesky((1 - a) * spreads[k] + a * within + ridge * eye)
            half = torch.linalg.solve_triangular(root, (p - means[k]).mT, upper=False)
            score[:, k] = (size[k] / n).log() - 0.5 * half.square().sum(0) - torch.diagonal(root).log().sum()
        label = score.argmax(1)
    return label


def clusters(
    p: Tensor, components: int, generator: Generator, rounds: Rounds, pseudo_rows: float, ridge: float
) -> list[Tensor]:
    """Which rows each cluster holds, none of them empty: k-means, then hard EM, each so many ``rounds``."""
    if components <= 1 or len(p) <= 1:
        return [torch.arange(len(p))]
    label, _ = k_means(p, min(components, len(p)), generator, rounds[0])
    label = hard_em(p, label, components, rounds[1], pseudo_rows, ridge)
    return [(label == k).nonzero().squeeze(1) for k in label.unique().tolist()]


def tree(
    x: Tensor, p: Tensor, parents: int, children: int, shrinkage: float, ridge: float, generator: Generator
) -> Member:
    """A mixture of about ``children`` Gaussians for rows x (n, D) with features p (n, q).

    ``shrinkage`` is ν_k, in rows; ν_p is half of it.
    """
    n, d = x.shape
    pull = 4.0 * p.shape[1]
    found, withins, sizes = [], [], []
    for parent, index in enumerate(clusters(p, parents, generator, PARENTS, pull, ridge / 2)):
        count = max(1, round(children * len(index) / n))
        within = x.new_zeros(d, d)
        for own in clusters(p[index], count, generator, CHILDREN, 1.5 * pull, ridge / 2):
            mean, spread = _moments(x[index[own]])
            within += len(own) / len(index) * spread
            found.append((len(own), mean, spread, parent))
        withins.append(within)
        sizes.append(len(index))
    target = _shrunk(withins, sizes, shrinkage / 2)
    eye = torch.eye(d, dtype=x.dtype)
    for size, _, spread, parent in found:
        b = shrinkage / (shrinkage + size)
        spread.mul_(1 - b).add_(target[parent], alpha=b).add_(eye, alpha=ridge)
    weights, centres, spreads, _ = zip(*found, strict=True)
    log_weights = x.new_tensor(weights).log() - torch.tensor(float(n)).log()
    return Member(log_weights, torch.stack(centres), torch.arange(len(centres)), torch.stack(spreads))


def windows(
    x: Tensor, p: Tensor, parents: int, count: int, shrinkage: float, ridge: float, generator: Generator
) -> Member:
    """About ``count`` kernels for rows x (n, D) with features p (n, q), those of each of the ``parents`` of one shape.

    ``shrinkage`` is ν_k of the tree; ν_p is half of it.
    """
    n, d = x.shape
    weights, centres, group, withins, sizes = [], [], [], [], []
    for parent, index in enumerate(clusters(p, parents, generator, PARENTS, 4.0 * p.shape[1], ridge / 2)):
        asked = min(len(index), max(1, round(count * len(index) / n)))
        label = k_means(p[index], asked, generator, 8)[0] if asked > 1 else index.new_zeros(len(index))
        _, label, size = label.unique(return_inverse=True, return_counts=True)
        rows = x[index]
        own = x.new_zeros(len(size), d).index_add_(0, label, rows) / size.unsqueeze(1)
        rest = rows - own[label]
        # as many degrees of freedom as rows without centres, but never too few
        withins.append(rest.mT @ rest / max(len(index) - len(size), len(index) / 4))
        sizes.append(len(index))
        weights.append(size)
        centres.append(own)
        group.append(torch.full((len(size),), parent))
    covariances = torch.stack(_shrunk(withins, sizes, shrinkage / 2)) + ridge * torch.eye(d, dtype=x.dtype)
    log_weights = (torch.cat(weights).to(x) / n).log()
    return Member(log_weights, torch.cat(centres), torch.cat(group), covariances)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    off = x - mean
    return mean, off.mT @ off / len(x)


def _shrunk(withins: list[Tensor], sizes: list[int], pseudo_rows: float) -> list[Tensor]:
    """T_p = (1 − a) W_p + a G."""
    pooled = torch.zeros_like(withins[0])
    for within, size in zip(withins, sizes, strict=True):
        pooled += size / sum(sizes) * within
    pulls = [pseudo_rows / (pseudo_rows + size) for size in sizes]
    return [(1 - a) * within + a * pooled for a, within in zip(pulls, withins, strict=True)]
