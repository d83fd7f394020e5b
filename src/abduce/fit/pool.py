"""Fit a pool to rows with blanks: members, weights, and a last fit to everything.

A tenth of the observed cells is hidden, members are fitted to the rest and predict them, weights are what would have
predicted them best; then each member goes on from where it was to all observed cells.  Small tables hide several times, so
that weights rest on enough cells.  Trees that read rows as the pool completes them revise the cells where that predicts the
hidden ones better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from abduce.answers.answer import EFFORT, gather
from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.data.units import Units
from abduce.fit.budget import Clock
from abduce.fit.forests import TREES, TRIED, Revisions, affordable_rows, fit_forests, lean, narrowed
from abduce.fit.weights import PRIOR, MemberWeights, pool_weights, pooled_weights, square_weights
from abduce.gaussians.em import awaited, one_thread, varying, workers
from abduce.models.forests import Forests
from abduce.models.model import Model
from abduce.models.pool import Pool, log_evidences

HIDDEN = 0.1  # share of the observed cells that choose the weights
ENOUGH = 3000  # hidden cells; fewer are hidden several times
TURNS = 5  # at most
SPREAD_PRIOR = 50.0  # hidden cells that a spread found elsewhere counts as
FEW = 500  # rows that choose the weights of whole rows
SOME = (
    2500,
    4000,
)  # rows whose hidden cells choose the weights of cells, at most: as many as hide so many cells
CHOOSING = 500, 1000  # rows that choose among alternatives
SPREAD_ROWS = 1000, 1500  # rows that choose the spread
LEAST_ROWS = 0.4  # share of such rows that are taken however many cells they hide
DRAWS = 100  # behind the spread
# a new value lies between the 5th and the 96th of 100 draws with chance 90 % (Hyndman & Fan 1996, their definition 6)
ENDS = torch.tensor([p * (DRAWS + 1) - 1 for p in (0.05, 0.95)], dtype=torch.float64) / (DRAWS - 1)

Members = dict[str, Model]  # by title


class Family(Protocol):
    """Members that are fitted together."""

    repeats: bool  # whether draws repeat values as often as the data do
    # titles of which one is to be kept: the best of each list, along which errors fall and then rise
    alternatives: Sequence[Sequence[str]]

    def fit(self, observed: np.ndarray, start: Members | None, only: Members | None) -> Members:
        """Members for the rows' observed cells (n, D); with ``start``, from where they were; with ``only``, of its titles."""
        ...

    def blind(self, members: Members, observed: np.ndarray) -> Members:
        """The same members without anything that came from cells other than the ``observed`` ones."""
        ...


@dataclass
class GivenMember:
    """One member that ``make`` fits to model values (n, D) with their mask."""

    title: str
    values: np.ndarray
    make: Callable[[np.ndarray, np.ndarray], Model]
    repeats: bool = False
    alternatives: Sequence[Sequence[str]] = ()

    def fit(self, observed: np.ndarray, start: Members | None, only: Members | None) -> Members:
        return {self.title: self.make(np.where(observed, self.values, 0.0), observed)}

    def blind(self, members: Members, observed: np.ndarray) -> Members:
        return members


class Hiding(NamedTuple):
    """Masks (n, D) of the cells that members are fitted to, and of those that they are to predict."""

    kept: np.ndarray
    hidden: np.ndarray

    def rows(self, most: int, cells: int | None = None) -> np.ndarray:
        """The first rows that have hidden cells, and as many of them as hide about so many."""
        found = np.flatnonzero(self.hidden.any(1))[:most]
        if cells is None or not len(found):
            return found
        enough = int(np.searchsorted(self.hidden[found].sum(1).cumsum(), cells)) + 1
        return found[: max(enough, int(LEAST_ROWS * most))]


class Said(NamedTuple):
    """What members say of rows: means of numbers (M, rows, D') in data units, chances of each class cell (M, rows, levels)."""

    numbers: Tensor
    classes: dict[int, Tensor]

    def of(self, members: np.ndarray) -> Said:
        """What those members say that are marked, (M,)."""
        some = torch.from_numpy(members)
        return Said(self.numbers[some], {j: p[some] for j, p in self.classes.items()})


class Predictions(NamedTuple):
    """What members say of hidden cells: numbers (cells, M) with the truth (cells,), in standard deviations; probabilities of
    the true class (cells, M)."""

    numbers: np.ndarray
    truth: np.ndarray
    classes: np.ndarray

    def of(self, members: np.ndarray) -> Predictions:
        """What those members say that are marked, (M,)."""
        return Predictions(self.numbers[:, members], self.truth, self.classes[:, members])


def fit_pool(
    schema: Schema,
    values: np.ndarray,
    observed: np.ndarray,
    families: Sequence[Family],
    seed: int = 0,
    show: Callable[[str, float], Any] | None = None,
    forests: bool = True,
    clock: Clock | None = None,
    most_turns: int | None = None,
) -> Pool:
    """Fit the members of ``families`` to model values (n, D), which these hold too, and pool them, with ``forests`` or not.

    Cells are hidden ``most_turns`` times at most.  Where the ``clock`` says that it is late, what is left to do is left out.
    """
    late = (clock or Clock(None)).late
    judge = _Judge(schema, values, observed)
    told = varying(
        torch.from_numpy(values), torch.from_numpy(observed)
    ).numpy()  # the rest has nothing to predict
    say = show or (lambda text, share: None)
    turns = min(most_turns or TURNS, turns_of(float(observed[:, told].sum())))
    rng = np.random.default_rng(seed)

    def dice() -> np.ndarray:
        out = np.zeros(observed.shape, bool)
        out[:, told] = rng.random((len(out), int(told.sum()))) < HIDDEN
        return observed & out

    hidings = [Hiding(observed & ~hidden, hidden) for hidden in (dice() for _ in range(turns))]
    said: list[Predictions] = []
    revisions: list[Revisions] = []
    first: list[Members] = []  # members of the first turn, from which the last fit goes on
    kept: list[Members] = []  # those of them that are worth their time
    left: list[dict[str, Any]] = []
    of_rows, cells = np.zeros((0, 0)), 0.0
    trees: Forests | None = None
    count = max(1, min(len(families), torch.get_num_threads()))
    with one_thread(), workers(count) as threads:

        def fitted(mask: np.ndarray, go_on: bool = False) -> list[Members]:
            """Members of all families, fitted side by side."""
            jobs = []
            for i, family in enumerate(families):
                start, only = (first[i] if go_on else None), (kept[i] if kept else None)
                jobs.append(threads.submit(family.fit, mask, start, only))
            return [awaited(job) for job in jobs]

        for turn, hiding in enumerate(hidings):
            if turn and late("more hidden cells"):
                break
            found = fitted(hiding.kept)
            if not turn:
                first = found = [judge.best(f, m, hiding) for f, m in zip(families, found, strict=True)]
            rows = hiding.rows(*SOME)
            answers = judge.said(_all(found), rows, hiding)
            told_of = judge.predictions(answers, rows, hiding)
            if not turn:
                blind = [f.blind(m, hiding.kept) for f, m in zip(families, found, strict=True)]
                of_rows, cells = judge.rows(_all(blind), hiding)
                worth = judge.worth(_weights(told_of, of_rows, cells), _repeating(families, found), told_of)
                left = [r for r, w in zip(_reports(found, told_of), worth, strict=True) if not w]
                kept = _some(found, worth)
                answers, told_of, of_rows = answers.of(worth), told_of.of(worth), of_rows[:, worth]
            said.append(told_of)
            if forests and (not turn or trees is not None):
                grown, revised = judge.revised(answers, said[-1], rows, hiding, seed)
                revisions.append(revised)
                if not turn and grown is not None:
                    grown.lean.copy_(torch.from_numpy(lean(revised, schema.layout.levels)))
                    trees = grown if bool(grown.lean.any()) else None
            say("members", 0.7 * (turn + 1) / turns)
        last = kept if late("the last fit to all cells") else fitted(observed, go_on=True)
    together = Predictions(*(np.concatenate(part) for part in zip(*said, strict=True)))
    found_weights = _weights(together, of_rows, cells)
    of_numbers, of_classes, of_whole = (torch.from_numpy(w) for w in found_weights)
    weights = of_numbers, of_classes, of_whole
    atoms = _repeating(families, kept)
    repeats = [bool(r) for r in ~judge.coding.smooth]
    trial = Pool(schema, _all(kept), weights, None, repeats, atoms, forests=trees)
    if trees is not None and late("trees"):
        trees = trial.forests = None
    usual, leaning = np.ones(len(judge.cells)), np.zeros(0)
    if trees is not None:
        every = Revisions(*(np.concatenate(part) for part in zip(*revisions, strict=True)))
        leaning = lean(every, schema.layout.levels)
        # cells of which the first turn hid none lean too, on trees that are grown in the end
        trees.lean[trees.cells] = torch.from_numpy(leaning)[trees.cells]
        usual = narrowed(every, leaning)[judge.cells]
    spread = _spread(trial, values, hidings[0], usual, seed)
    reports = _reports(last, together, found_weights) + left
    say("pool", 0.9)
    pool = Pool(schema, _all(last), weights, spread, repeats, atoms, reports=reports)
    if trees is not None:
        pool.forests = judge.grown(pool, torch.from_numpy(leaning), seed)
    say("pool", 1.0)
    return pool


def turns_of(cells: float) -> int:
    """How often cells are hidden of a table with so many observed ones."""
    return int(np.clip(np.ceil(ENOUGH / max(HIDDEN * cells, 1)), 1, TURNS))


def _all(parts: Sequence[Members]) -> list[Model]:
    return [model for part in parts for model in part.values()]


class _Judge:
    """Lets members predict hidden cells of the rows."""

    def __init__(self, schema: Schema, values: np.ndarray, observed: np.ndarray):
        self.values, self.observed, self.units = values, observed, Units(schema)
        self.levels = schema.layout.levels
        self.coding = Coding(schema, values, observed, scores=False)
        self.cells, self.classes = self.coding.numbers, schema.layout.classes
        self.place = {int(j): i for i, j in enumerate(self.cells)}
        self.loc, self.scale = self.coding.loc[self.cells], self.coding.scale[self.cells]

    def said(self, members: Sequence[Model], rows: np.ndarray, cells: Hiding) -> Said:
        """Ask members about rows of which the kept cells are seen."""
        seen = Seen(torch.from_numpy(self.values[rows]), torch.from_numpy(cells.kept[rows]))
        answers = [member.answer(seen) for member in members]
        numbers = torch.stack([self.units.to_data(a.mean()[:, self.cells]) for a in answers])
        return Said(numbers, {j: torch.stack([a.chances(j) for a in answers]) for j in self.classes})

    def predictions(self, said: Said, rows: np.ndarray, cells: Hiding) -> Predictions:
        """What was said of the hidden cells of rows."""
        values, hidden = self.values[rows], cells.hidden[rows]
        place = hidden[:, self.cells]

        def standard(x: Tensor) -> np.ndarray:
            return ((x.numpy() - self.loc) / self.scale)[place]

        numbers = [standard(x) for x in said.numbers]
        classes = [np.zeros((len(numbers), 0))]
        for j in self.classes:
            level = values[hidden[:, j], j].astype(int)
            classes.append(said.classes[j][:, hidden[:, j]][:, np.arange(len(level)), level].numpy())
        truth = standard(self.units.to_data(torch.from_numpy(values[:, self.cells])))
        return Predictions(np.stack(numbers, 1), truth, np.concatenate(classes, 1).T)

    def revised(
        self, said: Said, hidden: Predictions, rows: np.ndarray, cells: Hiding, seed: int
    ) -> tuple[Forests | None, Revisions]:
        """Forests of the kept cells of rows, completed by what members said of them, and what they make of the hidden ones."""
        weights = square_weights(hidden.numbers, hidden.truth, PRIOR), pool_weights(np.log(hidden.classes))
        of_numbers, of_classes = (torch.from_numpy(w) for w in weights)
        together = torch.einsum("m,mnd->nd", of_numbers, said.numbers)
        chances = {j: torch.einsum("m,mnl->nl", of_classes, p) for j, p in said.classes.items()}
        x, kept, asked = (torch.from_numpy(a[rows]) for a in (self.values, *cells))
        x = x.clone()
        x[:, self.cells] = self.units.to_data(x[:, self.cells])
        complete = x.clone()
        complete[:, self.cells] = together
        for j, p in chances.items():
            complete[:, j] = p.argmax(1).double()
        complete = torch.where(kept, x, complete)
        found = self._forests(complete, kept, asked.any(0).nonzero().flatten().tolist(), seed, TRIED)
        parts: list[Revisions] = []
        for j in found.cells if found is not None else ():
            assert found is not None
            which = asked[:, j].nonzero().flatten()
            forest = found.says(j, complete[which])
            if j in chances:
                level = x[which, j].long().unsqueeze(1)
                both = [p.gather(1, level)[:, 0].numpy() for p in (chances[j][which], forest)]
                truth = np.full(len(which), np.nan)
            else:
                i = self.place[j]
                told = (together[which, i], forest[:, 0], x[which, j])
                *both, truth = [((v.numpy() - self.loc[i]) / self.scale[i]) for v in told]
            parts.append(Revisions(np.full(len(which), j), both[0], both[1], truth))
        nothing = Revisions(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0))
        return found, Revisions(*(np.concatenate(p) for p in zip(nothing, *parts, strict=True)))

    def grown(self, pool: Pool, wanted: Tensor, seed: int) -> Forests | None:
        """Forests of the cells that lean on them, of rows with all that was observed, completed by the pool."""
        n = affordable_rows(len(self.values), pool.layout.levels)
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.values))[:n])
        seen = Seen(torch.from_numpy(self.values[rows]), torch.from_numpy(self.observed[rows]))

        def completed(answer: Any) -> Tensor:
            return answer.completed

        complete = gather(pool, seen, EFFORT, completed, (pool.n_cells,))
        found = self._forests(complete, seen.mask, wanted.nonzero().flatten().tolist(), seed, TREES)
        if found is not None:
            found.lean[found.cells] = wanted[found.cells]
        return found

    def _forests(
        self, complete: Tensor, seen: Tensor, cells: Sequence[int], seed: int, trees: int
    ) -> Forests | None:
        loc, scale = torch.zeros(len(self.levels)).double(), torch.ones(len(self.levels)).double()
        loc[self.cells], scale[self.cells] = torch.from_numpy(self.loc), torch.from_numpy(self.scale)
        return fit_forests(self.levels, complete, seen, loc, scale, cells, seed, trees)

    def rows(self, members: Sequence[Model], cells: Hiding) -> tuple[np.ndarray, float]:
        """log p(hidden cells | kept ones) of a few rows under each member, (rows, M), and how many cells a row hides."""
        few = cells.rows(FEW)
        x, kept, hidden = (torch.from_numpy(a[few]) for a in (self.values, *cells))
        both, some = Seen(x, kept | hidden), Seen(x, kept)
        log_p = (log_evidences(members, both) - log_evidences(members, some)).numpy()
        return log_p, float(cells.hidden[few].sum() / max(1, len(few)))

    def worth(self, weights: MemberWeights, repeating: Sequence[bool], said: Predictions) -> np.ndarray:
        """Which members are worth a last fit, bool (M,): those with any weight, the first, whose codes the pool gives, and
        where numbers repeat values one that does so too."""
        out = weights.used
        out[0] = True
        atoms = np.flatnonzero(repeating)
        if len(atoms) and not self.coding.smooth.all() and not out[atoms].any():
            error = np.square(said.numbers[:, atoms] - said.truth[:, None]).sum(0)
            out[atoms[np.argmin(error)]] = True
        return out

    def best(self, family: Family, members: Members, cells: Hiding) -> Members:
        """Members without those alternatives that predict worse than the best of them."""
        dropped: set[str] = set()
        for titles in family.alternatives:
            rows = cells.rows(*CHOOSING)

            def error(place: int, titles: Sequence[str] = titles, rows: np.ndarray = rows) -> float:
                said = self.predictions(self.said([members[titles[place]]], rows, cells), rows, cells)
                return float(np.square(said.numbers[:, 0] - said.truth).sum() - np.log(said.classes).sum())

            dropped |= set(titles) - {titles[valley(len(titles), error)]}
        return {title: member for title, member in members.items() if title not in dropped}


def valley(count: int, height: Callable[[int], float]) -> int:
    """Which of ``count`` places is lowest, on a way that falls and then rises, walked downhill from its middle.

    >>> valley(5, lambda place: abs(place - 3.2))
    3
    """
    place = count // 2
    low = height(place)
    for step in (1, -1):
        moved = False
        while 0 <= place + step < count and (next_ := height(place + step)) < low:
            place, low, moved = place + step, next_, True
        if moved:
            break
    return place


def _repeating(families: Sequence[Family], parts: Sequence[Members]) -> list[bool]:
    """Which members draw values that repeat as often as the data's."""
    return [f.repeats for f, part in zip(families, parts, strict=True) for _ in part]


def _some(parts: Sequence[Members], kept: np.ndarray) -> list[Members]:
    """The members that are marked, in the order of all."""
    marks = iter(kept.tolist())
    return [{title: model for title, model in part.items() if next(marks)} for part in parts]


def _weights(said: Predictions, of_rows: np.ndarray, cells: float) -> MemberWeights:
    return pooled_weights(said.numbers, said.truth, said.classes, of_rows, cells)


def _reports(
    parts: Sequence[Members], said: Predictions, weights: MemberWeights | None = None
) -> list[dict[str, Any]]:
    """How members did on the hidden cells, and what weights they were given; without, that they were left out."""
    out = []
    for m, title in enumerate(title for part in parts for title in part):
        about: dict[str, Any] = {
            "member": title,
            "row_weight": 0.0 if weights is None else float(weights.rows[m]),
        }
        if len(said.truth):
            error = float(np.sqrt(np.mean((said.numbers[:, m] - said.truth) ** 2)))
            about |= {"weight": 0.0 if weights is None else float(weights.numbers[m]), "error": error}
        if len(said.classes):
            loss = float(-np.log(said.classes[:, m]).mean())
            about |= {"class_weight": 0.0 if weights is None else float(weights.classes[m]), "log_loss": loss}
        out.append(about | ({"left_out": "the others do as well without it"} if weights is None else {}))
    return out


def _spread(pool: Pool, values: np.ndarray, cells: Hiding, usual: np.ndarray, seed: int) -> list[float]:
    """What to scale each number's deviations by so that 90 % intervals hold 90 % of the hidden cells; 1 where values repeat.

    A pool is wider than its members where they disagree, and each member may be too narrow or too wide.  Numbers with few
    hidden cells lean on what all together need, and these on ``usual`` (D',), how much smaller errors are once revised.
    """
    out, smooth = np.ones(len(usual)), ~np.array(pool.repeats, bool)
    numbers = [j for j, s in zip(pool.units.cells, smooth, strict=True) if s]
    of_numbers = np.zeros_like(cells.hidden)
    of_numbers[:, numbers] = cells.hidden[:, numbers]
    which = Hiding(cells.kept, of_numbers).rows(*SPREAD_ROWS)
    if not numbers or not len(which):
        out[smooth] = usual[smooth]
        return out.tolist()
    x, kept, hidden = (torch.from_numpy(a[which]) for a in (values, *cells))
    answer = pool.answer(Seen(x, kept))
    drawn = answer.draws(DRAWS, torch.Generator().manual_seed(seed), "cells")[..., numbers]
    centre = answer.mean()[:, numbers]
    low, high = torch.quantile(drawn, ENDS, dim=0)
    off = x[:, numbers] - centre
    needed = torch.maximum(off / (high - centre).clamp_min(1e-9), off / (low - centre).clamp_max(-1e-9))
    needed = needed / torch.from_numpy(usual[smooth])
    place = hidden[:, numbers]

    def drawn_toward(before: float, some: Tensor, prior: float) -> float:
        """The factor that 90 % of some cells need, as if ``prior`` more of them needed the one before."""
        if not len(some):
            return before
        found = float(torch.quantile(some, 0.9).clamp(0.5, 2.0))
        return (len(some) * found + prior * before) / (len(some) + prior)

    every = drawn_toward(1.0, needed[place], 2 * SPREAD_PRIOR)
    own = [drawn_toward(every, needed[place[:, i], i], SPREAD_PRIOR) for i in range(len(numbers))]
    out[smooth] = usual[smooth] * own
    return out.tolist()
