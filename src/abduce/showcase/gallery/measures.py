"""What a surface is worth: numbers about an energy or a density in the plane, beside a spiral that made the data.

    AUC          P(E at a point of the box > E at a held-out row), ties half: ½ for a flat energy, 1 for a perfect one
    volume       share of the box with E below the 95th percentile of E on held-out rows: 95 % of them fit into so much
    covered      share of the curve's length that lies in the A of the box where E is lowest, A the volume of the true −log p:
                 a model that spends its low energy elsewhere has none left for the curve
    tangent      mean |cos| between the curve and the direction in which E bends least, the eigenvector of the smallest
                 eigenvalue of ∇²E: 1 for a valley along the curve, 2/π = 0.64 for directions at random
    log p        mean over held-out rows, nats, in the data's units

The Hessian is one of central differences, h = 1/32 apart, about the width of the curve's noise, so that kinks and cells count
too.  Where E bends the same in all directions, as inside a cell of k-means, there is no softest one and the point is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 128  # points an axis of the grid
BOX = (-1.0, 1.0)
STEP = 1 / 32  # h
POINTS = 200  # along the curve
ISOTROPIC = 1e-3  # eigenvalues whose relative difference is less than this are one
KEPT = 0.95  # of the held-out rows

Surface = Callable[[np.ndarray], np.ndarray]  # points (n, 2) -> (n,)


def box(side: int = SIDE, low: float = BOX[0], high: float = BOX[1]) -> np.ndarray:
    """Midpoints of a grid over the box, (side², 2): y from low to high, and x for each y."""
    axis = low + (high - low) * (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def along(curve: Callable[[np.ndarray], np.ndarray], points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) of a curve on [0, 1] at equal steps of its length, and its unit tangents there (n, 2)."""
    t = np.linspace(0, 1, 20 * points + 1)
    path = curve(t)[0]
    length = np.concatenate([[0.0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    at = np.interp((np.arange(points) + 0.5) / points * length[-1], length, t)
    ahead = curve(at + 1e-4)[0] - curve(at - 1e-4)[0]
    return curve(at)[0], ahead / np.linalg.norm(ahead, axis=1, keepdims=True)


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """P(a value of ``high`` exceeds one of ``low``), ties half.

    >>> auc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(low)))


def volume(grid: np.ndarray, held: np.ndarray) -> float:
    """Share of the box with energy below that of all but 5 % of the held-out rows.

    >>> volume(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.5, 1.5]))
    0.5
    """
    return float((grid < np.quantile(held, KEPT)).mean())


def covered(grid: np.ndarray, curve: np.ndarray, share: float) -> float:
    """Share of the energies along the curve that are among the lowest ``share`` of the box's.

    >>> covered(np.arange(100.0), np.array([3.0, 7.0, 50.0, 60.0]), 0.1)
    0.5
    """
    return float((curve <= np.quantile(grid, share)).mean())


def hessian(energy: Surface, x: np.ndarray, h: float = STEP) -> np.ndarray:
    """∇²E at points (n, 2) by central differences, (n, 2, 2).

    >>> hessian(lambda x: x[:, 0] ** 2 + 3 * x[:, 0] * x[:, 1], np.zeros((1, 2)))[0].round(6)
    array([[2., 3.], [3., 0.]])
    """
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * h
    e = energy((x + steps[:, None]).reshape(-1, 2)).reshape(3, 3, -1)
    xx = e[2, 1] - 2 * e[1, 1] + e[0, 1]
    yy = e[1, 2] - 2 * e[1, 1] + e[1, 0]
    xy = (e[2, 2] - e[2, 0] - e[0, 2] + e[0, 0]) / 4
    return np.array([[xx, xy], [xy, yy]]).transpose(2, 0, 1) / h**2


def tangency(energy: Surface, x: np.ndarray, tangent: np.ndarray) -> float | None:
    """Mean |cos| between the softest direction and the tangent at points (n, 2); None where E has none at 9 of 10 points."""
    values, vectors = np.linalg.eigh(hessian(energy, x))
    directed = values[:, 1] - values[:, 0] > ISOTROPIC * np.abs(values).max(axis=1)
    if directed.mean() < 0.1:
        return None
    return float(np.abs((vectors[:, :, 0] * tangent).sum(axis=1))[directed].mean())


def measure(
    energy: Surface, log_p: Surface, grid: np.ndarray, held: np.ndarray, toy: Any
) -> dict[str, float | None]:
    """All of them, of an energy and its density, beside a toy density with a ``curve``; ``grid`` is E on the :func:`box`."""
    x, tangent = along(toy.curve)
    at_held = energy(held)
    truth = volume(-toy.log_prob(box()), -toy.log_prob(held))
    return {
        "auc": auc(at_held, grid),
        "volume": volume(grid, at_held),
        "covered": covered(grid, energy(x), truth),
        "tangent": tangency(energy, x, tangent),
        "log_p": float(log_p(held).mean()),
    }
