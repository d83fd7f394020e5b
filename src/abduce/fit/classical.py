"""Fit the linear and mixture energies, each by its own exact or classical method.

    principal components     eigenvectors of the covariance; with blanks, EM for probabilistic PCA over the observed cells
    independent components   FastICA to start, then maximum likelihood of W and μ: minimise mean E(y) + log Z
    Gaussian mixture         EM; with blanks, EM whose E-step integrates them out exactly
    k-means                  Lloyd's algorithm, the best of ten starts

Tables are tensors x (n, D), float64, with a mask ``observed`` of the same shape or None; blank cells may hold anything.

Sources: Tipping & Bishop 1999 (PPCA by EM); Hyvärinen 1999 (FastICA); Cardoso 1997 (ICA is maximum likelihood); Ghahramani &
Jordan 1994 (mixtures with missing cells); Arthur & Vassilvitskii 2007 (k-means++).
"""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import torch
from sklearn import cluster, decomposition, mixture
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from abduce.checks import check_choice
from abduce.data.seen import Seen
from abduce.gaussians import gaussian_fit, linear
from abduce.gaussians.em import alone, one_thread, varying
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.gaussians.sums import CovarianceType, full
from abduce.models.gaussian import IndependentComponentsEnergy, PrincipalComponentsEnergy, PrincipalEnergy
from abduce.models.mixture import GaussianMixtureEnergy, KMeansEnergy

COMPLETING = 20_000  # rows that the Gaussian is fitted to by which others are completed
LEAST_NOISE = 1e-4  # smallest noise standard deviation of an EM Gaussian, in units of the cells
ENOUGH = 0.95  # of the variance


def principal_components(
    x: Tensor, observed: Tensor | None, components: int, energy: PrincipalEnergy = "probabilistic"
) -> PrincipalComponentsEnergy:
    """Fit principal components: directions, variances λ along them, and σ² the mean of the variances left out.

    λ are those of the sample covariance (n − 1).  With all D components nothing is left out, and σ² is the smallest λ,
    which leaves the covariance as it is.  With blanks the probabilistic model is fitted by EM over observed cells.  Constant
    and empty columns have no part in σ² or in the directions.
    """
    n, d = x.shape
    if components > d:
        raise ValueError(f"components must be at most the number of columns, {d}, got {components}")
    if not bool((some := varying(x, observed)).all()):
        inner = None if observed is None else observed[:, some]
        known = principal_components(x[:, some], inner, min(components, int(some.sum())), energy)
        mean, directions = alone(x, observed, 0.0)[0], x.new_zeros(d, known.directions.shape[1])
        mean[some], directions[some] = known.mean, known.directions
        return PrincipalComponentsEnergy.of(mean, directions, known.variances, known.noise, energy)
    if observed is not None and not bool(observed.all()):
        clean, generator = torch.where(observed, x, 0.0), torch.Generator().manual_seed(0)
        how = {"floor": LEAST_NOISE, "shared_noise": True, "iterations": 400}
        with one_thread():
            path = linear.fit(clean, observed, components, 1, generator, **how)
        directions, scales, _ = torch.linalg.svd(path.W, full_matrices=False)
        noise = path.noise[0]
        return PrincipalComponentsEnergy.of(path.b, directions, scales.square() + noise, noise, energy)
    solver = "full" if d <= 500 else "auto"
    found = decomposition.PCA(components, svd_solver=solver, random_state=0).fit(x.numpy())
    variances = _tensor(found.explained_variance_)
    if components < d:
        noise = (x.var(0).sum() - variances.sum()) / (d - components)
        scale = x.var(0).sum() / d
    else:
        noise, scale = variances[-1], variances.mean()
    if energy == "probabilistic" and not noise > 1e-12 * scale:
        raise ValueError(
            f"covariance is singular: nothing varies across the {components} components of {n} rows"
            f"{_constant(x)}; use fewer components, or drop constant and repeated columns"
        )
    directions = _tensor(found.components_).mT
    return PrincipalComponentsEnergy.of(_tensor(found.mean_), directions, variances, noise, energy)


def independent_components(x: Tensor, seed: int = 0) -> IndependentComponentsEnergy:
    """Fit independent components to complete rows: W and μ that minimise mean E(y) + log Z, from where FastICA ends.

    The rows are whitened first, so that the problem is as well conditioned as it can be.
    """
    n, d = x.shape
    mean = x.mean(0)
    covariance = (x - mean).mT @ (x - mean) / n
    variances, vectors = torch.linalg.eigh(covariance)
    if n <= d or not variances[0] > 1e-12 * variances[-1]:
        raise ValueError(
            f"covariance is singular: {n} rows of {d} columns vary in "
            f"{int((variances > 1e-12 * variances[-1]).sum())} directions{_constant(x)}; independent components need "
            "more rows than columns, none of them constant or a combination of others"
        )
    whitening = (vectors / variances.sqrt()).mT
    white = (x - mean) @ whitening.mT
    with warnings.catch_warnings():  # only a start
        warnings.simplefilter("ignore", ConvergenceWarning)
        fast = decomposition.FastICA(whiten=False, random_state=seed % 2**32)  # pyright: ignore[reportArgumentType]
        start = _tensor(fast.fit(white.numpy()).components_)
    model = IndependentComponentsEnergy.of(torch.zeros_like(mean), start)
    exact = {"max_iter": 500, "tolerance_grad": 1e-9, "tolerance_change": 1e-13}
    optimiser = torch.optim.LBFGS(model.parameters(), **exact, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        log_z = model.log_z()
        assert log_z is not None
        value = model.energy(white).mean() + log_z
        value.backward()
        return value

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        location = mean + torch.linalg.solve(whitening, model.mean)
        return IndependentComponentsEnergy.of(location, model.unmixing @ whitening)


def gaussian_mixture(
    x: Tensor,
    observed: Tensor | None,
    components: int,
    covariance_type: CovarianceType = "full",
    reg_covar: float = 1e-6,
    seed: int = 0,
    whole: Tensor | None = None,
) -> GaussianMixtureEnergy:
    """Fit a Gaussian mixture by EM; ``reg_covar`` is added to the diagonal of each covariance.

    With blanks it starts from rows completed by draws of one Gaussian (``whole``, where they are there already), then each
    E-step integrates the blanks out.
    """
    check_choice("covariance_type", covariance_type, get_args(CovarianceType))
    if reg_covar < 0:
        raise ValueError(f"reg_covar must not be negative, got {reg_covar}")
    whole = completed(x, observed, seed) if whole is None else whole
    if reg_covar and not bool((some := varying(x, observed)).all()):
        inner = None if observed is None else observed[:, some]
        fitted = gaussian_mixture(
            x[:, some], inner, components, covariance_type, reg_covar, seed, whole[:, some]
        )
        return among(fitted, some, *alone(x, observed, reg_covar))
    try:
        found = mixture.GaussianMixture(
            components, covariance_type=covariance_type, reg_covar=reg_covar, random_state=seed % 2**32
        ).fit(whole.numpy())
        means = _tensor(found.means_)
        covariances = full(_tensor(found.covariances_), covariance_type, *means.shape)
        law = GaussianMixtureLaw(_tensor(found.weights_).log(), means, covariances)
        if observed is not None and not bool(observed.all()):
            law = gaussian_fit.gaussian_mixture(law, Seen(x, observed), covariance_type, reg_covar)
    except ValueError as error:
        raise ValueError(
            f"covariance of a component is singular with components={components} and reg_covar={reg_covar}"
            f"{_constant(whole)}; use fewer components, a larger reg_covar, or drop constant columns"
        ) from error
    return GaussianMixtureEnergy.of(law.log_weights, law.means, law.covariances)


def among(
    fitted: GaussianMixtureEnergy, some: Tensor, mean: Tensor, variance: Tensor
) -> GaussianMixtureEnergy:
    """A mixture of the cells marked in ``some`` (D,), among others that are independent and the same in every component."""
    law = fitted.distribution()
    k, place = len(law.means), some.nonzero().squeeze(1)
    means, covariances = mean.repeat(k, 1), torch.diag(variance).repeat(k, 1, 1)
    means[:, some] = law.means
    covariances[:, place.unsqueeze(1), place] = law.covariances
    return GaussianMixtureEnergy.of(law.log_weights, means, covariances)


def k_means(x: Tensor, components: int, seed: int = 0) -> KMeansEnergy:
    """Fit k-means to complete rows: the lowest mean energy of ten runs of Lloyd's algorithm from k-means++ seedings."""
    found = cluster.KMeans(components, n_init=10, random_state=seed % 2**32).fit(x.numpy())  # pyright: ignore[reportArgumentType]
    return KMeansEnergy.of(_tensor(found.cluster_centers_))


def enough_components(x: Tensor) -> int:
    """How many principal components hold most of the variance of rows (n, D), leaving at least one of D out."""
    variances = torch.linalg.svdvals(x - x.mean(0)).square()
    total = variances.cumsum(0) / variances.sum()
    free = int(varying(x, None).sum())
    return int(min(int((total < ENOUGH).sum()) + 1, max(1, free - 1), max(1, len(x) - 1)))


def dictionary(x: Tensor, code: int, sparsity: float, seed: int = 0) -> Tensor:
    """Learn a dictionary of unit columns (D, code) for min_z ‖y − Wz‖² + ``sparsity`` ‖z‖₁, online."""
    found = decomposition.MiniBatchDictionaryLearning(
        code,
        alpha=sparsity / 2,  # scikit-learn halves the square  # pyright: ignore[reportArgumentType]
        max_iter=50,
        batch_size=min(256, len(x)),
        fit_algorithm="cd",
        random_state=seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        columns = _tensor(found.fit(x.numpy()).components_).mT
    return columns / columns.norm(dim=0).clamp_min(1e-12)


def completed(x: Tensor, observed: Tensor | None, seed: int = 0) -> Tensor:
    """Complete each row by one draw from a Gaussian fitted by EM to the observed cells; observed cells stay as they are.

    The Gaussian is factor analysis with at most 20 factors, fewer where rows are few, and where these come to all that a
    covariance can be, that covariance, which is quicker; of many rows it is fitted to COMPLETING.
    """
    if observed is None or bool(observed.all()):
        return x
    if not bool((some := varying(x, observed)).all()):
        out = alone(x, observed, 0.0)[0].expand_as(x).clone()
        out[:, some] = completed(x[:, some], observed[:, some], seed)
        return torch.where(observed, x, out)
    n, d = x.shape
    generator = torch.Generator().manual_seed(seed)
    clean = torch.where(observed, x, 0.0)
    some = _enough(x, observed, generator)
    y, seen, factors = clean[some], observed[some], max(1, min(d - 1, 20, n // 10))
    if factors == d - 1 and n >= 10 * factors:
        count = seen.sum(0)
        mean = y.sum(0) / count.clamp_min(1)
        spread = ((y - mean) * seen).square().sum(0) / count.clamp_min(1)
        spread = torch.where(count > 0, spread.clamp_min(LEAST_NOISE**2), 1.0)
        start = GaussianMixtureLaw(y.new_zeros(1), mean[None], spread.diag()[None])
        law = gaussian_fit.gaussian_mixture(start, Seen(y, seen), "full", LEAST_NOISE**2, iterations=50)
    else:
        with one_thread():
            law = linear.fit(y, seen, factors, 1, generator, floor=LEAST_NOISE).dense()
    return law.draws(Seen(clean, observed), 1, generator)[0]


def _enough(x: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor | slice:
    """Rows to fit to, :data:`COMPLETING` or as many more as it takes to see each cell a hundred times, and vary."""
    if len(x) <= COMPLETING:
        return slice(None)
    order, size = torch.randperm(len(x), generator=generator), COMPLETING
    wanted = observed.sum(0).clamp_max(100)
    while size < len(x):
        some = order[:size]
        if bool((observed[some].sum(0) >= wanted).all()) and bool(varying(x[some], observed[some]).all()):
            return some
        size *= 2
    return slice(None)


def _constant(x: Tensor) -> str:
    """A clause that names constant columns, if any."""
    columns = (x.amax(0) == x.amin(0)).nonzero().flatten().tolist()
    return f" (columns {columns} are constant)" if columns else ""


def _tensor(values: object) -> Tensor:
    """A copy of what scikit-learn fitted."""
    return torch.from_numpy(np.array(values))
