"""log Z by every rung of the ladder, against the others and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from abduce.distributions.bases import BoxBase, NormalBase, RatesBase
from abduce.inference import partition
from abduce.inference.energy import Diverged, Traits
from abduce.inference.partition import estimate, fit_beta, interval, log_z, mean_under
from abduce.inference.paths import Density, path_given, path_to
from abduce.inference.tempering import Plan, temper
from abduce.models.boltzmann import GaussianRBMEnergy, IsingEnergy, RBMEnergy
from abduce.models.gaussian import IndependentComponentsEnergy, PrincipalComponentsEnergy
from abduce.models.mixture import KMeansEnergy
from abduce.models.network import NetworkEnergy

DOUBLE = torch.float64


def small(i: int) -> Density:
    """Machines of three kinds, from weak to strong coupling, and a start that does not fit them."""
    g = torch.Generator().manual_seed(1000 + i)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=DOUBLE)

    strength = 0.3 + 1.2 * torch.rand(1, generator=g).item()
    if i % 3 == 0:
        model = RBMEnergy.of(strength * normal(10, 6), 0.5 * normal(10), 0.5 * normal(6))
    elif i % 3 == 1:
        model = IsingEnergy.of(strength * normal(8, 8), 0.5 * normal(8))
    else:
        model = GaussianRBMEnergy.of(
            0.5 * strength * normal(5, 4), normal(5), normal(4), torch.exp(0.2 * normal(5))
        )
    model.requires_grad_(False)
    if model.support == "binary":
        return Density(model, RatesBase(0.5 * normal(model.n_cells)))
    return Density(
        model, NormalBase(0.5 * normal(5), torch.diag(2 + 3 * torch.rand(5, generator=g, dtype=DOUBLE)))
    )


def test_stated_intervals_hold_the_truth():
    """Over 100 random machines whose states can be counted, nine in ten 90 % intervals hold log Z."""
    held, misses = 0, []
    for i in range(100):
        density = small(i)
        found, _ = estimate(density, particles=32, share=0.85, seed=i)
        truth = float(density.model.log_z())
        held += found.low <= truth <= found.high
        misses.append((found.value - truth) / (found.high - found.low))
    assert 85 <= held <= 95
    assert abs(np.mean(misses)) < 0.1  # neither side is missed more than the other
    assert found.kind == "estimate"


def test_the_interval_of_log_normal_estimates():
    """The mean of log-normals is exp(mean + variance / 2); Cox's interval covers it."""
    g = torch.Generator().manual_seed(0)
    logs = 3.0 + 0.8 * torch.randn(2000, 8, generator=g, dtype=DOUBLE)
    truth = 3.0 + 0.32
    inside = [abs(value - truth) <= half for value, half in map(interval, logs)]
    assert 0.87 < np.mean(inside) < 0.95


@pytest.mark.parametrize("method", ["smc", "ais"])
def test_sampling_agrees_with_counting(method):
    for i in range(3):
        density = small(i)
        found = log_z(density, method, particles=128, seed=5)
        exact = log_z(density)
        assert exact.kind == "exact"
        assert found.value == pytest.approx(exact.value, abs=0.2)
        about = found.diagnostics
        assert about["from_a_wider_base"] == pytest.approx(exact.value, abs=0.8)
        assert 1 <= about["ancestors"] <= 128
        assert about["evaluations"] > 128 * 8 * about["temperatures"]


def test_finer_temperatures_narrow_the_interval():
    """However many: a schedule that was given has no limit."""
    density = small(0)
    truth = float(density.model.log_z())
    coarse = log_z(density, "smc", particles=32, seed=1)
    fine = log_z(density, "smc", particles=32, refine=150, seed=1)
    assert fine.diagnostics["temperatures"] > 1000
    assert fine.diagnostics["spread"] < 0.5 * coarse.diagnostics["spread"]
    assert fine.value == pytest.approx(truth, abs=0.05)


def test_every_rung_agrees_in_the_plane():
    """Two independent components: closed form, quadrature and sampling."""
    W = torch.tensor([[1.5, 0.4], [-0.3, 0.9]], dtype=DOUBLE)
    model = IndependentComponentsEnergy.of(torch.zeros(2, dtype=DOUBLE), W).requires_grad_(False)
    density = Density(model, NormalBase(torch.zeros(2, dtype=DOUBLE), 3 * torch.eye(2, dtype=DOUBLE)))
    closed = log_z(density, "closed form")
    assert closed.value == pytest.approx(2 * math.log(math.pi) - math.log(float(torch.linalg.det(W))))
    grid = log_z(density, "quadrature")
    assert grid.low <= closed.value <= grid.high
    sampled = log_z(density, "smc", particles=400)
    assert sampled.value == pytest.approx(closed.value, abs=0.05)
    assert log_z(density).diagnostics["method"] == "closed form"  # the first rung that holds


def test_k_means_by_bounded_weights():
    model = KMeansEnergy.of(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=DOUBLE)).requires_grad_(False)
    density = Density(model, NormalBase(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE)), beta=2.0)
    weights, grid = log_z(density, "importance"), log_z(density, "quadrature")
    assert weights.value == pytest.approx(grid.value, abs=1e-3)


def test_a_base_measure_makes_a_valley_finite():
    """The distance to the principal subspace, under N(0, s²I): −½ (d − q) log(1 + 2 β s²), by quadrature and sampling too."""
    eye = torch.eye(3, dtype=DOUBLE)
    model = PrincipalComponentsEnergy.of(
        torch.zeros(3, dtype=DOUBLE),
        eye[:, :1],
        torch.ones(1, dtype=DOUBLE),
        torch.ones((), dtype=DOUBLE),
        "reconstruction",
    )
    base = NormalBase(torch.zeros(3, dtype=DOUBLE), 1.5**2 * eye)
    density = Density(model, base, 0.7, base)
    truth = -math.log(1 + 2 * 0.7 * 1.5**2)
    assert log_z(density).value == pytest.approx(truth)
    assert log_z(density, "smc", particles=500).value == pytest.approx(truth, abs=0.05)
    with pytest.raises(ValueError, match=r"infinite.*give a base measure"):
        log_z(Density(model, base))
    box = BoxBase(-2 * torch.ones(3, dtype=DOUBLE), 2 * torch.ones(3, dtype=DOUBLE))
    boxed = log_z(Density(model, base, 0.7, box))
    one = (
        math.sqrt(math.pi / 0.7) * math.erf(2 * math.sqrt(0.7)) / 4
    )  # ∫ exp(−β y²) over the box, over its width
    assert boxed.kind == "quadrature"
    assert boxed.value == pytest.approx(2 * math.log(one), abs=1e-3)


def test_the_temperature_of_a_quadratic_energy():
    """‖y‖² in d cells has mean d / 2β: the fit finds β = d / 2Ē, by exact draws and by sampling."""
    model = KMeansEnergy.of(torch.zeros(1, 4, dtype=DOUBLE)).requires_grad_(False)
    base = NormalBase(torch.zeros(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE))
    assert fit_beta(Density(model, base), 1.0) == pytest.approx(2.0, rel=0.05)
    assert mean_under(Density(model, base, 2.0)) == pytest.approx(1.0, rel=0.05)

    class Bowl(NetworkEnergy):
        """The same without a law: it has to be sampled."""

        traits = Traits(in_nats=False)

        def energy(self, x, observed=None):
            return x.square().sum(-1)

    assert fit_beta(Density(Bowl(4).double(), base), 1.0) == pytest.approx(2.0, rel=0.1)
    with pytest.raises(ValueError, match="beta cannot be fitted"):
        fit_beta(Density(model, base), 0.0)


def test_rungs_that_do_not_hold_say_why():
    net = Density(
        NetworkEnergy(5).double(), NormalBase(torch.zeros(5, dtype=DOUBLE), torch.eye(5, dtype=DOUBLE))
    )
    for method, why in (
        ("closed form", "no closed form"),
        ("enumeration", "needs binary cells"),
        ("quadrature", "at most 3 real cells"),
        ("importance", "no law"),
    ):
        with pytest.raises(ValueError, match=why):
            log_z(net, method)
    with pytest.raises(ValueError, match="method must be one of"):
        log_z(net, "magic")
    with pytest.raises(ValueError, match="populations must be"):
        log_z(net, populations=1)


def test_chains_that_run_away_or_stand_still_are_no_answer():
    class Slope(NetworkEnergy):
        """Falls for ever."""

        def energy(self, x, observed=None):
            return -300 * x.sum(-1)

    base = NormalBase(torch.zeros(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE))
    with pytest.raises(Diverged, match=r"ran away|did not arrive"):
        log_z(Density(Slope(4).double(), base), "smc", particles=16)


def test_paths_given_some_cells_lead_to_the_marginal():
    """exp(−F(x_obs)) summed over the blank cells by hand, for a machine and for a free-form path."""
    model = RBMEnergy.of(
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE),
        torch.zeros(6, dtype=DOUBLE),
        torch.zeros(3, dtype=DOUBLE),
    ).requires_grad_(False)
    density = Density(model, RatesBase(torch.zeros(6, dtype=DOUBLE)))
    x = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0.0, 1, 1, 0, 0, 0]], dtype=DOUBLE)
    seen = torch.tensor([[True, True, True, True, False, False], [True, True, False, True, True, True]])
    truth = []
    for row, mask in zip(x, seen, strict=True):
        blank = (~mask).nonzero().squeeze(1)
        states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * len(blank)).view(
            -1, len(blank)
        )
        rows = row.repeat(len(states), 1)
        rows[:, blank] = states
        truth.append(torch.logsumexp(-model.energy(rows), 0))
    block = temper(path_given(density, x, seen), 4000, 2, 0, plan=Plan.even(8), shared=True)
    torch.testing.assert_close(block.log_z, torch.stack(truth), atol=0.05, rtol=0)
    zero = lambda z: torch.zeros(z.shape[:-1], dtype=z.dtype)  # noqa: E731  (asks for the free-form path)
    free = temper(path_given(density, x, seen, zero), 4000, 2, 0, plan=Plan.even(8), shared=True)
    torch.testing.assert_close(free.log_z, torch.stack(truth), atol=0.05, rtol=0)
    assert (block.x[..., 0] == x[:, 0]).all()


def test_rows_do_not_depend_on_their_neighbours():
    density = small(2)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    seen = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.6
    all_rows = temper(path_given(density, x, seen), 32, 4, 0, plan=Plan.even(8), shared=True)
    two = temper(path_given(density, x[1:3], seen[1:3]), 32, 2, 0, plan=Plan.even(8), shared=True)
    torch.testing.assert_close(all_rows.log_z[1:3], two.log_z)
    torch.testing.assert_close(all_rows.x[:, 1:3], two.x)


def test_single_precision_is_a_copy():
    density = small(2)
    single = density.float()
    assert single.start.mean.dtype == torch.float32
    assert density.start.mean.dtype == DOUBLE
    found = temper(path_to(single), 64, 4, 0)
    assert found.log_z.mean().item() == pytest.approx(float(density.model.log_z()), abs=0.5)
    assert partition.LEVEL == 0.9
