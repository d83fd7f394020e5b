"""Masks: what is hidden, pattern by pattern and row by row."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from abduce.data import masks
from abduce.data.masks import PATTERNS, hide


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def drawn(monkeypatch):
    """``hide`` with another share of complete rows, and other patterns."""

    def hide_with(complete, patterns, *arguments):
        monkeypatch.setattr(masks, "COMPLETE", complete)
        monkeypatch.setattr(masks, "PATTERNS", patterns)
        return hide(*arguments)

    return hide_with


def ones(rows: int, cells: int) -> torch.Tensor:
    return torch.ones(rows, cells, dtype=torch.bool)


def test_channels_are_hidden_together():
    keep = hide(ones(50, 108), (6, 6, 3), gen()).reshape(50, 6, 6, 3)
    assert (keep == keep[..., :1]).all()


def test_hide_never_shows_what_was_not_there():
    observed = torch.rand(300, 20, generator=gen()) < 0.6
    keep = hide(observed, (20,), gen())
    assert keep.dtype == torch.bool
    assert not (keep & ~observed).any()


@pytest.mark.parametrize("event", [(30,), (6, 5), (5, 3, 2)])
def test_hide_leaves_some_rows_complete(event, drawn):
    for share in (0.0, 0.25, 1.0):
        keep = drawn(share, PATTERNS, ones(4000, 30), event, gen())
        assert keep.all(dim=1).float().mean() == pytest.approx(share, abs=0.04)


def test_hide_gives_each_row_its_own_pattern(drawn):
    keep = drawn(0.0, PATTERNS, ones(500, 64), (8, 8), gen())
    assert len({row.numpy().tobytes() for row in keep}) > 250
    assert torch.equal(keep, hide(ones(500, 64), (8, 8), gen()))
    rates = 1 - keep.float().mean(dim=1)
    assert rates.min() < 0.1
    assert rates.max() > 0.9


def test_hide_with_one_pattern(drawn):
    mask = drawn(0.0, {"half": 1}, ones(2000, 48), (8, 6), gen()).reshape(-1, 8, 6)
    assert {tuple(np.flatnonzero(~m.all(axis=1))) for m in mask.numpy() if not m.all(axis=1).all()} == {
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        tuple(range(8)),
    }
    assert (mask.sum(dim=(1, 2)) == 24).all()
    assert len({m.numpy().tobytes() for m in mask}) == 4
    run = ~drawn(0.0, {"half": 1}, ones(2000, 9), (9,), gen())
    assert (run.sum(dim=1) == 4).all()
    assert len({m.numpy().tobytes() for m in run}) == 9
    rectangle = (~drawn(0.0, {"block": 1}, ones(500, 48), (8, 6), gen()).reshape(-1, 8, 6)).numpy()
    for m in rectangle:
        assert m.sum() == m.any(axis=1).sum() * m.any(axis=0).sum() > 0
    kept = drawn(0.0, {"every_kth": 1}, ones(500, 64), (8, 8), gen()).reshape(-1, 8, 8).numpy()
    for m in kept:
        assert m.sum() == m.any(axis=1).sum() * m.any(axis=0).sum()
        assert {*np.diff(np.flatnonzero(m.any(axis=1)))} <= {2, 3, 4}
    rate = 1 - drawn(0.0, {"mcar": 1}, ones(5000, 40), (40,), gen()).float().mean(dim=1)
    assert rate.mean() == pytest.approx(0.5, abs=0.02)
    assert rate.std() == pytest.approx(12**-0.5, abs=0.03)


def test_hide_mixes_patterns_by_weight(drawn):
    keep = drawn(0.0, {"half": 3, "every_kth": 1}, ones(8000, 64), (8, 8), gen())
    assert (keep.sum(dim=1) == 32).float().mean() == pytest.approx(0.75, abs=0.02)


def test_hide_is_fast():
    observed = ones(1000, 784)
    start = time.perf_counter()
    hide(observed, (28, 28), gen())
    assert time.perf_counter() - start < 1


def test_every_row_is_as_likely_to_get_each_pattern(drawn):
    complete = torch.zeros(3)
    generator = gen()
    for _ in range(1000):
        complete += drawn(0.25, {"half": 1}, ones(3, 40), (40,), generator).all(dim=1)
    assert torch.allclose(complete / 1000, torch.full((3,), 0.25), atol=0.05)


def test_one_cell(drawn):
    for event in ((1,), (1, 1)):
        assert hide(ones(50, 1), event, gen()).shape == (50, 1)
    assert hide(ones(0, 4), (4,), gen()).shape == (0, 4)
    for share in (0.0, 0.1, 0.3, 1.0):
        for rows in range(1, 60):
            assert drawn(share, PATTERNS, ones(rows, 4), (2, 2), gen()).shape == (rows, 4)


def test_cells_that_are_no_event_are_refused():
    with pytest.raises(ValueError, match=r"observed has shape \(2, 3\), expected \(B, 4\)"):
        hide(ones(2, 3), (4,))


def test_patterns_sum_to_one():
    assert sum(PATTERNS.values()) == pytest.approx(1)
