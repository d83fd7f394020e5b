"""Intervals of rollouts against worlds whose noise is known."""

import numpy as np
import pytest
import torch

from abduce.world.calibration import Calibration, calibrate, coverage
from abduce.world.episodes import Episode, transitions
from abduce.world.linear_gaussian import LinearGaussian
from abduce.world.rollout import drawn


def test_intervals_are_wide_where_noise_is_and_narrow_elsewhere():
    """Noise is ten times as large on the right; the model knows of one size alone."""

    def walk(count: int, seed: int) -> list[Episode]:
        rng = np.random.default_rng(seed)
        out = []
        for _ in range(count):
            places, pushes = [np.zeros(1)], rng.uniform(-1, 1, (60, 1))
            for push in pushes:
                size = 0.2 if places[-1][0] > 0 else 0.02
                places.append(0.5 * places[-1] + push + size * rng.normal(size=1))
            out.append(Episode(np.array(places), pushes))
        return out

    model = LinearGaussian(1, 1).fit(transitions(walk(20, 0)))
    fixed = calibrate([(model, walk(20, 1))], 1, 0)

    def held(side: float) -> float:
        steps = transitions(walk(60, 2))
        here = (side * steps.state[:, 0]) > 0.3
        start, acts, after = steps.state[here], steps.action[here].unsqueeze(1), steps.after[here]
        found = fixed.stretch(
            start, drawn(model, start, acts, 200, torch.Generator().manual_seed(3))[0][:, :, 1:]
        )
        low, high = torch.quantile(found[:, :, 0], torch.tensor([0.05, 0.95]).to(found), dim=0)
        return float(((after >= low) & (after <= high)).double().mean())

    assert held(1.0) == pytest.approx(0.9, abs=0.05)
    assert held(-1.0) == pytest.approx(0.9, abs=0.05)


def test_a_rollout_s_factor_does_not_depend_on_those_beside_it():
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    fixed = Calibration(torch.tensor([1.0, 5.0]).double().repeat(100), draw(200, 4), draw(200, 2))
    start, paths = draw(300, 2), draw(300, 7, 2)
    together = fixed.factors(start, paths)
    assert torch.equal(together[17:18], fixed.factors(start[17:18], paths[17:18]))
    assert torch.equal(together[:, :3], fixed.factors(start, paths[:, :3]))


def test_coverage_gives_as_many_observations_as_a_start_takes():
    """A future that goes on as the last two observations did holds places that move evenly, of two but not of one."""
    even = [Episode(np.arange(30.0)[:, None] * speed, np.zeros((29, 1))) for speed in (1.0, 2.0)]

    def on(start: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(1, actions.shape[1] + 1).double().view(1, 1, -1, 1)
        last = start[:, -1] if start.ndim == 3 else start
        speed = start[:, -1] - start[:, -2] if start.ndim == 3 else torch.zeros_like(last)
        path = last[None, :, None] + steps * speed[None, :, None]
        return torch.cat([path - 0.1, path + 0.1])

    assert coverage(on, even, 5, level=1.0, past=2).tolist() == [1.0]
    assert coverage(on, even, 5, level=1.0).tolist() == [0.0]
