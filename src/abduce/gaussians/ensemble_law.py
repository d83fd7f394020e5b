"""Several distributions of the same rows as one: a mixture of them, with answers that are averaged.

    p(x) = Σ_m w_m p_m(x)

is the density, and unconditional draws are its own.  Given what was seen, the mixture's posterior would ask one member only,
since in many cells one p_m(y) is far above the others though all restore alike; so conditional means are averaged,

    E[x | y] = Σ_m w_m E_m[x | y],

and each conditional draw is of a member chosen by w_m.  An average has the mean squared error of the members less their
spread about it (Krogh & Vedelsby 1995, the ambiguity decomposition): it never does worse than the members do on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from abduce.gaussians.gaussian_law import choose
from abduce.gaussians.grouped_law import GroupedMixtureLaw

Map = Callable[[Tensor], Tensor]


class EnsembleLaw:
    """Members p_m with ``weights`` (M,), equal ones by default; arguments of the questions as in :class:`GroupedMixtureLaw`.

    >>> one = GroupedMixtureLaw(torch.zeros(1), torch.zeros(1, 1), torch.tensor([0]), torch.ones(1, 1, 1))
    >>> two = GroupedMixtureLaw(torch.zeros(1), torch.ones(1, 1), torch.tensor([0]), torch.ones(1, 1, 1))
    >>> EnsembleLaw([one, two]).mean(torch.zeros(1, 1), torch.tensor([[False]]))
    tensor([[0.5000]])
    """

    def __init__(self, members: Sequence[GroupedMixtureLaw], weights: Tensor | None = None):
        if not members:
            raise ValueError("members must hold at least one law, got none")
        given = torch.ones(len(members), dtype=torch.float64) if weights is None else weights.double()
        if given.shape != (len(members),) or not bool((given > 0).all()):
            raise ValueError(f"weights must be {len(members)} numbers above zero, got {given.tolist()}")
        self.members, self.weights = list(members), given / given.sum()

    def log_prob(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log Σ_m w_m p_m(x_obs), nats, (batch, D) -> (batch,)."""
        return self._mixed([member.log_prob(x, observed) for member in self.members])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, D)."""
        chosen = self._chosen(n, 1, generator, shared=False)[:, 0]
        drawn = [member.sample(int((chosen == m).sum()), generator) for m, member in enumerate(self.members)]
        out = drawn[0].new_empty(n, drawn[0].shape[1])
        for m, rows in enumerate(drawn):
            out[chosen == m] = rows
        return out

    def mean(self, x: Tensor, observed: Tensor) -> Tensor:
        """Σ_m w_m E_m[x | x_obs], (batch, D); observed cells as they are."""
        average = self._average([member.mean(x, observed) for member in self.members])
        return torch.where(observed, x, average)

    def complete(
        self, x: Tensor, observed: Tensor, draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw whole rows given x_obs, (draws, batch, D)."""
        return self._complete(
            lambda member, n: member.complete(x, observed, n, generator), draws, len(x), generator
        )

    def through(self, seen: Map, noise: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """Σ_m w_m E_m[x | y] for y = A x + noise · N(0, I), (batch, d) -> (batch, D)."""
        return self._average([member.through(seen, noise, y, known) for member in self.members])

    def log_prob_through(self, seen: Map, noise: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """log Σ_m w_m p_m(y), nats, (batch, d) -> (batch,)."""
        return self._mixed([member.log_prob_through(seen, noise, y, known) for member in self.members])

    def complete_through(
        self,
        seen: Map,
        noise: Tensor,
        y: Tensor,
        known: Tensor,
        draws: int,
        generator: torch.Generator | None = None,
        shared: bool = False,
    ) -> Tensor:
        """Draw whole rows given y, (draws, batch, D); with ``shared`` all rows use the same random numbers."""
        return self._complete(
            lambda member, n: member.complete_through(seen, noise, y, known, n, generator, shared),
            draws,
            len(y),
            generator,
            shared,
        )

    def _mixed(self, values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values)
        return torch.logsumexp(stacked + self.weights.log().to(stacked).unsqueeze(1), 0)

    def _average(self, values: list[Tensor]) -> Tensor:
        out = torch.zeros_like(values[0])
        for weight, value in zip(self.weights.tolist(), values, strict=True):
            out += weight * value
        return out

    def _chosen(self, draws: int, batch: int, generator: torch.Generator | None, shared: bool) -> Tensor:
        """Members, (draws, batch)."""
        return choose(self.weights.expand(batch, -1), draws, generator, shared)

    def _complete(
        self,
        drawn: Callable[[GroupedMixtureLaw, int], Tensor],
        draws: int,
        batch: int,
        generator: torch.Generator | None,
        shared: bool = False,
    ) -> Tensor:
        """Each row's draws of members chosen by weight; a member draws as often as the row that wants most of it."""
        chosen = self._chosen(draws, batch, generator, shared)
        out: Tensor | None = None
        for m, member in enumerate(self.members):
            mine = chosen == m
            most = int(mine.sum(0).max()) if mine.numel() else 0
            values = drawn(member, most)
            out = values.new_empty(draws, batch, values.shape[2]) if out is None else out
            s, b = mine.nonzero(as_tuple=True)
            out[s, b] = values[(mine.cumsum(0) - 1)[s, b], b]
        assert out is not None
        return out
