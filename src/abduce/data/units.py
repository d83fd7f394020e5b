"""Numbers of a row in the units of the data, without what a container would do to them: no rounding, no clipping."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from abduce.data.schema import Schema
from abduce.data.transform import Affine, Log, Transform, joined

LEAST = 1e-12  # what a positive number is kept above, where the data say no more


class Units:
    """Between model values and data units of the cells of a schema that hold numbers, ``cells`` (D',)."""

    def __init__(self, schema: Schema):
        self.cells = schema.layout.numbers
        fields = [schema.cell_fields[j] for j in self.cells]
        least = [0.5 * f.low if f.low > 0 else LEAST for f in fields]
        positive = [isinstance(f.transform, Log) for f in fields]
        self._least = np.array([v if p else -np.inf for v, p in zip(least, positive, strict=True)])
        none = Affine.of(np.zeros(0), np.ones(0))
        self._map = joined([_endless(f.transform) for f in fields]) if fields else none

    def to_data(self, values: Tensor) -> Tensor:
        """Data units of model values (..., D')."""
        return torch.from_numpy(self._map.back(values.numpy()))

    def to_model(self, data: Tensor) -> Tensor:
        """Model values of data units (..., D'); positive ones are kept above zero."""
        return torch.from_numpy(self._map.to(np.maximum(data.numpy(), self._least)))


def _endless(transform: Transform) -> Transform:
    """The same map where values never stop and need not be whole."""
    if isinstance(transform, Log):
        return transform
    line = transform.line
    return Affine.of(0.0, 1.0) if line is None else Affine.of(*line)
