"""Windows: conditionals as the house's Gaussian has them, EM's sums as its statistics, and cuts that lie where they should."""

import pytest
import torch

from abduce.data.seen import Seen
from abduce.gaussians.gaussian_law import GaussianMixtureLaw
from abduce.models.model import filled
from abduce.sequences.windows import WindowGaussian, conditional, cut_windows, fit_windows, step_from


def covariance_of(size, seed=0):
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a @ a.mT / size + 0.1 * torch.eye(size)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_conditionals_are_those_of_the_gaussian(share):
    c = covariance_of(12)
    g = torch.Generator().manual_seed(1)
    y, mask = torch.randn(20, 12, generator=g, dtype=torch.float64), torch.rand(20, 12, generator=g) > share
    mask[0], mask[1] = True, False
    law = GaussianMixtureLaw.gaussian(torch.zeros(12).double(), c)
    mean, variance = conditional(c, torch.where(mask, y, torch.nan), mask)
    assert torch.allclose(mean, law.mean(Seen(torch.where(mask, y, 0.0), mask)), atol=1e-10)
    for i in range(20):
        b = ~mask[i]
        own = torch.linalg.inv(torch.linalg.inv(c)[b][:, b]).diagonal()
        assert torch.allclose(variance[i][b], own, atol=1e-10)
        assert not bool(variance[i][mask[i]].any())


def test_the_sums_of_em_are_those_of_the_gaussian():
    c = covariance_of(8)
    g = torch.Generator().manual_seed(2)
    seen = Seen(
        torch.randn(30, 4, 2, generator=g, dtype=torch.float64), torch.rand(30, 4, 2, generator=g) < 0.6
    )
    second, count = step_from(seen, c, 4, 4)
    some = seen.mask.flatten(1).any(1)
    rows = Seen(torch.where(seen.mask, seen.y, 0.0).flatten(1)[some], seen.mask.flatten(1)[some])
    law = GaussianMixtureLaw.gaussian(torch.zeros(8).double(), c)
    assert count == float(some.sum())
    assert torch.allclose(second, law.statistics(rows).second[0], atol=1e-9)


def test_windows_start_at_multiples_of_the_stride():
    seen = Seen(
        torch.arange(7.0).double().view(1, 7, 1),
        torch.ones(1, 7, 1).bool(),
        time=torch.arange(5.0, 12.0).unsqueeze(0),
    )
    cut = cut_windows(seen, 4, 2)
    assert cut.y[:, 0].tolist() == [0.0, 1.0, 3.0]
    assert cut.mask[0].tolist() == [False, True, True, True]


def test_a_long_series_is_answered_by_windows_round_each_cell():
    c = covariance_of(4)
    model = filled(WindowGaussian(1, 4, 2), covariance=c)
    g = torch.Generator().manual_seed(3)
    y, mask = torch.randn(1, 10, 1, generator=g, dtype=torch.float64), torch.rand(1, 10, 1, generator=g) < 0.6
    answer = model.answer(Seen(y, mask))
    for t in range(10):
        start = min(max(2 * ((t - 1) // 2), 0), 6)
        rows = slice(start, start + 4)
        mean, variance = conditional(c, y[:, rows, 0], mask[:, rows, 0])
        assert float(answer.mean()[0, t, 0]) == pytest.approx(float(mean[0, t - start]))
        assert float(answer.deviation[0, t, 0]) ** 2 == pytest.approx(
            float(variance[0, t - start]), abs=1e-12
        )


def test_a_strong_pull_keeps_the_target_and_a_weak_one_leaves_it():
    target, truth = torch.eye(4).double(), covariance_of(4, 5)
    g = torch.Generator().manual_seed(0)
    y = (torch.randn(500, 4, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(truth).mT).view(
        500, 4, 1
    )
    seen = Seen(y, torch.rand(500, 4, 1, generator=g) < 0.8)
    strong = fit_windows(seen, target, 4, 4, 1e6).covariance
    weak = fit_windows(seen, target, 4, 4, 1e-3, rounds=15).covariance
    assert torch.allclose(strong, target, atol=1e-4)
    assert torch.allclose(weak, truth, atol=0.2)


def test_what_no_window_has_seen_is_no_opinion():
    model = filled(WindowGaussian(1, 4, 2), covariance=torch.eye(4, dtype=torch.float64))
    y, mask = torch.ones(1, 12, 1, dtype=torch.float64), torch.ones(1, 12, 1, dtype=torch.bool)
    mask[0, 6:] = False
    centre = model.answer(Seen(y, mask)).centre.flatten()
    assert bool(torch.isfinite(centre[:8]).all())
    assert bool(torch.isnan(centre[8:]).all())
