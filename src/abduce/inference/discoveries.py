"""Which of many hypotheses to reject, so that a stated share of the rejections at most is false.

Sort p-values p_(1) ≤ ... ≤ p_(m); reject those up to the last k with

    p_(k) ≤ α k / m.

The expected share of false rejections among all is then α at most, for p-values that are independent or positively dependent,
as conformal ones of outliers are.

Sources: Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001 (positive dependence); Bates et al. 2023 (conformal p-values).
"""

from __future__ import annotations

import numpy as np


def discoveries(p: np.ndarray, alpha: float) -> np.ndarray:
    """Which p-values (m,) are rejected at a false discovery rate ``alpha``, bool (m,).

    >>> discoveries(np.array([0.9, 0.001, 0.03, 0.02]), 0.05)
    array([False,  True,  True,  True])
    """
    m = len(p)
    if not m:
        return np.zeros(0, bool)
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= alpha * np.arange(1, m + 1) / m)
    return p <= (ordered[passed[-1]] if len(passed) else -1.0)
