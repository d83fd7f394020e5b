"""Latents on a lattice: priors and posteriors as the entropy coder draws from them and gives back to them.

Every law of latents here is a mixture of Gaussians whose axes are whitened by a triangular map,

    Σ_c r_c · law of z with  A_c (z − m_c) = scale · e,  e ~ N(0, I),  A_c triangular,

which covers N(0, I), diagonal posteriors, exact posteriors of linear maps (A is the transposed Cholesky
factor of the precision), and mixture priors (A is the inverse Cholesky factor of the covariance).  Given the
latents that come before it in A's order, each latent is a Gaussian in one dimension: cut into bins, it is
what the coder codes.

A mixture codes z at exactly −log of its *marginal* density, by bits-back on the component:

    draw    pop c ~ r_c, pop z ~ law c, push c with its probability given z          gains −log Σ_c r_c
    law_c(z) give    the inverse, step by step backwards                                      costs the same

The lattice ends at ±8, with a step of about half the posterior's width; prior and posterior share it, so the
step cancels. (Much finer would cost: the coder gives each point at least 2⁻²⁴, so with 2¹⁵ points one latent
in 512 would be drawn from nowhere.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from abduce.compress.symbols import Stack, Table, rounded

REACH = 8  # the lattice ends at ±8
MARGIN = 64  # bits that a draw must leave on the stack
COARSE = math.sqrt(
    12.0
)  # step, in posterior widths, of a latent that is paid for: minimises its bits plus what it costs x


class ShortOfBits(Exception):
    """A draw would leave the stack all but empty."""


def lattice_units(width: np.ndarray) -> np.ndarray:
    """Lattice points in one unit of latents with posteriors of this width: a power of two, 2 to 2¹¹.

    >>> lattice_units(np.array([1.0, 0.1]))
    array([ 2, 32])
    """
    return 2 ** np.clip(np.ceil(np.log2(2.0 / width)), 1, 11).astype(np.int64)


def coarse_steps(width: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Steps, in lattice points, of latents that are paid for."""
    return np.clip(np.rint(COARSE * width * unit), 1, REACH * unit).astype(np.int64)


Choose = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class LatentLaw:
    """A mixture as above for n rows: ``log_r`` (n, C) or None, ``mean`` (n, C, k), ``A`` (n or 1, C, k, k) or
    None (the identity), ``scale`` (n, k); latents have ``unit`` (k,) lattice points in one unit.  ``upper``
    says which triangle A is.
    """

    def __init__(
        self,
        log_r: np.ndarray | None,
        mean: np.ndarray,
        A: np.ndarray | None,
        scale: np.ndarray,
        unit: np.ndarray,
        upper: bool = True,
    ):
        self.log_r = None if log_r is None or log_r.shape[1] == 1 else rounded(np.maximum(log_r, -60.0))
        self.mean, self.A, self.scale, self.unit, self.upper = rounded(mean), A, scale, unit, upper

    @classmethod
    def standard(cls, n: int, unit: np.ndarray) -> LatentLaw:
        """N(0, I)."""
        return cls(None, np.zeros((n, 1, len(unit))), None, np.ones((n, len(unit))), unit)

    def width(self) -> np.ndarray:
        """Width of each latent given those before it, least over the components, (n, k)."""
        if self.A is None:
            return self.scale
        return self.scale / np.abs(np.diagonal(self.A, axis1=-2, axis2=-1)).max(1)

    def _responsibilities(self, z: np.ndarray) -> np.ndarray:
        """Log-probability of each component given lattice points z, (n, C)."""
        assert self.log_r is not None
        centred = z[:, None] / self.unit - self.mean
        log_det = np.zeros((1, 1))
        if self.A is not None:
            if len(self.A) == 1:
                centred = (centred.swapaxes(0, 1) @ self.A[0].swapaxes(1, 2)).swapaxes(0, 1)
            else:
                centred = (self.A @ centred[..., None])[..., 0]
            log_det = np.log(np.abs(np.diagonal(self.A, axis1=-2, axis2=-1))).sum(-1)
        joint = self.log_r + log_det - 0.5 * np.square(centred / self.scale[:, None]).sum(-1)
        joint = joint - joint.max(1, keepdims=True)
        return joint - np.log(np.exp(joint).sum(1, keepdims=True))

    def _visit(self, c: np.ndarray, choose: Choose) -> np.ndarray:
        """Choose latents one by one: ``choose(j, mean, width)``, lattice units, gives lattice points (n,)."""
        n, k = self.scale.shape
        rows = np.arange(n)
        mean = self.mean[rows, c]
        z = np.zeros((n, k), np.int64)
        if self.A is None:
            centre = np.clip(mean, 0.25 - REACH, REACH - 0.25) * self.unit
            width = self.scale * self.unit
            for j in reversed(range(k)):
                z[:, j] = choose(j, centre[:, j], width[:, j])
            return z
        A = self.A[rows if len(self.A) > 1 else np.zeros(n, int), c]
        away = np.zeros((n, k))
        for j in reversed(range(k)) if self.upper else range(k):
            own = A[:, j, j]
            shift = (A[:, j] * away).sum(1) / own  # latents yet to come are at no distance
            centre = np.clip(rounded(mean[:, j] - shift), 0.25 - REACH, REACH - 0.25)
            z[:, j] = choose(j, centre * self.unit[j], self.scale[:, j] / np.abs(own) * self.unit[j])
            away[:, j] = z[:, j] / self.unit[j] - mean[:, j]
        return z

    def _pop(self, stack: Stack, c: np.ndarray, step: Any) -> np.ndarray:
        step = np.broadcast_to(step, self.scale.shape)

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            reach = REACH * int(self.unit[j])
            return stack.pop_gaussian(mean / step[:, j], width / step[:, j], -reach, reach) * step[:, j]

        return self._visit(c, choose)

    def _push(self, stack: Stack, c: np.ndarray, z: np.ndarray, step: Any) -> None:
        step = np.broadcast_to(step, self.scale.shape)
        pushes = []

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            pushes.append(
                (z[:, j] // step[:, j], mean / step[:, j], width / step[:, j], REACH * int(self.unit[j]))
            )
            return z[:, j]

        self._visit(c, choose)
        for points, mean, width, reach in reversed(pushes):
            stack.push_gaussian(points, mean, width, -reach, reach)

    def draw(self, stack: Stack, guard: bool = False) -> np.ndarray:
        """Pop lattice points (n, k); with ``guard`` ShortOfBits if that leaves too few bits."""
        none = np.zeros(len(self.scale), np.int64)
        c = none if self.log_r is None else Table(self.log_r).pop(stack)
        z = self._pop(stack, c, 1)
        if guard and stack.bits < MARGIN:
            raise ShortOfBits
        if self.log_r is not None:
            Table(self._responsibilities(z)).push(stack, c)
        return z

    def give(self, stack: Stack, z: np.ndarray, guard: bool = False) -> None:
        """Push lattice points: the inverse of :meth:`draw`."""
        c = np.zeros(len(z), np.int64) if self.log_r is None else Table(self._responsibilities(z)).pop(stack)
        if guard and stack.bits < MARGIN and self.log_r is not None:
            raise ShortOfBits
        self._push(stack, c, z, 1)
        if self.log_r is not None:
            Table(self.log_r).push(stack, c)

    def centre(self, step: np.ndarray) -> np.ndarray:
        """Lattice points, multiples of ``step``, nearest the mean of the likeliest component."""
        step = np.broadcast_to(step, self.scale.shape)

        def choose(j: int, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
            most = REACH * self.unit[j] // step[:, j]
            return np.clip(np.rint(mean / step[:, j]), -most, most).astype(np.int64) * step[:, j]

        c = np.zeros(len(self.scale), np.int64) if self.log_r is None else self.log_r.argmax(1)
        return self._visit(c, choose)

    def pay(self, stack: Stack, z: np.ndarray, step: np.ndarray) -> None:
        """Push multiples of ``step`` with no bits back."""
        c = np.zeros(len(z), np.int64) if self.log_r is None else self._responsibilities(z).argmax(1)
        self._push(stack, c, z, step)
        if self.log_r is not None:
            Table(self.log_r).push(stack, c)

    def receive(self, stack: Stack, step: np.ndarray) -> np.ndarray:
        """Pop what :meth:`pay` pushed."""
        c = np.zeros(len(self.scale), np.int64) if self.log_r is None else Table(self.log_r).pop(stack)
        return self._pop(stack, c, step)
