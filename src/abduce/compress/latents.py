"""Latents on a lattice: priors and posteriors as the entropy coder draws from them and gives back to them.

Every law of latents here is a mixture of Gaussians whose axes are whitened by a triangular map,

    Σ_c r_c · law of z with  A_c (z − m_c) = scale · e,  e ~ N(0, I),  A_c triangular,

which covers N(0, I), diagonal posteriors, exact posteriors of linear maps (A is the transposed Cholesky
factor of the precision), and mixture priors (A is the inverse Cholesky factor of the covariance).  Given the
latents that come before it in A's order, each latent is a Gaussian in one dimension: cut into bins, it is
what the coder codes.

A mixture codes z at exactly −log of its *marginal* density, by bits-back on the component:

    draw    pop c ~ r_c, pop z ~ law c, push c with its probability given z          gains −log Σ_c r_c law_c(z)
    give    the inverse, step by step backwards                                      costs the same

The lattice ends at ±8, with a step of about half the posterior's width; prior and posterior share it, so the
step cancels. (Much finer would cost: the coder gives each point at least 2⁻²⁴, so with 2¹⁵ points one latent
in 512 would be drawn from nowhere.)  Where there are no bits to pop yet, latents are paid for, on steps as coarse as the
posterior is wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from abduce.compress.stack import BitStack, bins
from abduce.compress.symbols import normalized, rounded, table_symbols

REACH = 8  # the lattice ends at ±8
# step, in posterior widths, of a latent that is paid for: minimises its bits plus what it costs x
COARSE = math.sqrt(12.0)

Choose = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class LatentGrid(NamedTuple):
    """The lattice of k latents: points in one unit (k,), and steps, in points, of latents that are paid for (n or 1, k).

    >>> LatentGrid.of(np.array([[1.0, 0.1]]))
    LatentGrid(unit=array([ 2, 32]), coarse=array([[ 7, 11]]))
    """

    unit: np.ndarray
    coarse: np.ndarray

    @classmethod
    def of(cls, width: np.ndarray) -> LatentGrid:
        """The lattice for posteriors of these widths (n, k): a power of two, 2 to 2¹¹, of points in one unit."""
        unit = 2 ** np.clip(np.ceil(np.log2(2.0 / width.min(0))), 1, 11).astype(np.int64)
        return cls(unit, np.clip(np.rint(COARSE * width * unit), 1, REACH * unit).astype(np.int64))


class LatentLaw:
    """A mixture as above for n rows: ``log_r`` (n, C) or None, ``mean`` (n, C, k), ``A`` (n or 1, C, k, k) or
    None (the identity), ``scale`` (n, k), on lattice points of ``grid``.  ``upper`` says which triangle A is; with ``ties``
    (n, k, k), of the same triangle and ones on their diagonals, the map of component c is ties A_c.

    ``plain`` says that latents are paid for: on the grid's coarse steps, with no bits back.
    """

    def __init__(
        self,
        log_r: np.ndarray | None,
        mean: np.ndarray,
        A: np.ndarray | None,
        scale: np.ndarray,
        grid: LatentGrid,
        upper: bool = True,
        ties: np.ndarray | None = None,
    ):
        self.log_r = None if log_r is None or log_r.shape[1] == 1 else rounded(np.maximum(log_r, -60.0))
        self.mean, self.A, self.scale, self.grid, self.upper = rounded(mean), A, scale, grid, upper
        self.ties = ties

    # -------------------------------------------------------------- what codecs do

    def choose(self, stack: BitStack, plain: bool) -> np.ndarray:
        """Lattice points (n, k) for the sender to code: drawn with the stack's bits, ShortOfBits if that leaves too few.

        With ``plain`` those nearest the mean of the likeliest component.
        """
        if not plain:
            return self.pop(stack, guard=True)
        step = self._step(plain)

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            most = REACH * self.grid.unit[j] // step[:, j]
            return np.clip(np.rint(mean / step[:, j]), -most, most).astype(np.int64) * step[:, j]

        return self._visit(self._first() if self.log_r is None else self.log_r.argmax(1), choose)

    def push(self, stack: BitStack, z: np.ndarray, plain: bool = False, guard: bool = False) -> None:
        """Push lattice points: the inverse of :meth:`pop`."""
        if self.log_r is None:
            c = self._first()
        elif plain:
            c = self._responsibilities(z).argmax(1)
        else:
            c = table_symbols(self._responsibilities(z)).pop(stack)
            if guard:
                stack.check_margin()
        step, pushes = self._step(plain), []

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            s = step[:, j]
            pushes.append((z[:, j] // s, mean / s, width / s, REACH * int(self.grid.unit[j])))
            return z[:, j]

        self._visit(c, choose)
        for points, mean, width, reach in reversed(pushes):
            stack.push(points, bins(-reach, reach), mean, width)
        if self.log_r is not None:
            table_symbols(self.log_r).push(stack, c)

    def pop(self, stack: BitStack, plain: bool = False, guard: bool = False) -> np.ndarray:
        """Pop lattice points (n, k); with ``guard`` ShortOfBits if that leaves too few bits."""
        c = self._first() if self.log_r is None else table_symbols(self.log_r).pop(stack)
        step = self._step(plain)

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            s, reach = step[:, j], REACH * int(self.grid.unit[j])
            return stack.pop(bins(-reach, reach), mean / s, width / s) * s

        z = self._visit(c, choose)
        if guard:
            stack.check_margin()
        if self.log_r is not None and not plain:
            table_symbols(self._responsibilities(z)).push(stack, c)
        return z

    # -------------------------------------------------------------- how

    def _first(self) -> np.ndarray:
        return np.zeros(len(self.scale), np.int64)

    def _step(self, plain: bool) -> np.ndarray:
        return np.broadcast_to(self.grid.coarse if plain else 1, self.scale.shape)

    def _responsibilities(self, z: np.ndarray) -> np.ndarray:
        """Log-probability of each component given lattice points z, (n, C)."""
        assert self.log_r is not None
        centred = z[:, None] / self.grid.unit - self.mean
        log_det = np.zeros((1, 1))
        if self.A is not None:
            if len(self.A) == 1:
                centred = (centred.swapaxes(0, 1) @ self.A[0].swapaxes(1, 2)).swapaxes(0, 1)
            else:
                centred = (self.A @ centred[..., None])[..., 0]
            log_det = np.log(np.abs(np.diagonal(self.A, axis1=-2, axis2=-1))).sum(-1)
            if self.ties is not None:
                centred = centred @ self.ties.swapaxes(1, 2)
        return normalized(self.log_r + log_det - 0.5 * np.square(centred / self.scale[:, None]).sum(-1))

    def _visit(self, c: np.ndarray, choose: Choose) -> np.ndarray:
        """Choose latents one by one: ``choose(j, mean, width)``, lattice units, gives lattice points (n,)."""
        (n, k), unit = self.scale.shape, self.grid.unit
        rows = np.arange(n)
        mean = self.mean[rows, c]
        z = np.zeros((n, k), np.int64)
        if self.A is None:
            centre = np.clip(mean, 0.25 - REACH, REACH - 0.25) * unit
            width = self.scale * unit
            for j in reversed(range(k)):
                z[:, j] = choose(j, centre[:, j], width[:, j])
            return z
        A = self.A[rows if len(self.A) > 1 else np.zeros(n, int), c]
        if self.ties is not None:
            A = rounded(self.ties @ A)
        away = np.zeros((n, k))
        for j in reversed(range(k)) if self.upper else range(k):
            own = A[:, j, j]
            shift = (A[:, j] * away).sum(1) / own  # latents yet to come are at no distance
            centre = np.clip(rounded(mean[:, j] - shift), 0.25 - REACH, REACH - 0.25)
            z[:, j] = choose(j, centre * unit[j], self.scale[:, j] / np.abs(own) * unit[j])
            away[:, j] = z[:, j] / unit[j] - mean[:, j]
        return z
