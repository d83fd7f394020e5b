"""New rows from any energy: exact draws where the family has them, else particles annealed from the data's base.

Annealing finds wells that a chain started at the data would never leave for; what it draws is then moved on at the target
for some steps, which parts copies that resampling made and shows, by R̂ of the energy, whether the particles stand still.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from abduce.inference.convergence import chain_sample_size, split_r_hat
from abduce.inference.partition import check_arrival
from abduce.inference.paths import Density, path_to
from abduce.inference.tempering import check_range, temper
from abduce.inference.weights import effective_sample_size

PARTICLES = 64  # at least as many run together


class Generated(NamedTuple):
    """Rows (n, D), and how they came about."""

    x: Tensor
    diagnostics: dict[str, Any]


@torch.no_grad()
def generate(
    density: Density, n: int, generator: torch.Generator, share: float = 0.9, after: int = 20
) -> Generated:
    """Draw ``n`` rows, ``after`` so many moves at the target; :class:`Diverged` where chains run away or stand still."""
    law = density.model.law(density.beta, density.base)
    if law is not None:
        return Generated(law.sample(n, generator), {"method": "exact"})
    if density.beta == 1 and density.base is None:
        exact = density.model.sample(n, generator)
        if exact is not None:
            return Generated(exact, {"method": "exact"})
    path = path_to(density)
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    done = temper(path, max(PARTICLES, n), 1, seed, share)
    check_arrival(done)
    x = done.draws(n, generator)
    one = torch.ones(1, dtype=x.dtype)
    assert done.plan.sizes is not None  # it was found on the way
    size = done.plan.sizes[-1:].to(x)
    trace, rates = [], []
    for _ in range(after):
        x, accepted = path.move(x, one, size, generator)
        trace.append(density.model.energy(x[:, 0]))
        rates.append(accepted.mean())
    check_range(x)
    energies = torch.stack(trace)
    found = {
        "method": "annealed",
        "temperatures": len(done.plan.t) - 1,
        "effective_sample_size": float(effective_sample_size(done.log_w)[0]),
        "ancestors": int(done.ancestors[0]),
        "acceptance": float(torch.stack(rates).mean()),
        "r_hat": split_r_hat(energies),
        "chain_sample_size": chain_sample_size(energies),
    }
    return Generated(x[:, 0], found)
