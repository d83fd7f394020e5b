"""Small fitted models of every kind, and their folders with something changed but checksums that are right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import abduce
from abduce.fit import checkpoint

GONE = object()
VALUES = (
    None,
    True,
    -1,
    0,
    3,
    10**12,
    2.5,
    -1e300,
    1e-300,
    "x",
    "",
    "float64",
    [],
    [1, 2],
    {},
    {"a": 1},
    GONE,
)


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "positive": rng.exponential(size=n),
            "class": rng.choice(list("xyz"), n),
            "count": rng.poisson(3, n),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 999, n), unit="D"),
            "flag": rng.random(n) > 0.5,
            "same": "s",
        }
    )
    frame.loc[::7, "number"] = np.nan
    frame.loc[::11, "class"] = None
    return frame


def _numbers() -> np.ndarray:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3)).round(2)
    X[:, 1] += X[:, 0]
    X[::9, 2] = np.nan
    return X


def _rows(estimator: Any, X: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
    some = X[:8]

    def ask(model: Any) -> list[Any]:
        filled: Any = model.fill(some)
        cells = filled if isinstance(filled, np.ndarray) else filled.select_dtypes("number").to_numpy(float)
        return [cells, model.anomaly_score(some)]

    return estimator.fit(X), ask


def _series() -> tuple[Any, Callable[[Any], list[Any]]]:
    rng = np.random.default_rng(2)
    index = pd.date_range("2020", periods=60, freq="D")
    X = pd.DataFrame({"u": np.sin(np.arange(60) / 3), "v": rng.normal(size=60)}, index)
    X.iloc[5, 0] = np.nan
    return abduce.Series(random_state=0).fit(X), lambda m: [m.fill(X).to_numpy(), m.forecast(3).to_numpy()]


def _text(unit: str) -> tuple[Any, Callable[[Any], list[Any]]]:
    texts = ["to be or not to be, that is the question"] * 3
    return abduce.Text(order=2, unit=unit, random_state=0).fit(texts), lambda m: [
        m.score_samples(["to be? no"])
    ]


def _steps() -> tuple[Any, Callable[[Any], list[Any]]]:
    X = (np.random.default_rng(3).random((40, 4)) > 0.5).astype(float)
    model = abduce.Steps(updates=5, width=4, memory=2, random_state=0).fit([X])
    return model, lambda m: [m.score_samples([X])]


def _world(kind: str) -> tuple[Any, Callable[[Any], list[Any]]]:
    rng = np.random.default_rng(4)
    actions = rng.uniform(-1, 1, size=(2, 30, 1))
    states = np.zeros((2, 31, 2))
    for t in range(30):
        states[:, t + 1] = 0.9 * states[:, t] + actions[:, t] + 0.01 * rng.normal(size=(2, 2))
    model = abduce.WorldModel(model=kind, random_state=0).fit((states, actions))
    return model, lambda m: [m.predict(states[0, :1], actions[0, :3])]


def _pictures() -> tuple[Any, Callable[[Any], list[Any]]]:
    pushes = np.random.default_rng(4).uniform(-1, 1, (4, 15, 1))
    places = 4 * np.concatenate([np.zeros((4, 1, 1)), pushes], 1).cumsum(1)
    strips = np.exp(-0.5 * ((np.arange(6) - places) / 2) ** 2)
    model = abduce.WorldModel(model="linear", codes=2, random_state=0).fit((strips, pushes))
    return model, lambda m: [m.predict(strips[0, 0], pushes[0, :3]), *m.score_samples((strips, pushes))]


def _sound() -> tuple[Any, Callable[[Any], list[Any]]]:
    x = np.sin(np.arange(4000) / 7) + 0.01 * np.random.default_rng(5).normal(size=4000)
    x[2000:2050] = np.nan
    return abduce.Sound(cells=2, random_state=0).fit(x, rate=8000), lambda m: [m.fill(x, rate=8000)]


MAKERS: dict[str, Callable[[], tuple[Any, Callable[[Any], list[Any]]]]] = {
    "VAE": lambda: _rows(
        abduce.VAE(latent_dim=2, hidden=[4], max_epochs=1, samples=5, random_state=0), _frame()
    ),
    "Auto": lambda: _rows(abduce.Auto(components=(1,), random_state=0), _frame()[["number", "class"]]),
    "PCA": lambda: _rows(abduce.PCA(random_state=0), _numbers()),
    "GaussianMixture": lambda: _rows(abduce.GaussianMixture(components=2, random_state=0), _numbers()),
    "MixtureOfFactorAnalyzers": lambda: _rows(
        abduce.MixtureOfFactorAnalyzers(components=2, random_state=0), _numbers()
    ),
    "LatentClasses": lambda: _rows(
        abduce.LatentClasses(components=2, random_state=0), _frame()[["class", "flag"]]
    ),
    "Series": _series,
    "Text": lambda: _text("char"),
    "words": lambda: _text("word"),
    "Steps": _steps,
    "WorldModel": lambda: _world("linear"),
    "process": lambda: _world("process"),
    "pictures": _pictures,
    "Sound": _sound,
}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where something may be changed in JSON."""
    if path:
        yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from places(item, (*path, key))


def with_change(body: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    """JSON with another value in a place, or without what was there."""
    body = copy.deepcopy(body)
    here = body
    for key in path[:-1]:
        here = here[key]
    if value is GONE:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return body


def _at(number: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    def change(t: torch.Tensor, place: int) -> torch.Tensor:
        t = t.contiguous().clone() if t.is_floating_point() else t.double()
        if t.numel():
            t.view(-1)[place % t.numel()] = number
        return t

    return change


CHANGES: dict[str, Callable[[torch.Tensor, int], torch.Tensor | None]] = {
    "gone": lambda t, place: None,
    "NaN": _at(np.nan),
    "infinite": _at(np.inf),
    "minus infinity": _at(-np.inf),
    "huge": _at(1e30),
    "negative": _at(-3.0),
    "zero": lambda t, place: torch.zeros_like(t),
    "negated": lambda t, place: ~t if t.dtype == torch.bool else -t,
    "another type": lambda t, place: t.to(torch.float16 if t.is_floating_point() else torch.int32),
    "a row less": lambda t, place: t[:-1] if t.ndim else t[None],
    "an axis more": lambda t, place: t[None],
    "flat": lambda t, place: t.flatten(),
    "a whole number": lambda t, place: (
        t + torch.ones_like(t) if not t.is_floating_point() and t.dtype != torch.bool else t.long()
    ),
}


def write(folder: Path, body: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """A folder with these contents and right checksums, whatever they are."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = checkpoint.save_tensors({k: t.contiguous() for k, t in tensors.items()})
    body = {k: v for k, v in body.items() if k != "sha256"}
    if isinstance(body.get("weights_sha256"), str):
        body["weights_sha256"] = checkpoint._digest(weights)
    body["sha256"] = checkpoint._digest(checkpoint._canonical(body))
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "model.json").write_text(json.dumps(body))
