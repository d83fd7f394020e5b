"""Worlds that are seen in pictures: a variational auto-encoder turns each into a few numbers, in which the world goes on.

    code(o) = E[z | o],    o(code) = E[x | z = code]

Transitions, plans and doubt are all of codes; what is predicted is decoded, and a cost of pictures is asked about what codes
decode to.  A picture shows places, not speeds: a state is the codes of several successive ones
(:class:`~abduce.world.history.ObservationHistory`).  Source: Ha & Schmidhuber 2018 (arXiv:1803.10122), whose world is learnt
in the codes of such a model too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from abduce.models.vae import VariationalAutoencoder
from abduce.world.costs import Cost, Values
from abduce.world.episodes import Episode

CELLS = 2**22  # pixels at once


class Pictures(nn.Module):
    """Pictures (..., S) as codes (..., C) of a fitted ``model``, to which they are (o − ``offset``) / ``scale``, (S,) each.  A
    picture with a blank is taken for blank."""

    offset: Tensor
    scale: Tensor

    def __init__(self, model: VariationalAutoencoder, offset: Tensor, scale: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("offset", offset.double())
        self.register_buffer("scale", scale.double())
        self._single: tuple[
            VariationalAutoencoder, ...
        ] = ()  # the same in single precision; no part of the state

    @property
    def size(self) -> int:
        """Numbers of a picture."""
        return len(self.offset)

    @property
    def _at_once(self) -> int:
        return max(1, CELLS // self.size)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (..., C), NaN of a picture that has blanks."""
        rows = pictures.reshape(-1, self.size).double()
        found = []
        for some in rows.split(self._at_once):
            whole = ~some.isnan().any(1, keepdim=True)
            x = (some - self.offset) / torch.where(self.scale == 0, 1.0, self.scale)
            codes = self.model.codes(torch.where(whole & (self.scale != 0), x, 0.0))
            found.append(torch.where(whole, codes, torch.nan))
        return torch.cat(found).view(*pictures.shape[:-1], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (..., S) that codes (..., C) stand for; differentiable, and of single precision where codes are."""
        model = self.model
        if codes.dtype == torch.float32:
            self._single = self._single or (deepcopy(self.model).float(),)
            model = self._single[0]
        scale, offset = self.scale.to(codes), self.offset.to(codes)
        rows = codes.reshape(-1, codes.shape[-1])
        found = [model.decode(some) * scale + offset for some in rows.split(self._at_once)]
        return torch.cat(found).view(*codes.shape[:-1], -1)

    def episodes(self, found: Sequence[Episode]) -> list[Episode]:
        """Episodes of codes."""
        return [replace(e, observations=self.encode(torch.from_numpy(e.observations)).numpy()) for e in found]

    def cost(self, cost: Cost) -> Cost:
        """A cost of pictures as one of codes."""

        def three(function: Values) -> Values:
            def asked(state: Tensor, action: Tensor, after: Tensor) -> Tensor:
                parts = zip(*(v.split(self._at_once) for v in (state, action, after)), strict=True)
                return torch.cat([function(self.decode(s), a, self.decode(b)) for s, a, b in parts])

            return asked

        def one(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda state: torch.cat([function(self.decode(s)) for s in state.split(self._at_once)])

        return Cost(
            three(cost.function),
            cost.terminal and one(cost.terminal),
            cost.residuals and three(cost.residuals),
            cost.terminal_residuals and one(cost.terminal_residuals),
        )
