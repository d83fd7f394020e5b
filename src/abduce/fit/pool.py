"""Fit a pool to rows with blanks: members, weights, and a last fit to everything.

A tenth of the observed cells is hidden, members are fitted to the rest and predict them, weights are what would have
predicted them best; then each member goes on from where it was to all observed cells.  Small tables hide several times, so
that weights rest on enough cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.data.units import Units
from abduce.gaussians.em import one_thread, varying, workers
from abduce.models.model import Model
from abduce.models.pool import Pool, log_evidences

HIDDEN = 0.1  # share of the observed cells that choose the weights
ENOUGH = 3000  # hidden cells; fewer are hidden several times
TURNS = 5  # at most
PRIOR = 200.0  # pseudo-cells that pull the weights toward equal ones
SPREAD_PRIOR = 50.0  # hidden cells that a spread found elsewhere counts as
FEW = 500  # rows that choose among alternatives, and the weights of whole rows
SOME = 2500  # rows whose hidden cells choose the weights of cells
SPREAD_ROWS = 1000  # and of those the spread

Members = dict[str, Model]  # by title


class Family(Protocol):
    """Members that are fitted together."""

    repeats: bool  # whether draws repeat values as often as the data do
    alternatives: Sequence[Sequence[str]]  # titles of which one is to be kept: the best of each list

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

    def rows(self, most: int) -> np.ndarray:
        """The first rows that have hidden cells."""
        return np.flatnonzero(self.hidden.any(1))[:most]


class Predictions(NamedTuple):
    """What members say of hidden cells: numbers (cells, M) with the truth (cells,), in standard deviations; probabilities of
    the true class (cells, M)."""

    numbers: np.ndarray
    truth: np.ndarray
    classes: np.ndarray


def fit_pool(
    schema: Schema,
    values: np.ndarray,
    observed: np.ndarray,
    families: Sequence[Family],
    seed: int = 0,
    show: Callable[[str, float], Any] | None = None,
) -> Pool:
    """Fit the members of ``families`` to model values (n, D), which these hold too, and pool them."""
    judge = _Judge(schema, values, observed)
    told = varying(
        torch.from_numpy(values), torch.from_numpy(observed)
    ).numpy()  # the rest has nothing to predict
    say = show or (lambda text, share: None)
    turns = int(np.clip(np.ceil(ENOUGH / max(HIDDEN * observed[:, told].sum(), 1)), 1, TURNS))
    rng = np.random.default_rng(seed)

    def dice() -> np.ndarray:
        out = np.zeros(observed.shape, bool)
        out[:, told] = rng.random((len(out), int(told.sum()))) < HIDDEN
        return observed & out

    hidings = [Hiding(observed & ~hidden, hidden) for hidden in (dice() for _ in range(turns))]
    said: list[Predictions] = []
    first: list[Members] = []
    count = max(1, min(len(families), torch.get_num_threads()))
    with one_thread(), workers(count) as threads:

        def fitted(mask: np.ndarray, go_on: bool = False) -> list[Members]:
            """Members of all families, fitted side by side."""
            jobs = []
            for family, own in zip(families, first or [None] * len(families), strict=True):
                jobs.append(threads.submit(family.fit, mask, own if go_on else None, own))
            return [job.result() for job in jobs]

        for turn, hiding in enumerate(hidings):
            found = fitted(hiding.kept)
            if not turn:
                first = found = [judge.best(f, m, hiding) for f, m in zip(families, found, strict=True)]
            said.append(judge.predictions(_all(found), hiding.rows(SOME), hiding))
            say("members", 0.7 * (turn + 1) / turns)
        last = fitted(observed, go_on=True)
    together = Predictions(*(np.concatenate(part) for part in zip(*said, strict=True)))
    blind = [f.blind(m, hidings[0].kept) for f, m in zip(families, first, strict=True)]
    rows_said = judge.rows(_all(blind), hidings[0])
    of_numbers = square_weights(together.numbers, together.truth, PRIOR)
    of_classes, of_rows = pool_weights(np.log(together.classes)), pool_weights(rows_said)
    weights = torch.from_numpy(of_numbers), torch.from_numpy(of_classes), torch.from_numpy(of_rows)
    atoms = [f.repeats for f, part in zip(families, last, strict=True) for _ in part]
    repeats = [bool(r) for r in ~judge.coding.smooth]
    trial = Pool(schema, _all(first), weights, None, repeats, atoms)
    spread = _spread(trial, values, hidings[0], seed)
    titles = [title for part in last for title in part]
    reports = [{"member": t, **_report(together, m, weights)} for m, t in enumerate(titles)]
    say("pool", 1.0)
    return Pool(schema, _all(last), weights, spread, repeats, atoms, reports=reports)


def _all(parts: Sequence[Members]) -> list[Model]:
    return [model for part in parts for model in part.values()]


class _Judge:
    """Lets members predict hidden cells of the rows."""

    def __init__(self, schema: Schema, values: np.ndarray, observed: np.ndarray):
        self.values, self.units = values, Units(schema)
        self.coding = Coding(schema, values, observed, scores=False)
        self.cells, self.classes = self.coding.numbers, schema.layout.classes
        self.loc, self.scale = self.coding.loc[self.cells], self.coding.scale[self.cells]

    def predictions(self, members: Sequence[Model], rows: np.ndarray, cells: Hiding) -> Predictions:
        """Let members predict the hidden cells of rows from the kept ones."""
        values, hidden = self.values[rows], cells.hidden[rows]
        seen = Seen(torch.from_numpy(values), torch.from_numpy(cells.kept[rows]))
        place = hidden[:, self.cells]

        def standard(x: Tensor) -> np.ndarray:
            return ((self.units.to_data(x[:, self.cells]).numpy() - self.loc) / self.scale)[place]

        numbers, classes = [], []
        for member in members:
            answer = member.answer(seen)
            numbers.append(standard(answer.mean()) if len(self.cells) else np.zeros(0))
            given = [np.zeros(0)]
            for j in self.classes:
                cell = hidden[:, j]
                given.append(answer.chances(j).numpy()[cell, values[cell, j].astype(int)])
            classes.append(np.concatenate(given))
        truth = standard(seen.y) if len(self.cells) else np.zeros(0)
        return Predictions(np.stack(numbers, 1), truth, np.stack(classes, 1))

    def rows(self, members: Sequence[Model], cells: Hiding) -> np.ndarray:
        """log p(hidden cells | kept ones) of a few rows under each member, (rows, M)."""
        few = cells.rows(FEW)
        x, kept, hidden = (torch.from_numpy(a[few]) for a in (self.values, *cells))
        both, some = Seen(x, kept | hidden), Seen(x, kept)
        return (log_evidences(members, both) - log_evidences(members, some)).numpy()

    def best(self, family: Family, members: Members, cells: Hiding) -> Members:
        """Members without those alternatives that predict worse than the best of them."""
        dropped: set[str] = set()
        for titles in family.alternatives:
            said = self.predictions([members[t] for t in titles], cells.rows(FEW), cells)
            error = np.square(said.numbers - said.truth[:, None]).sum(0) - np.log(said.classes).sum(0)
            dropped |= set(titles) - {titles[int(np.argmin(error))]}
        return {title: member for title, member in members.items() if title not in dropped}


def _report(said: Predictions, m: int, weights: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """How a member did on the hidden cells, and what weight it was given."""
    out: dict[str, Any] = {"row_weight": float(weights[2][m])}
    if len(said.truth):
        error = said.numbers[:, m] - said.truth
        out |= {"weight": float(weights[0][m]), "error": float(np.sqrt(np.mean(error**2)))}
    if len(said.classes):
        loss = -np.log(said.classes[:, m]).mean()
        out |= {"class_weight": float(weights[1][m]), "log_loss": float(loss)}
    return out


def _spread(pool: Pool, values: np.ndarray, cells: Hiding, seed: int) -> list[float]:
    """What to scale each number's deviations by so that 90 % intervals hold 90 % of the hidden cells.

    A pool is wider than its members where they disagree, and each member may be too narrow or too wide.  Numbers with few
    hidden cells lean on what all together need, and these on 1.
    """
    numbers = pool.units.cells
    which = np.flatnonzero(cells.hidden[:, numbers].any(1))[:SPREAD_ROWS]
    if not len(which):
        return [1.0] * len(numbers)
    x, kept, hidden = (torch.from_numpy(a[which]) for a in (values, *cells))
    answer = pool.answer(Seen(x, kept))
    drawn = answer.draws(200, torch.Generator().manual_seed(seed), "cells")[..., numbers]
    centre = answer.mean()[:, numbers]
    low, high = torch.quantile(drawn, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    off = x[:, numbers] - centre
    needed = torch.maximum(off / (high - centre).clamp_min(1e-9), off / (low - centre).clamp_max(-1e-9))
    place = hidden[:, numbers]

    def drawn_toward(before: float, some: Tensor, prior: float) -> float:
        """The factor that 90 % of some cells need, as if ``prior`` more of them needed the one before."""
        if not len(some):
            return before
        found = float(torch.quantile(some, 0.9).clamp(0.5, 2.0))
        return (len(some) * found + prior * before) / (len(some) + prior)

    every = drawn_toward(1.0, needed[place], 2 * SPREAD_PRIOR)
    return [drawn_toward(every, needed[place[:, i], i], SPREAD_PRIOR) for i in range(len(numbers))]


def square_weights(said: np.ndarray, truth: np.ndarray, prior: float) -> np.ndarray:
    """Weights ≥ 0 that sum to one and minimise Σ (truth − said w)², pulled to equal ones by ``prior`` pseudo-cells.

    By accelerated projected gradient (Beck & Teboulle 2009); a pseudo-cell counts as much as members differ on a cell on
    average.
    """
    m = said.shape[1]
    w = np.full(m, 1 / m)
    if m == 1 or not len(truth):
        return w
    pull = prior * m * np.mean(np.square(said - said.mean(1, keepdims=True)))
    gram = said.T @ said + pull * np.eye(m)
    target = said.T @ truth + pull / m
    steepest = np.linalg.eigvalsh(gram)[-1]
    if not steepest > 0:  # all say zero
        return w
    step = 1 / steepest
    ahead, pace = w, 1.0
    for _ in range(3000):
        moved = ahead - step * (gram @ ahead - target)
        order = np.sort(moved)[::-1]
        excess = np.cumsum(order) - 1
        k = np.flatnonzero(order - excess / np.arange(1, m + 1) > 0)[-1]
        moved = np.maximum(moved - excess[k] / (k + 1), 0)
        change = moved - w
        if max(np.abs(change).max(), np.abs(moved - ahead).max()) < 1e-9:
            break
        if (ahead - moved) @ change > 0:  # past the valley's floor: start again from here
            pace = 1.0
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead, pace, w = moved + (pace - 1) / faster * change, faster, moved
    return w


def pool_weights(log_p: np.ndarray, prior: float = 5.0, rounds: int = 200) -> np.ndarray:
    """Weights of a pool that maximise Σ log Σ_m w_m p_m, log_p (n, M), by EM with ``prior`` pseudo-counts a member."""
    m = log_p.shape[1]
    w = np.full(m, 1 / m)
    if not len(log_p):
        return w
    relative = np.exp(log_p - log_p.max(1, keepdims=True))
    for _ in range(rounds):
        joint = relative * w
        count = (joint / joint.sum(1, keepdims=True)).sum(0) + prior
        w = count / count.sum()
    return w
