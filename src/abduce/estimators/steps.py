"""One model of sequences whose steps are vectors of cells, binary or of few levels: notes, pixels of frames, switches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from abduce.checks import check_choice, check_count, check_number
from abduce.estimators import steps_folder
from abduce.fit import checkpoint
from abduce.sequences.steps.forms import MOST_LEVELS, StepCells, StepsForm, steps_of
from abduce.sequences.steps.network import ChainNet, ChainShape
from abduce.sequences.steps.particles import Completed, complete, go_on
from abduce.sequences.steps.training import Learning, Windows, learn, step_log_p

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MEMORY = {"line": 16, "own": 16, "grid": 4}  # steps that are looked back
SPAN = {"line": "range", "own": "vary", "grid": "all"}
LINE = 16  # cells from which on those of a vector are taken for places on a line


class Steps(BaseEstimator):
    """Sequences of steps, each a vector or a grid of cells of few levels: what comes next, what is missing, what is odd.

        p(x_t | x_<t) = Π_i p(x_ti | x_t,<i, x_t−1, ..., x_t−M)

    A step is drawn cell by cell, so that notes of a chord or pixels of a shape go together, each by a network that sees the
    last steps and the cells before it.  Weights are shared over places, of a piano's keys or of pixels: what holds in one
    place holds in the next.  log p of complete sequences is exact; of those with blanks, and what is in these, by particles.

    Parameters
    ----------
    places : {"auto", "line", "grid", "own"}
        How cells lie: on a "line", those next to each other being alike (keys), on a "grid" (pixels; steps are (H, W)), or
        each its "own".  "auto": grids where steps have two axes, lines from 16 cells on.
    memory : int or None
        Steps that are looked back; None: 16, of grids 4.
    shift : int
        Training moves sequences along the line by up to so many places: 5 for music, a transposition to any key.
    order : {"up", "down"}
        Whether the chain goes from the first cell of a step to the last, or back.
    levels : int or None
        Values that each cell can have, 0 ... levels − 1; None: as many as it had, at least 2.
    width : int
        Hidden units of a cell.
    updates, batch_size, learning_rate :
        Gradient steps, steps of sequences in each, and how far they go at most.
    validation : float
        Share of the sequences that is held out to pick weights by; none of less than 5 sequences.
    particles : int
        Draws that blanks are inferred by.
    random_state : int, RandomState or None
    callback : callable or None
        Called now and then with a record: ``epoch`` over ``epochs`` is how far the fit has come.

    Examples
    --------
    >>> import numpy as np
    >>> from abduce import Steps
    >>> turn = np.eye(4, dtype=int)[np.arange(40) % 4]  # one cell after the other is on
    >>> model = Steps(updates=300, random_state=0).fit([turn, turn[1:]])
    >>> model.forecast(2, turn[:6]).tolist()
    [[0, 0, 1, 0], [0, 0, 0, 1]]
    >>> torn = turn.astype(float)
    >>> torn[20:22] = np.nan
    >>> bool((model.fill(torn) == turn).all())
    True
    """

    net_: ChainNet
    cells_: StepCells
    last_: np.ndarray

    def __init__(
        self,
        *,
        places: str = "auto",
        memory: int | None = None,
        shift: int = 0,
        order: str = "up",
        levels: int | None = None,
        width: int = 64,
        updates: int = 2000,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        validation: float = 0.1,
        particles: int = 200,
        random_state: int | np.random.RandomState | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
    ):
        self.places, self.memory, self.shift, self.order = places, memory, shift, order
        self.levels, self.width, self.updates, self.batch_size = levels, width, updates, batch_size
        self.learning_rate, self.validation, self.particles = learning_rate, validation, particles
        self.random_state, self.callback = random_state, callback

    # ------------------------------------------------------------------ fit

    def fit(self, X, y=None, *, valid=None) -> Steps:
        """Fit to an array (T, D), (N, T, D) or (N, T, H, W), or a list of arrays (T_i, D) or (T_i, H, W), without blanks.

        ``valid``: other sequences to pick the weights by, instead of a share of X.
        """
        self._check_arguments()
        train, form = steps_of(X)
        held = [] if valid is None else steps_of(valid, form.shape, "valid")[0]
        if any((x < 0).any() for x in train + held):
            raise ValueError(
                "X has blanks, which Steps cannot be fitted to: leave those steps out, cutting sequences there; fill and "
                "score_samples take blanks"
            )
        self.inference_seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        places = self._places(form)
        self.cells_ = StepCells.of(train, form.shape, self.levels, SPAN[places], self.order == "down")
        self.cells_.check(held, "valid")
        self.last_, self.n_features_in_ = train[-1], train[0].shape[1]
        if valid is None:
            train, held = self._split(train)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.inference_seed_)
            self.net_ = ChainNet(self._shape(places))
            self.history_ = learn(
                self.net_, self._active(train), self._active(held), self._learning(), self._show
            )
        return self

    def _check_arguments(self) -> None:
        check_choice("places", self.places, ("auto", "line", "grid", "own"))
        check_choice("order", self.order, ("up", "down"))
        for name in ("width", "updates", "batch_size", "particles"):
            check_count(name, self.get_params()[name])
        if self.memory is not None:
            check_count("memory", self.memory)
        if self.levels is not None:
            check_number("levels", self.levels, 2, MOST_LEVELS)
            check_count("levels", self.levels)
        check_number("shift", self.shift, 0)
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("validation", self.validation, 0, 0.9)

    def _places(self, form: StepsForm) -> str:
        grid = len(form.shape) == 2
        if self.places == "auto":
            return "grid" if grid else "line" if form.shape[0] >= LINE else "own"
        if (self.places == "grid") != grid:
            raise ValueError(
                f"places={self.places!r} does not fit steps of the shape {form.shape}; grids are (H, W)"
            )
        if self.shift and self.places != "line":
            raise ValueError(f"shift={self.shift} moves cells along a line, but places={self.places!r}")
        return self.places

    def _shape(self, places: str) -> ChainShape:
        memory = int(self.memory or MEMORY[places])
        lags = tuple(sorted({lag for lag in LAGS if lag <= memory} | {memory}))
        levels = tuple(int(k) for k in self.cells_.levels[self.cells_.active])
        frames = min(4, memory)
        if places == "grid":
            rows, columns = self.cells_.shape
            return ChainShape(
                rows, columns, levels, lags, whole=False, reach=3, below=3, above=3, depth=3,
                width=self.width, frames=frames, dropout=0.0, motion=2 * (memory >= 3),
            )  # fmt: skip
        return ChainShape(
            1, len(levels), levels, lags, near=places == "line", width=self.width, frames=frames
        )

    def _learning(self) -> Learning:
        return Learning(
            int(self.updates),
            int(self.batch_size),
            self.learning_rate,
            shift=int(self.shift),
            seed=self.inference_seed_,
        )

    def _split(self, train: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        order = np.random.default_rng(self.inference_seed_).permutation(len(train))
        held = round(self.validation * len(train)) if len(train) >= 5 else 0
        return [train[i] for i in order[held:]], [train[i] for i in order[:held]]

    def _active(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        return [np.ascontiguousarray(x[:, self.cells_.active]) for x in sequences]

    def _show(self, record: dict[str, Any]) -> None:
        if self.callback is not None:
            self.callback(record)

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in vars(self)

    # ------------------------------------------------------------------ how probable

    def score_samples(self, X) -> np.ndarray:
        """log p of each sequence, nats, (N,): exact where nothing is missing, else of what is seen, by particles."""
        return np.array([part.sum() for part in self._step_log_p(X)[0]])

    def score(self, X, y=None) -> float:
        """Mean log p of a step, nats: of all steps of all sequences alike."""
        return float(np.concatenate(self._step_log_p(X)[0]).mean())

    def anomaly_score(self, X):
        """Oddness of each step, −log p of what is seen of it given the steps before, nats: (T,), (N, T), or a list."""
        parts, form = self._step_log_p(X)
        return form.like([-part for part in parts])

    def explain(self, X):
        """−log p of each cell given those before it in the chain of its step, and all steps before; of complete sequences."""
        sequences, form = self._read(X)
        if any((x < 0).any() for x in sequences):
            raise ValueError("X has blanks: fill them first, explain is of complete sequences")
        parts = []
        for x in sequences:
            still = self.cells_.usual == x
            out = np.where(
                still, -np.log1p(-self.cells_.rare), -np.log(self.cells_.rare / (self.cells_.levels - 1))
            )
            windows = Windows(self._active([x]), self.net_.shape.memory)
            out[:, self.cells_.active] = -step_log_p(self.net_, windows).double().numpy()
            parts.append(out)
        return form.shaped(parts)

    def _step_log_p(self, X: Any) -> tuple[list[np.ndarray], StepsForm]:
        sequences, form = self._read(X)
        found = self._completed(sequences)
        return [
            f.step_log_p + self.cells_.still_log_p(x) for f, x in zip(found, sequences, strict=True)
        ], form

    def _read(self, X: Any, name: str = "X") -> tuple[list[np.ndarray], StepsForm]:
        check_is_fitted(self)
        sequences, form = steps_of(X, self.cells_.shape, name)
        self.cells_.check(sequences, name)
        return sequences, form

    def _completed(
        self, sequences: list[np.ndarray], generator: Any = None, particles: int = 0
    ) -> list[Completed]:
        """Each sequence with particles for its blanks: the same ones for each, whichever others come along."""
        n = max(int(self.particles), particles)
        return [
            complete(self.net_, x, n, generator or torch.Generator().manual_seed(self.inference_seed_))
            for x in self._active(sequences)
        ]

    # ------------------------------------------------------------------ what is missing

    def fill(self, X):
        """X with its blanks (NaN or None) filled, each cell with its most probable value given all that is seen."""
        sequences, form = self._read(X)
        found = self._completed(sequences)
        parts = [f.chances(max(self.net_.shape.levels)).argmax(2) for f in found]
        return form.shaped([self.cells_.whole(x, v) for x, v in zip(sequences, parts, strict=True)])

    def fill_proba(self, X):
        """The probability of each cell's values given all that is seen: (..., K), of binary cells of a 1."""
        sequences, form = self._read(X)
        return form.shaped(self._chances(sequences, self._completed(sequences)))

    def fill_draws(self, X, n: int = 10, random_state=None, return_ess: bool = False):
        """``n`` copies of X, filled as they could have been: draws given all that is seen, before and after.

        With ``return_ess`` also how many independent draws the particles of each sequence are worth, the least over its steps
        with blanks, (N,): infinite where nothing is missing.  Where it is a few, ask for more ``particles``.
        """
        check_count("n", n)
        sequences, form = self._read(X)
        generator = self._generator(random_state)
        found = self._completed(sequences, generator, int(n))
        drawn = [f.draws(int(n), generator) for f in found]
        copies = [
            form.shaped([self.cells_.whole(x, d[i]) for x, d in zip(sequences, drawn, strict=True)])
            for i in range(int(n))
        ]
        return (copies, np.array([f.ess for f in found])) if return_ess else copies

    def _chances(self, sequences: list[np.ndarray], found: list[Completed]) -> list[np.ndarray]:
        levels = int(self.cells_.levels.max())
        out = []
        for x, f in zip(sequences, found, strict=True):
            usual = np.eye(levels)[self.cells_.usual] * (1 - self.cells_.rare)
            other = (np.arange(levels) < self.cells_.levels[:, None]) & (usual == 0)
            usual = usual + other * (self.cells_.rare / (self.cells_.levels - 1))[:, None]
            each = np.where((x < 0)[..., None], usual, np.eye(levels)[np.maximum(x, 0)])
            active = f.chances(max(self.net_.shape.levels))
            each[:, self.cells_.active] = np.pad(active, ((0, 0), (0, 0), (0, levels - active.shape[2])))
            out.append(each[..., 1] if levels == 2 else each)
        return out

    # ------------------------------------------------------------------ what comes next

    def forecast(self, n: int, X=None, draws: int | None = None):
        """The ``n`` steps after the last training sequence, or after each of ``X``: each cell's most probable value."""
        paths, form = self._paths(n, X, draws or self.particles, None)
        levels = np.arange(int(self.cells_.levels.max()))
        best = [(paths[:, i, ..., None] == levels).mean(0).argmax(-1) for i in range(paths.shape[1])]
        return form.shaped(best)

    def forecast_proba(self, n: int, X=None, draws: int | None = None):
        """Probabilities of these steps' cells, as :meth:`fill_proba` has them: shares of ``draws`` paths."""
        paths, form = self._paths(n, X, draws or self.particles, None)
        levels = np.arange(int(self.cells_.levels.max()))
        shares = [(paths[:, i, ..., None] == levels).mean(0) for i in range(paths.shape[1])]
        return form.shaped([s[..., 1] if len(levels) == 2 else s for s in shares])

    def sample_paths(self, horizon: int, n: int = 100, X=None, random_state=None) -> np.ndarray:
        """Draw ``n`` futures of ``horizon`` steps: (n, horizon, ...), of several sequences (n, N, horizon, ...)."""
        check_count("n", n)
        paths, form = self._paths(horizon, X, n, random_state, "horizon")
        drawn = paths.reshape(*paths.shape[:3], *self.cells_.shape)
        return drawn[:, 0] if form.alone else drawn

    def sample(self, n: int = 1, length: int = 32, random_state=None) -> np.ndarray:
        """``n`` new sequences of ``length`` steps, (n, length, ...), from their first step on."""
        check_is_fitted(self)
        check_count("n", n)
        check_count("length", length)
        nothing = [np.zeros((0, len(self.cells_.active)), np.int16)]
        found = go_on(self.net_, nothing, int(length), int(n), self._generator(random_state))[:, 0]
        return self._placed(found).reshape(int(n), int(length), *self.cells_.shape)

    def _paths(
        self, steps: Any, X: Any, copies: Any, random_state: Any, name: str = "n"
    ) -> tuple[np.ndarray, StepsForm]:
        """Futures (copies, N, steps, D); blanks of what came before are filled by a draw for each copy."""
        check_is_fitted(self)
        check_count(name, steps)
        check_count("draws", copies)
        if X is None:
            sequences, form = [self.last_], StepsForm(True, False, self.cells_.shape, (None,))
        else:
            sequences, form = self._read(X)
        generator = self._generator(random_state)
        if any((x < 0).any() for x in sequences):
            drawn = [
                f.draws(int(copies), generator) for f in self._completed(sequences, generator, int(copies))
            ]
            ends = [d[i] for i in range(int(copies)) for d in drawn]
            found = go_on(self.net_, ends, int(steps), 1, generator)
            found = found.reshape(int(copies), len(sequences), *found.shape[2:])
        else:
            found = go_on(self.net_, self._active(sequences), int(steps), int(copies), generator)
        return self._placed(found), form

    def _placed(self, found: np.ndarray) -> np.ndarray:
        out = np.broadcast_to(self.cells_.usual, (*found.shape[:-1], len(self.cells_.usual))).copy()
        out[..., self.cells_.active] = found
        return out

    def _generator(self, random_state: Any) -> torch.Generator:
        if random_state is None:
            return torch.Generator().manual_seed(self.inference_seed_)
        return torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31 - 1)))

    # ------------------------------------------------------------------ keep

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to a folder (safetensors + JSON), atomically; :func:`~abduce.load` reads it."""
        check_is_fitted(self)
        checkpoint.save(folder, *steps_folder.describe(self))
