"""Lossless compression: an entropy coder, and a model that tells it what each symbol costs.

What is pushed onto the coder's stack and popped from it (:mod:`abduce.compress.stack`) depends on the model:

    latents               bits back on z: −ELBO bits a row              :mod:`abduce.compress.latent_codec`
    mixture of Gaussians  exact conditionals of the cells, bits back
                          on the component: −log₂ p(x) bits a row       :mod:`abduce.compress.mixture_codec`

Two things kill such codes.  *Popping an empty stack* gives constant symbols: see :mod:`abduce.compress.batches`.  *Numbers
that differ in their last bit* between the two sides make most symbols decode wrong.  Models run in float64, on one
thread; what they give is rounded to a grid before use; and what has been written is decoded and compared before it is
handed out, with a checksum of the rows inside.

Source: Duda 2013 (arXiv:1311.2540); Townsend, Bird & Barber 2019 (arXiv:1901.04866).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from abduce.compress.batches import BlankPattern, Codec, Coded, decode, encode, observed_rates
from abduce.compress.container import CompressedDataError, Packed
from abduce.compress.extras import carry, check_whole, put_back
from abduce.compress.latent_codec import LatentCodec
from abduce.compress.lattice import Lattice, Ranges, wider_ranges
from abduce.compress.mixture_codec import MixtureCodec
from abduce.compress.stack import BitStack
from abduce.data.schema import Schema
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.energy import Energy
from abduce.inference.latent import LatentVariableModel
from abduce.models.hard_mixture_law import HardMixtureLaw

# ------------------------------------------------------------------ which codec serves which model

CODECS: dict[type, Callable[[Any, Lattice, BlankPattern], Codec]] = {
    LatentVariableModel: lambda model, lattice, blanks: LatentCodec(model, lattice),
    GaussianMixtureLaw: MixtureCodec.of,
    FactorMixtureLaw: lambda law, lattice, blanks: MixtureCodec.of(law.dense(), lattice, blanks),
    HardMixtureLaw: MixtureCodec.soft,
}


def coder(model: Any, beta: float = 1.0, base: Any = None) -> Callable[[Lattice, BlankPattern], Codec]:
    """What makes a codec of a model with latents, of a law, or of an energy with an exact law; others are refused.

    An energy's law is that at inverse temperature ``beta`` with the base measure ``base``.
    """
    found = _found(model, beta, base)
    if found is None:
        raise _no_codec(type(model).__name__)
    return found


def check(model: Any, name: str) -> None:
    """Refuse a model that nothing codes, calling it by ``name``."""
    if _found(model) is None:
        raise _no_codec(name)


def _found(
    model: Any, beta: float = 1.0, base: Any = None
) -> Callable[[Lattice, BlankPattern], Codec] | None:
    law = model.law(beta, base) if isinstance(model, Energy) else None
    for source in (model, law):
        for family in type(source).mro():
            if family in CODECS:
                return partial(CODECS[family], source)
    return None


def _no_codec(name: str) -> ValueError:
    return ValueError(
        f"compress cannot code rows with {name}: it has neither latents with a posterior (as VAE has) nor "
        "Gaussian conditionals of its cells (as PPCA, GMM and k-means have), nor has a pool of models (as Auto is); fit a "
        "VAE or a GaussianMixture to the same data (abduce fit --model vae)"
    )


@contextmanager
def steady(model: Any) -> Iterator[None]:
    """Run models the same way each time: float64, no gradients, evaluation mode, one thread."""
    network = model if isinstance(model, nn.Module) else nn.Module()  # a law has no parameters and no modes
    if any(p.dtype != torch.float64 for p in network.parameters()):
        raise TypeError("compress needs a model in float64: call model.double()")
    threads, training = torch.get_num_threads(), network.training
    torch.set_num_threads(1)
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        network.train(training)


# ------------------------------------------------------------------ from data to bytes and back


def _digest(k: np.ndarray, observed: np.ndarray) -> int:
    return zlib.crc32(np.packbits(observed).tobytes(), zlib.crc32(np.ascontiguousarray(k, "<i8").tobytes()))


class _Rows(NamedTuple):
    """Rows to be coded, the codec that both sides have, and what it takes to make it."""

    k: np.ndarray
    observed: np.ndarray
    extras: bytes  # what their cells leave out
    ranges: Ranges
    rates: bytes
    blanks: BlankPattern
    codec: Codec


@contextmanager
def _prepared(model: Any, schema: Schema, X: Any, beta: float = 1.0, base: Any = None) -> Iterator[_Rows]:
    """X as codes, and its codec, as long as models run steadily."""
    with steady(model):
        make = coder(model, beta, base)
        k, observed = schema.to_integers(X, ignore_left_out=True)
        extras, carried = carry(schema, X, schema.from_integers(k, observed))
        observed[:, carried] = False
        k[:, carried] = 0
        check_whole(X, put_back(schema.from_integers(k, observed), extras))
        ranges, rates = wider_ranges(schema, k, observed), observed_rates(observed)
        blanks = BlankPattern(rates, schema.n_cells)
        yield _Rows(k, observed, extras, ranges, rates, blanks, make(Lattice.of(schema, ranges), blanks))


def _write(rows: _Rows, fingerprint: bytes) -> tuple[bytes, list[Coded]]:
    """The compressed file, decoded and compared, and what became of each batch of rows."""
    k, observed = rows.k, rows.observed
    stack, batches = encode(rows.codec, rows.blanks, k, observed)
    payload = stack.to_bytes()
    back, mask = decode(BitStack(payload), rows.codec, rows.blanks, len(k))
    if not (np.array_equal(k, back) and np.array_equal(observed, mask)):
        raise RuntimeError("compress: what was written does not decode to the same rows; nothing is returned")
    check = _digest(k, observed)
    box = Packed(fingerprint, len(k), check, payload, rows.rates, rows.ranges, rows.extras)
    return box.to_bytes(), batches


def compress(
    model: Any, schema: Schema, X: Any, fingerprint: bytes, beta: float = 1.0, base: Any = None
) -> bytes:
    """Compress X losslessly with a fitted model; ``fingerprint`` (at least 8 bytes) names the model.

    ``model`` has latents, or is a mixture of Gaussians, or is an energy that has one as its law at ``beta`` and ``base``.  A
    model with latents takes −ELBO bits a row, a mixture of Gaussians −log₂ p.  For a ``HardMixtureLaw`` the soft mixture
    codes, with equal weights, means w_k and covariances I/2β: at most log₂ K bits a row more than −log₂ p of the law itself.

    What was written is decoded and compared before it is returned.  Raises ValueError naming the column for
    values that the model has no code for: categories never seen, pixels out of range, reals off the training
    data's lattice; and for a model of another family, which has neither latents nor exact conditionals to code with.
    """
    with _prepared(model, schema, X, beta, base) as rows:
        return _write(rows, fingerprint)[0]


def decompress(
    model: Any, schema: Schema, data: bytes, fingerprint: bytes, beta: float = 1.0, base: Any = None
) -> Any:
    """Turn :func:`compress`'s bytes back into X, bit for bit.

    Raises CompressedDataError if ``data`` is not ours, of another format version or model, truncated or changed.
    """
    with steady(model):
        make = coder(model, beta, base)
        container = Packed.from_bytes(data, fingerprint, schema.n_cells)
        blanks = BlankPattern(container.rates, schema.n_cells)
        codec = make(Lattice.of(schema, container.ranges), blanks)
        k, observed = decode(BitStack(container.payload), codec, blanks, container.rows)
    if _digest(k, observed) != container.check:
        raise CompressedDataError("data does not decode to the rows that were compressed (checksum differs)")
    return put_back(schema.from_integers(k, observed), container.extras)


# ------------------------------------------------------------------ rates


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


def rate(model: Any, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> Rate:
    """Measure the rate of X against the model's own −ELBO, or −log₂ p where that is exact."""
    with _prepared(model, schema, X) as rows:
        data, batches = _write(rows, bytes(8))
        bits = [0, *(batch.bits for batch in batches)]
        sizes = (len(data), len(data) - (bits[-1] + 7) // 8, len(rows.k))
        first = max((i for i, batch in enumerate(batches, 1) if batch.plain), default=0)
        start = sum(batch.rows for batch in batches[:first])
        if start == len(rows.k):
            return Rate(*sizes, start, math.nan, math.nan, math.nan)
        marginal = (bits[-1] - bits[first]) / (len(rows.k) - start)
        k, observed = rows.k[start:], rows.observed[start:]
        promised = float(rows.codec.promised(k, observed, draws, seed).mean())
        return Rate(*sizes, start, marginal, promised, float(rows.blanks.bits(observed).mean()))


def negative_elbo(model: Any, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> np.ndarray:
    """−ELBO of each row in bits, cells on their lattice as compress codes them, ``(n,)``; blanks cost nothing.

    For a mixture of Gaussians it is −log₂ p, exact.
    """
    with _prepared(model, schema, X) as rows:
        return rows.codec.promised(rows.k, rows.observed, draws, seed)
