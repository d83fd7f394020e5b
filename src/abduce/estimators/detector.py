"""What tells odd rows and no more, as an estimator: one Gaussian is its density, which draws blanks and explains cells."""

from __future__ import annotations

import torch

from abduce.data.seen import Seen
from abduce.estimators.arguments import Arguments, preset
from abduce.estimators.energies import DensityEstimator
from abduce.estimators.estimator import Rows, RunOptions
from abduce.fit.oddness import fit_oddness
from abduce.models.pool import Pool

JUDGED = 300  # rows whose log p is taken at the fit: nothing here goes by it


@preset
class Detector(Arguments, DensityEstimator[Pool]):
    """Odd rows by :class:`~abduce.models.oddness.Oddness`; `OutlierDetector` without a model holds one."""

    supports = ("mixed",)

    def _fit(self, rows: Rows, run: RunOptions) -> tuple[Pool, Seen]:
        if len(rows.x) < 2:
            raise ValueError(f"X must have at least 2 rows, got 1 sample of {type(self).__name__}")
        odd = fit_oddness(rows.schema, rows.x.numpy(), rows.mask.numpy(), rows.seed)
        order = torch.randperm(len(rows.x), generator=torch.Generator().manual_seed(rows.seed))
        some = order[:JUDGED]
        return Pool(rows.schema, [odd.gaussian], odd=odd), Seen(rows.x[some], rows.mask[some])
