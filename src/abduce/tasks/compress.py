"""Lossless compression by bits-back coding with asymmetric numeral systems (ANS).

ANS is a stack of bits: pushing a symbol of probability P costs −log₂ P bits, popping it gives them back,
exactly.  To code rows x with a latent-variable model, the sender

    pops  z with q(z|x)        gains  −log₂ q(z|x)       (the bits decide z: a free draw from the posterior)
    pushes x with p(x|z)       costs  −log₂ p(x|z)
    pushes z with p(z)         costs  −log₂ p(z)

so a row costs −ELBO bits on average.  The receiver pops z and x and pushes z back.  z lives on a
lattice that prior and posterior share, so its step cancels (see :mod:`abduce.tasks.lattices`).  Where a
Gaussian likelihood has cells that stay correlated given z, x = mean + F u + noise, the factors u are latents
as well: popped from their exact posterior given x and z (one after another, each given those before), pushed
with N(0, I); given u the cells are independent.

Two things kill such codes, and what is done about them:

*Popping an empty stack* gives constant symbols.  The first rows are coded without bits-back: z is the point
nearest the posterior mean on a lattice as coarse as the posterior is wide, and is paid for.  Then batches
grow as far as the bits allow; a pop that would leave less than a margin is taken back.  Nothing is borrowed:
the size is ``len(bytes)``.

*Numbers that differ in their last bit* between the two sides.  Networks run in float64, on one thread, in
batches padded to a few fixed shapes, with rows at the same places on both sides; their outputs are rounded to
a grid before use; and what has been written is decoded and compared before it is handed out, with a checksum
of the rows inside.

Source: Townsend, Bird & Barber 2019 (arXiv:1901.04866), whose buckets of equal prior mass are a lattice here,
so that any Gaussian prior, mixtures too, can be cut along with the posterior.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
import torch

from abduce.data.schema import Schema
from abduce.distributions.continuous import Gaussian, Laplace, RoundedGaussian, StudentT
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import DiagonalNormal, FullNormal, MixtureNormal
from abduce.distributions.priors import StandardNormal, as_mixture
from abduce.models.latent import LatentVariableModel
from abduce.tasks.container import CompressedDataError, Container, carry, check_whole, put_back
from abduce.tasks.lattices import MARGIN, LatentLaw, ShortOfBits, coarse_steps, lattice_units
from abduce.tasks.masses import LAPLACE, NORMAL, STUDENT_T, line_bits
from abduce.tasks.symbols import Lattice, default_ranges, rounded, symbol_models

SIZES = 10  # a batch has 2⁰ .. 2⁹ rows, but for the last
REST = 2 * SIZES  # says that a batch is the last, of any size

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


class Factors:
    """The factors u (n, rank) through which the Gaussian cells of a batch stay correlated, given z."""

    def __init__(self, part: Gaussian, n: int, seen: np.ndarray):
        assert part.factor is not None
        self.factor = rounded(part.factor[:n].numpy() if part.factor.ndim == 3 else part.factor.numpy())
        self.mean = rounded(part.mean[:n].numpy())
        self.scale = np.exp(rounded(np.log(part.scale[:n].numpy())))
        self.whitened = self.factor / self.scale[..., None] * seen[..., None]  # (n, d, rank)
        gram = self.whitened.swapaxes(1, 2) @ self.whitened
        # posterior precision P = L Lᵀ, so Lᵀ(u − mean) ~ N(0, I)
        self.root = rounded(np.linalg.cholesky(gram + np.eye(gram.shape[-1])))
        width = 1.0 / np.diagonal(self.root, axis1=1, axis2=2)
        self.unit = lattice_units(width.min(0))
        self.coarse = coarse_steps(width, self.unit)
        self.prior = LatentLaw.standard(n, self.unit)

    def posterior(self, x: np.ndarray) -> LatentLaw:
        """The factors' exact law given the cells (n, d)."""
        residual = (x - self.mean) / self.scale
        projected = self.whitened.swapaxes(1, 2) @ residual[..., None]
        mean = np.linalg.solve(self.root @ self.root.swapaxes(1, 2), projected)[..., 0]
        A = self.root.swapaxes(1, 2)
        return LatentLaw(None, mean[:, None], A[:, None], np.ones(mean.shape), self.unit)

    def cells(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and scale (n, d) of the cells given the factors' lattice points."""
        return rounded(self.mean + (self.factor @ (u / self.unit)[..., None])[..., 0]), self.scale


class Codec:
    """Bits-back coding of codes (n, D) and masks; both sides make the same one from what the header says."""

    def __init__(self, model: LatentVariableModel, lattice: Lattice, rates: bytes):
        self.model, self.lattice = model, lattice
        cells, k = len(lattice.size), model.latent_dim
        width = cells + sum(int(head.n_parameters) for head in model.heads.heads)  # pyright: ignore
        self._mixture: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        components = 1
        prior: Any = model.prior
        law: Any = as_mixture(prior)
        if law is not None:
            weights, means, roots = (t.double().numpy() for t in (law.weights, law.means, law.roots))
            self._mixture = np.log(weights)[None], means[None], rounded(np.linalg.inv(roots))[None]
            components = len(weights)
        elif not isinstance(prior, StandardNormal):
            raise ValueError(
                f"compress needs a prior of Gaussians (normal, mixture, vamp), this model has {type(prior).__name__}"
            )
        rows = min(2**20 / width, 2**23 / (components * k * k))
        self.exponent = int(np.clip(math.log2(rows), 4, SIZES - 1))
        self.rows = 2**self.exponent  # rows of the padded shape in which the networks run
        share = np.frombuffer(rates or b"\xff", np.uint8)
        share = np.broadcast_to(share, (cells,))
        self.always = share == 255
        self.open = (share > 0) & (share < 255)
        self.share = share / 255.0
        self.unit = np.ones(k, np.int64)
        typical = self._posterior(np.zeros((1, cells)), np.ones((1, cells), bool)).width()[0]
        self.unit = lattice_units(typical)
        self.coarse = coarse_steps(typical, self.unit)

    # -------------------------------------------------------------- the networks, in one padded shape

    def _padded(self, values: np.ndarray) -> torch.Tensor:
        # the shape follows from the number of rows alone, so both sides use the same
        rows = next((r for r in (16, 64, 256) if len(values) <= r < self.rows), self.rows)
        out = np.zeros((rows, values.shape[1]), values.dtype)
        out[: len(values)] = values
        return torch.from_numpy(out)

    def _posterior(self, x: np.ndarray, observed: np.ndarray) -> LatentLaw:
        """q(z|x) of n rows."""
        n = len(x)
        q = self.model.posterior(self._padded(x), None if observed.all() else self._padded(observed))
        if isinstance(q, FullNormal):
            q = q.mixture()
        if isinstance(q, DiagonalNormal):
            return LatentLaw(
                None, q.mean[:n, None].numpy(), None, np.exp(rounded(q.log_scale[:n].numpy())), self.unit
            )
        if not isinstance(q, MixtureNormal):
            raise ValueError(
                f"compress needs a posterior of Gaussians (diagonal, full), this model has {type(q).__name__}"
            )
        mean = (q.means[:n] + q.shift[:n, None]).numpy()
        A = rounded(q.chol[:n].mT.numpy())
        return LatentLaw(q.log_r[:n].numpy(), mean, A, np.exp(rounded(q.log_stretch[:n].numpy())), self.unit)

    def _prior(self, n: int) -> LatentLaw:
        """p(z), for n rows."""
        if self._mixture is None:
            return LatentLaw.standard(n, self.unit)
        log_r, mean, A = (np.broadcast_to(a, (n, *a.shape[1:])) for a in self._mixture)
        return LatentLaw(log_r, mean, A[:1], np.ones((n, len(self.unit))), self.unit, upper=False)

    def _law(self, z: np.ndarray) -> Product:
        return self.model.likelihood(self._padded(z / self.unit))

    def _gaussian(
        self, law: Product, observed: np.ndarray
    ) -> tuple[np.ndarray, Gaussian | RoundedGaussian, Factors | None] | None:
        """Find the Gaussian part: its cells' positions, itself, and its factors if its cells are
        correlated."""
        n, d = observed.shape
        for where, part in law.parts:
            if isinstance(part, Gaussian | RoundedGaussian):
                index = np.arange(d)[where if isinstance(where, slice) else where.numpy()]
                if isinstance(part, RoundedGaussian) or part.factor is None:
                    return index, part, None
                return index, part, Factors(part, n, observed[:, index])
        return None

    # -------------------------------------------------------------- one batch

    def push(self, stack: Stack, k: np.ndarray, observed: np.ndarray, plain: bool) -> None:
        """Push a batch of rows; with ``plain`` latents are paid for, else popped. ShortOfBits if the stack
        has too few."""
        n = len(k)
        x = self.lattice.values(k, observed)
        q = self._posterior(x, observed)
        z = q.centre(self.coarse) if plain else q.draw(stack, guard=True)
        law = self._law(z)
        gaussian, factors, u = None, None, np.zeros((n, 0), np.int64)
        if found := self._gaussian(law, observed):
            index, part, factors = found
            if factors is not None:
                own = factors.posterior(x[:, index])
                u = own.centre(factors.coarse) if plain else own.draw(stack, guard=True)
            gaussian = given(part, factors, u, n)
        s = k - self.lattice.low
        for cells in reversed(list(symbol_models(law.parts, gaussian, self.lattice, observed))):
            cells.model.push(stack, s[:, cells.index][cells.seen])
        if plain:
            if factors is not None:
                factors.prior.pay(stack, u, factors.coarse)
            self._prior(n).pay(stack, z, self.coarse)
        else:
            if factors is not None:
                factors.prior.give(stack, u)
            self._prior(n).give(stack, z, guard=True)
        stack.push_flags(observed[:, self.open].ravel(), self._flags(n))
        exponent = n.bit_length() - 1
        if n != 2**exponent:
            stack.push_table(np.array([n]), np.ones((1, 2**SIZES)))
        stack.push_table(
            np.array([2 * exponent + plain if n == 2**exponent else REST]), np.ones((1, REST + 1))
        )

    def pop(self, stack: Stack, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Pop the batch that was pushed last, of at most ``rows`` rows: codes and mask."""
        symbol = int(stack.pop_table(np.ones((1, REST + 1)))[0])
        n, plain = 2 ** (symbol // 2), bool(symbol % 2)
        if symbol == REST:
            n = int(stack.pop_table(np.ones((1, 2**SIZES)))[0])
        if not 0 < n <= min(rows, self.rows):
            raise CompressedDataError("data does not decode: it holds more rows than it says")
        observed = np.broadcast_to(self.always, (n, len(self.always))).copy()
        observed[:, self.open] = stack.pop_flags(self._flags(n)).reshape(n, -1)
        prior = self._prior(n)
        z = prior.receive(stack, self.coarse) if plain else prior.draw(stack)
        law = self._law(z)
        gaussian, factors, u, index = None, None, np.zeros((n, 0), np.int64), np.zeros(0, np.int64)
        if found := self._gaussian(law, observed):
            index, part, factors = found
            if factors is not None:
                u = factors.prior.receive(stack, factors.coarse) if plain else factors.prior.draw(stack)
            gaussian = given(part, factors, u, n)
        s = np.zeros(observed.shape, np.int64)
        for cells in symbol_models(law.parts, gaussian, self.lattice, observed):
            block = np.zeros(cells.seen.shape, np.int64)
            block[cells.seen] = cells.model.pop(stack)
            s[:, cells.index] = block
        k = np.where(observed, s + self.lattice.low, 0)
        if not plain:
            x = self.lattice.values(k, observed)
            if factors is not None:
                factors.posterior(x[:, index]).give(stack, u)
            self._posterior(x, observed).give(stack, z)
        return k, observed

    def _flags(self, n: int) -> np.ndarray:
        return np.broadcast_to(self.share[self.open], (n, int(self.open.sum()))).ravel()

    # -------------------------------------------------------------- all rows

    def encode(self, k: np.ndarray, observed: np.ndarray) -> tuple[bytes, list[tuple[int, bool, int]]]:
        """Code all rows: the payload, and for each batch its rows, whether latents were paid for, and the
        bits after."""
        stack, done, trace = Stack(), 0, []
        last, last_plain = 0.5, 0.5
        worst = 24 * (self.model.latent_dim + len(self.lattice.size) + 2)  # a pop takes at most 24 bits
        while done < len(k):
            left = len(k) - done
            size, plain = int(min(2 * last, self.rows, left)), not done
            while True:
                if plain:
                    size = 2 ** (int(min(2 * last_plain, self.rows, left)).bit_length() - 1)
                elif size < left:
                    size = 2 ** (size.bit_length() - 1)
                rows = slice(done, done + size)
                before = stack.copy() if stack.bits < worst * size + MARGIN else stack
                try:
                    self.push(stack, k[rows], observed[rows], plain)
                    break
                except ShortOfBits:
                    stack, plain = before, size == 1
                    size //= 2
            if plain:
                last_plain = size
            last, done = max(size, 1), done + size
            trace.append((size, plain, stack.bits))
        return stack.to_bytes(), trace

    def decode(self, payload: bytes, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Decode all rows: codes (n, D) and mask. CompressedDataError if they don't come out even."""
        stack = Stack(payload)
        k = np.zeros((rows, len(self.always)), np.int64)
        observed = np.zeros(k.shape, bool)
        left = rows
        while left:
            batch, mask = self.pop(stack, left)
            k[left - len(batch) : left], observed[left - len(batch) : left] = batch, mask
            left -= len(batch)
        if stack.bits:
            raise CompressedDataError("data does not decode: bits are left over")
        return k, observed


def given(
    part: Gaussian | RoundedGaussian, factors: Factors | None, u: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale (n, d) of independent Gaussian cells, their factors given."""
    if factors is not None:
        return factors.cells(u)
    return rounded(part.mean[:n].numpy()), np.exp(rounded(np.log(part.scale[:n].numpy())))


# ------------------------------------------------------------------ from data to bytes and back


@contextmanager
def steady(model: LatentVariableModel) -> Iterator[None]:
    """Run networks the same way each time: float64, no gradients, evaluation mode, one thread."""
    if next(model.parameters()).dtype != torch.float64:
        raise TypeError("compress needs a model in float64: call model.double()")
    threads, training = torch.get_num_threads(), model.training
    torch.set_num_threads(1)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
        model.train(training)


def observed_rates(observed: np.ndarray) -> bytes:
    """Share of observed cells in steps of 1/255: nothing if all are, one byte for all columns, or one for
    each."""
    if observed.all():
        return b""
    n, d = observed.shape

    def byte(share: np.ndarray) -> np.ndarray:
        return np.where(
            share == 0, 0, np.where(share == 1, 255, np.clip(np.rint(share * 255), 1, 254))
        ).astype(np.uint8)

    def bits(rate: np.ndarray, share: np.ndarray) -> float:
        p = np.clip(rate / 255, 1e-12, 1 - 1e-12)
        return float(-(share * np.log2(p) + (1 - share) * np.log2(1 - p)).sum() * n)

    share = observed.mean(0)
    each, one = byte(share), byte(observed.mean(keepdims=True).reshape(1))
    cost = 8 * len(zlib.compress(each.tobytes(), 9)) + bits(each, share)
    return each.tobytes() if d > 1 and cost < bits(one, share) else one.tobytes()


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


def _encode(
    model: LatentVariableModel, schema: Schema, X: Any, fingerprint: bytes
) -> tuple[bytes, list, Any]:
    k, observed, extras = _prepare(schema, X)
    ranges, rates = _wider(schema, k, observed), observed_rates(observed)
    with steady(model):
        codec = Codec(model, _lattice(schema, ranges), rates)
        payload, trace = codec.encode(k, observed)
        check = _digest(k, observed)
        back, mask = codec.decode(payload, len(k))
    if not (np.array_equal(k, back) and np.array_equal(observed, mask)):
        raise RuntimeError("compress: what was written does not decode to the same rows; nothing is returned")
    data = Container(fingerprint, len(k), check, payload, rates, ranges, extras).to_bytes()
    return data, trace, (k, observed, codec)


def compress(model: LatentVariableModel, schema: Schema, X: Any, fingerprint: bytes) -> bytes:
    """Compress X losslessly with a fitted model; ``fingerprint`` (at least 8 bytes) names the model.

    What was written is decoded and compared before it is returned.  Raises ValueError naming the column for
    values that the model has no code for: categories never seen, pixels out of range, reals off the training
    data's lattice.
    """
    return _encode(model, schema, X, fingerprint)[0]


def decompress(model: LatentVariableModel, schema: Schema, data: bytes, fingerprint: bytes) -> Any:
    """Turn :func:`compress`'s bytes back into X, bit for bit.

    Raises CompressedDataError if ``data`` is not ours, of another format version or model, truncated or
    changed.
    """
    container = Container.from_bytes(data, fingerprint, schema.n_cells)
    with steady(model):
        codec = Codec(model, _lattice(schema, container.ranges), container.rates)
        k, observed = codec.decode(container.payload, container.rows)
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
    negative_elbo_bits: (
        float  # the model's −ELBO of these same rows, cells on their lattice, blanks not counted
    )
    mask_bits: float  # what the pattern of blanks costs, counted in marginal_bits


def rate(model: LatentVariableModel, schema: Schema, X: Any, draws: int = 4, seed: int = 0) -> Rate:
    """Measure the rate of X against the model's own −ELBO."""
    data, trace, (k, observed, codec) = _encode(model, schema, X, bytes(8))
    payload = (trace[-1][2] + 7) // 8 if trace else 0
    first = next((i for i, (_, plain, _) in reversed(list(enumerate(trace))) if plain), -1) + 1
    start = sum(size for size, _, _ in trace[:first])
    if start == len(k):
        return Rate(len(data), len(data) - payload, len(k), start, math.nan, math.nan, math.nan)
    marginal = (trace[-1][2] - (trace[first - 1][2] if first else 0)) / (len(k) - start)
    with steady(model):
        promised = _negative_elbo(codec, k[start:], observed[start:], draws, seed).mean()
    p, seen = codec.share[codec.open], observed[start:, codec.open]
    mask = -np.where(seen, np.log2(p), np.log2(1 - p)).sum(1).mean()
    return Rate(len(data), len(data) - payload, len(k), start, marginal, float(promised), float(mask))


def negative_elbo(
    model: LatentVariableModel, schema: Schema, X: Any, draws: int = 4, seed: int = 0
) -> np.ndarray:
    """−ELBO of each row in bits, cells on their lattice as compress codes them, ``(n,)``; blanks cost
    nothing."""
    k, observed, _ = _prepare(schema, X)
    with steady(model):
        codec = Codec(model, _lattice(schema, _wider(schema, k, observed)), b"")
        return _negative_elbo(codec, k, observed, draws, seed)


def _negative_elbo(codec: Codec, k: np.ndarray, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
    out = np.zeros(len(k))
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(k), codec.rows):
        ks, os = k[start : start + codec.rows], observed[start : start + codec.rows]
        x, seen = torch.from_numpy(codec.lattice.values(ks, os)), torch.from_numpy(os)
        q = codec.model.posterior(x, None if os.all() else seen)
        for _ in range(draws):
            z = q.transport(
                torch.randn(1, len(x), codec.model.noise_dim, generator=generator, dtype=x.dtype)
            )[0]
            nats = codec.model.prior.log_prob(z) - q.log_prob(z)
            bits = np.zeros(len(ks))
            for where, part in codec.model.likelihood(z).parts:
                shape: np.ndarray | float = 0.0
                if isinstance(part, Gaussian | RoundedGaussian):
                    law, loc = NORMAL, part.mean
                elif isinstance(part, Laplace):
                    law, loc = LAPLACE, part.loc
                elif isinstance(part, StudentT):
                    law, loc, shape = STUDENT_T, part.loc, part.df.numpy()
                else:
                    nats = nats + part.log_prob(x[:, where], seen[:, where])
                    continue
                if isinstance(part, Gaussian) and part.factor is not None:
                    middle, root = part.factor_posterior(x[:, where], seen[:, where])
                    noise = torch.randn(middle.shape, generator=generator, dtype=x.dtype)
                    u = middle + (root @ noise.unsqueeze(-1)).squeeze(-1)
                    log_q = -0.5 * noise.square().sum(-1) - torch.diagonal(root, dim1=-2, dim2=-1).log().sum(
                        -1
                    )
                    nats = nats - 0.5 * u.square().sum(-1) - log_q
                    loc = loc + (part.factor @ u.unsqueeze(-1)).squeeze(-1)
                index = np.arange(ks.shape[1])[where if isinstance(where, slice) else where.numpy()]
                bits += line_bits(
                    law,
                    ks[:, index],
                    index,
                    os[:, index],
                    loc.numpy(),
                    part.scale.numpy(),
                    codec.lattice,
                    shape,
                )
            out[start : start + len(ks)] += (bits - nats.numpy() / math.log(2.0)) / draws
    return out
