"""A column of classes in series, such as states, weather or a promotion that is on: chains and tables weighed by hidden cells.

    p(x_t = k | seen) = Σ_m w_m(place, distance) p_m(x_t = k | seen)

| member | p(x_t = j | x_{t−1} = i) |
|---|---|
| usual | f_n(j), how often the series had j, shrunk to all series |
| last value | s [i = j] + (1 − s) f_n(j) |
| season | how often j came in this phase of the season |
| chain | a transition matrix |
| seasonal chain | one for each phase, shrunk to the chain times what the season adds |
| other columns | what the pool of numbers, which sees indicators of the classes, makes of the indicator of j |

Chains are fitted by expectation-maximisation, and exact under any blanks (:mod:`abduce.sequences.markov`).  Weights maximise
log p of cells that are hidden as the blanks lie, and of series that are cut off.  A whole path follows one member where
weights allow: one number decides for all of its cells which member draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.sequences.markov import LEAST, Chains, Inferred, drawn, inferred, moves, settled
from abduce.sequences.pool import DISTANCES, PLACES, situation
from abduce.sequences.seasons import phases

ROUNDS = 12  # of EM
BLOCK = 64  # steps that series are cut into for it
BLOCKS = 4096
PRIOR = 1.0  # cells that frequencies count as in a row of moves, and all series' in one's own
SEASONAL = 10.0  # in a row of moves of one phase, the chain's
WIDEST = 100_000  # numbers that moves by phase may have
PULL = (
    20.0  # hidden cells that the weights of a place count as at one distance, and those of all places at one
)
CELLS = 2**22  # numbers that are kept of the series asked about at once


class ClassColumn(nn.Module):
    """Chains of ``levels`` classes over a ``period`` of steps (1: none), and of the pool's features those at ``places`` that
    are indicators of the levels ``told``.

    ``frequency`` (K,), ``rest`` s, ``season`` (P, K), ``moves`` (K, K), ``seasonal`` (P, K, K); ``shares`` (situations, M)
    weigh the members by place and distance; ``loc`` and ``scale`` bring indicators back to chances.
    """

    frequency: Tensor
    rest: Tensor
    season: Tensor
    moves: Tensor
    seasonal: Tensor
    shares: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, levels: int, period: int, places: Sequence[int] = (), told: Sequence[int] = ()):
        super().__init__()
        check_count("levels", levels)
        check_count("period", period)
        self.levels, self.period = levels, period
        self.places, self.told = list(places), list(told)
        self.config = {"levels": levels, "period": period, "places": self.places, "told": self.told}
        self.by_phase = period > 1 and period * levels**2 <= WIDEST
        self.members = ["usual", "last value", "chain"]
        self.members += ["season"] * (period > 1) + ["seasonal chain"] * self.by_phase
        self.chains = len(self.members)
        self.members += ["other columns"] * bool(self.places)
        k = levels
        shapes = {"frequency": (k,), "rest": (), "season": (period, k), "moves": (k, k)}
        shapes |= {"seasonal": (period if self.by_phase else 0, k, k), "loc": (len(self.places),)}
        shapes |= {"scale": (len(self.places),)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.full(shape, 1 / k, dtype=torch.float64))
        equal = torch.full((len(PLACES) * DISTANCES, len(self.members)), 1 / len(self.members))
        self.register_buffer("shares", equal.double())

    # ------------------------------------------------------------------ ask

    def chances(self, seen: Seen, numbers: Tensor | None) -> Tensor:
        """Chances (N, T, K) of the classes of series of codes (N, T, 1), given all other cells of them; ``numbers`` are the
        pool's centres of its features (N, T, G)."""
        out = torch.empty(*seen.y.shape[:2], self.levels, dtype=torch.float64)
        for rows in self._parts(seen):
            some = None if numbers is None else numbers[rows]
            said = self.said(seen.rows(rows), some)
            weights = self._weights(seen.mask[rows])[..., : len(said)]
            weights = weights / weights.sum(2, keepdim=True).clamp_min(LEAST)
            out[rows] = torch.einsum("mntk,ntm->ntk", said, weights)
        return out

    def draws(self, seen: Seen, numbers: Tensor | None, n: int, generator: Generator) -> Tensor:
        """Whole series of codes, (n, N, T)."""
        out = []
        for rows in self._parts(seen, n):
            part = seen.rows(rows)
            some = None if numbers is None else numbers[rows]
            said, found, chains, codes, phase = self._asked(part, some)
            mask = part.mask[..., 0]
            drawn_by = drawn(chains, found.filtered, codes, mask, phase, n, generator)
            if len(said) > self.chains:  # cell by cell
                below = said[-1].cumsum(2)
                share = torch.rand(n, *below.shape[:2], 1, generator=generator, dtype=below.dtype)
                picked = (below < share * below[..., -1:]).sum(3).clamp_max(self.levels - 1)
                drawn_by = torch.cat([drawn_by, torch.where(mask, codes, picked).unsqueeze(1)], 1)
            whose = torch.rand(n, len(codes), 1, 1, generator=generator, dtype=torch.float64)
            below = self._weights(part.mask).cumsum(2)
            member = (below < whose * below[..., -1:]).sum(3).clamp_max(len(said) - 1)
            out.append(drawn_by.gather(1, member.unsqueeze(1)).squeeze(1))
        return torch.cat(out, 1) if out else torch.zeros(n, *seen.y.shape[:2], dtype=torch.long)

    def step_log_prob(self, seen: Seen) -> Tensor:
        """log p (N, T) of what was seen of each step given the steps before, nats: of the chains' mixture, weighed by how well
        each foretold the next step."""
        shares = self.shares[PLACES.index("future") * DISTANCES, : self.chains]
        shares = (shares / shares.sum().clamp_min(LEAST)).clamp_min(1e-3).log()
        out = torch.empty(seen.y.shape[:2], dtype=torch.float64)
        for rows in self._parts(seen):
            codes, mask = self._codes(seen.rows(rows))
            chains = self.of(
                codes, torch.zeros_like(mask)
            )  # whose frequencies know nothing of what comes later
            found = inferred(chains, codes, mask, phases(seen.rows(rows), self.period))
            out[rows] = torch.logsumexp(found.log_prob + shares[:, None, None], 0)
        return torch.where(seen.mask[..., 0], out - shares.exp().sum().log(), 0.0)

    def surprise(self, seen: Seen) -> Tensor:
        """−log p (N, T) of each cell given all others of its series, nats."""
        codes = torch.where(seen.mask, seen.y, 0.0).round().long()
        return -self.chances(seen, None).clamp_min(LEAST).log().gather(2, codes)[..., 0]

    def report(self) -> list[dict[str, Any]]:
        """Each member's weight next to observed cells."""
        rows = [self.shares[PLACES.index(place) * DISTANCES] for place in ("inside", "future")]
        return [
            {"member": name, "weight inside": float(a), "weight ahead": float(b)}
            for name, a, b in zip(self.members, *rows, strict=True)
        ]

    def said(self, seen: Seen, numbers: Tensor | None) -> Tensor:
        """Chances of each member, (M, N, T, K)."""
        return self._asked(seen, numbers)[0]

    def _asked(self, seen: Seen, numbers: Tensor | None) -> tuple[Tensor, Inferred, Chains, Tensor, Tensor]:
        codes, mask = self._codes(seen)
        chains, phase = self.of(codes, mask), phases(seen, self.period)
        found = inferred(chains, codes, mask, phase)
        said = found.chances
        if self.places and numbers is not None:
            said = torch.cat([said, self._told(numbers).unsqueeze(0)])
        return said, found, chains, codes, phase

    def _codes(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Codes (N, T), 0 at blanks, and their mask."""
        mask = seen.mask[..., 0]
        return torch.where(mask, seen.y[..., 0], 0.0).round().long(), mask

    def of(self, codes: Tensor, mask: Tensor) -> Chains:
        """The chains of series with these codes and mask (N, T)."""
        k = self.levels
        count = torch.zeros(len(codes), k, dtype=torch.float64).scatter_add(1, codes, mask.double())
        pull = 10.0 * PRIOR
        usual = (count + pull * self.frequency) / (count.sum(1, keepdim=True) + pull)
        periods = self.period if self.chains > 3 else 1
        table = torch.zeros(self.chains, periods, k, k, dtype=torch.float64)
        table[2] = self.moves
        if self.period > 1:
            table[3] = self.season.unsqueeze(1).expand(-1, k, -1)
        if self.by_phase:
            table[4] = self.seasonal
        stay, own = (torch.zeros(self.chains, dtype=torch.float64) for _ in range(2))
        stay[1], own[0], own[1] = self.rest, 1.0, 1 - self.rest
        return Chains(stay, own, usual, table, settled(table))

    def _told(self, numbers: Tensor) -> Tensor:
        """Chances (N, T, K) from the centres of indicators, which may lie beyond 0 and 1."""
        share = (numbers[..., self.places] * self.scale + self.loc).clamp(0.0, 1.0)
        out = torch.zeros(*share.shape[:2], self.levels, dtype=torch.float64)
        out[..., self.told] = share
        untold = [k for k in range(self.levels) if k not in self.told]
        if untold:
            usual = self.frequency[untold] / self.frequency[untold].sum().clamp_min(LEAST)
            out[..., untold] = (1 - share.sum(2, keepdim=True)).clamp_min(0.0) * usual
        out = 0.98 * out + 0.02 * self.frequency
        return out / out.sum(2, keepdim=True)

    def _weights(self, mask: Tensor) -> Tensor:
        """Members' weights in each cell of series with this mask (N, T, 1), (N, T, M)."""
        found = situation(mask)
        return self.shares[(found.place * DISTANCES + found.distance)[..., 0]]

    def _parts(self, seen: Seen, draws: int = 1) -> list[Tensor]:
        """Some of the series at a time."""
        n, steps = seen.y.shape[:2]
        each = max(1, steps) * len(self.members) * (3 * self.levels + 2 * draws)
        return list(torch.arange(n).split(max(1, CELLS // each))) if n else []

    # ------------------------------------------------------------------ fit

    def fit(self, seen: Seen) -> ClassColumn:
        """Fit frequencies, season and chains to series of codes (N, T, 1)."""
        codes, mask = self._codes(seen)
        phase = phases(seen, self.period)
        k = self.levels
        key = (phase * k + codes)[mask]
        count = torch.bincount(key, minlength=self.period * k).view(self.period, k).double()
        self.frequency.copy_((count.sum(0) + PRIOR / k) / (count.sum() + PRIOR))
        pull = SEASONAL * self.frequency
        self.season.copy_((count + pull) / (count.sum(1, keepdim=True) + SEASONAL))
        start = 0.5 * torch.eye(k, dtype=torch.float64) + 0.5 * self.frequency
        self.rest.fill_(0.5)
        self.moves.copy_(start)
        if self.by_phase:
            self.seasonal.copy_(self._seasoned())
        codes, mask, phase = _blocks(codes, mask, phase)
        for _ in range(ROUNDS if len(codes) else 0):
            chains = self.of(codes, mask)
            found = moves(chains, codes, mask, phase)
            self._maximise(found, chains.usual.mean(0))
        return self

    def _maximise(self, found: Tensor, usual: Tensor) -> None:
        """The M-step, from expected moves (M, P, K, K)."""
        same = found[1].sum(0).diagonal()
        stayed = (same * self.rest / (self.rest + (1 - self.rest) * usual).clamp_min(LEAST)).sum()
        self.rest.copy_(((stayed + 0.5) / (found[1].sum() + 1.0)).clamp(0.0, 0.999))
        total = found[2].sum(0)
        self.moves.copy_((total + PRIOR * self.frequency) / (total.sum(1, keepdim=True) + PRIOR))
        if self.by_phase:
            count = found[4]
            self.seasonal.copy_(
                (count + SEASONAL * self._seasoned()) / (count.sum(2, keepdim=True) + SEASONAL)
            )

    def _seasoned(self) -> Tensor:
        """Moves by phase (P, K, K): the chain's, times how much more often than usual each class comes in the phase."""
        more = (self.season / self.frequency).unsqueeze(1) * self.moves
        return more / more.sum(2, keepdim=True)

    def weigh(
        self, judged: Sequence[tuple[Seen, Tensor, Tensor, Tensor | None]], fitted: Sequence[Any]
    ) -> None:
        """Take the weights from hidden cells: of each set what was seen (N, T, 1), the codes that were hidden (N, T, 1), which
        these are, and the pool's centres; ``fitted`` are columns that did not see them."""
        places, chances = [], []
        for (seen, truth, hidden, numbers), column in zip(judged, fitted, strict=True):
            here = hidden[..., 0]
            if not bool(here.any()):
                continue
            said = column.said(seen, numbers)
            code = truth[..., 0].round().long()
            told = said.gather(3, code.expand(len(said), -1, -1).unsqueeze(3)).squeeze(3)
            chances.append(told[:, here].T)
            found = situation(seen.mask)
            places.append((found.place * DISTANCES + found.distance)[hidden])
        if not chances:
            return
        told, place = torch.cat(chances).clamp_min(1e-6), torch.cat(places)
        m = told.shape[1]
        whole = _mixed(told, torch.zeros(len(told), dtype=torch.long), torch.full((1, m), 1 / m).double())
        near = torch.div(place, DISTANCES, rounding_mode="floor")
        by_place = _mixed(told, near, whole.expand(len(PLACES), -1))
        by_place[PLACES.index("past")] = by_place[PLACES.index("future")]
        shares = _mixed(told, place, by_place.repeat_interleave(DISTANCES, 0))
        shares = shares.view(len(PLACES), DISTANCES, m)
        shares[PLACES.index("past")] = shares[PLACES.index("future")]
        self.shares.copy_(shares.flatten(0, 1))


def _mixed(told: Tensor, group: Tensor, towards: Tensor, rounds: int = 100) -> Tensor:
    """Weights (G, M) that maximise Σ log Σ_m w_m p_m of the cells (cells, M) of groups, pulled ``towards`` others."""
    shares = towards.clone()
    count = torch.bincount(group, minlength=len(towards)).unsqueeze(1)
    for _ in range(rounds):
        each = told * shares[group]
        each = each / each.sum(1, keepdim=True)
        total = torch.zeros_like(towards).index_add(0, group, each)
        shares = (total + PULL * towards) / (count + PULL)
    return shares


def _blocks(codes: Tensor, mask: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Series (N, T) cut into blocks of steps in which something was seen, at most `BLOCKS` of them."""
    steps = codes.shape[1]
    pad = -steps % BLOCK if steps > BLOCK else 0
    size = BLOCK if steps > BLOCK else steps
    parts = [nn.functional.pad(v, (0, pad)).view(-1, size) for v in (codes, mask, phase)]
    some = parts[1].any(1).nonzero().squeeze(1)
    some = some[torch.linspace(0, len(some) - 1, min(len(some), BLOCKS)).round().long()]
    return parts[0][some], parts[1][some], parts[2][some]
