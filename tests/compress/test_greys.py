"""Grey levels by yes or no: the chances of the answers multiply to the law's masses, and what is pushed comes back."""

import numpy as np
import pytest
import torch

from abduce.compress.greys import GreySymbols
from abduce.compress.stack import BitStack
from abduce.distributions.pixels import DiscretizedLogisticMixture

MOVES = [0.0, -3.0, 4.0, -300.0]  # of the logistics: between the stops, beyond them, far beyond


def law(rows: int, d: int, levels: int, stopped: bool, move: float = 0.0) -> DiscretizedLogisticMixture:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(11, rows, d, dtype=torch.float64, generator=generator)
    numbers = torch.round(numbers * 2**14).transpose(0, 1) / 2**14
    logits, loc, log_scale, stops = numbers.split([3, 3, 3, 2], 1)
    return DiscretizedLogisticMixture(logits, loc + move, log_scale - 1, levels, stops if stopped else None)


def masses(symbols: GreySymbols, k: np.ndarray) -> np.ndarray:
    """The mass of symbols (m,): the product of the chances of what they answer."""
    out = np.ones(len(k))

    def ask(at, chance, test):
        yes = test(k[at])
        out[at] *= np.where(yes, chance, 1 - chance)
        return yes

    np.testing.assert_array_equal(symbols._walk(ask), k)
    return out


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("levels", [3, 17, 256])
def test_chances_multiply_to_the_law(levels, stopped, move):
    one = law(1, 1, levels, stopped, move)
    logits, loc, log_scale = (t.expand(levels, -1, 1) for t in (one.logits, one.loc, one.log_scale))
    stops = None if one.stops is None else one.stops.expand(levels, -1, 1)
    part = DiscretizedLogisticMixture(logits, loc, log_scale, levels, stops)
    found = masses(GreySymbols(part, np.ones((levels, 1), bool), levels), np.arange(levels))
    assert found.sum() == pytest.approx(1, abs=1e-6)  # a little is with codes that no level has
    np.testing.assert_allclose(found, one.probabilities()[0, 0].numpy(), rtol=1e-3, atol=2**-23)


@pytest.mark.parametrize("stopped", [False, True])
def test_any_symbols_come_back_and_cost_their_mass(stopped):
    rng = np.random.default_rng(0)
    part, seen = law(60, 50, 256, stopped), rng.random((40, 50)) < 0.8
    k = rng.choice([0, 1, 128, 254, 255, 299], seen.sum())  # 299 is beyond the levels of the law
    symbols = GreySymbols(part, seen, 300)
    stack = BitStack()
    symbols.push(stack, k)
    assert stack.bits == pytest.approx(-np.log2(masses(symbols, k)).sum(), rel=0.02)
    np.testing.assert_array_equal(symbols.pop(stack), k)
    assert stack.bits == 0


def test_no_level_is_impossible():
    sure = torch.full((1, 1, 1), -7.0, dtype=torch.float64)  # log scale: all mass at one level
    stops = torch.full((1, 2, 1), -60.0, dtype=torch.float64)
    for own in (None, stops):
        part = DiscretizedLogisticMixture(0 * sure, 0 * sure, sure, 256, own)
        for k in (0, 3, 200, 255):
            stack = BitStack()
            symbols = GreySymbols(part, np.ones((1, 1), bool), 256)
            symbols.push(stack, np.array([k]))
            assert stack.bits < 200
            assert symbols.pop(stack) == k


def test_nothing_seen_is_nothing_pushed():
    stack = BitStack()
    symbols = GreySymbols(law(3, 2, 17, True), np.zeros((3, 2), bool), 17)
    symbols.push(stack, np.zeros(0, np.int64))
    assert stack.bits == 0
    assert len(symbols.pop(stack)) == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_one_symbol_far_beyond_the_levels_does_not_make_the_others_dear(stopped):
    rng = np.random.default_rng(0)
    part, seen = law(20, 50, 256, stopped), np.ones((20, 50), bool)
    k = rng.integers(0, 256, seen.sum())
    own, wide = (-np.log2(masses(GreySymbols(part, seen, size), k)).sum() for size in (256, 2**50))
    assert wide == pytest.approx(own, abs=1)
    k[7] = 2**50 - 1
    symbols, stack = GreySymbols(part, seen, 2**50), BitStack()
    symbols.push(stack, k)
    assert stack.bits < own + 200
    np.testing.assert_array_equal(symbols.pop(stack), k)
