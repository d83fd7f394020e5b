"""Importance sampling in chunks of fixed shape, so that a row's answer does not depend on which rows came with it.

    log p(x_obs) = log E_q[w] ≈ log (1/S) Σ_s p(x_obs | z_s) p(z_s) / q(z_s | x_obs),     z_s ~ q(z | x_obs)

Floating-point sums differ with the batch's shape, and random numbers with a row's place in it.  Both would make a score
depend on its neighbours.  So rows run in padded chunks of one fixed shape, and all rows share the same seeded noise
(a scrambled Sobol sequence mapped to normals, which integrates better than independent draws).

A chunk's draws are streamed in slices small enough to stay in the processor's cache, whatever the number of draws; the
encoder runs once a chunk.  Only the log weights of a chunk, ``(samples, 64)``, are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abduce.checks import check_choice
from abduce.inference.latent import LatentVariableModel
from abduce.inference.weights import Weights, effective_sample_size, multi_sample, pareto_k, standard_error

ROWS = 64  # rows of a chunk
# at most this many bytes in one tensor of a slice: on a processor what its nearer caches hold, elsewhere what keeps
# many cores busy
SLICE = {"cpu": 7 * 2**18, "other": 2**26}
PRECISIONS = ("double", "single")


class Evidence(NamedTuple):
    """Estimates of log p(x_obs) and how far each can be trusted; every field has shape ``(n,)``, float64."""

    value: Tensor  # nats
    standard_error: Tensor  # nats
    effective_sample_size: Tensor  # draws
    pareto_k: Tensor  # shape of the weights' tail, see :func:`abduce.inference.weights.pareto_k`

    @classmethod
    def of(cls, log_w: Tensor) -> Evidence:
        """Reduce log weights ``(samples, batch)``."""
        log_w = log_w.double()
        return cls(multi_sample(log_w), standard_error(log_w), effective_sample_size(log_w), pareto_k(log_w))

    def unless_empty(self, model: LatentVariableModel, observed: Tensor, samples: int) -> Evidence:
        """The same, but an empty observation has probability one, unless the model looks at the mask itself."""
        if model.sees_mask:
            return self
        sure = (0.0, 0.0, float(samples), -torch.inf)
        return Evidence(*(t.masked_fill(~observed.any(1), v) for t, v in zip(self, sure, strict=True)))


def shared_noise(samples: int, dim: int, seed: int, like: Tensor) -> Tensor:
    """Quasi-random standard normals ``(samples, 1, dim)``, the same for every row."""
    points = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(samples, dtype=torch.float64)
    eps = 1e-10
    return torch.special.ndtri(points.clamp(eps, 1 - eps)).unsqueeze(1).to(like.dtype).to(like.device)


def chunks(x: Tensor, observed: Tensor, rows: int = ROWS) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Cut into chunks of exactly ``rows`` rows, the last one padded."""
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        yield part, *pad(x[part], observed[part], rows)


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


def by_pattern(
    function: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]], x: Tensor, observed: Tensor
) -> tuple[Tensor, ...]:
    """Like :func:`by_chunk`, but complete rows run by themselves, with None for ``observed``, which is quicker.

    What a row goes through then depends on the row alone.
    """
    complete = observed.all(1)
    out: list[Tensor] = []
    for whole in (True, False):
        which = (complete == whole).nonzero().squeeze(1)
        if len(which) == 0:
            continue
        own = (lambda xs, _: function(xs, None)) if whole else function
        parts = by_chunk(own, x[which], observed[which])
        out = out or [part.new_empty(len(x), *part.shape[1:]) for part in parts]
        for place, part in zip(out, parts, strict=True):
            place[which] = part
    return tuple(out)


def in_precision(model: LatentVariableModel, precision: str) -> tuple[LatentVariableModel, torch.dtype]:
    """The model in ``"double"`` (as it is) or in ``"single"`` precision (a copy), and the type of numbers it takes."""
    check_choice("precision", precision, PRECISIONS)
    if precision == "single":
        return copy.deepcopy(model).float(), torch.float32
    return model, torch.float64


@torch.no_grad()
def log_prob(
    model: LatentVariableModel,
    x: Tensor,
    observed: Tensor,
    samples: int = 128,
    seed: int = 0,
    precision: str = "double",
) -> Evidence:
    """Estimate log p(x_obs) of each row from ``samples`` draws: :class:`Evidence`, nats, each field ``(n,)``.

    With ``precision="single"`` the networks run in float32, the reductions over samples still in float64.
    """
    model, dtype = in_precision(model, precision)
    x = x.to(dtype)
    noise = shared_noise(samples, model.noise_dim, seed, x)
    step = min(samples, _slice(model, x))

    def score(xs: Tensor, os: Tensor | None) -> Evidence:
        q = model.posterior(xs, os)
        log_w = torch.empty(samples, len(xs), dtype=torch.float64, device=x.device)
        for i in range(0, samples, step):
            z, log_q = q.draw(noise[i : i + step])
            log_w[i : i + step] = model.log_joint(z, xs, os) - log_q
        return Evidence.of(log_w)

    evidence = by_pattern(score, x, observed) if len(x) else [x.new_empty(0, dtype=torch.float64)] * 4
    return Evidence(*evidence).unless_empty(model, observed, samples)


def _slice(model: LatentVariableModel, x: Tensor) -> int:
    """How many draws of a chunk run at once: what keeps the widest tensor, (draws, ROWS, width), in the cache; at least 8."""
    tensors = [t for t in model.state_dict().values() if t.numel() and t.ndim]
    widths = [max(t.shape[-1], t.numel() // t.shape[-1]) for t in tensors]
    budget = SLICE.get(x.device.type, SLICE["other"])
    return max(8, budget // (ROWS * max([x.shape[1], *widths]) * x.element_size()))


def draw(model: LatentVariableModel, x: Tensor, observed: Tensor, samples: int, seed: int = 0) -> Weights:
    """Weighted posterior draws of one chunk: log_w ``(samples, rows)``, z ``(samples, rows, latent)``."""
    return model.log_weights(x, observed, shared_noise(samples, model.noise_dim, seed, x))
