"""What compressing took beside what the model promises, for tests and for the benchmark of compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from abduce.compress import codec as task
from abduce.compress.batches import BlankPattern, Codec, encode
from abduce.compress.cells import LINES, positions
from abduce.compress.masses import line_bits
from abduce.compress.mixture_codec import MixtureCodec
from abduce.data.schema import Schema


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
                law, loc, scale, shape = LINES[type(part)](part)
                index = positions(where, k.shape[1])
                cells = ks[:, index], index, there.numpy()
                bits += line_bits(law, *cells, loc.numpy(), scale.numpy(), codec.lattice, shape.numpy())
            out[start : start + len(ks)] += (bits - nats.numpy() / math.log(2.0)) / draws
    return out


def mask_bits(blanks: BlankPattern, observed: np.ndarray) -> np.ndarray:
    """What the flags of each row's blanks cost, (n,)."""
    p, seen = blanks.share[blanks.open], observed[:, blanks.open]
    return -np.where(seen, np.log2(p), np.log2(1 - p)).sum(1)
