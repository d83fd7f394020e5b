"""Masks: what is hidden, pattern by pattern and row by row."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from abduce.data.masks import PATTERNS, block, every_kth, half, hide, mcar


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def ones(rows: int, cells: int) -> torch.Tensor:
    return torch.ones(rows, cells, dtype=torch.bool)


def test_mcar_hides_its_rate():
    keep = mcar((400, 8, 8), 0.3, rng())
    assert keep.shape == (400, 8, 8)
    assert 1 - keep.mean() == pytest.approx(0.3, abs=0.01)
    assert not mcar((5, 3), 1.0, rng()).any()


def test_block_is_one_rectangle():
    keep = block((100, 8, 6), 0.25, rng())
    for mask in ~keep:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert (rows.size, columns.size) == (4, 3)
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == 12
    assert len({m.tobytes() for m in keep}) > 10
    table = block((50, 10), 0.3, rng())
    assert ((~table).sum(axis=1) == 3).all()
    assert (np.abs(np.diff(table.astype(int), axis=1)).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_half_hides_the_side_it_names(side):
    keep = half((2, 4, 6), rng(), side=side)
    expected = np.ones((4, 6), bool)
    hidden = {"top": np.s_[:2], "bottom": np.s_[2:], "left": np.s_[:, :3], "right": np.s_[:, 3:]}[side]
    expected[hidden] = False
    np.testing.assert_array_equal(keep, [expected] * 2)


def test_half_at_random():
    keep = half((200, 4, 4), rng())
    assert (keep.sum(axis=(1, 2)) == 8).all()
    assert len({m.tobytes() for m in keep}) == 4
    table = half((200, 7), rng())
    assert ((~table).sum(axis=1) == 3).all()
    assert len({m.tobytes() for m in table}) == 7


def test_every_kth():
    keep = every_kth((2, 4, 4), 2, offset=1)
    assert keep[0].sum() == 4
    assert keep[0, 1::2, 1::2].all()
    assert every_kth((1, 7), 3, offset=1)[0].nonzero()[0].tolist() == [1, 4]


def test_channels_are_hidden_together():
    for keep in (block((9, 6, 6, 3), 0.3, rng()), half((9, 6, 6, 3), rng()), every_kth((9, 6, 6, 3), 2)):
        assert keep.shape == (9, 6, 6, 3)
        assert (keep == keep[..., :1]).all()
    keep = hide(ones(50, 108), (6, 6, 3), gen()).reshape(50, 6, 6, 3)
    assert (keep == keep[..., :1]).all()


def test_hide_never_shows_what_was_not_there():
    observed = torch.rand(300, 20, generator=gen()) < 0.6
    keep = hide(observed, (20,), gen())
    assert keep.dtype == torch.bool
    assert not (keep & ~observed).any()


@pytest.mark.parametrize("event", [(30,), (6, 5), (5, 3, 2)])
def test_hide_leaves_some_rows_complete(event):
    for share in (0.0, 0.25, 1.0):
        keep = hide(ones(4000, 30), event, gen(), complete_share=share)
        assert keep.all(dim=1).float().mean() == pytest.approx(share, abs=0.04)


def test_hide_gives_each_row_its_own_pattern():
    keep = hide(ones(500, 64), (8, 8), gen(), complete_share=0.0)
    assert len({row.numpy().tobytes() for row in keep}) > 250
    assert torch.equal(keep, hide(ones(500, 64), (8, 8), gen(), complete_share=0.0))
    rates = 1 - keep.float().mean(dim=1)
    assert rates.min() < 0.1
    assert rates.max() > 0.9


def test_hide_with_one_pattern():
    mask = hide(ones(2000, 48), (8, 6), gen(), 0.0, {"half": 1}).reshape(-1, 8, 6)
    assert {tuple(np.flatnonzero(~m.all(axis=1))) for m in mask.numpy() if not m.all(axis=1).all()} == {
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        tuple(range(8)),
    }
    assert (mask.sum(dim=(1, 2)) == 24).all()
    assert len({m.numpy().tobytes() for m in mask}) == 4
    run = ~hide(ones(2000, 9), (9,), gen(), 0.0, {"half": 1})
    assert (run.sum(dim=1) == 4).all()
    assert len({m.numpy().tobytes() for m in run}) == 9
    rectangle = (~hide(ones(500, 48), (8, 6), gen(), 0.0, {"block": 1}).reshape(-1, 8, 6)).numpy()
    for m in rectangle:
        assert m.sum() == m.any(axis=1).sum() * m.any(axis=0).sum() > 0
    kept = hide(ones(500, 64), (8, 8), gen(), 0.0, {"every_kth": 1}).reshape(-1, 8, 8).numpy()
    for m in kept:
        assert m.sum() == m.any(axis=1).sum() * m.any(axis=0).sum()
        assert {*np.diff(np.flatnonzero(m.any(axis=1)))} <= {2, 3, 4}
    rate = 1 - hide(ones(5000, 40), (40,), gen(), 0.0, {"mcar": 1}).float().mean(dim=1)
    assert rate.mean() == pytest.approx(0.5, abs=0.02)
    assert rate.std() == pytest.approx(12**-0.5, abs=0.03)


def test_hide_mixes_patterns_by_weight():
    keep = hide(ones(8000, 64), (8, 8), gen(), 0.0, {"half": 3, "every_kth": 1})
    assert (keep.sum(dim=1) == 32).float().mean() == pytest.approx(0.75, abs=0.02)


def test_hide_is_fast():
    observed = ones(1000, 784)
    start = time.perf_counter()
    hide(observed, (28, 28), gen())
    assert time.perf_counter() - start < 1


def test_every_row_is_as_likely_to_get_each_pattern():
    complete = torch.zeros(3)
    generator = gen()
    for _ in range(1000):
        complete += hide(ones(3, 40), (40,), generator, complete_share=0.25, patterns={"half": 1}).all(dim=1)
    assert torch.allclose(complete / 1000, torch.full((3,), 0.25), atol=0.05)


def test_one_cell():
    for event in ((1,), (1, 1)):
        assert hide(ones(50, 1), event, gen()).shape == (50, 1)
    assert hide(ones(0, 4), (4,), gen()).shape == (0, 4)
    for share in (0.0, 0.1, 0.3, 1.0):
        for rows in range(1, 60):
            assert hide(ones(rows, 4), (2, 2), gen(), share).shape == (rows, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcar((1, 2), 1.5, rng()), "rate must be between 0 and 1, got 1.5"),
        (lambda: block((1, 2), -1, rng()), "share must be between 0 and 1"),
        (lambda: half((1, 2, 2), rng(), side="up"), "side must be one of top, bottom, left, right"),
        (lambda: half((1, 2), rng(), side="top"), "side is for images"),
        (lambda: every_kth((1, 2), 0), "k must be at least 1"),
        (lambda: half((2,), rng()), r"shape must be \(n, D\)"),
        (lambda: hide(ones(2, 3), (4,)), r"observed has shape \(2, 3\), expected \(B, 4\)"),
        (lambda: hide(ones(2, 3), (3,), complete_share=2), "complete_share must be between 0 and 1"),
        (lambda: hide(ones(2, 3), (3,), patterns={"odd": 1}), r"patterns: unknown \['odd'\]"),
        (lambda: hide(ones(2, 3), (3,), patterns={"mcar": 0}), "patterns must have weights"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_patterns_sum_to_one():
    assert sum(PATTERNS.values()) == pytest.approx(1)
