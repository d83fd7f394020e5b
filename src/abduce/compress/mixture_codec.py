"""Codes rows with a mixture of Gaussians: cell after cell from exact conditionals, with bits back on the component.

    p(x) = Σ_c π_c N(x; μ_c, C_c).    With C = L Lᵀ and A = L⁻¹, the vector e = A (x − μ) is N(0, I), so that

    x_j | x_<j, c  ~  N(μ_j − s_j Σ_{k<j} A_jk (x_k − μ_k), s_j²),     s_j = L_jj = 1 / A_jj

and each cell is a Gaussian in one dimension, cut into the bins of its lattice; the cells before it are their lattice values
themselves.  So the bins' probabilities multiply to P_c(x), and to code a row the sender

    pops   c with r_c ∝ π_c P_c(x)             gains  −log₂ r_c
    pushes the cells x_1 .. x_D given c        costs  −log₂ P_c(x)
    pushes c with π_c                          costs  −log₂ π_c

in all −log₂ Σ_c π_c P_c(x): what the whole mixture gives to the row, and not what its likeliest component does.  Where there
are no bits to pop yet c is the likeliest, and is paid for.  A single Gaussian has nothing to pop.

Blank cells are left out of a row's conditionals: with M = diag(observed), M C M + I − M has the covariance of what is
observed, and the identity for the rest (see :mod:`abduce.gaussians.gaussian_law`); its factor is made once for each
pattern of blanks in a batch.

What is rounded to a grid is A and not L: x is known exactly, so e_j is off by the rounding of row j of A alone, where
with L it would inherit the errors of all e before it.

Source: bits back on a discrete latent is Frey & Hinton 1997 (Efficient stochastic source coding); ANS as in Townsend, Bird &
Barber 2019 (arXiv:1901.04866).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from abduce.compress.batches import BlankPattern, batch_rows
from abduce.compress.cells import SeenCells, gaussian_symbols
from abduce.compress.lattice import Lattice
from abduce.compress.masses import normal_bits
from abduce.compress.stack import BitStack
from abduce.compress.symbols import PlainSymbols, SymbolModel, normalized, rounded, table_symbols
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.models.hard_mixture_law import HardMixtureLaw

BUDGET = 2**22  # numbers in one block's largest array

Choose = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class MixtureCodec:
    """Codes cells of ``lattice`` under a mixture of Gaussians in model space; a :class:`~abduce.compress.batches.Codec`.

    ``log_weights`` (K,) up to a constant, ``means`` (K, D), ``covariances`` (K, D, D), or (1, D, D) if all share one.
    """

    appetite = 24  # a pop takes at most 24 bits, and only c is popped

    def __init__(
        self, log_weights: Tensor, means: Tensor, covariances: Tensor, lattice: Lattice, blanks: BlankPattern
    ):
        k, d = means.shape
        self.lattice = lattice
        self.log_weights = torch.log_softmax(log_weights.detach().double(), 0).numpy()
        self.means = means.detach().double().numpy()
        self.covariances = covariances.detach().double()
        self.bits_back = k > 1
        self.coupled = bool((self.covariances != torch.diag_embed(self.covariances.diagonal(0, 1, 2))).any())
        self.same = not (self.coupled and blanks.open.any())  # all rows have the same roots
        if self.same:
            pattern = blanks.always if self.coupled else np.ones(d, bool)
            shared = np.arange(len(covariances))
            self.roots = self._roots(np.broadcast_to(pattern, (len(shared), d)), shared)
            self.unmixing = _unmixing(self.roots)
        self.rows = batch_rows(2**20 / d if self.same else min(2**20 / d, 2**23 / d**2))

    @classmethod
    def of(cls, law: GaussianMixtureLaw, lattice: Lattice, blanks: BlankPattern) -> MixtureCodec:
        return cls(law.log_weights, law.means, law.covariances, lattice, blanks)

    @classmethod
    def soft(cls, law: HardMixtureLaw, lattice: Lattice, blanks: BlankPattern) -> MixtureCodec:
        """The codec of the soft mixture around k-means: equal weights, means w_k, covariances I/2β.

        It costs at most log₂ K bits a row more than the law p does: exp(−β min_k ‖y − w_k‖²) ≤ Σ_k exp(−β ‖y − w_k‖²), whose
        integral K (π/β)^{D/2} is at most K times that of the left side, so the soft mixture is at least p / K everywhere.
        """
        k, d = law.centres.shape
        covariance = torch.eye(d, dtype=torch.float64).unsqueeze(0) / (2 * law.beta)
        return cls(torch.zeros(k), law.centres, covariance, lattice, blanks)

    # -------------------------------------------------------------- conditionals

    def _roots(self, pattern: np.ndarray, c: np.ndarray) -> Tensor:
        """L (m, D, D) of patterns (m, D) and covariances c (m,)."""
        seen = torch.from_numpy(pattern.copy())
        eye = torch.eye(pattern.shape[1], dtype=torch.float64)
        both = seen.unsqueeze(2) & seen.unsqueeze(1)
        return torch.linalg.cholesky(torch.where(both, self.covariances[c], eye))

    def _roots_of(self, observed: np.ndarray, c: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """L, each once, and which of them rows (n, D) have for components c (n, m): (n, m)."""
        shared = len(self.covariances)
        c = c % shared
        if self.same:
            return self.roots, c
        patterns, pattern = np.unique(observed, axis=0, return_inverse=True)
        pairs, which = np.unique(pattern.reshape(-1, 1) * shared + c, return_inverse=True)
        return self._roots(patterns[pairs // shared], pairs % shared), which.reshape(c.shape)

    def _visit(self, c: np.ndarray, observed: np.ndarray, choose: Choose) -> None:
        """Go through the cells in order: ``choose(j, mean, scale)`` gives model values (n,), from their law given c (n,).

        Sender and receiver both come this way, so that they see the same numbers to the last bit.
        """
        roots, which = self._roots_of(observed, c[:, None])
        scales, A = self.unmixing if self.same else _unmixing(roots)
        which = which[:, 0]
        means = self.means[c]
        away = np.zeros(means.shape)
        for j in range(means.shape[1]):
            scale, mean = scales[which, j], means[:, j]
            if self.coupled:
                mean = mean - scale * rounded((A[which, j, :j] * away[:, :j]).sum(1))
            x = choose(j, mean, scale)
            away[:, j] = np.where(observed[:, j], x - means[:, j], 0.0)

    def _symbols(self, j: int, mean: np.ndarray, scale: np.ndarray, observed: np.ndarray) -> SymbolModel:
        at = SeenCells(np.array([j]), observed[:, j : j + 1], self.lattice)
        return next(gaussian_symbols(mean[:, None], scale[:, None], at))[1]

    def _values(self, j: int, k: np.ndarray, observed: np.ndarray) -> np.ndarray:
        at = slice(j, j + 1)
        return self.lattice.values(k[:, at], observed[:, at], at)[:, 0]

    # -------------------------------------------------------------- components

    def _log_joint(self, k: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """log π_c P_c(x) of n rows, on the lattice, nats, (n, K)."""
        components, d = self.means.shape
        size = max(1, BUDGET // (components * d * (16 if self.same else d)))
        parts = (slice(i, i + size) for i in range(0, len(k), size))
        blocks = [self._log_joint_block(k[part], observed[part]) for part in parts]
        return np.concatenate([np.zeros((0, components)), *blocks])

    def _log_joint_block(self, k: np.ndarray, observed: np.ndarray) -> np.ndarray:
        n, components = len(k), len(self.means)
        roots, which = self._roots_of(observed, np.broadcast_to(np.arange(components), (n, components)))
        x, scale = self.lattice.values(k, observed)[:, None], roots.diagonal(0, 1, 2).numpy()[which]
        away = np.where(observed[:, None], x - self.means, 0.0)
        if not self.coupled:
            e = away / scale
        elif self.same:
            e = _solve(roots, torch.from_numpy(away).permute(1, 2, 0)).permute(2, 0, 1).numpy()
        else:
            e = _solve(roots[which], torch.from_numpy(away).unsqueeze(-1)).squeeze(-1).numpy()
        loc = x - scale * e  # not rounded: the table of components is
        codes, seen = (np.repeat(a, components, 0) for a in (k, observed))
        loc, scale = (a.reshape(codes.shape) for a in (loc, scale))
        bits = normal_bits(codes, seen, loc, scale, self.lattice)
        return self.log_weights - np.log(2.0) * bits.reshape(n, components)

    def _responsibilities(self, k: np.ndarray, observed: np.ndarray) -> PlainSymbols:
        # where all of them have underflown, any law will do that both sides share
        joint = np.nan_to_num(self._log_joint(k, observed), nan=-1e300, neginf=-1e300)
        return table_symbols(normalized(joint))

    def _weights(self, n: int) -> PlainSymbols:
        return table_symbols(np.broadcast_to(self.log_weights, (n, len(self.log_weights))))

    # -------------------------------------------------------------- one batch

    def push(self, stack: BitStack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        c = np.zeros(len(k), np.int64)
        if plain:
            c = self._log_joint(k, observed).argmax(1)
        elif self.bits_back:
            c = self._responsibilities(k, observed).pop(stack)
            stack.check_margin()
        cells: list[SymbolModel] = []

        def choose(j: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
            cells.append(self._symbols(j, mean, scale, observed))
            return self._values(j, k, observed)

        self._visit(c, observed, choose)
        for j in reversed(range(len(cells))):
            seen = observed[:, j]
            cells[j].push(stack, k[seen, j] - self.lattice.low[j])
        if self.bits_back:
            self._weights(len(k)).push(stack, c)

    def forget(self) -> None:
        """Nothing is remembered."""

    def pop(self, stack: BitStack, observed: np.ndarray, plain: bool) -> np.ndarray:
        n = len(observed)
        c = self._weights(n).pop(stack) if self.bits_back else np.zeros(n, np.int64)
        k = np.zeros(observed.shape, np.int64)

        def choose(j: int, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
            s = self._symbols(j, mean, scale, observed).pop(stack)
            k[observed[:, j], j] = self.lattice.low[j] + s
            return self._values(j, k, observed)

        self._visit(c, observed, choose)
        if self.bits_back and not plain:
            self._responsibilities(k, observed).push(stack, c)
        return k


def _solve(root: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(root, y, upper=False)


def _unmixing(root: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """s (m, D), and A below its diagonal (m, D, D)."""
    eye = torch.eye(root.shape[-1], dtype=root.dtype).expand_as(root)
    return np.exp(rounded(root.diagonal(0, 1, 2).log().numpy())), rounded(_solve(root, eye).tril(-1).numpy())
