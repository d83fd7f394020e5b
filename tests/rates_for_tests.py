"""What compressing took beside what the model promises, for tests and for the benchmark of compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp

from abduce.compress import codec as task
from abduce.compress.batches import BlankPattern, Codec, encode
from abduce.compress.cells import positions
from abduce.compress.lattice import Lattice
from abduce.compress.mixture_codec import MixtureCodec
from abduce.data.schema import Schema
from abduce.distributions.continuous import Gaussian, Laplace, RoundedGaussian, StudentT

# likelihoods of location and scale on the real line: their standard law, location and scale (n, d)
LINES: dict[type, Any] = {
    Gaussian: lambda part: (stats.norm, part.mean, part.scale),
    RoundedGaussian: lambda part: (stats.norm, part.mean, part.scale),
    Laplace: lambda part: (stats.laplace, part.loc, part.scale),
    StudentT: lambda part: (stats.t(part.df.numpy()), part.loc, part.scale),
}


@dataclass(frozen=True)
class Rate:
    """What compressing X took, beside what the model promises; bits are bits a row."""

    total_bytes: int
    header_bytes: int  # all but the coder's payload: header, ranges, index, left-out columns
    rows: int
    first_rows: int  # coded without bits-back
    marginal_bits: float  # payload bits of a row once the first rows are paid off
    # the model's −ELBO of these same rows, or −log₂ p of a mixture, cells on their lattice, blanks not counted
    negative_elbo_bits: float
    mask_bits: float  # what the pattern of blanks costs, counted in marginal_bits


class Watched:
    """A codec whose batches are noted: rows, whether their latents were paid for, bits on the stack before them."""

    def __init__(self, codec: Codec):
        self.codec, self.batches = codec, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def push(self, stack, k, observed, plain):
        before = stack.bits
        self.codec.push(stack, k, observed, plain)
        self.batches.append((len(k), plain, before))


def rate(model: Any, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> Rate:
    """Measure the rate of X against the model's own −ELBO, or −log₂ p where that is exact."""
    with task.steady(model):
        box, codec, blanks, k, observed = task.prepared(model, schema, X, bytes(8))
        watched = Watched(codec)
        stack = encode(watched, blanks, k, observed)
        box.payload = stack.to_bytes()
        total = len(box.to_bytes())
        bits = [*(before for _, _, before in watched.batches), stack.bits]
        sizes = (total, total - (bits[-1] + 7) // 8, len(k))
        first = max((i for i, (_, plain, _) in enumerate(watched.batches, 1) if plain), default=0)
        start = sum(rows for rows, _, _ in watched.batches[:first])
        if start == len(k):
            return Rate(*sizes, start, math.nan, math.nan, math.nan)
        marginal = (bits[-1] - bits[first]) / (len(k) - start)
        k, observed = k[start:], observed[start:]
        bound = float(promised(codec, k, observed, draws, seed).mean())
        return Rate(*sizes, start, marginal, bound, float(mask_bits(blanks, observed).mean()))


def negative_elbo(model: Any, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> np.ndarray:
    """−ELBO of each row in bits, or −log₂ p of a mixture, cells on their lattice, ``(n,)``; blanks cost nothing."""
    with task.steady(model):
        _, codec, _, k, observed = task.prepared(model, schema, X, bytes(8))
        return promised(codec, k, observed, draws, seed)


def promised(codec: Any, k: np.ndarray, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Bits of each row (n,) by the model's own account."""
    if isinstance(codec, MixtureCodec):
        return -np.asarray(logsumexp(codec._log_joint(k, observed), axis=1)) / np.log(2.0)
    out, model = np.zeros(len(k)), codec.model
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(k), codec.rows):
        ks, os = k[start : start + codec.rows], observed[start : start + codec.rows]
        x, seen = torch.from_numpy(codec.lattice.values(ks, os)), torch.from_numpy(os)
        q = model.posterior(x, None if os.all() else seen)
        for _ in range(draws):
            noise = torch.randn(1, len(x), model.noise_dim, generator=generator, dtype=x.dtype)
            z = q.transport(noise)[0]
            nats, bits = model.prior.log_prob(z) - q.log_prob(z), np.zeros(len(ks))
            for where, part in model.likelihood(z).parts:
                values, there = x[:, where], seen[:, where]
                if type(part) not in LINES:
                    nats = nats + part.log_prob(values, there)
                    continue
                law, loc, scale = LINES[type(part)](part)
                index = positions(where, k.shape[1])
                cells = ks[:, index], index, there.numpy()
                bits += line_bits(law, *cells, loc.numpy(), scale.numpy(), codec.lattice)
            out[start : start + len(ks)] += (bits - nats.numpy() / math.log(2.0)) / draws
    return out


def mask_bits(blanks: BlankPattern, observed: np.ndarray) -> np.ndarray:
    """What the flags of each row's blanks cost, (n,)."""
    p, seen = blanks.share[blanks.open], observed[:, blanks.open]
    return -np.where(seen, np.log2(p), np.log2(1 - p)).sum(1)


def line_bits(
    law: Any,
    k: np.ndarray,
    index: np.ndarray,
    observed: np.ndarray,
    loc: np.ndarray,
    scale: np.ndarray,
    lattice: Lattice,
) -> np.ndarray:
    """Bits −log₂ of the mass of codes k (n, d) under independent cells of location and scale in model space, (n,)."""
    s = k - lattice.low[index]
    left, right = ((lattice.edges(index, e.T).T - loc) / scale for e in (s, s + 1))
    left[s <= 0] = -np.inf
    right[s >= lattice.size[index] - 1] = np.inf
    flip = left > 0  # subtract small numbers, not numbers close to one
    a, b = np.where(flip, -right, left), np.where(flip, -left, right)
    upper, lower = law.logcdf(b), law.logcdf(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mass = upper + np.log(-np.expm1(np.where(np.isfinite(lower), lower - upper, -np.inf)))
        # the density times the width, where the difference would cancel
        step = np.where(lattice.log[index], 1.0 / np.maximum(k, 1), 1.0 / lattice.denominator[index])
        density = law.logpdf(0.5 * (a + b)) + np.log(step / (lattice.scale[index] * scale))
    log_mass = np.where(b - a < 1e-6, density, log_mass)
    return -np.where(observed, log_mass, 0.0).sum(1) / np.log(2.0)
