"""Importance sampling in chunks of fixed shape, so that a row's answer does not depend on which rows came with it.

Floating-point sums differ with the batch's shape, and random numbers with a row's place in it.  Both would make a score
depend on its neighbours.  So rows run in padded chunks of one fixed shape, and all rows share the same seeded noise
(a scrambled Sobol sequence mapped to normals, which integrates better than independent draws).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from abduce.models.latent import LatentVariableModel
from abduce.weights import Weights, effective_sample_size, multi_sample, standard_error

ROWS = 64  # rows of a chunk
CELLS = 2**22  # at most this many numbers in one tensor of a chunk: bounds memory whatever the data's size


def shared_noise(samples: int, dim: int, seed: int, like: Tensor) -> Tensor:
    """Quasi-random standard normals ``(samples, 1, dim)``, the same for every row."""
    points = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(samples, dtype=torch.float64)
    eps = 1e-10
    return torch.special.ndtri(points.clamp(eps, 1 - eps)).unsqueeze(1).to(like.dtype).to(like.device)


def chunks(x: Tensor, observed: Tensor, rows: int = ROWS) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Cut into chunks of exactly ``rows`` rows, the last one padded."""
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        yield (slice(start, stop), *pad(x[start:stop], observed[start:stop], rows))


def pad(x: Tensor, observed: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Repeat the first row up to ``rows`` rows: padding that costs no more than the data do."""
    missing = rows - len(x)
    if missing == 0:
        return x, observed
    return torch.cat([x, x[:1].expand(missing, -1)]), torch.cat([observed, observed[:1].expand(missing, -1)])


def by_chunk(
    function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: Tensor, observed: Tensor, rows: int = ROWS
) -> tuple[Tensor, ...]:
    """Apply a function of ``(x, observed)`` to every padded chunk and join what it returns along the rows."""
    parts = [[t[: s.stop - s.start] for t in function(xs, os)] for s, xs, os in chunks(x, observed, rows)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@torch.no_grad()
def log_prob(
    model: LatentVariableModel, x: Tensor, observed: Tensor, samples: int = 128, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate log p(x_obs) of each row: ``(value, standard error, effective sample size)``, each ``(n,)``, nats.

    Draws are streamed: memory is bounded by a chunk, whatever ``samples`` is.
    """
    noise = shared_noise(samples, model.noise_dim, seed, x)
    width = max(
        x.shape[1],
        *(len(t.flatten(1)[0]) if t.ndim == 2 else t.shape[0] for t in model.state_dict().values() if t.ndim),
    )
    step = max(1, min(samples, CELLS // (ROWS * width)))

    def score(xs: Tensor, os: Tensor) -> tuple[Tensor, ...]:
        log_w = torch.cat(
            [model.log_weights(xs, os, noise[i : i + step]).log_w for i in range(0, samples, step)]
        )
        return multi_sample(log_w), standard_error(log_w), effective_sample_size(log_w)

    value, error, ess = by_chunk(score, x, observed)
    nothing = ~observed.any(1)  # an empty observation has probability one
    return (
        value.masked_fill(nothing, 0.0),
        error.masked_fill(nothing, 0.0),
        ess.masked_fill(nothing, float(samples)),
    )


def draw(model: LatentVariableModel, x: Tensor, observed: Tensor, samples: int, seed: int = 0) -> Weights:
    """Weighted posterior draws of one chunk: log_w ``(samples, rows)``, z ``(samples, rows, latent)``."""
    return model.log_weights(x, observed, shared_noise(samples, model.noise_dim, seed, x))
