"""Costs: their quadratic models against derivatives that are known, and what is refused."""

import pytest
import torch
from worlds_for_tests import double_integrator, linear, quadratic

from abduce.world import costs
from abduce.world.costs import Cost, Goal, positive_part
from abduce.world.products import apply, rows_last, times


def rows(n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, 2), (n, 1), (n, 2))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("residuals", [True, False])
def test_quadratic_of_a_quadratic_cost_is_itself(residuals):
    a, b, q, r, end = double_integrator()
    state, action, _ = rows()
    world, cost = linear(a, b), quadratic(q, r, end, residuals)
    slopes = rows_last(torch.cat(world.jacobian(state, action), -1))
    gradient, curvature = cost.quadratic(state, action, world.mean(state, action), slopes)
    assert torch.allclose(gradient.T, 2 * torch.cat([state @ q, action @ r], 1))
    assert torch.allclose(curvature.movedim(-1, 0), 2 * torch.block_diag(q, r).expand(5, 3, 3))
    gradient, curvature = cost.quadratic_end(state)
    assert torch.allclose(gradient.T, 2 * state @ end)
    assert torch.allclose(curvature.movedim(-1, 0), (2 * end).expand(5, 2, 2))


def test_many_transitions_are_asked_about_in_parts(monkeypatch):
    """Those of which none is NaN, and one that is, whichever part it falls into."""
    asked = []
    cost = Cost(lambda s, a, n: asked.append(len(s)) or (s * n).sum(-1) + a[..., 0])
    state, action, after = rows(20)
    whole = cost(state, action, after)
    monkeypatch.setattr(costs, "ROWS", 6)
    assert torch.equal(cost(state.view(4, 5, 2), action.view(4, 5, 1), after.view(4, 5, 2)).flatten(), whole)
    assert asked == [20, 6, 6, 6, 2]
    after[13] = torch.inf
    state[13] = torch.tensor([1.0, -1.0])
    assert cost(state, action, after).isinf().nonzero().flatten().tolist() == [13]


@pytest.mark.parametrize("residuals", [True, False])
def test_the_next_state_counts_through_the_dynamics(residuals):
    """Of a cost of s' = As + Ba: gradient and curvature by autograd of the composition."""
    a, b, *_ = double_integrator()
    state, action, _ = rows()
    world, goal = linear(a, b), Goal([1.0, -1.0], tolerance=[0.5, 2.0], effort=0.3)
    cost = Cost(goal.value, None, goal.residuals if residuals else None)
    slopes = rows_last(torch.cat(world.jacobian(state, action), -1))
    gradient, curvature = cost.quadratic(state, action, world.mean(state, action), slopes)

    def of(x):
        s, u = x[:, :2], x[:, 2:]
        return goal.value(s, u, world.mean(s, u)).sum()

    for i in range(5):
        x = torch.cat([state[i : i + 1], action[i : i + 1]], 1)
        assert torch.allclose(gradient[:, i], torch.autograd.functional.jacobian(of, x)[0])
        known = torch.autograd.functional.hessian(of, x).squeeze()
        assert torch.allclose(curvature[:, :, i], known, atol=1e-10)


def test_negative_curvature_is_left_out():
    cost = Cost(lambda obs, action, after: obs[:, 0].square() - obs[:, 1].square() + action[:, 0] ** 4)
    state, action, after = rows(1)
    _, curvature = cost.quadratic(state, action, after, torch.zeros(2, 3, 1, dtype=torch.float64))
    expected = torch.diag(torch.tensor([2.0, 0.0, 12 * float(action) ** 2], dtype=torch.float64))
    assert torch.allclose(curvature[:, :, 0], expected, atol=1e-8)


def test_positive_part_keeps_what_is_positive():
    root = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = root @ root.mT
    assert torch.equal(positive_part(matrix), 0.5 * (matrix + matrix.mT))
    both = positive_part(torch.cat([matrix, -matrix]))
    assert torch.allclose(both[4:], torch.zeros_like(matrix), atol=1e-10)


def test_goal_ignores_blanks_and_counts_tolerance():
    goal = Goal([2.0, float("nan")], tolerance=[0.5, 1.0], effort=0.1)
    cost = Cost.of(goal)
    assert cost(torch.zeros(1, 2), torch.tensor([[3.0]]), torch.tensor([[1.0, 9.0]])).item() == pytest.approx(
        4.9
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda obs, action, after: after, "cost must return a tensor of shape \\(3,\\)"),
        (lambda obs, action, after: 1.0, "cost must return a tensor"),
        (lambda obs, action, after: after[:, 0] * float("nan"), "got NaN for 3 of 3 rows"),
    ],
)
def test_refused(function, message):
    with pytest.raises(ValueError, match=message):
        Cost.of(function)(torch.ones(3, 2), torch.ones(3, 1), torch.ones(3, 2))


def test_refused_goals():
    with pytest.raises(ValueError, match="obs must be one state"):
        Goal([float("nan")])
    with pytest.raises(ValueError, match="tolerance must be"):
        Goal([1.0], tolerance=-1.0)
    with pytest.raises(ValueError, match="cost must be a callable"):
        Cost.of(3)


def test_states_that_left_the_numbers_cost_infinity():
    cost = Cost(lambda obs, action, after: (after - after).sum(1))
    lost = torch.tensor([[torch.inf, 0.0]])
    assert cost(lost, torch.zeros(1, 1), lost).item() == torch.inf


def test_the_objective_cannot_be_changed():
    with pytest.raises(AttributeError):
        Cost(lambda obs, action, after: after[:, 0]).function = None  # pyright: ignore


@pytest.mark.parametrize("n", [3, 40000])
def test_products_of_small_matrices(n):
    """Few and many: the two ways of adding up."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 4, 3, generator=generator), torch.randn(n, 3, 5, generator=generator)
    assert torch.allclose(times(rows_last(x), rows_last(y)), rows_last(x @ y), atol=1e-5)
    assert torch.allclose(apply(rows_last(x), rows_last(y[:, :, 0])), (x @ y[:, :, :1])[..., 0].T, atol=1e-5)
