"""Annealing engines on targets whose integral is known."""

from __future__ import annotations

import math

import pytest
import torch

from abduce.distributions.bases import NormalBase
from abduce.inference.energy import Diverged
from abduce.inference.tempering import GeometricPath, Plan, check_range, temper

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)
LOG_Z = math.log(2 * math.pi) + 0.5 * float(torch.logdet(COVARIANCE))


def target(x: torch.Tensor) -> torch.Tensor:
    r = x - MEAN
    return -0.5 * (r @ PRECISION * r).sum(-1)


def path(**kw) -> GeometricPath:
    base = NormalBase(torch.zeros(2, dtype=torch.float64), 4 * torch.eye(2, dtype=torch.float64))

    def draw(particles, populations, generator):
        return base.sample(particles * populations, generator).view(particles, populations, 2)

    return GeometricPath(base.log_prob, target, base.scale.unsqueeze(0), draw, **kw)


def test_smc_finds_the_integral_and_the_law():
    done = temper(path(), 500, 8, seed=0)
    assert done.log_z.mean().item() == pytest.approx(LOG_Z, abs=0.05)
    draws = done.draws(500, torch.Generator().manual_seed(0)).flatten(0, 1)
    torch.testing.assert_close(draws.mean(0), MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), COVARIANCE, atol=0.05, rtol=0)
    assert ((done.acceptance > 0.4) & (done.acceptance < 0.95)).all()
    assert (done.ancestors > 50).all()
    assert (done.ancestors <= 500).all()


@pytest.mark.parametrize("resampling", [True, False])
def test_a_given_plan_is_unbiased(resampling):
    """E[Ẑ] = Z with two particles and two coarse steps too: no step of the method relies on many."""
    plan = Plan(
        torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), torch.full((3,), 0.4, dtype=torch.float64)
    )
    done = temper(path(), 2, 40_000, seed=1, plan=plan, resampling=resampling)
    ratio = torch.exp(done.log_z - LOG_Z)
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error
    assert error < 0.02
    assert (done.log_z.mean() < LOG_Z - 0.05).item()  # and in logarithms it falls short


def test_plans():
    found = temper(path(), 200, 2, seed=0, share=0.8)
    t = found.plan.t
    assert (t[0], t[-1]) == (0, 1)
    assert (t.diff() > 0).all()
    finer = found.plan.finer(3)
    assert len(finer.t) == len(finer.sizes)
    assert len(finer.t) > 3 * (len(t) - 1)
    assert torch.isin(t, finer.t).all()
    last, first = finer.t.diff()[-1] / t.diff()[-1], finer.t.diff()[0] / t.diff()[0]
    assert last < 0.5 * first  # finest at the end
    assert (finer.t.diff() > 0).all()
    even = Plan.even(4)
    assert even.t.tolist() == [0, 0.25, 0.5, 0.75, 1]
    again = temper(path(), 200, 4, seed=3, plan=even)  # sizes adapt
    assert again.log_z.mean().item() == pytest.approx(LOG_Z, abs=0.15)
    assert again.evaluations == 200 * 4 * 4


def test_a_seed_is_a_run():
    a, b, c = (temper(path(), 50, 2, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.log_z, b.log_z)
    assert torch.equal(a.x, b.x)
    assert not torch.equal(a.log_z, c.log_z)


def test_scale_zero_clamps_a_cell():
    way = path()
    way.scale = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    x = torch.randn(30, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.ones(2, dtype=torch.float64)
    moved, _ = way.move(x, t, torch.full((2,), 0.3, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert torch.equal(moved[..., 1], x[..., 1])
    assert not torch.equal(moved[..., 0], x[..., 0])


def test_what_runs_away_is_reported():
    with pytest.raises(Diverged, match="ran away"):
        check_range(torch.tensor([[[1e6]]]))
    with pytest.raises(Diverged, match="ran away"):
        check_range(torch.tensor([[[math.nan]]]))
    bad = path()
    bad.target = lambda x: torch.full(x.shape[:-1], -math.inf, dtype=x.dtype)
    with pytest.raises(Diverged, match="annealing broke down"):
        temper(bad, 20, 2)
