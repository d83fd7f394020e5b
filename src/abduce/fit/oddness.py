"""Fit what tells odd rows: folds, metrics and bags of training rows, and a Gaussian that draws their blanks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.gaussians.factor_fit import factor_mixture
from abduce.gaussians.parzen_law import row_keys
from abduce.models.energy_model import EnergyModel
from abduce.models.mixture import FactorAnalyzersEnergy
from abduce.models.oddness import LEAST_SPAN, Oddness
from abduce.models.transformed import Transformed

FOLDS = 5
BAGS = 6  # a fold
SIZE = 256  # rows of a large bag, at most; half of the fold's other rows at most
MOST = 10_000  # training rows
GAUSSIAN_ROWS = 2000  # rows that the Gaussian of blanks is fitted to
FACTORS = 20
WIDE = 1500  # features beyond which rows are standardised, not whitened


def fit_oddness(schema: Schema, values: np.ndarray, observed: np.ndarray, seed: int = 0) -> Oddness:
    """Fit to rows in model space (n, D); of more than `MOST` to a random sample."""
    rng = np.random.default_rng([seed, 1])
    if len(values) > MOST:
        some = np.sort(rng.permutation(len(values))[:MOST])
        values, observed = values[some], observed[some]
    coding = Coding(schema, values, observed, scores=False)
    x, mask = (torch.from_numpy(a) for a in coding.code(values, observed))
    n, f = x.shape
    order = torch.from_numpy(rng.permutation(n))
    few = order[:GAUSSIAN_ROWS]
    law = factor_mixture(x[few], mask[few], 1, max(1, min(FACTORS, f - 1)), iterations=20, seed=seed)
    gaussian = Transformed.of(EnergyModel(FactorAnalyzersEnergy.of(law).double()), coding)

    folds = max(1, min(FOLDS, n))
    fold = torch.empty(n, dtype=torch.long)
    fold[order] = torch.arange(n) % folds
    others = [(fold != k).nonzero().squeeze(1) if folds > 1 else order for k in range(folds)]
    size = SIZE
    while size > 1 and size > min(len(rows) for rows in others) // 2:
        size //= 2
    keys, which = torch.unique(row_keys(x, mask), return_inverse=True)
    model = Oddness(gaussian, f, folds, BAGS, size, n, len(keys), seed)
    model.keys.copy_(keys)
    model.judges.index_put_((which, fold), torch.ones(n, dtype=torch.float64), accumulate=True)
    model.judges /= model.judges.sum(1, keepdim=True)

    whole = model.completed(Seen(x, mask))[0]
    model.constant.copy_((whole.amax(0) - whole.amin(0)) <= 1e-9)
    for k, rows in enumerate(others):
        part = whole[rows]
        span = part.amax(0) - part.amin(0)
        model.span[k] = torch.where(span > LEAST_SPAN, span, 1.0)
        model.loc[k] = part.mean(0)
        model.root[k] = _whitening(part)
        bags = [rows[torch.from_numpy(rng.permutation(len(rows))[:size])] for _ in range(BAGS)]
        model.points[k] = whole[torch.cat(bags)]
    return model.calibrate(Seen(torch.from_numpy(values), torch.from_numpy(observed)))


def _whitening(x: Tensor) -> Tensor:
    """L with L Lᵀ = C⁻¹, C the rows' covariance shrunk toward one, by F / (n + F) and a half at most: (F, F)."""
    n, f = x.shape
    if f > WIDE:
        return torch.diag(1 / x.std(0, correction=0).clamp_min(1e-3))
    centred = x - x.mean(0)
    share = min(0.5, f / (n + f))
    covariance = (1 - share) * centred.mT @ centred / max(1, n) + share * torch.eye(f, dtype=x.dtype)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(covariance)))
