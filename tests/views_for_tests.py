"""A linear view by any function and any noise, none included."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from abduce.data.seen import Seen, View


class Through(View):
    """y = A x + noise."""

    name = "linear"

    def __init__(self, apply: Callable[[Tensor], Tensor], noise: Tensor):
        self.apply, self.noise = apply, noise

    def affine(self, y: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        return self.apply, self.noise

    def guess(self, y, mask):
        raise NotImplementedError

    def log_prob(self, likelihood, y, mask):
        raise NotImplementedError

    def clean(self, likelihood, y, mask):
        raise NotImplementedError

    def point(self, model, moments):
        raise NotImplementedError

    def centre(self, clean):
        raise NotImplementedError

    def hold(self, likelihood, mask):
        raise NotImplementedError

    def rows(self, index):
        raise NotImplementedError


def through(apply: Callable[[Tensor], Tensor], noise: Tensor, y: Tensor, mask: Tensor) -> Seen:
    """Rows seen through A and noise."""
    return Seen(y, mask, Through(apply, noise))
