"""What tells odd rows and no more, as an estimator: one Gaussian is its density, which draws blanks and explains cells."""

from __future__ import annotations

from typing import Any

import torch

from abduce.data.foreign import native
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

    def checked(self, X: Any) -> Any:
        """X as an array or frame of what the training rows were; an error where it cannot be read as such."""
        X = native(X)
        self._check_columns(X, reset=False)
        self.schema_.read(X)
        return self.schema_.checked(X)
