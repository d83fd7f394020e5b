"""Numbers of a row in the units of the data, without what a container would do to them: no rounding, no clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from abduce.data.schema import Schema

LEAST = 1e-12  # what a positive number is kept above, where the data say no more


class Units:
    """Between model values and data units of the cells of a schema that hold numbers, ``cells`` (D',)."""

    def __init__(self, schema: Schema):
        fields = schema.fields * schema.n_cells if schema.container == "image" else schema.fields
        self.cells = schema.layout.numbers
        some = [fields[j] for j in self.cells]
        affine = [f.kind in ("real", "pixel", "positive") for f in some]
        loc = [f.loc if a else 0.0 for f, a in zip(some, affine, strict=True)]
        scale = [f.scale if a else 1.0 for f, a in zip(some, affine, strict=True)]
        self._loc = torch.tensor(loc, dtype=torch.float64)
        self._scale = torch.tensor(scale, dtype=torch.float64)
        self._log = torch.tensor([f.kind == "positive" for f in some], dtype=torch.bool)
        least = [0.5 * f.low if f.kind == "positive" and f.low > 0 else LEAST for f in some]
        self._least = torch.tensor(least, dtype=torch.float64)

    def to_data(self, values: Tensor) -> Tensor:
        """Data units of model values (..., D')."""
        out = values * self._scale + self._loc
        if bool(self._log.any()):
            out = torch.where(self._log, torch.where(self._log, out, 0.0).clamp(-690.0, 700.0).exp(), out)
        return out

    def to_model(self, data: Tensor) -> Tensor:
        """Model values of data units (..., D'); positive ones are kept above zero."""
        out = data
        if bool(self._log.any()):
            out = torch.where(self._log, torch.maximum(data, self._least).log(), data)
        return (out - self._loc) / self._scale
