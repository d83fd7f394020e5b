"""Strategy 1, build the machine so that the volume of low energy is constant: PCA, ICA, k-means, mixtures.

scikit-learn fits most of them; what is added is the energy, the probability it stands for, and every question.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from abduce.checks import check_count, check_number
from abduce.data.seen import Seen
from abduce.estimators.arguments import Arguments, PassingArguments, check_components, preset
from abduce.estimators.estimator import RunOptions
from abduce.estimators.fitted import FittedEnergy
from abduce.fit import classical as fitters
from abduce.fit import passes
from abduce.gaussians.em import one_thread, varying
from abduce.gaussians.factor_fit import factor_mixture
from abduce.inference.energy import Energy
from abduce.models.mixture import FactorAnalyzersEnergy


@preset
class PCA(PassingArguments, FittedEnergy):
    """Probabilistic principal components: p(y) = N(μ, W Wᵀ + σ² I), or the distance to the principal subspace as energy.

    Everything is exact, fills and log p of rows with blanks included; blanks in the training rows are met by EM.

    Other arguments as in :class:`~abduce.estimators.arguments.PassingArguments`.

    Parameters
    ----------
    components : int or "auto"
        Directions kept; "auto": enough for 95 % of the variance.
    form : "probabilistic" or "reconstruction"
        E = ½ (y−μ)ᵀC⁻¹(y−μ), or ‖y−μ−UUᵀ(y−μ)‖², which is infinite in volume and takes a base measure.

    References
    ----------
    Tipping & Bishop 1999, Probabilistic principal component analysis.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import PCA
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0, 3.0] + 0.1
    >>> X = X + 0.1 * np.random.default_rng(1).normal(size=X.shape)
    >>> model = PCA(components=1).fit(X)
    >>> bool(abs(model.fill([[np.nan, 2.1, 3.1]])[0, 0] - 1.1) < 0.1)
    True
    """

    passes = True
    progress = ("mean log p", 1.0, " nats")
    components: int | str = "auto"
    form: str = "probabilistic"

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        if self.form not in ("probabilistic", "reconstruction"):
            raise ValueError(f"form must be 'probabilistic' or 'reconstruction', got {self.form!r}")
        q = self.components
        if q == "auto":
            q = fitters.enough_components(x)
        else:
            check_components("components", q, len(x))
        if self.form == "reconstruction":  # its β is fitted to the rows held out
            x, observed = x[rows], observed[rows]
        fitted = fitters.principal_components(x, observed, int(q), self.form)  # pyright: ignore[reportArgumentType]
        if run.passes is None:
            return fitted
        return passes.principal_components(fitted, run.passes, Seen(x, observed))


@preset
class ICA(Arguments, FittedEnergy):
    """Independent components: E(y) = Σ_i log cosh(w_iᵀ(y−μ)), as many as columns; log Z = D log π − log|det W|.

    FastICA starts, exact maximum likelihood ends.  Sources with heavy tails are told apart; of Gaussian ones no two are.
    Arguments as in :class:`~abduce.estimators.arguments.Arguments`.

    References
    ----------
    Bell & Sejnowski 1995; Hyvärinen 1999 (FastICA).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import ICA
    >>> X = np.random.default_rng(0).laplace(size=(500, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    >>> ICA(random_state=0).fit(X).transform(X).shape
    (500, 2)
    """

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        return fitters.independent_components(x, seed)


@preset
class KMeans(PassingArguments, FittedEnergy):
    """k-means: E(y) = min_k ‖y − w_k‖², a probability with as many round wells.

    The inverse temperature is fitted to held-out rows; draws and conditionals are exact, by rejection.

    Other arguments as in :class:`~abduce.estimators.arguments.PassingArguments`.

    Parameters
    ----------
    components : int
        Centres.

    References
    ----------
    Lloyd 1957, MacQueen 1967.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import KMeans
    >>> X = np.random.default_rng(0).normal(size=(100, 2)) + 6 * np.eye(2)[np.arange(100) % 2]
    >>> model = KMeans(components=2, random_state=0).fit(X)
    >>> bool(model.score(X) > model.score(X + 5))
    True
    """

    passes = True
    progress = ("mean energy", -1.0, "")
    components: int = 8

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        fitted = fitters.k_means(x[rows], check_components("components", self.components, len(rows)), seed)
        return fitted if run.passes is None else passes.k_means(fitted, run.passes)


@preset
class GaussianMixture(PassingArguments, FittedEnergy):
    """A mixture of Gaussians: E(y) = −log Σ_k π_k N(y; μ_k, C_k), everything exact; blanks are met by EM.

    Other arguments as in :class:`~abduce.estimators.arguments.PassingArguments`.

    Parameters
    ----------
    components : int
    covariance_type : "full", "tied", "diag" or "spherical"
    reg_covar : float
        Added to the diagonal of each covariance, in units of standardised columns.

    References
    ----------
    Dempster, Laird & Rubin 1977.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import GaussianMixture
    >>> X = np.random.default_rng(0).normal(size=(100, 2)) + 6 * np.eye(2)[np.arange(100) % 2]
    >>> GaussianMixture(components=2, random_state=0).fit(X).transform(X).round().sum(0)
    array([50., 50.])
    """

    passes = True
    progress = ("mean log p", 1.0, " nats")
    components: int = 5
    covariance_type: str = "full"
    reg_covar: float = 1e-3

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        k = check_components("components", self.components, len(x))
        kind: Any = self.covariance_type
        fitted = fitters.gaussian_mixture(x, observed, k, kind, self.reg_covar, seed, whole=x)
        if run.passes is None:
            return fitted
        return passes.gaussian_mixture(fitted, run.passes, Seen(x, observed), kind, self.reg_covar)


@preset
class MixtureOfFactorAnalyzers(PassingArguments, FittedEnergy):
    """A mixture of Gaussians of a few factors each: C_k = W_k W_kᵀ + Ψ_k; everything exact, blanks are met by EM.

    For tables with more columns than a covariance for each cluster can be told from; with one component it is factor
    analysis.  Components lean on one another by ``pseudo_rows`` rows of the covariance within clusters.

    Other arguments as in :class:`~abduce.estimators.arguments.PassingArguments`.

    Parameters
    ----------
    components : int
        At most one for two rows.
    factors : int or "auto"
        Of each component; "auto": 20, or one less than there are columns that vary.
    pseudo_rows : float
        How many rows the pooled covariance counts as in each component.

    References
    ----------
    Ghahramani & Hinton 1996, The EM algorithm for mixtures of factor analyzers; Liu, Rubin & Wu 1998 (PX-EM).

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import MixtureOfFactorAnalyzers
    >>> rng = np.random.default_rng(0)
    >>> t = rng.normal(size=(300, 1))
    >>> X = np.concatenate([t, np.abs(t)], 1) + 0.05 * rng.normal(size=(300, 2))  # a V
    >>> X[::4, 1] = np.nan
    >>> model = MixtureOfFactorAnalyzers(components=2, pseudo_rows=2, random_state=0).fit(X)
    >>> bool(abs(model.fill([[-1.0, np.nan]])[0, 1] - 1.0) < 0.15)
    True
    """

    passes = True
    progress = ("mean log p", 1.0, " nats")
    components: int = 5
    factors: int | str = "auto"
    pseudo_rows: float = 20.0

    def _learn(
        self, x: Tensor, observed: Tensor, rows: Tensor, held: Tensor, seed: int, run: RunOptions
    ) -> Energy:
        k = check_components("components", self.components, len(x) // 2)
        q = self.factors
        if q == "auto":
            q = max(1, min(20, int(varying(x, observed).sum()) - 1))
        check_count("factors", q)
        check_number("pseudo_rows", self.pseudo_rows, 0)
        with one_thread():
            law = factor_mixture(x, observed, k, int(q), float(self.pseudo_rows), seed=seed)
        fitted = FactorAnalyzersEnergy.of(law)
        if run.passes is None:
            return fitted
        return passes.factor_analyzers(fitted, run.passes, Seen(x, observed), float(self.pseudo_rows))
