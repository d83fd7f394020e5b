"""Lossless compression: an entropy coder, and a model that tells it what each symbol costs.

What is pushed onto the coder's stack and popped from it (:mod:`abduce.compress.stack`) depends on the model:

    latents               bits back on z: −ELBO bits a row              :mod:`abduce.compress.latent_codec`
    mixture of Gaussians  exact conditionals of the cells, bits back
                          on the component: −log₂ p(x) bits a row       :mod:`abduce.compress.mixture_codec`

What the model has no code for goes beside (:mod:`abduce.compress.extras`), and a table for which general compressors or the
frequencies of its columns take fewer bytes than the model is theirs (:mod:`abduce.compress.table`): `compress` never loses to
them, and refuses no table of the columns that the model was fitted to.

Two things kill such codes.  *Popping an empty stack* gives constant symbols: see :mod:`abduce.compress.batches`.  *Numbers
that differ in their last bit* between the two sides make most symbols decode wrong.  Models run in float64, each operation
on one thread, and convolutions in whole numbers (:mod:`abduce.nets.whole`); what they give is rounded to a grid before use;
and what has been written is taken apart and compared, batch by batch and then as a table, before it is handed out, with a
checksum of the rows inside.

Source: Duda 2013 (arXiv:1311.2540); Townsend, Bird & Barber 2019 (arXiv:1901.04866).
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from abduce.compress.batches import BlankPattern, Codec, Uncodable, decode, encode, observed_rates
from abduce.compress.container import CompressedDataError, Packed
from abduce.compress.extras import carry, check_whole, put_back
from abduce.compress.frame_extras import Codes
from abduce.compress.latent_codec import LatentCodec
from abduce.compress.lattice import Lattice, near, wider_ranges
from abduce.compress.mixture_codec import MixtureCodec
from abduce.compress.stack import BitStack
from abduce.compress.steady import steady
from abduce.data.schema import Schema
from abduce.gaussians.em import awaited
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.inference.latent import LatentVariableModel
from abduce.models.hard_mixture_law import HardMixtureLaw

# cells of a table for which both forms are made beside each other, where there are threads for it
BUSY = 2**18

# ------------------------------------------------------------------ which codec serves which model

CODECS: dict[type, Callable[[Any, Lattice, BlankPattern], Codec]] = {
    LatentVariableModel: lambda model, lattice, blanks: LatentCodec(model, lattice),
    GaussianMixtureLaw: MixtureCodec.of,
    FactorMixtureLaw: lambda law, lattice, blanks: MixtureCodec.of(law.dense(), lattice, blanks),
    HardMixtureLaw: MixtureCodec.soft,
}


def coder(model: Any) -> Callable[[Lattice, BlankPattern], Codec]:
    """What makes a codec of a model with latents or of a law; Uncodable for others."""
    for family in type(model).mro():
        if family in CODECS:
            return partial(CODECS[family], model)
    raise Uncodable(
        "it has neither latents with a posterior (as VAE has) nor Gaussian conditionals of its cells (as PPCA, GMM and "
        "k-means have), nor has a pool of models (as Auto is)"
    )


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
    k, observed = schema.to_integers(X)
    extras, observed = carry(schema, X, (k, observed & near(schema, k)))
    k = np.where(observed, k, 0)
    rates, ranges = observed_rates(observed), wider_ranges(schema, k, observed)
    box = Packed(fingerprint, len(k), _digest(k, observed), b"", rates, ranges, extras)
    return box, *_made(make, schema, box), k, observed


def by_model(model: Any, schema: Schema, X: Any, fingerprint: bytes) -> bytes:
    """X coded with the model, and beside that what it has no code for; Uncodable where the model has no code at all."""
    return _by_model(model, schema, X, fingerprint)[0]


def _by_model(model: Any, schema: Schema, X: Any, fingerprint: bytes) -> tuple[bytes, Codes]:
    """X coded with the model, and the codes and the mask that the code leads back to."""
    with steady(model):
        box, codec, blanks, k, observed = prepared(model, schema, X, fingerprint)
        try:
            box.payload = encode(codec, blanks, k, observed).to_bytes()
        except (ValueError, ArithmeticError, RuntimeError) as error:
            raise Uncodable(f"its code of these rows fails ({error})") from error
    return box.to_bytes(), (k, observed)


def by_columns(schema: Schema, X: Any, fingerprint: bytes, beat: float = math.inf) -> bytes:
    """X coded without a model; ``beat`` bytes are enough to lose."""
    return Packed(fingerprint, len(X), extras=carry(schema, X, None, beat)[0], plain=True).to_bytes()


def compress(model: Any, schema: Schema, X: Any, fingerprint: bytes, name: str | None = None) -> bytes:
    """Compress X losslessly with a fitted model; ``fingerprint`` (at least 8 bytes) names the model.

    A model with latents takes −ELBO bits a row, a mixture of Gaussians −log₂ p, a ``HardMixtureLaw`` at most log₂ K more.
    Cells that it has no code for are carried beside; where general compressors, or the frequencies of each column, take less
    than the model, the table is theirs.  RuntimeWarning, by ``name`` or that of its class, of a model that has no code.

    What was written is decoded and compared before it is returned.  Raises ValueError naming the column for objects that
    have no form in bytes, and for other columns than in training.
    """
    checked = schema.checked(X)
    X = checked if isinstance(X, pd.DataFrame) or schema.container == "frame" else np.asarray(X)
    forms: list[tuple[bytes, Codes | None]] = []
    several = torch.get_num_threads() > 1 and X.size > BUSY
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(by_columns, schema, X, fingerprint) if several else None
        try:
            forms.append(_by_model(model, schema, X, fingerprint))
        except Uncodable as why:
            warnings.warn(
                f"compress uses nothing of {name or type(model).__name__}: {why}; the rows are coded without a model",
                RuntimeWarning,
                stacklevel=3,
            )
        beat = min((len(data) for data, _ in forms), default=math.inf)
        plain = awaited(beside) if beside else by_columns(schema, X, fingerprint, beat)
    forms.append((plain, None))
    wrong: list[ValueError] = []
    for data, codes in sorted(forms, key=lambda form: len(form[0])):
        try:
            box = Packed.from_bytes(data, fingerprint, schema.n_cells)
            check_whole(X, put_back(schema, box.rows, codes, box.extras))
        except ValueError as error:
            wrong.append(error)
        else:
            return data
    raise wrong[-1]


def decompress(model: Any, schema: Schema, data: bytes, fingerprint: bytes) -> Any:
    """Turn :func:`compress`'s bytes back into X, bit for bit.

    Raises CompressedDataError if ``data`` is not ours, of another format version or model, truncated or changed.
    """
    box = Packed.from_bytes(data, fingerprint, schema.n_cells)
    if box.plain:
        return put_back(schema, box.rows, None, box.extras)
    with steady(model):
        try:
            k, observed = decode(BitStack(box.payload), *_made(coder(model), schema, box), box.rows)
        except (Uncodable, ArithmeticError, MemoryError, RuntimeError, IndexError) as error:
            raise CompressedDataError(f"data does not decode: {error}") from None
    if _digest(k, observed) != box.check:
        raise CompressedDataError("data does not decode to the rows that were compressed (checksum differs)")
    return put_back(schema, box.rows, (k, observed), box.extras)
