"""The corners of a cube: states of D binary cells, all of them and the neighbours of one.

A state x in {0, 1}^D has D neighbours, each with one cell flipped.  What training and sampling ask of a binary energy is

    flip_energies(x)_i = E(x with cell i flipped) − E(x),     the log-odds of cell i against its flip given the rest,

and, where D is small, sums over all 2^D states.  Both work in chunks, so that memory is bounded; under autograd a chunk is
computed again on the way back rather than kept (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from abduce.inference.energy import Energy

CHUNK = 1 << 22  # numbers in the largest intermediate
ENUMERABLE = 20  # cells whose states are still enumerated


def check_binary(model: Energy) -> None:
    """Refuse a model whose cells cannot be flipped."""
    if model.support != "binary":
        raise ValueError(f"model: needs binary cells, but {type(model).__name__} has {model.support} cells")


def flip_energies(model: Energy, x: Tensor) -> Tensor:
    """Compute what each flip costs: E(x with cell i flipped) − E(x) for every i, nats, (..., D) -> (..., D).

    A family that can do it in one pass has a method ``flip_energies``; others are asked for the energy of D flipped copies.

    >>> from abduce.models.boltzmann import IsingEnergy
    >>> model = IsingEnergy.of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0.5, 0.0]))
    >>> flip_energies(model, torch.tensor([1.0, 0.0])).detach()
    tensor([ 0.5000, -1.0000])
    """
    check_binary(model)
    own = getattr(model, "flip_energies", None)
    if own is not None:
        return own(x)
    change = 1 - 2 * x
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)

    def some(cells: Tensor) -> Tensor:
        return model.energy(x.unsqueeze(-2) + change.unsqueeze(-2) * eye[cells])

    return over_cells(some, x.shape[-1], x.numel(), x.device) - model.energy(x).unsqueeze(-1)


def over_cells(some: Callable[[Tensor], Tensor], n_cells: int, width: int, device: torch.device) -> Tensor:
    """Compute ``some(cells)`` (..., chunk) for all cells, in chunks, (..., n_cells); ``width`` numbers a cell."""
    parts = torch.arange(n_cells, device=device).split(max(1, CHUNK // max(width, 1)))
    return torch.cat([_bounded(some, part, len(parts) > 1) for part in parts], -1)


def states(n_cells: int, like: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """List states by number, cell i the i-th binary digit: (2^n_cells, n_cells), or those from ``first`` up to ``last``.

    >>> states(2, torch.zeros(()))
    tensor([[0., 0.],
            [1., 0.],
            [0., 1.],
            [1., 1.]])
    """
    number = torch.arange(first, 2**n_cells if last is None else last, device=like.device).unsqueeze(-1)
    return (number >> torch.arange(n_cells, device=like.device) & 1).to(like.dtype)


def log_sum_states(log_f: Callable[[Tensor], Tensor], n_cells: int, width: int, like: Tensor) -> Tensor:
    """Sum over all states: log Σ_x exp(log_f(x)), a differentiable scalar in the dtype of ``like``.

    ``log_f`` takes states (S, n_cells) to (S,) and may hold ``width`` numbers a state.

    >>> log_sum_states(lambda x: x.sum(-1), 3, 3, torch.zeros(()))  # 3 log(1 + e)
    tensor(3.9398)
    """
    chunk = max(1, CHUNK // max(width, 1))
    return log_sum(lambda first, last: log_f(states(n_cells, like, first, last)), 2**n_cells, chunk)


def log_sum(log_f: Callable[[int, int], Tensor], count: int, chunk: int) -> Tensor:
    """Sum in chunks: log Σ_i exp(log_f_i), ``log_f(first, last)`` giving those from ``first`` up to ``last`` of ``count``."""
    firsts = range(0, count, chunk)

    def some(first: int) -> Tensor:
        return torch.logsumexp(log_f(first, min(first + chunk, count)), 0)

    return torch.logsumexp(torch.stack([_bounded(some, first, len(firsts) > 1) for first in firsts]), 0)


def _bounded(function: Callable, argument: Tensor | int, again: bool) -> Tensor:
    """Call ``function(argument)``; with ``again``, compute it once more for its gradient rather than keep what it takes."""
    if again and torch.is_grad_enabled():
        out = checkpoint(function, argument, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(out, Tensor)
        return out
    return function(argument)
