"""The entropy coder: a stack of bits onto which symbols are pushed, and from which they are popped in reverse.

Asymmetric numeral systems (ANS): pushing a symbol of probability P costs −log₂ P bits, popping it gives them back, exactly.
Popping an empty stack gives constant symbols, so a codec that pops before it pushes leaves a margin.

Source: Duda 2013 (arXiv:1311.2540).
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np

MARGIN = 64  # bits that a draw must leave on the stack

_stack: Any = constriction.stream.stack  # pyright: ignore[reportAttributeAccessIssue]
_models: Any = constriction.stream.model  # pyright: ignore[reportAttributeAccessIssue]
FLAGS = _models.Bernoulli(perfect=False)  # bits; parameter p (m,), the probability of a one
TABLE = _models.Categorical(perfect=False)  # 0..K−1; parameter a table of weights (m, K)


def bins(low: int, high: int) -> Any:
    """Whole numbers from Gaussians cut into unit bins, ``low`` and ``high`` taking the tails; parameters mean, scale (m,)."""
    return _models.QuantizedGaussian(low, high)


def shared(weights: np.ndarray) -> Any:
    """The one law of many symbols 0..K−1, K > 1, from their weights (K,): see :meth:`BitStack.push_all`."""
    return _models.Categorical(weights, perfect=False)


class ShortOfBits(Exception):
    """A draw would leave the stack all but empty."""


class BitStack:
    """The ANS coder: what is pushed last is popped first."""

    def __init__(self, payload: bytes = b""):
        payload = payload.rstrip(b"\0")
        padded = payload + bytes(-len(payload) % 4)
        words = np.frombuffer(padded, "<u4").astype(np.uint32)
        self._coder = _stack.AnsCoder(words) if len(words) else _stack.AnsCoder()

    @property
    def bits(self) -> int:
        return self._coder.num_valid_bits()

    def check_margin(self) -> None:
        """Raise ShortOfBits if fewer bits than the margin are left."""
        if self.bits < MARGIN:
            raise ShortOfBits

    def copy(self) -> BitStack:
        """A copy of the whole stack, so that what is pushed next can be taken back."""
        out = BitStack()
        out._coder = self._coder.clone()
        return out

    def to_bytes(self) -> bytes:
        """The stack as bytes, without the zeros at its end."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def push(self, k: np.ndarray, family: Any, *parameters: np.ndarray) -> None:
        """Push symbols (m,) of a family (:data:`FLAGS`, :data:`TABLE`, :func:`bins`), each with its own parameters."""
        if k.size:
            self._coder.encode_reverse(np.ascontiguousarray(k, np.int32), family, *parameters)

    def pop(self, family: Any, *parameters: np.ndarray) -> np.ndarray:
        """Pop symbols (m,) that were pushed with these parameters."""
        if not len(parameters[0]):
            return np.zeros(0, np.int64)
        return self._coder.decode(family, *parameters).astype(np.int64)

    def push_all(self, k: np.ndarray, law: Any) -> None:
        """Push symbols (m,) that all have the same law."""
        self._coder.encode_reverse(np.ascontiguousarray(k, np.int32), law)

    def pop_all(self, law: Any, m: int) -> np.ndarray:
        """Pop m symbols that were pushed with this law."""
        return self._coder.decode(law, m).astype(np.int64)
