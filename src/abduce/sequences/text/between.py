"""What stands in blanks, given both sides: forward and backward over the contexts that the law tells apart.

    α(h') = Σ_x α(h) p(x | h) over contexts h and symbols x that lead to h',        β(h) = Σ_x p(x | h) β(h')
    p(x_t | all that is seen) ∝ Σ_h α(h) p(x_t | h) β(h'),                        p(seen | before) = Σ α at the end

Contexts are those that the counts know: two ways to write that end alike in all that was ever counted become one, so there
are far fewer than symbols to the K-th power.  Where a step has no more than ``beam`` edges (h, x), this is exact.  Else it
keeps ``beam`` of them: those with most weight for certain, and of the others a sample that stands for all, so that sums stay
unbiased.  Weight is α(h) p(x | h) times how well a law with two symbols of context, run backward, leads on.

ESS, the effective sample size, is 1 over the relative variance of p(seen) that this sampling brings, cautiously; infinite
where nothing was left out.

Sources: Baum, Petrie, Soules & Weiss 1970 (Ann. Math. Stat. 41); Fearnhead & Clifford 2003 (J. R. Stat. Soc. B 65), for the
sampling; Hájek 1964 (Ann. Math. Stat. 35), for its variance.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from abduce.sequences.text.gaps import BLANK, Stretch
from abduce.sequences.text.kneser_ney import KneserNey
from abduce.sequences.text.lookahead import Lookahead

BEAM = 1024  # edges that a step of one stretch keeps
AT_ONCE = 2**21  # numbers that are made for all stretches that are asked about together


class Edges(NamedTuple):
    """One step of all stretches: of each edge (n,) its stretch, the state before and after it, its symbol, p(x | h) over the
    chance that it was kept, p(x | h), and that chance.  States of a step are numbered through, stretch by stretch."""

    stretch: np.ndarray
    before: np.ndarray
    after: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    p: np.ndarray
    kept: np.ndarray


def sampled(weight: np.ndarray, beam: int, start: float) -> tuple[np.ndarray, np.ndarray]:
    """At most ``beam`` places of weights (n,), and the chance that each had: the heaviest have 1, others go by their weight.

    Those that have no certain place share the rest of them by systematic sampling, which begins at ``start`` in [0, 1).

    >>> sampled(np.array([4.0, 1.0, 0.0, 1.0, 1.0, 1.0]), beam=3, start=0.5)
    (array([0, 1, 4]), array([1. , 0.5, 0.5]))
    """
    there = np.flatnonzero(weight)
    if len(there) <= beam:
        return there, np.ones(len(there))
    rank = there[np.argsort(-weight[there], kind="stable")]
    w = weight[rank]
    tail = np.cumsum(w[::-1])[::-1]  # of this one and all lighter ones
    cut = int(np.argmax(w[:beam] * (beam - np.arange(beam)) <= tail[:beam]))
    chance = np.minimum(w[cut:] * ((beam - cut) / tail[cut]), 1.0)
    turn = np.floor(start + np.cumsum(chance))
    drawn = np.flatnonzero(np.diff(turn, prepend=0.0) > 0)
    return np.concatenate([rank[:cut], rank[cut:][drawn]]), np.concatenate([np.ones(cut), chance[drawn]])


class Between:
    """The law of the blanks of several stretches; all must be of the same length and have their blanks in the same places.

    With a ``seed``, which edges are kept of a stretch does not depend on the others.
    """

    def __init__(
        self,
        law: KneserNey,
        asked: Sequence[Stretch],
        beam: int,
        rng: np.random.Generator,
        seed: int | None = None,
    ):
        self.law, self.asked, self.beam, self.rng = law, asked, beam, rng
        n, steps = len(asked), len(asked[0].x)
        if seed is None:
            self.starts = rng.random((n, steps))
        else:
            marks = [zlib.crc32(s.x.tobytes(), zlib.crc32(s.before.tobytes())) for s in asked]
            self.starts = np.stack([np.random.default_rng([seed, mark]).random(steps) for mark in marks])
        self.log_evidence = np.zeros(n)
        self.steps: list[Edges] = []
        self.alphas = [np.ones(n)]  # of states, summing to one in each stretch
        self.owners = [np.arange(n)]  # stretch of each state
        self._forward(n)
        self.betas = self._backward()
        self.ess = self._effective_size(n)

    def _forward(self, n: int) -> None:
        law = self.law
        contexts = np.concatenate([law.contexts(stretch.before) for stretch in self.asked], axis=1)
        last = np.array([s.before[-1] if len(s.before) else law.size for s in self.asked])
        blank, blanks = 0, sum(x == BLANK for x in self.asked[0].x)
        self.beam = max(self.beam, law.size) if blanks == 1 else self.beam  # one blank is always exact
        ahead = Lookahead(law, self.asked) if law.size**blanks > self.beam else None
        for t in range(len(self.asked[0].x)):
            owner, alpha = self.owners[-1], self.alphas[-1]
            if self.asked[0].x[t] == BLANK:
                p = law.next(contexts)[:, :-1]
                allowed = [stretch.allowed[blank] for stretch in self.asked]
                if any(a is not None for a in allowed):
                    full = np.ones(law.size, bool)
                    p = p * np.stack([full if a is None else a for a in allowed])[owner]
                blank += 1
                weight = alpha[:, None] * p
                if ahead is not None:
                    weight = weight * ahead.of(t, owner, last)
                many = bool(np.bincount(owner, minlength=n).max() * law.size > self.beam)
                before, x, kept = self._choose(weight, owner, self.starts[:, t] if many else None)
                p = p[before, x]
            else:
                before, kept = np.arange(len(owner)), np.ones(len(owner))
                x = np.array([stretch.x[t] for stretch in self.asked])[owner]
                p = law.one(contexts, x)
            contexts = law.counts.step(contexts[:, before], x)
            after, one = self._merged(contexts, owner[before])
            weight = p / kept
            mass = np.bincount(after, alpha[before] * weight, len(one))
            self.steps.append(Edges(owner[before], before, after, x, weight, p, kept))
            contexts, last = contexts[:, one], x[one]
            self.owners.append(self.steps[-1].stretch[one])
            total = np.bincount(self.owners[-1], mass, n)
            self.log_evidence += np.log(total)
            self.alphas.append(mass / total[self.owners[-1]])

    def _merged(self, contexts: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States that contexts (K + 1, m) lead to, one for each longest known form; and a context of each state."""
        depth = (contexts >= 0).sum(0) - 1
        sizes = np.cumsum([0, 1, *(len(level.keys) for level in self.law.counts.levels[:-1])])
        key = sizes[depth] + contexts[depth, np.arange(contexts.shape[1])]
        rank = np.lexsort((key, owner))
        new = np.ones(len(rank), bool)
        new[1:] = (np.diff(key[rank]) != 0) | (np.diff(owner[rank]) != 0)
        after = np.empty(len(rank), np.int64)
        after[rank] = np.cumsum(new) - 1
        return after, rank[new]

    def _choose(
        self, weight: np.ndarray, owner: np.ndarray, start: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges to keep of weights (states, A): states, symbols, and the chance that each had; without ``start`` all."""
        if start is None:
            before, x = np.nonzero(weight)
            return before, x, np.ones(len(before))
        ends = np.searchsorted(owner, np.arange(len(start) + 1)) * self.law.size
        flat, kept, chances = weight.reshape(-1), [], []
        for k, u in enumerate(start):
            edges, chance = sampled(flat[ends[k] : ends[k + 1]], self.beam, u)
            kept.append(ends[k] + edges)
            chances.append(chance)
        before, x = np.divmod(np.concatenate(kept), self.law.size)
        return before, x, np.concatenate(chances)

    def _backward(self) -> list[np.ndarray]:
        """β of the states of each step, at most one in each stretch."""
        betas = [np.ones(len(self.owners[-1]))]
        for step, owner in zip(self.steps[::-1], self.owners[-2::-1], strict=True):
            beta = np.bincount(step.before, step.weight * betas[0][step.after], len(owner))
            most = np.zeros(len(self.asked))
            np.maximum.at(most, owner, beta)
            betas.insert(0, beta / most[owner])
        return betas

    def _shares(self, t: int) -> np.ndarray:
        """The probability of each edge of a step, given all that is seen."""
        step = self.steps[t]
        share = self.alphas[t][step.before] * step.weight * self.betas[t + 1][step.after]
        return share / np.bincount(step.stretch, share, len(self.asked))[step.stretch]

    def _effective_size(self, n: int) -> np.ndarray:
        """1 over the sum of the steps' variances Σ (1 − c) (w − w̄)², w an edge's share and c its chance (Hájek)."""
        variance = np.zeros(n)
        for t, step in enumerate(self.steps):
            left = 1 - step.kept
            if left.any():
                share = self._shares(t)
                total = np.bincount(step.stretch, left, n)
                mean = np.bincount(step.stretch, left * share, n) / np.maximum(total, 1e-300)
                variance += np.bincount(step.stretch, left * (share - mean[step.stretch]) ** 2, n)
        with np.errstate(divide="ignore"):
            return 1 / variance

    # ------------------------------------------------------------------ what the blanks hold

    def chances(self) -> np.ndarray:
        """p of each symbol in each blank, given all that is seen: (stretches, blanks, A)."""
        n, size = len(self.asked), self.law.size
        hidden = [t for t in range(len(self.steps)) if self.asked[0].x[t] == BLANK]
        found = [
            np.bincount(self.steps[t].stretch * size + self.steps[t].x, self._shares(t), n * size)
            for t in hidden
        ]
        return np.stack(found, axis=1).reshape(n, size, len(hidden)).transpose(0, 2, 1)

    def best(self) -> np.ndarray:
        """The most probable symbol of each blank by itself: (stretches, blanks)."""
        return self.chances().argmax(2)

    def best_path(self) -> np.ndarray:
        """The most probable way to fill all blanks of each stretch together, among those kept: (stretches, blanks)."""
        value, choices = np.zeros(len(self.owners[-1])), []
        for step, owner in zip(self.steps[::-1], self.owners[-2::-1], strict=True):
            ahead = np.log(step.p) + value[step.after]
            rank = np.lexsort((ahead, step.before))
            last = np.append(np.diff(step.before[rank]) != 0, True)
            choice = np.full(len(owner), -1)
            choice[step.before[rank[last]]] = rank[last]
            value = np.where(choice >= 0, ahead[choice], -np.inf)
            choices.insert(0, choice)
        return self._walk(lambda t, state: choices[t][state], 1)[:, 0]

    def draws(self, n: int) -> np.ndarray:
        """Draws of all blanks of each stretch: (stretches, n, blanks)."""

        def choose(t: int, state: np.ndarray) -> np.ndarray:
            step = self.steps[t]
            rank = np.argsort(step.before, kind="stable")
            run = np.cumsum((step.weight * self.betas[t + 1][step.after])[rank])
            end = np.searchsorted(step.before[rank], state, side="right")
            begin = np.searchsorted(step.before[rank], state, side="left")
            low = np.where(begin > 0, run[begin - 1], 0.0)
            at = np.searchsorted(run, low + self.rng.random(len(state)) * (run[end - 1] - low), side="right")
            return rank[np.clip(at, begin, end - 1)]

        return self._walk(choose, n)

    def _walk(self, choose, n: int) -> np.ndarray:
        """Follow edges from the start of each stretch, ``choose(step, states)``: the symbols in its blanks."""
        state, out = np.repeat(np.arange(len(self.asked)), n), []
        for t, step in enumerate(self.steps):
            edge = choose(t, state)
            if self.asked[0].x[t] == BLANK:
                out.append(step.x[edge])
            state = step.after[edge]
        return np.stack(out, axis=1).reshape(len(self.asked), n, -1)


class Reply(NamedTuple):
    """What is asked of one stretch: log p of what is seen in it, the effective sample size, and symbols for its blanks."""

    log_evidence: float
    ess: float
    fills: np.ndarray


def ask(
    law: KneserNey,
    asked: Sequence[Stretch],
    fills: Callable[[Between], np.ndarray],
    beam: int,
    rng: np.random.Generator,
) -> list[Reply]:
    """Ask about stretches, those of one form together; ``fills`` is what is wanted of each, such as ``Between.best``."""
    forms: dict[tuple[bool, ...], list[int]] = {}
    for place, stretch in enumerate(asked):
        forms.setdefault(tuple((stretch.x == BLANK).tolist()), []).append(place)
    out: dict[int, Reply] = {}
    seed = int(rng.integers(2**31))
    for form, places in forms.items():
        edges = min(law.size ** min(sum(form), 12), beam * law.size)
        tables = law.size**2 * len(form) if edges > beam else 0
        step = max(1, AT_ONCE // max(edges, tables))
        for first in range(0, len(places), step):
            some = places[first : first + step]
            found = Between(law, [asked[place] for place in some], beam, rng, seed)
            filled = fills(found)
            for k, place in enumerate(some):
                out[place] = Reply(float(found.log_evidence[k]), float(found.ess[k]), filled[k])
    return [out[place] for place in range(len(asked))]
