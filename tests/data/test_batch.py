"""Batch: rows in model space."""

from __future__ import annotations

import pytest
import torch

from abduce.data.batch import Batch


def test_rows_and_casts():
    batch = Batch(
        torch.arange(6.0).reshape(3, 2), torch.eye(3, 2, dtype=torch.bool), torch.tensor([1.0, 2.0, 3.0])
    )
    assert len(batch) == 3
    some = batch[torch.tensor([2, 0])]
    assert some.values.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert some.mask.tolist() == [[False, False], [True, False]]
    assert some.weight is not None
    assert some.weight.tolist() == [3.0, 1.0]
    double = batch.to(dtype=torch.float64)
    assert double.values.dtype == torch.float64
    assert double.mask.dtype == torch.bool
    assert Batch(torch.zeros(2, 2)).to("cpu")[:1].mask.all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Batch(torch.zeros(3)), ValueError, r"values must have shape \(B, D\), got \(3,\)"),
        (lambda: Batch(torch.zeros(3, 2), torch.ones(3, 1) > 0), ValueError, r"observed has shape \(3, 1\)"),
        (
            lambda: Batch(torch.zeros(3, 2), torch.ones(3, 2)),
            TypeError,
            "observed must be bool, got torch.float32",
        ),
        (
            lambda: Batch(torch.zeros(3, 2), None, torch.ones(2)),
            ValueError,
            r"weight has shape \(2,\), expected \(3,\)",
        ),
    ],
)
def test_bad_shapes(make, error, message):
    with pytest.raises(error, match=message):
        make()
