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

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from abduce.compress.batches import BlankPattern, Codec, decode, encode, observed_rates
from abduce.compress.container import CompressedDataError, Packed
from abduce.compress.extras import carry, check_whole, put_back
from abduce.compress.latent_codec import LatentCodec
from abduce.compress.lattice import Lattice, wider_ranges
from abduce.compress.mixture_codec import MixtureCodec
from abduce.compress.stack import BitStack
from abduce.data.schema import Schema
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.latent import LatentVariableModel
from abduce.models.hard_mixture_law import HardMixtureLaw

# ------------------------------------------------------------------ which codec serves which model

CODECS: dict[type, Callable[[Any, Lattice, BlankPattern], Codec]] = {
    LatentVariableModel: lambda model, lattice, blanks: LatentCodec(model, lattice),
    GaussianMixtureLaw: MixtureCodec.of,
    FactorMixtureLaw: lambda law, lattice, blanks: MixtureCodec.of(law.dense(), lattice, blanks),
    HardMixtureLaw: MixtureCodec.soft,
}


def coder(model: Any, name: str | None = None) -> Callable[[Lattice, BlankPattern], Codec]:
    """What makes a codec of a model with latents or of a law; others are refused, by ``name`` or that of their class."""
    for family in type(model).mro():
        if family in CODECS:
            return partial(CODECS[family], model)
    raise ValueError(
        f"compress cannot code rows with {name or type(model).__name__}: it has neither latents with a posterior (as VAE "
        "has) nor Gaussian conditionals of its cells (as PPCA, GMM and k-means have), nor has a pool of models (as Auto is);"
        " fit a VAE or a GaussianMixture to the same data (abduce fit --model vae)"
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


def _made(
    make: Callable[[Lattice, BlankPattern], Codec], schema: Schema, box: Packed
) -> tuple[Codec, BlankPattern]:
    """The codec and the blanks that both sides make of what the file says."""
    blanks = BlankPattern(box.rates, schema.n_cells)
    return make(Lattice.of(schema, box.ranges), blanks), blanks


def prepared(
    model: Any, schema: Schema, X: Any, fingerprint: bytes
) -> tuple[Packed, Codec, BlankPattern, np.ndarray, np.ndarray]:
    """The file without its payload, the codec and the blanks, and X as codes (n, D) with their mask; of a steady model."""
    make = coder(model)
    k, observed = schema.to_integers(X, ignore_left_out=True)
    extras, carried = carry(schema, X, schema.from_integers(k, observed))
    observed[:, carried] = False
    k[:, carried] = 0
    check_whole(X, put_back(schema.from_integers(k, observed), extras))
    rates, ranges = observed_rates(observed), wider_ranges(schema, k, observed)
    box = Packed(fingerprint, len(k), _digest(k, observed), b"", rates, ranges, extras)
    return box, *_made(make, schema, box), k, observed


def compress(model: Any, schema: Schema, X: Any, fingerprint: bytes) -> bytes:
    """Compress X losslessly with a fitted model; ``fingerprint`` (at least 8 bytes) names the model.

    A model with latents takes −ELBO bits a row, a mixture of Gaussians −log₂ p, a ``HardMixtureLaw`` at most log₂ K more.

    What was written is decoded and compared before it is returned.  Raises ValueError naming the column for
    values that the model has no code for: categories never seen, pixels out of range, reals off the training
    data's lattice; and for a model of another family, which has neither latents nor exact conditionals to code with.
    """
    with steady(model):
        box, codec, blanks, k, observed = prepared(model, schema, X, fingerprint)
        box.payload = encode(codec, blanks, k, observed).to_bytes()
        back, mask = decode(BitStack(box.payload), codec, blanks, len(k))
    if not (np.array_equal(k, back) and np.array_equal(observed, mask)):
        raise RuntimeError("compress: what was written does not decode to the same rows; nothing is returned")
    return box.to_bytes()


def decompress(model: Any, schema: Schema, data: bytes, fingerprint: bytes) -> Any:
    """Turn :func:`compress`'s bytes back into X, bit for bit.

    Raises CompressedDataError if ``data`` is not ours, of another format version or model, truncated or changed.
    """
    with steady(model):
        make = coder(model)
        box = Packed.from_bytes(data, fingerprint, schema.n_cells)
        k, observed = decode(BitStack(box.payload), *_made(make, schema, box), box.rows)
    if _digest(k, observed) != box.check:
        raise CompressedDataError("data does not decode to the rows that were compressed (checksum differs)")
    return put_back(schema.from_integers(k, observed), box.extras)
