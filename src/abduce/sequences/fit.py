"""Fit a pool to series with blanks: seasons, members, weights by hidden cells, and a last fit to everything.

First series are cut off, members are fitted to what lies before the cuts and forecast; then cells are hidden that lie as the
blanks do, and members that have gone on to the rest fill them; weights follow.  At last each member goes on to all observed
cells from where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abduce.data.seen import Seen
from abduce.gaussians.em import one_thread
from abduce.sequences.deep_fit import fit_deep
from abduce.sequences.deep_kalman import DeepKalman
from abduce.sequences.hidden import cuts, evenly, judged_part, like_blanks, pieces
from abduce.sequences.lookback import Lookback, Setting, settings_for
from abduce.sequences.naive import fit_interpolation
from abduce.sequences.paths import Seasonal, SequenceModel, stretch
from abduce.sequences.pool import SPANS, SequencePool, Situation, late_answer, situation
from abduce.sequences.seasons import Seasons, find_periods
from abduce.sequences.shared_lookback import SharedLookback, fit_shared_lookback, rules_for
from abduce.sequences.var import VectorAutoregression, fit_var
from abduce.sequences.weights import Filled, usual_moves, weigh
from abduce.sequences.windows import (
    WindowGaussian,
    conditional,
    cut_windows,
    fit_windows,
    step_from,
)

BLOCK = 48  # steps that series are cut into for EM, about
WORK = 1.5e9  # rows x steps x states³ of one round of EM; of more data a part is taken in turn
WIDEST = 512  # cells of a window
STRENGTHS = (0.3, 1.0, 3.0)  # tried for the pull of windows toward the autoregression
CONTEXT = 1024  # steps before a cut that forecasts are judged with
PIECES = (
    48,
    384,
)  # steps of pieces of longer series, in which members are judged too, one for each span below the longest
JUDGED = 400_000  # cells of series that are cut off


@dataclass
class SeriesPlan:
    """What is asked for: ``horizon`` steps that forecasts are weighed for (None: a season, or 12), ``periods`` (None: found),
    those that calendars have ``suggested``, ``own``: whether series differ so much that each has seasons of its own, ``seed``,
    who is told how far the fit is, and ``deep``: whether a model whose dynamics bend is tried.  The last ``given`` features
    are indicators of classes, those of one class ``together``.
    """

    horizon: int | None = None
    periods: Sequence[int] | None = None
    suggested: Sequence[int] = ()
    own: bool = False
    seed: int = 0
    show: Callable[[str, float], Any] = field(default=lambda text, share: None)
    deep: bool = False
    given: int = 0
    together: Sequence[Sequence[int]] = ()


class Trials(NamedTuple):
    """Pools that have not seen everything, for who is weighed beside them: ``early`` knows what lies before the cuts, which
    are ``horizon`` steps before the ends, ``inside`` all but the cells ``hidden`` (N, T, F)."""

    early: SequencePool
    inside: SequencePool
    hidden: Tensor
    horizon: int


def fit_sequences(seen: Seen, plan: SeriesPlan) -> tuple[SequencePool, Trials]:
    """Fit to series (N, T, F) of about unit variance."""
    with one_thread():
        return _Fitting(seen, plan).pool()


class _Fitting:
    """The steps of one fit."""

    def __init__(self, seen: Seen, plan: SeriesPlan):
        self.plan = plan
        self.seen = seen._replace(y=torch.where(seen.mask, seen.y, 0.0))
        self.features = seen.y.shape[2]
        periods = (
            find_periods(self.seen, plan.suggested, plan.own) if plan.periods is None else list(plan.periods)
        )
        self.seasons = Seasons(self.features, periods, plan.own).fit(self.seen)
        self.period = periods[0] if periods else 1
        self.moves = usual_moves(self.seen.y, self.seen.mask, self.period, plan.own)
        f, length = self.features, seen.y.shape[1]
        usual = self.period if self.period > 1 else 12
        self.horizon = plan.horizon or max(1, min(usual, length // 4))
        self.shared: SharedLookback | None = None
        self.cuts = cuts(self.seen, self.horizon, CONTEXT, JUDGED)
        self.lags = max(1, min(6, 24 // f, length - 1))
        block = self.period * max(1, round(BLOCK / self.period))
        self.block = min(length, block if block <= 4 * BLOCK else BLOCK)
        steps = 2 * self.period if self.period > 1 else BLOCK
        self.stride = self.period if self.period > 1 else BLOCK // 2
        self.steps = steps if steps * f <= WIDEST and length >= steps else 0

    def pool(self) -> tuple[SequencePool, Trials]:
        """Fit, weigh, fit again."""
        plan, seen = self.plan, self.seen
        hidden = like_blanks(seen.mask, plan.seed)
        for group in plan.together:
            hidden[..., list(group)] = hidden[..., group[:1]]
        kept = seen._replace(mask=seen.mask & ~hidden)
        if not bool(hidden.any()):
            kept = seen
        plan.show("autoregression", 0.0)
        early = kept._replace(mask=kept.mask & ~self.cuts.late.unsqueeze(2))
        self.shared = self._shared(self.seen._replace(mask=self.seen.mask & ~self.cuts.late.unsqueeze(2)))
        trial = self._autoregression(early, None)
        deep = self._deep(early, trial, None) if plan.deep else None
        strength, windows = self._tried_windows(early, kept, trial, hidden)
        plan.show("forecasts", 0.4)
        settings = self._settings()
        members = self._members(kept, trial, windows, settings, deep)
        judged = [*self._forecasts(members)]
        plan.show("blanks", 0.5)
        trial = self._autoregression(kept, trial)
        deep = deep and self._deep(kept, trial, deep)
        windows = windows and self._windows(kept, trial, strength, 2)
        inside = self._members(kept, trial, windows, settings, deep)
        judged += self._filled(inside, kept, hidden)
        codes = Filled(*(torch.cat(parts) for parts in zip(*judged, strict=True))) if judged else None
        plan.show("everything", 0.7)
        last = self._autoregression(seen, trial)
        self.shared = self._shared(seen)
        whole = windows and self._windows(seen, last, strength, 4)
        final = self._members(
            seen, last.giving(plan.given), whole, settings, deep and self._deep(seen, last, deep)
        )
        if list(final) != list(
            members
        ):  # with all that was seen a member more can be fitted, which has no weight yet
            final = {name: final.get(name, members[name]) for name in members}
        pool = SequencePool(list(final.values()), order=0)
        tried = [
            SequencePool([some.get(name, m) for name, m in final.items()], 0) for some in (members, inside)
        ]
        if codes is not None and len(codes.truth):
            pool.shares, pool.errors = weigh(codes, self.features)
            pool.reports = reports(codes, list(members), pool.shares)
        for trial_pool in tried:
            trial_pool.shares, trial_pool.errors = pool.shares, pool.errors
        plan.show("everything", 1.0)
        return pool, Trials(tried[0], tried[1], hidden, self.horizon)

    # ------------------------------------------------------------------ members

    def _members(
        self,
        seen: Seen,
        var: VectorAutoregression,
        windows: WindowGaussian | None,
        settings: list[Setting],
        deep: DeepKalman | None,
    ) -> dict[str, SequenceModel]:
        """All members by name; the autoregression comes first."""
        out: dict[str, SequenceModel] = {"autoregression": Seasonal(var, self.seasons)}
        if windows is not None:
            out["windows"] = Seasonal(windows, self.seasons)
        if deep is not None:
            out["deep"] = Seasonal(deep, self.seasons)
        out["linear"] = fit_interpolation(seen, 1)
        if self.period > 1:
            out["seasonal naive"] = fit_interpolation(seen, self.period)
            flat = fit_interpolation(self._without_seasons(seen), 1)
            out["linear, without seasons"] = Seasonal(flat, self.seasons)
        if self.shared is not None:
            out["shared lookback"] = self.shared
        elif settings:  # where one rule serves all, each series' own is a noisy double of it
            out["lookback"] = Lookback(self.features, self.period, settings)
        return out

    def _without_seasons(self, seen: Seen) -> Seen:
        return seen._replace(y=torch.where(seen.mask, seen.y - self.seasons.of(seen), 0.0))

    def _cut(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Windows of some steps in which something was seen, without seasons, and their mask."""
        cut = cut_windows(self._without_seasons(seen), self.block, self.block)
        some = cut.mask.any(1)
        shape = (-1, self.block, self.features)
        return cut.y[some].view(shape), cut.mask[some].view(shape)

    def _deep(self, seen: Seen, var: VectorAutoregression, before: DeepKalman | None) -> DeepKalman | None:
        """The model whose dynamics bend; None, or the one before, where it does not beat the autoregression."""
        self.plan.show("dynamics", 0.2 if before is None else 0.8)
        model = fit_deep(*self._cut(seen), var, self.plan.seed, before=before)
        return model if model.bends else before

    def _autoregression(self, seen: Seen, start: VectorAutoregression | None) -> VectorAutoregression:
        y, mask = self._cut(seen)
        most = max(8, int(WORK / (self.block * (self.lags * self.features) ** 3)))
        return fit_var(y, mask, self.lags, start, most, self.plan.seed)

    def _windows(self, seen: Seen, var: VectorAutoregression, strength: float, rounds: int) -> WindowGaussian:
        target = var.window(self.steps)
        return fit_windows(
            self._without_seasons(seen), target, self.steps, self.stride, strength, rounds=rounds
        )

    def _tried_windows(
        self, early: Seen, kept: Seen, var: VectorAutoregression, hidden: Tensor
    ) -> tuple[float, WindowGaussian | None]:
        """The strength of the pull that fills hidden cells best, and the windows fitted with it; None where it can't be."""
        if not self.steps:
            return 0.0, None
        learnt, left = self._without_seasons(early), self._without_seasons(kept)
        part = judged_part(len(kept.y), kept.y.shape[1], self.plan.seed).unsqueeze(2)
        before = learnt
        if not bool((hidden & ~part).any()):  # what is judged there is not learnt there
            before = learnt._replace(mask=learnt.mask & ~part)
        target = var.window(self.steps)
        truth = self._without_seasons(self.seen)
        judged = cut_windows(left, self.steps, self.stride)
        asked = cut_windows(truth._replace(mask=hidden), self.steps, self.stride).mask
        rows = asked.any(1)
        values = cut_windows(truth, self.steps, self.stride).y[rows]
        errors = {1.0: 0.0}
        if bool(rows.any()):
            second, count = step_from(before, target, self.steps, self.stride)
            for strength in STRENGTHS:
                start = (second + strength * count * target) / (count + strength * count)
                model = fit_windows(before, target, self.steps, self.stride, strength, rounds=1, start=start)
                mean, _ = conditional(model.covariance, judged.y[rows], judged.mask[rows])
                errors[strength] = float((mean - values)[asked[rows]].abs().mean())
        best = min(errors, key=errors.__getitem__)
        return best, self._windows(early, var, best, 2)

    def _shared(self, seen: Seen) -> SharedLookback | None:
        """One rule for all series, where they are of one kind and mostly seen."""
        length = int(seen.mask.any(2).sum(1).double().median())
        if self.plan.own or length < 4 * max(self.period, self.horizon):
            return None
        return fit_shared_lookback(seen, self.horizon, rules_for(self.period, self.horizon, length))

    def _settings(self) -> list[Setting]:
        """Settings of lookbacks, where series are long enough for them and no rule serves all."""
        length = int(self.seen.mask.any(2).sum(1).double().median())
        if self.shared is not None or length < 3 * max(self.period, 4) or length < self.horizon + 8:
            return []
        return settings_for(self.period, self.horizon, length)

    # ------------------------------------------------------------------ hidden cells

    def _shorter(self) -> tuple[int, ...]:
        """Lengths of pieces in which members are judged too, so that weights serve series shorter than those fitted to."""
        length = int(self.seen.mask.any(2).sum(1).double().median())
        spans = int(torch.bucketize(torch.tensor(length), torch.tensor(SPANS), right=True))
        return () if self.plan.own else PIECES[:spans]

    def _filled(self, members: dict[str, SequenceModel], kept: Seen, hidden: Tensor) -> Iterator[Filled]:
        rows = hidden.flatten(1).any(1)
        if not bool(rows.any()):
            return
        some = kept.rows(rows)
        hidden, truth = hidden[rows], self.seen.y[rows]
        steps = hidden.any(2).any(0).nonzero().flatten()
        early = max(0, int(steps[0]) - 2 * self.block)  # what lies long before tells nothing
        late = int(steps[-1]) + 1 + 2 * self.block
        moves, none = self.moves[rows], torch.full((int(rows.sum()),), -1)
        some, truth, hidden = stretch(some, early, late), truth[:, early:late], hidden[:, early:late]
        yield self._said(members, some, truth, hidden, moves, none)
        for length in self._shorter():
            cut, series = pieces(some, length)
            asked = pieces(some._replace(y=truth, mask=hidden), length)[0]
            inside = asked.mask & (situation(cut.mask).place == 0)
            here = inside.flatten(1).any(1).nonzero().flatten()
            here = here[evenly(len(here), JUDGED // (length * self.features))]
            if len(here):
                cells = cut.rows(here), asked.y[here], inside[here]
                yield self._said(members, *cells, moves[series[here]], none[series[here]])

    def _forecasts(self, members: dict[str, SequenceModel]) -> Iterator[Filled]:
        shorter = (cuts(self.seen, self.horizon, length, JUDGED) for length in self._shorter())
        for cut, future, _, series, turn in (self.cuts, *shorter):
            if bool(future.any()):
                yield self._said(members, cut, cut.y, future, self.moves[series], turn)

    def _said(
        self,
        members: dict[str, SequenceModel],
        seen: Seen,
        truth: Tensor,
        hidden: Tensor,
        moves: Tensor,
        turn: Tensor,
    ) -> Filled:
        """What members say of hidden cells, either between observed steps, or ahead of them where ``turn`` (N,) is not −1."""
        ahead = bool((turn >= 0).all())
        code = situation(seen.mask).code
        first = int(hidden.any(2).any(0).nonzero()[0])
        said = []
        for member in members.values():
            if not ahead and not member.between:
                nothing = torch.full_like(seen.y[hidden], torch.nan)
                said.append((nothing, nothing))
                continue
            answer = late_answer(member, seen, first)
            said.append((answer.centre[hidden], answer.deviation[hidden]))
        return Filled.of(said, truth, hidden, code, moves, turn)


def reports(filled: Filled, names: list[str], shares: Tensor) -> list[dict[str, Any]]:
    """Of each member its mean weight and error, in standard deviations, on hidden cells between others and ahead."""
    out = []
    places = Situation.of_code(filled.code).place
    for i, name in enumerate(names):
        row: dict[str, Any] = {"member": name}
        for place, title in ((0, "inside"), (1, "ahead")):
            here = places == place
            said = filled.centres[here, i]
            known = torch.isfinite(said)
            weight = shares[filled.code[here], filled.feature[here], i]
            row[f"weight {title}"] = float(weight.mean()) if len(weight) else None
            error = (said - filled.truth[here])[known]
            row[f"error {title}"] = float(error.abs().mean()) if len(error) else None
        out.append(row)
    return out
