"""What later steps tell of a state under a linear model: the look ahead by which particles are drawn and kept.

    ψ_t(s) ∝ p(y_{t+1:T} | s_t = s) = exp(−½ sᵀ Λ_t s + sᵀ η_t)        of the linear model, Λ_T = 0, η_T = 0

A particle filter whose weights carry ψ_t(s_t) / ψ_{t−1}(s_{t−1}) estimates the same log p without bias, whatever ψ is, and
where the model *is* linear and proposals carry ψ too, the weights are all equal: log p is exact from one particle.  Constants
cancel and are left out.  With H = [I 0], B the columns of what is new in a state, and R, Q of the linear model,

    Λ' = Λ_t + Hᵀ M R⁻¹ H,   η' = η_t + Hᵀ M R⁻¹ y_t,   J = (Q⁻¹ + Bᵀ Λ' B)⁻¹
    Λ_{t−1} = Aᵀ (Λ' − Λ' B J Bᵀ Λ') A,                 η_{t−1} = Aᵀ (η' − Λ' B J Bᵀ η')

Sources: Whiteley & Lee 2014, and Guarniero, Johansen & Lee 2017 (twisted particle filters); Mayne 1966 (information filter).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from abduce.sequences.kalman import StateSpace


class Twist(NamedTuple):
    """``precision`` Λ (T, B, S, S) and ``pull`` η (T, B, S) of each step."""

    precision: Tensor
    pull: Tensor

    def log(self, step: int, states: Tensor) -> Tensor:
        """log ψ_t of states (B, K, S), up to a constant, (B, K)."""
        bent = self.pull[step].unsqueeze(1) - 0.5 * states @ self.precision[step]
        return (states * bent).sum(2)


@torch.no_grad()
def look_ahead(space: StateSpace, y: Tensor, mask: Tensor, strength: float = 1.0) -> Twist:
    """The twist of series y (B, T, F) with their mask, its exponent times ``strength``: 0 does not look ahead at all.

    >>> still = StateSpace(*(torch.ones(1, 1).double(),) * 3, torch.ones(1).double())
    >>> look_ahead(still, torch.tensor([[[0.0], [4.0]]]).double(), torch.ones(1, 2, 1).bool()).pull.flatten()
    tensor([2., 0.], dtype=torch.float64)
    """
    n, steps, f = y.shape
    s = len(space.transition)
    precision, pull = y.new_zeros(steps, n, s, s), y.new_zeros(steps, n, s)
    if not strength:
        return Twist(precision, pull)
    new = torch.linalg.inv(space.noise[:f, :f])
    weight = mask / space.spread  # M R⁻¹
    told = torch.where(mask, y, 0.0) * weight
    for t in range(steps - 1, 0, -1):
        here, eta = precision[t].clone(), pull[t].clone()
        here.diagonal(dim1=1, dim2=2)[:, :f] += weight[:, t]
        eta[:, :f] += told[:, t]
        gain = torch.linalg.solve(new + here[:, :f, :f], here[:, :f])  # J Bᵀ Λ', (B, F, S)
        eta = eta - (gain.mT @ eta[:, :f].unsqueeze(2)).squeeze(2)
        here = space.transition.mT @ (here - here[:, :, :f] @ gain) @ space.transition
        precision[t - 1] = 0.5 * (here + here.mT)
        pull[t - 1] = eta @ space.transition
    return Twist(strength * precision, strength * pull)
