"""Pool what was estimated from each of several completed copies: Rubin's rules.

From copy l of m comes an estimate Q_l with its sampling variance U_l, as if the copy had been observed whole:

    Q̄ = mean Q_l,   W = mean U_l (within),   B = Σ (Q_l − Q̄)²/(m − 1) (between),   T = W + (1 + 1/m) B (total)
    r = (1 + 1/m) B / W            relative increase of variance by the blanks
    λ = (1 + 1/m) B / T            share of the variance that is due to the blanks
    ν = (m − 1)/λ²                 degrees of freedom, where the whole data have many
    γ = (r + 2/(ν + 3))/(r + 1)    fraction of missing information

and with ν₀ degrees of freedom of the whole data, 1/ν' = 1/ν + 1/ν_obs, ν_obs = (1 − λ) ν₀ (ν₀ + 1)/(ν₀ + 3).  Intervals are
Q̄ ± t √T, t the quantile of Student's law.  Vectors have outer products for squares, and the rest cell by cell.

Sources: Rubin 1987, Multiple Imputation for Nonresponse in Surveys, chapter 3; Barnard & Rubin 1999, Small-sample degrees of
freedom with multiple imputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from abduce.checks import check_count, check_number, check_share


@dataclass(frozen=True, eq=False)
class Pooled:
    """An estimate pooled over completed copies; for p estimates at once every field but the last two is an array ``(p,)``.

    Attributes
    ----------
    estimate : mean over copies.
    within, between, total : variances; ``(p, p)`` where covariance matrices were pooled.
    standard_error : √total.
    degrees_of_freedom : of Student's law behind the interval; infinite where copies agree and no n was given.
    low, high : the interval.
    missing_information : fraction of the information on the estimate that the blanks took, γ.
    variance_increase : relative increase of variance by the blanks, r.
    draws : copies pooled, m.
    level : probability of the interval.
    """

    estimate: Any
    within: Any
    between: Any
    total: Any
    standard_error: Any
    degrees_of_freedom: Any
    low: Any
    high: Any
    missing_information: Any
    variance_increase: Any
    draws: int
    level: float

    def to_frame(self, names: Sequence[Any] | None = None):
        """One row an estimate, as a pandas DataFrame; ``names`` label the rows."""
        import pandas as pd

        columns = (
            "estimate",
            "standard_error",
            "low",
            "high",
            "degrees_of_freedom",
            "missing_information",
            "variance_increase",
        )
        data = {name: np.atleast_1d(vars(self)[name]) for name in columns}
        size = len(data["estimate"])
        if names is not None and len(names) != size:
            raise ValueError(f"names must be one for each of {size} estimates, got {len(names)}")
        return pd.DataFrame(data, index=None if names is None else pd.Index(list(names)))

    def __repr__(self) -> str:
        head = f"{self.draws} draws pooled, intervals of {self.level:.0%}"
        return f"{head}\n{self.to_frame().to_string(float_format=lambda v: f'{v:.4g}')}"


def pool(
    estimates: Any, variances: Any, n: int | None = None, level: float = 0.95, *, df: float | None = None
) -> Pooled:
    """Pool estimates from completed copies by Rubin's rules.

    Parameters
    ----------
    estimates : array ``(m,)`` of one estimate from each of m copies, or ``(m, p)`` of p
    variances : array of the same shape, squared standard errors; or ``(m, p, p)``, covariance matrices
    n : int or None
        Rows of the data.  An analysis of whole data then has n − p degrees of freedom, p the number of estimates, and
        intervals are those of Barnard & Rubin (1999).  None: as if there were infinitely many (Rubin 1987).
    level : float in (0, 1)
        Probability of the interval.
    df : float or None
        Degrees of freedom of the analysis of whole data, where they are not n − p; instead of n.

    Raises
    ------
    ValueError
        For less than two copies, shapes that do not fit, values that are not finite, negative variances, matrices that
        are no covariances.

    Examples
    --------
    >>> from abduce import pool
    >>> result = pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    >>> result.estimate, result.within, result.between, round(result.total, 4)
    (2.0, 0.5, 1.0, 1.8333)
    >>> round(result.degrees_of_freedom, 3), round(result.low, 2), round(result.high, 2)
    (3.781, -1.85, 5.85)
    """
    q, u = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    _check(q, u)
    check_share("level", level)
    m = len(q)
    full = _whole_df(n, df, q.shape[1] if q.ndim == 2 else 1)
    estimate, within = q.mean(0), u.mean(0)
    off = q - estimate
    off[:, np.ptp(q, axis=0) == 0] = 0.0  # the mean of equal numbers may differ from them in the last bit
    between = off.T @ off / (m - 1) if u.ndim == 3 else np.square(off).sum(0) / (m - 1)
    total = within + (1 + 1 / m) * between
    w, b, t = (np.diagonal(v) if u.ndim == 3 else v for v in (within, between, total))
    with np.errstate(divide="ignore", invalid="ignore"):
        extra = (1 + 1 / m) * b
        share = np.where(t > 0, extra / t, 0.0)
        increase = np.where(extra > 0, extra / w, 0.0)
        nu = (m - 1) / np.square(share)
        seen = np.inf if full is None else (1 - share) * full * (full + 1) / (full + 3)
        freedom = 1 / (1 / nu + 1 / np.asarray(seen))
        lost = share + (1 - share) * 2 / (nu + 3)  # (r + 2/(ν + 3))/(r + 1), at r = ∞ too
    error = np.sqrt(t)
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    half = np.where(error > 0, half, 0.0)
    values = (
        estimate,
        within,
        between,
        total,
        error,
        freedom,
        estimate - half,
        estimate + half,
        lost,
        increase,
    )
    plain = (float(v) if np.ndim(v) == 0 else np.asarray(v) for v in values)
    return Pooled(*plain, draws=m, level=float(level))


def _whole_df(n: int | None, df: float | None, p: int) -> float | None:
    if n is not None and df is not None:
        raise ValueError(f"give n or df, not both, got n={n!r} and df={df!r}")
    if df is not None:
        check_number("df", df, 0, above=True)
        return float(df) if np.isfinite(df) else None
    if n is None:
        return None
    check_count("n", n)
    if n <= p:
        raise ValueError(f"n must be an int above the number of estimates, {p}, got {n!r}")
    return float(n - p)


def _check(q: np.ndarray, u: np.ndarray) -> None:
    if q.ndim not in (1, 2) or q.size == 0:
        raise ValueError(f"estimates must have shape (m,) or (m, p), got {q.shape}")
    if len(q) < 2:
        raise ValueError(f"estimates must be from at least 2 completed copies, got {len(q)}")
    wanted = [q.shape, (*q.shape, q.shape[1])] if q.ndim == 2 else [q.shape]
    if u.shape not in wanted:
        raise ValueError(f"variances must have shape {' or '.join(map(str, wanted))}, got {u.shape}")
    for name, value in (("estimates", q), ("variances", u)):
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got {value[~np.isfinite(value)][0]}")
    variance = np.diagonal(u, axis1=1, axis2=2) if u.ndim == 3 else u
    if (variance < 0).any():
        raise ValueError(f"variances must not be negative, got {variance[variance < 0][0]:g}")
    if u.ndim == 3:
        size = np.abs(u).max((1, 2), keepdims=True)
        if (np.abs(u - np.swapaxes(u, 1, 2)) > 1e-8 * size).any():
            raise ValueError("variances of shape (m, p, p) must be symmetric matrices")
        least = np.linalg.eigvalsh(u)[:, 0]
        if (least < -1e-8 * size[:, 0, 0]).any():
            raise ValueError(
                f"variances of shape (m, p, p) must be covariance matrices, got one with the eigenvalue {least.min():g}"
            )
