"""Where episodes have been: distances against brute force, slopes against finite differences."""

import torch

from abduce.world.visited import MOST, Visited


def some(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double() * torch.tensor(
        [1.0, 10.0, 0.1]
    )


def test_excess_is_the_distance_to_the_nearest_beyond_the_radius():
    seen, asked = some(200), some(50, 1)
    found, _ = Visited(seen).excess(asked.view(5, 10, 3))
    scale = seen.std(0, correction=0)
    away = torch.cdist(seen / scale, seen / scale)
    nearest = (away + torch.diag(torch.full((200,), torch.inf))).amin(1)
    radius = nearest.quantile(0.75)
    expected = (torch.cdist(asked / scale, seen / scale).amin(1) / radius - 1).clamp_min(0.0)
    assert int((expected > 0).sum()) > 5
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-6, atol=1e-9)


def test_slope_is_finite_differences():
    seen, asked = Visited(some(200)), 2 * some(50, 1)
    _, slope = seen.excess(asked)
    for j in range(3):
        step = torch.zeros(3).double()
        step[j] = 1e-6
        either = [seen.excess(asked + sign * step)[0] for sign in (1, -1)]
        torch.testing.assert_close((either[0] - either[1]) / 2e-6, slope[:, j], rtol=1e-4, atol=1e-6)


def test_units_do_not_matter_and_blanks_are_left_out():
    seen, asked = some(200), some(50, 1)
    units = torch.tensor([3.0, 0.01, 100.0]).double()
    one, other = Visited(seen).excess(asked)[0], Visited(seen * units).excess(asked * units)[0]
    torch.testing.assert_close(one, other)
    torn = seen.clone()
    torn[::4, 1] = torch.nan
    whole = seen[torch.arange(200) % 4 > 0]
    assert torch.equal(Visited.of(torn, 0).points, whole[whole[:, 0].argsort()])
    assert len(Visited.of(some(2 * MOST), 0).points) == MOST
    assert torch.equal(Visited.of(some(2 * MOST), 3).points, Visited.of(some(2 * MOST), 3).points)


def test_readings_that_repeat_do_not_narrow_what_is_near():
    """Rounded sensors, and an agent that rests at its goal."""
    rounded = (10 * torch.rand(5000, 2, generator=torch.Generator().manual_seed(0))).round().double()
    seen = Visited.of(rounded, 0)
    assert len(seen.points) == 121
    assert not seen.excess(torch.tensor([[4.5, 4.5], [0.3, 9.9]]).double())[0].any()
    far, _ = seen.excess(torch.tensor([[torch.inf, 0.0]]).double())
    assert bool((far > 1e6).all())


def test_where_nothing_was_seen_nothing_is_away():
    excess, slope = Visited(torch.zeros(0, 3)).excess(some(4))
    assert not excess.any()
    assert not slope.any()
    alone = Visited(torch.zeros(1, 3)).excess(torch.tensor([[0.5, 0.0, 0.0], [3.0, 0.0, 0.0]]).double())[0]
    assert alone.tolist() == [0.0, 2.0]
