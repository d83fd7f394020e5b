"""Fit a stack of laws to rows with blanks: members, weights, and a last fit to everything.

A tenth of the observed cells is hidden, members are fitted to the rest and predict them, weights are what would have
predicted them best; then each member goes on from where it was to all observed cells.  Small tables hide several times, so
that weights rest on enough cells.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abduce.data.coding import Coding
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.gaussians.em import one_thread, principal_factors
from abduce.gaussians.factor_fit import FLOOR, factor_mixture
from abduce.gaussians.factor_law import FactorMixtureLaw
from abduce.gaussians.parzen_law import ParzenLaw, row_keys
from abduce.models.stack import Member, Stack, coded, predicted

HIDDEN = 0.1  # share of the observed cells that choose the weights
ENOUGH = 3000  # hidden cells; fewer are hidden several times
TURNS = 5  # at most
PRIOR = 200.0  # pseudo-cells that pull the weights toward equal ones
BANDWIDTHS = (0.5, 0.7, 1.0, 1.4, 2.0)
COMPONENTS = (1, 5, 20)
FACTORS = 20
ROWS_A_COMPONENT = 15
ROWS_A_FACTOR = 20
MOST_FACTORS = 64
SPREAD_PRIOR = 50.0  # hidden cells that a spread found elsewhere counts as
FEW = 500  # rows that choose a bandwidth, and the weights of whole rows
SOME = 2500  # rows whose hidden cells choose the weights of cells

Key = tuple[str, int, float]  # family, coding, and number of components or bandwidth


class Predictions(NamedTuple):
    """What members say of hidden cells: numbers (cells, M) with the truth (cells,), in standard deviations; probabilities of
    the true class (cells, M)."""

    numbers: np.ndarray
    truth: np.ndarray
    classes: np.ndarray


def fit_stack(
    schema: Schema,
    values: np.ndarray,
    observed: np.ndarray,
    seed: int = 0,
    rows: int = 5000,
    components: tuple[int, ...] = COMPONENTS,
    show: Callable[[str, float], Any] | None = None,
) -> Stack:
    """Fit to model values (n, D); ``rows`` at most are used, drawn at random."""
    rng = np.random.default_rng(seed)
    if len(values) > rows:
        chosen = np.sort(rng.permutation(len(values))[:rows])
        values, observed = values[chosen], observed[chosen]
    codings = [Coding(schema, values, observed, scores) for scores in (False, True)]
    if not codings[1].columns:  # no numbers: both codings are one
        codings = codings[:1]
    say = show or (lambda text, share: None)
    hidden_cells = HIDDEN * observed.sum()
    turns = int(np.clip(np.ceil(ENOUGH / max(hidden_cells, 1)), 1, TURNS))
    said: list[Predictions] = []
    laws: list[dict[Key, Member]] = []
    first_kept = first_hidden = observed
    wanted: list[Key] | None = None
    workers = max(1, min(len(codings), torch.get_num_threads()))
    with one_thread(), ThreadPoolExecutor(workers) as pool:

        def fitted(mask: np.ndarray, start: list[dict[Key, Member]] | None = None) -> list[dict[Key, Member]]:
            """Members of all codings, fitted side by side."""
            jobs = [
                pool.submit(
                    _members, i, coding, values, mask, components, seed, start[i] if start else None, wanted
                )
                for i, coding in enumerate(codings)
            ]
            return [job.result() for job in jobs]

        for turn in range(turns):
            hidden = observed & (rng.random(observed.shape) < HIDDEN)
            kept = observed & ~hidden
            found = fitted(kept)
            if wanted is None:
                few = np.flatnonzero(hidden.any(1))[:FEW]
                wanted = _best_windows(codings, found, values[few], kept[few], hidden[few])
                found = [{key: part[key] for key in part if key in wanted} for part in found]
                laws, first_kept, first_hidden = found, kept, hidden
            members = [part[key] for part in found for key in part]
            some = np.flatnonzero(hidden.any(1))[:SOME]
            said.append(_predictions(codings, members, values[some], kept[some], hidden[some]))
            say("members", 0.7 * (turn + 1) / turns)
        refitted = fitted(observed, laws)
    together = Predictions(*(np.concatenate(part) for part in zip(*said, strict=True)))
    members = [part[key] for part in refitted for key in part]
    few = np.flatnonzero(first_hidden.any(1))[:FEW]
    # densities of codings that did not see the hidden cells either: knots at them would make scores look too good
    blind = [Coding(schema, values, first_kept, each.scores) for each in codings]
    rows_said = _rows_predicted(
        blind,
        [part[key] for part in laws for key in part],
        values[few],
        first_kept[few],
        first_hidden[few],
    )
    weights = (
        torch.from_numpy(square_weights(together.numbers, together.truth, PRIOR)),
        torch.from_numpy(pool_weights(np.log(together.classes))),
        torch.from_numpy(pool_weights(rows_said)),
    )
    first = Stack.of(codings, [part[key] for part in laws for key in part], weights)
    spread = _spread(first, values, first_kept, first_hidden, seed)
    reports = [_report(together, m, weights) for m in range(len(members))]
    stack = Stack.of(codings, members, weights, spread, reports)
    say("stack", 1.0)
    return stack


def _members(
    index: int,
    coding: Coding,
    values: np.ndarray,
    observed: np.ndarray,
    components: tuple[int, ...],
    seed: int,
    start: dict[Key, Member] | None,
    wanted: list[Key] | None,
) -> dict[Key, Member]:
    """Members of one coding; with ``start``, from where they were; windows of all bandwidths, or those wanted."""
    features, seen = (torch.from_numpy(a) for a in coding.code(values, observed))
    about = "scores" if coding.scores else "numbers"
    n, f = features.shape
    q = max(1, min(FACTORS, f - 1))
    wide = max(
        1, min(f - 1, max(FACTORS, min(MOST_FACTORS, n // ROWS_A_FACTOR)))
    )  # of one Gaussian: it has the rows
    out: dict[Key, Member] = {}
    one: FactorMixtureLaw | None = None
    few: FactorMixtureLaw | None = None
    for size in components:
        k = min(size, max(1, n // ROWS_A_COMPONENT))
        key = ("factor analysers", index, k)
        if key in out:
            continue
        before: Any = start[key].law if start else None
        # a mixture that stops early predicts as well, and is done in half the time
        iterations, tolerance = (40, 1e-3) if k == 1 else (20, 2e-3)
        law = factor_mixture(
            features,
            seen,
            k,
            wide if k == 1 else q,
            20.0,
            FLOOR,
            iterations,
            tolerance,
            seed,
            one=one,
            start=before,
        )
        one = law if k == 1 else one
        few = law if few is None or k <= 5 else few
        title = f"Gaussian of {about}" if k == 1 else f"{k} factor analysers of {about}"
        out[key] = Member(title, index, law)
    assert few is not None
    # windows around rows completed by the largest mixture, with the covariance within the clusters of a small one
    centres = list(out.values())[-1].law.mean(Seen(features, seen))
    within = torch.einsum("k,kij->ij", few.log_weights.exp(), few.covariances)
    loadings, noise = principal_factors(within.unsqueeze(0), q, FLOOR)
    keys = row_keys(features, seen)
    for h in BANDWIDTHS:
        key = ("windows", index, h)
        if wanted is None or key in wanted:
            law = ParzenLaw(centres, loadings[0], noise[0], h, keys)
            out[key] = Member(f"Parzen windows of {about}, h = {h:g}", index, law)
    return out


def _predictions(
    codings: list[Coding], members: list[Member], values: np.ndarray, kept: np.ndarray, hidden: np.ndarray
) -> Predictions:
    """Let members predict the hidden cells of rows from the kept ones."""
    coding = codings[0]
    features = coded(codings, values, kept)
    place = hidden[:, coding.numbers]
    scale, loc = coding.scale[coding.numbers], coding.loc[coding.numbers]
    true = coding.decode_numbers(coding.code(values, hidden)[0][:, : len(coding.numbers)])
    numbers, classes = [], []
    for member in members:
        found, chances = predicted(member, codings[member.coding], *features[member.coding])
        numbers.append(((found - loc) / scale)[place])
        given = [p[hidden[:, j], values[hidden[:, j], j].astype(int)] for j, p in chances.items()]
        classes.append(np.concatenate(given) if given else np.zeros(0))
    return Predictions(np.stack(numbers, 1), ((true - loc) / scale)[place], np.stack(classes, 1))


def _rows_predicted(
    codings: list[Coding], members: list[Member], values: np.ndarray, kept: np.ndarray, hidden: np.ndarray
) -> np.ndarray:
    """log p(hidden cells | kept ones) of each row under each member, (rows, M)."""
    equal = torch.full((len(members),), 1 / len(members), dtype=torch.float64)
    stack = Stack.of(codings, members, (equal, equal, equal))
    x = torch.from_numpy(values)
    both = torch.from_numpy(kept | hidden)
    return (stack.log_probs(x, both) - stack.log_probs(x, torch.from_numpy(kept))).numpy()


def _best_windows(
    codings: list[Coding],
    found: list[dict[Key, Member]],
    values: np.ndarray,
    kept: np.ndarray,
    hidden: np.ndarray,
) -> list[Key]:
    """Members to keep: all mixtures, and of each coding's windows the bandwidth that predicts best."""
    wanted = []
    for part in found:
        wanted += [key for key in part if key[0] != "windows"]
        windows = [key for key in part if key[0] == "windows"]
        said = _predictions(codings, [part[key] for key in windows], values, kept, hidden)
        error = np.square(said.numbers - said.truth[:, None]).sum(0) - np.log(said.classes).sum(0)
        wanted.append(windows[int(np.argmin(error))])
    return wanted


def _report(said: Predictions, m: int, weights: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """How a member did on the hidden cells, and what weight it was given."""
    out: dict[str, Any] = {"row_weight": float(weights[2][m])}
    if len(said.truth):
        error = said.numbers[:, m] - said.truth
        out |= {"weight": float(weights[0][m]), "error": float(np.sqrt(np.mean(error**2)))}
    if len(said.classes):
        out |= {
            "class_weight": float(weights[1][m]),
            "log_loss": float(-np.log(said.classes[:, m]).mean()),
        }
    return out


def _spread(
    stack: Stack, values: np.ndarray, kept: np.ndarray, hidden: np.ndarray, seed: int, rows: int = 1000
) -> list[float]:
    """What to scale each number's deviations by so that 90 % intervals hold 90 % of the hidden cells.

    A pool is wider than its members where they disagree, and each member may be too narrow or too wide.  Numbers with few
    hidden cells lean on what all together need, and these on 1.
    """
    numbers = stack.coding.numbers
    out = [1.0] * len(numbers)
    which = np.flatnonzero(hidden[:, numbers].any(1))[:rows]
    if not len(which):
        return out
    x, o = torch.from_numpy(values[which]), torch.from_numpy(kept[which])
    drawn = stack.marginals(x, o, 200, torch.Generator().manual_seed(seed))[..., numbers]
    centre = stack.mean(x, o)[:, numbers]
    low, high = torch.quantile(drawn, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    off = x[:, numbers] - centre
    needed = torch.maximum(off / (high - centre).clamp_min(1e-9), off / (low - centre).clamp_max(-1e-9))
    place = torch.from_numpy(hidden[which][:, numbers])

    def drawn_toward(before: float, cells: torch.Tensor, prior: float) -> float:
        """The factor that 90 % of the cells need, as if ``prior`` more of them needed the one before."""
        if not len(cells):
            return before
        found = float(torch.quantile(cells, 0.9).clamp(0.5, 2.0))
        return (len(cells) * found + prior * before) / (len(cells) + prior)

    every = drawn_toward(1.0, needed[place], 2 * SPREAD_PRIOR)
    for i in range(len(numbers)):
        out[i] = drawn_toward(every, needed[place[:, i], i], SPREAD_PRIOR)
    return out


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
