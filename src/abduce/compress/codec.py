"""Lossless compression: an entropy coder, and a model that tells it what each symbol costs.

Asymmetric numeral systems (ANS) are a stack of bits: pushing a symbol of probability P costs −log₂ P bits, popping it
gives them back, exactly.  What is pushed and popped depends on the model:

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch
from torch import nn

from abduce.compress.batches import Blanks, Codec, Trace, decode, encode, observed_rates
from abduce.compress.container import CompressedDataError, Container, carry, check_whole, put_back
from abduce.compress.latent_codec import LatentCodec
from abduce.compress.mixture_codec import MixtureCodec
from abduce.compress.symbols import Lattice, default_ranges
from abduce.data.schema import Schema
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.latent import LatentVariableModel
from abduce.models.hard_mixture_law import HardMixtureLaw

Model = LatentVariableModel | GaussianMixtureLaw | HardMixtureLaw

_stack: Any = constriction.stream.stack  # pyright: ignore[reportAttributeAccessIssue]
_models: Any = constriction.stream.model  # pyright: ignore[reportAttributeAccessIssue]
_FLAGS = _models.Bernoulli(perfect=False)
_TABLE = _models.Categorical(perfect=False)


class Stack:
    """The ANS coder: what is pushed last is popped first."""

    def __init__(self, payload: bytes = b""):
        padded = payload + bytes(-len(payload) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        self._coder = _stack.AnsCoder(words) if len(words) else _stack.AnsCoder()

    @property
    def bits(self) -> int:
        """Bits on the stack."""
        return self._coder.num_valid_bits()

    def copy(self) -> Stack:
        """Copy the whole stack."""
        out = Stack()
        out._coder = self._coder.clone()
        return out

    def to_bytes(self) -> bytes:
        """Write the stack, without the zeros at its end."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def _push(self, k: np.ndarray, family: Any, *parameters: np.ndarray) -> None:
        if k.size:
            self._coder.encode_reverse(np.ascontiguousarray(k, np.int32), family, *parameters)

    def _pop(self, family: Any, *parameters: np.ndarray) -> np.ndarray:
        return (
            self._coder.decode(family, *parameters).astype(np.int64)
            if len(parameters[0])
            else np.zeros(0, np.int64)
        )

    def push_flags(self, k: np.ndarray, p: np.ndarray) -> None:
        """Push bits that are one with probability p."""
        self._push(k, _FLAGS, p)

    def pop_flags(self, p: np.ndarray) -> np.ndarray:
        """Pop bits."""
        return self._pop(_FLAGS, p)

    def push_table(self, k: np.ndarray, table: np.ndarray) -> None:
        """Push symbols by a table of weights ``(m, K)``."""
        self._push(k, _TABLE, table)

    def pop_table(self, table: np.ndarray) -> np.ndarray:
        """Pop symbols."""
        return self._pop(_TABLE, table)

    def push_gaussian(self, k: np.ndarray, mean: np.ndarray, scale: np.ndarray, low: int, high: int) -> None:
        """Push whole numbers from Gaussians cut into unit bins, ``low`` and ``high`` taking the tails."""
        self._push(k, _models.QuantizedGaussian(low, high), mean, scale)

    def pop_gaussian(self, mean: np.ndarray, scale: np.ndarray, low: int, high: int) -> np.ndarray:
        """Pop whole numbers."""
        return self._pop(_models.QuantizedGaussian(low, high), mean, scale)


# ------------------------------------------------------------------ the model


def check_model(model: Any) -> None:
    """Refuse what there is no codec for."""
    if not isinstance(model, Model):
        raise ValueError(
            f"compress cannot code rows with {type(model).__name__}: it has neither latents with a posterior (as VAE has) nor "
            "Gaussian conditionals of its cells (as PPCA, GMM and k-means have)"
        )


@contextmanager
def steady(model: Model) -> Iterator[None]:
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


def _codec(model: Model, schema: Schema, ranges: dict[int, tuple[int, int]], blanks: Blanks) -> Codec:
    lattice = _lattice(schema, ranges)
    if isinstance(model, LatentVariableModel):
        return LatentCodec(model, lattice)
    if isinstance(model, HardMixtureLaw):
        return MixtureCodec.soft(model, lattice, blanks)
    return MixtureCodec.of(model, lattice, blanks)


# ------------------------------------------------------------------ from data to bytes and back


def _digest(k: np.ndarray, observed: np.ndarray) -> int:
    return zlib.crc32(np.packbits(observed).tobytes(), zlib.crc32(np.ascontiguousarray(k, "<i8").tobytes()))


def _lattice(schema: Schema, ranges: dict[int, tuple[int, int]]) -> Lattice:
    low, size = default_ranges(schema)
    for place, (start, n) in ranges.items():
        if place >= len(low) or n < 1:
            raise CompressedDataError("data does not decode: it has a range for a column that is not there")
        low[place], size[place] = start, n
    return Lattice.of(schema, low, size)


def _wider(schema: Schema, k: np.ndarray, observed: np.ndarray) -> dict[int, tuple[int, int]]:
    """Ranges of fields whose codes leave the range seen in training."""
    low, size = default_ranges(schema)
    if not k.size:
        return {}
    least = np.where(observed, k, np.iinfo(np.int64).max).min(0)
    most = np.where(observed, k, np.iinfo(np.int64).min).max(0)
    if len(low) == 1:
        least, most = least.min(keepdims=True), most.max(keepdims=True)
    high = low + size - 1
    out = {}
    for j in np.flatnonzero((least < low) & (least <= most) | (most > high) & (least <= most)):
        start, stop = int(min(least[j], low[j])), int(max(most[j], high[j]))
        if stop - start >= 2**60:
            raise ValueError(f"X: column {schema.fields[j].name!r} has values too far apart to compress")
        out[int(j)] = (start, stop - start + 1)
    return out


def _prepare(schema: Schema, X: Any) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Give X's codes and mask, and the extras that its cells leave out."""
    k, observed = schema.to_integers(X, ignore_left_out=True)
    extras, carried = carry(schema, X, schema.from_integers(k, observed))
    observed[:, carried] = False
    k[:, carried] = 0
    check_whole(X, put_back(schema.from_integers(k, observed), extras))
    return k, observed, extras


class _Encoded(NamedTuple):
    data: bytes
    trace: Trace
    k: np.ndarray
    observed: np.ndarray
    codec: Codec
    blanks: Blanks


def _encode(model: Model, schema: Schema, X: Any, fingerprint: bytes) -> _Encoded:
    check_model(model)
    k, observed, extras = _prepare(schema, X)
    ranges, rates = _wider(schema, k, observed), observed_rates(observed)
    blanks = Blanks(rates, schema.n_cells)
    with steady(model):
        codec = _codec(model, schema, ranges, blanks)
        stack, trace = encode(Stack(), codec, blanks, k, observed)
        payload = stack.to_bytes()
        check = _digest(k, observed)
        back, mask = decode(Stack(payload), codec, blanks, len(k))
    if not (np.array_equal(k, back) and np.array_equal(observed, mask)):
        raise RuntimeError("compress: what was written does not decode to the same rows; nothing is returned")
    data = Container(fingerprint, len(k), check, payload, rates, ranges, extras).to_bytes()
    return _Encoded(data, trace, k, observed, codec, blanks)


def compress(model: Model, schema: Schema, X: Any, fingerprint: bytes) -> bytes:
    """Compress X losslessly with a fitted model; ``fingerprint`` (at least 8 bytes) names the model.

    A model with latents takes −ELBO bits a row, a mixture of Gaussians −log₂ p.  For a ``HardMixtureLaw`` the soft mixture
    codes, with equal weights, means w_k and covariances I/2β: at most log₂ K bits a row more than −log₂ p of the law itself.

    What was written is decoded and compared before it is returned.  Raises ValueError naming the column for
    values that the model has no code for: categories never seen, pixels out of range, reals off the training
    data's lattice; and for a model of another family, which has neither latents nor exact conditionals to code with.
    """
    return _encode(model, schema, X, fingerprint).data


def decompress(model: Model, schema: Schema, data: bytes, fingerprint: bytes) -> Any:
    """Turn :func:`compress`'s bytes back into X, bit for bit.

    Raises CompressedDataError if ``data`` is not ours, of another format version or model, truncated or
    changed.
    """
    check_model(model)
    container = Container.from_bytes(data, fingerprint, schema.n_cells)
    blanks = Blanks(container.rates, schema.n_cells)
    with steady(model):
        codec = _codec(model, schema, container.ranges, blanks)
        k, observed = decode(Stack(container.payload), codec, blanks, container.rows)
    if _digest(k, observed) != container.check:
        raise CompressedDataError("data does not decode to the rows that were compressed (checksum differs)")
    return put_back(schema.from_integers(k, observed), container.extras)


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


def rate(model: Model, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> Rate:
    """Measure the rate of X against the model's own −ELBO, or −log₂ p where that is exact."""
    data, trace, k, observed, codec, blanks = _encode(model, schema, X, bytes(8))
    payload = (trace[-1][2] + 7) // 8 if trace else 0
    first = next((i for i, (_, plain, _) in reversed(list(enumerate(trace))) if plain), -1) + 1
    start = sum(size for size, _, _ in trace[:first])
    if start == len(k):
        return Rate(len(data), len(data) - payload, len(k), start, math.nan, math.nan, math.nan)
    marginal = (trace[-1][2] - (trace[first - 1][2] if first else 0)) / (len(k) - start)
    with steady(model):
        promised = codec.promised(k[start:], observed[start:], draws, seed).mean()
    mask = blanks.bits(observed[start:]).mean()
    return Rate(len(data), len(data) - payload, len(k), start, marginal, float(promised), float(mask))


def negative_elbo(model: Model, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> np.ndarray:
    """−ELBO of each row in bits, cells on their lattice as compress codes them, ``(n,)``; blanks cost
    nothing.  For a mixture of Gaussians it is −log₂ p, exact."""
    check_model(model)
    k, observed, _ = _prepare(schema, X)
    blanks = Blanks(observed_rates(observed), schema.n_cells)
    with steady(model):
        codec = _codec(model, schema, _wider(schema, k, observed), blanks)
        return codec.promised(k, observed, draws, seed)
