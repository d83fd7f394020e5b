"""What fits of Gaussians share: the loop of expectation-maximisation, k-means++, principal factors, regressions on factors.

Sources: Dempster, Laird & Rubin 1977 (EM); Rubin & Thayer 1982 (EM for factor analysis); Arthur & Vassilvitskii 2007
(k-means++).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

T = TypeVar("T")
CHECK = 2  # steps of EM after which is asked what a law misses
_thread = threading.local()


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads to fit in; when the block is left by an error, Ctrl-C say, they stop where they next :func:`heed` it."""
    stop = threading.Event()
    with ThreadPoolExecutor(count, initializer=setattr, initargs=(_thread, "stop", stop)) as threads:
        try:
            yield threads
        except BaseException:
            stop.set()
            raise


def awaited(job: Future[T]) -> T:
    """The result of a job, once there is one.

    Ctrl-C ends the wait even where the system gave the signal to another thread, which wakes no thread that waits for long.
    """
    while not wait([job], timeout=0.2).done:
        pass
    return job.result()


def heed() -> None:
    """Raise KeyboardInterrupt where the fit that this thread works for was stopped."""
    if (stop := getattr(_thread, "stop", None)) is not None and stop.is_set():
        raise KeyboardInterrupt


def climb(
    law: T,
    step: Callable[[T], tuple[T, float]],
    iterations: int,
    tolerance: float,
    miss: Callable[[T], float] | None = None,
) -> T:
    """Take steps of EM until one started less than ``tolerance`` above the one before; ``-inf`` takes all ``iterations``.

    ``step`` gives the next law, and the mean log p of the one that it started from.  ``miss`` says by how much a law misses
    what was hidden from it: the climb ends where that has risen, and gives the law of before.

    >>> climb(1.0, lambda x: (0.5 * x, -x), 100, 0.1)
    0.03125
    """
    before = -float("inf")
    best, least = law, float("inf")
    for i in range(iterations):
        heed()
        law, value = step(law)
        if miss is not None and i % CHECK == CHECK - 1:
            missed = miss(law)
            if missed > least:
                return best
            best, least = law, missed
        if value - before < tolerance:
            break
        before = value
    return law


def varying(x: Tensor, observed: Tensor | None) -> Tensor:
    """Which cells of rows (n, D) differ among the observed ones, bool (D,); all of them where none does.

    Constant and empty columns tell nothing of the others, so fits are of the rest: else steps of EM, seeds and shares of noise
    would depend on them.
    """
    seen = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    low, high = (x.masked_fill(~seen, end) for end in (torch.inf, -torch.inf))
    out = low.amin(0) < high.amax(0)
    return out if bool(out.any()) else torch.ones_like(out)


def alone(x: Tensor, observed: Tensor | None, floor: float) -> tuple[Tensor, Tensor]:
    """Means and variances (D,) of cells that do not vary, by themselves: their value with ``floor``, and N(0, 1) for none."""
    seen = torch.ones_like(x) if observed is None else observed.to(x)
    count = seen.sum(0)
    mean = (x.masked_fill(seen == 0, 0.0)).sum(0) / count.clamp_min(1)
    return mean, torch.where(count > 0, floor, 1.0).to(x)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: batches of small factorisations gain nothing from more, and on a busy machine lose tenfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def k_means(x: Tensor, components: int, generator: Generator, rounds: int = 25) -> tuple[Tensor, Tensor]:
    """Labels (n,) and centres (K, D) of Lloyd's algorithm from a k-means++ seeding of rows (n, D)."""
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    nearest = torch.full((len(x),), float("inf"), dtype=x.dtype)
    for _ in range(components - 1):
        heed()
        nearest = torch.minimum(nearest, (x - centres[-1]).square().sum(1))
        chosen = torch.multinomial(nearest + 1e-12, 1, generator=generator)
        centres = torch.cat([centres, x[chosen]])
    label = torch.full((len(x),), -1)
    for _ in range(rounds):
        heed()
        before, label = label, torch.cdist(x, centres).argmin(1)
        if torch.equal(before, label):  # nothing is left to move
            break
        member = torch.nn.functional.one_hot(label, components).to(x)
        size = member.sum(0)
        moved = member.mT @ x / size.clamp_min(1).unsqueeze(1)
        centres = torch.where((size > 0).unsqueeze(1), moved, centres)
    return label, centres


MANY = 1000  # cells beyond which all eigenvectors take too long


class Scatter(NamedTuple):
    """Covariances Σ_i w_i u_i u_iᵀ + diag(ψ), not written out: vectors u (r, D), weights w (K, r), extra variances ψ (K, D).

    >>> Scatter(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.ones(1, 2)).dense()
    tensor([[[ 4.,  6.],
             [ 6., 13.]]])
    """

    vectors: Tensor
    weights: Tensor
    extra: Tensor

    def __matmul__(self, basis: Tensor) -> Tensor:
        met = self.weights.unsqueeze(-1) * (self.vectors @ basis)
        return self.vectors.mT @ met + self.extra.unsqueeze(-1) * basis

    @property
    def variances(self) -> Tensor:
        """The diagonals, (K, D)."""
        return self.weights @ self.vectors.square() + self.extra

    def dense(self) -> Tensor:
        """Written out, (K, D, D)."""
        met = self.weights.unsqueeze(-1) * self.vectors
        return self.vectors.mT @ met + torch.diag_embed(self.extra)


def principal_factors(
    covariances: Tensor | Scatter, factors: int, floor: float, least: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Principal factors of K covariances of D cells: loadings (K, D, min(factors, D)) and noise variances (K, D).

    Noise is at least ``floor``² and the share ``least`` of a cell's variance.  Of very many cells only the leading
    eigenvectors are found, by subspace iteration (Halko, Martinsson & Tropp 2011).
    """
    if isinstance(covariances, Scatter):
        own = covariances.variances
    else:
        own = torch.diagonal(covariances, dim1=1, dim2=2)
    d = own.shape[1]
    if d > MANY and factors + 10 < d:
        basis = torch.randn(d, factors + 10, generator=torch.Generator().manual_seed(0), dtype=own.dtype)
        for _ in range(5):
            basis = torch.linalg.qr(covariances @ basis).Q
        values, vectors = torch.linalg.eigh(basis.mT @ (covariances @ basis))
        vectors = basis @ vectors
    else:
        covariances = covariances.dense() if isinstance(covariances, Scatter) else covariances
        values, vectors = torch.linalg.eigh(covariances)
    values, vectors = values.flip(1)[:, :factors], vectors.flip(2)[..., :factors]
    rest = 0.5 * values[:, -1:]
    if factors < d:
        rest = (own.sum(1, keepdim=True) - values.sum(1, keepdim=True)) / (d - factors)
    loadings = vectors * (values - rest).clamp_min(1e-4).sqrt().unsqueeze(1)
    noise = torch.maximum(own - loadings.square().sum(2), least * own)
    return loadings, noise.clamp_min(floor**2)


def regressed(design: Tensor, target: Tensor, power: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Regress cells on factors: coefficients (..., D, q + 1), the last the offset, and sums of squares left, (..., D).

    ``design`` (..., D, q + 1, q + 1) is Σ E[(z, 1) (z, 1)ᵀ] over the rows where a cell was seen, ``target`` (..., D, q + 1)
    Σ x E[(z, 1)], ``power`` (..., D) Σ x²; ``ridge`` (q + 1, q + 1) is added to the design to solve.
    """
    solved = torch.linalg.solve(design + ridge, target.unsqueeze(-1)).squeeze(-1)
    explained = (solved.unsqueeze(-2) @ design @ solved.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return solved, power - 2 * (solved * target).sum(-1) + explained
