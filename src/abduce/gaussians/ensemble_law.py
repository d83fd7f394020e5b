"""Several distributions of the same rows as one: a mixture of them, with answers that are averaged.

    p(x) = Σ_m w_m p_m(x)

is the density, and unconditional draws are its own.  Given what was seen, the mixture's posterior would ask one member only,
since in many cells one p_m(y) is far above the others though all restore alike; so conditional means are averaged,

    E[x | y] = Σ_m w_m E_m[x | y],

and each conditional draw is of a member chosen by w_m.  An average has the mean squared error of the members less their
spread about it (Krogh & Vedelsby 1995, the ambiguity decomposition): it never does worse than the members do on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.grouped_law import GroupedMixtureLaw
from abduce.gaussians.law import ANY
from abduce.gaussians.mixture import choose


class EnsembleLaw:
    """Members p_m with ``weights`` (M,), equal ones by default; a :class:`~abduce.gaussians.law.Law`.

    >>> one = GroupedMixtureLaw(torch.zeros(1), torch.zeros(1, 1), torch.tensor([0]), torch.ones(1, 1, 1))
    >>> two = GroupedMixtureLaw(torch.zeros(1), torch.ones(1, 1), torch.tensor([0]), torch.ones(1, 1, 1))
    >>> EnsembleLaw([one, two]).mean(Seen(torch.zeros(1, 1), torch.tensor([[False]])))
    tensor([[0.5000]])
    """

    views = ANY

    def __init__(self, members: Sequence[GroupedMixtureLaw], weights: Tensor | None = None):
        if not members:
            raise ValueError("members must hold at least one law, got none")
        given = torch.ones(len(members), dtype=torch.float64) if weights is None else weights.double()
        if given.shape != (len(members),) or not bool((given > 0).all()):
            raise ValueError(f"weights must be {len(members)} numbers above zero, got {given.tolist()}")
        self.members, self.weights = list(members), given / given.sum()

    def log_prob(self, seen: Seen) -> Tensor:
        """log Σ_m w_m p_m(seen), nats, (rows,)."""
        stacked = torch.stack([member.log_prob(seen) for member in self.members])
        return torch.logsumexp(stacked + self.weights.log().to(stacked).unsqueeze(1), 0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, D)."""
        chosen = self._chosen(n, 1, generator, shared=False)[:, 0]
        drawn = [member.sample(int((chosen == m).sum()), generator) for m, member in enumerate(self.members)]
        out = drawn[0].new_empty(n, drawn[0].shape[1])
        for m, rows in enumerate(drawn):
            out[chosen == m] = rows
        return out

    def mean(self, seen: Seen) -> Tensor:
        """Σ_m w_m E_m[x | seen], (rows, D); cells that were seen exactly as they are."""
        out: Tensor | None = None
        for weight, member in zip(self.weights.tolist(), self.members, strict=True):
            part = weight * member.mean(seen)
            out = part if out is None else out + part
        assert out is not None
        return torch.where(seen.mask, seen.y, out) if seen.exact else out

    def _chosen(self, draws: int, batch: int, generator: torch.Generator | None, shared: bool) -> Tensor:
        """Members, (draws, batch)."""
        return choose(self.weights.expand(batch, -1), draws, generator, shared)

    def draws(
        self, seen: Seen, n: int, generator: torch.Generator | None = None, shared: bool = False
    ) -> Tensor:
        """Each row's draws of members chosen by weight; a member draws as often as the row that wants most of it."""
        rows = len(seen.y)
        chosen = self._chosen(n, rows, generator, shared)
        out: Tensor | None = None
        for m, member in enumerate(self.members):
            mine = chosen == m
            most = int(mine.sum(0).max()) if mine.numel() else 0
            values = member.draws(seen, most, generator, shared)
            out = values.new_empty(n, rows, values.shape[2]) if out is None else out
            s, b = mine.nonzero(as_tuple=True)
            out[s, b] = values[(mine.cumsum(0) - 1)[s, b], b]
        assert out is not None
        return out
