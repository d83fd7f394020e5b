"""The linear-Gaussian world against closed forms: Gramians, Riccati's recursion, a dense Gaussian."""

import pytest
import torch

from abduce.world.episodes import episodes, transitions
from abduce.world.linear_gaussian import LinearGaussian

NAN = float("nan")
DT = 0.1
A = torch.tensor([[1.0, DT], [0.0, 1.0]]).double()
B = torch.tensor([[DT**2 / 2], [DT]]).double()


def integrator(noise=0.0, action=1.0, first=1.0):
    """A double integrator."""
    return LinearGaussian(2, 1).load(
        a=A, b=B, noise=noise * torch.eye(2), action_covariance=action * torch.eye(1),
        first_covariance=first * torch.eye(2),
    )  # fmt: skip


def blanks(steps, states=2, actions=1, n=1):
    return torch.full((n, steps + 1, states), NAN).double(), torch.full((n, steps, actions), NAN).double()


def riccati(q, r, last, horizon):
    """Values P_t and gains K_t of min Σ sᵀQs + aᵀRa + s_TᵀP_T s_T, a = −K s, backward."""
    p, values, gains = last, [last], []
    for _ in range(horizon):
        k = torch.linalg.solve(r + B.mT @ p @ B, B.mT @ p @ A)
        p = q + A.mT @ p @ (A - B @ k)
        values.append(p)
        gains.append(k)
    return values[::-1], gains[::-1]


@pytest.mark.parametrize("steps", [2, 10, 60])
def test_actions_between_a_start_and_a_goal_are_of_least_energy(steps):
    states, actions = blanks(steps)
    start, goal = torch.tensor([1.0, -0.5]).double(), torch.tensor([-2.0, 0.3]).double()
    states[0, 0], states[0, -1] = start, goal
    found = integrator().fill(states, actions)
    powers = [torch.linalg.matrix_power(A, steps - 1 - t) @ B for t in range(steps)]
    reach = torch.cat(powers, 1)  # (2, T): where actions lead
    gramian = reach @ reach.mT
    least = reach.mT @ torch.linalg.solve(gramian, goal - torch.linalg.matrix_power(A, steps) @ start)
    torch.testing.assert_close(found.actions[0, :, 0], least, rtol=1e-6, atol=1e-8)
    assert torch.equal(found.states[0, 0], start)
    assert torch.equal(found.states[0, -1], goal)


def test_the_error_of_the_control_falls_as_the_noise():
    states, actions = blanks(20)
    states[0, 0], states[0, -1] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    exact = integrator().fill(states, actions).actions
    gaps = [
        float((integrator(q).fill(states, actions).actions - exact).abs().max()) for q in (1e-4, 1e-6, 1e-8)
    ]
    assert gaps[1] / gaps[0] == pytest.approx(0.01, rel=0.2)
    assert gaps[2] / gaps[1] == pytest.approx(0.01, rel=0.2)


def goal_posed(world, start, horizon, temperature, r=0.1):
    """The cost Σ |s|² + r a² + |s_T|² as what is seen: states are 0 with the variance λ / 2."""
    states, actions = blanks(horizon, n=len(start))
    states[:, 1:] = 0.0
    states[:, 0] = start
    spread = torch.full((horizon + 1, 2), (temperature / 2) ** 0.5).double()
    spread[0] = 0.0
    world.load(action_covariance=torch.eye(1) * temperature / (2 * r))
    return world.fill(states, actions, spread)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_the_mean_of_actions_is_riccatis_whatever_the_temperature(temperature):
    q, r = torch.eye(2).double(), torch.tensor([[0.1]]).double()
    values, gains = riccati(q, r, q, 50)
    torch.testing.assert_close(
        values[0], torch.tensor([[13.3163, 3.2012], [3.2012, 4.6034]]).double(), rtol=0, atol=1e-4
    )
    start = torch.tensor([[1.0, 0.0], [-2.0, 3.0], [0.0, 1.0]]).double()
    found = goal_posed(integrator(), start, 50, temperature)
    s, path = start, []
    for k in gains:
        path.append(-s @ k.mT)
        s = s @ A.mT + path[-1] @ B.mT
    torch.testing.assert_close(found.actions, torch.stack(path, 1), rtol=1e-6, atol=1e-7)
    # the start itself has a probability that has nothing to do with cost
    base = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    evidence = found.log_evidence - base.log_prob(start)
    value = (start @ (values[0] - q) * start).sum(1)  # the first state's cost is paid already
    shifted = evidence + value / temperature
    size = float(value.max()) / temperature
    torch.testing.assert_close(shifted, shifted[:1].expand(3), rtol=0, atol=1e-7 * max(size, 1.0))


def dense(world, states, actions):
    """Mean and covariance of the blanks of one trajectory by one solve over all cells, and log p of what is seen."""
    steps, s, a = actions.shape[1], world.observation_size, world.action_size
    sources = [world.first_covariance] + [world.action_covariance, world.noise] * steps
    size = sum(len(c) for c in sources)
    root, place = torch.block_diag(*sources), 0
    rows = torch.zeros(s, size).double()
    rows[:, :s] = torch.eye(s)
    centre, place, cells, centres = world.first_mean, s, [rows], [world.first_mean]
    acts, act_centres = [], []
    for _ in range(steps):
        act = torch.zeros(a, size).double()
        act[:, place : place + a] = torch.eye(a)
        rows = world.a @ rows + world.b @ act
        rows[:, place + a : place + a + s] += torch.eye(s)
        place += a + s
        centre = world.mean(centre, world.action_mean)
        cells.append(rows), centres.append(centre), acts.append(act), act_centres.append(world.action_mean)
    design, mean = torch.cat(cells + acts), torch.cat(centres + act_centres)
    y = torch.cat([states[0].flatten(), actions[0].flatten()])
    seen = ~y.isnan()
    joint = design @ root @ design.mT
    inside = joint[seen][:, seen]
    gain = joint[:, seen] @ torch.linalg.inv(inside)
    out = mean + gain @ (y - mean)[seen]
    cov = joint - gain @ joint[seen]
    log_p = torch.distributions.MultivariateNormal(mean[seen], inside).log_prob(y[seen])
    return out, cov.diagonal().clamp_min(0).sqrt(), log_p


def random_world(seed):
    torch.manual_seed(seed)
    q, p, c = (torch.randn(k, k).double() for k in (3, 3, 2))
    return LinearGaussian(3, 2).load(
        a=0.5 * torch.randn(3, 3), b=torch.randn(3, 2), c=torch.randn(3), noise=0.1 * q @ q.mT + 0.1 * torch.eye(3),
        action_mean=torch.randn(2), action_covariance=c @ c.mT + 0.1 * torch.eye(2),
        first_mean=torch.randn(3), first_covariance=p @ p.mT + 0.1 * torch.eye(3),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_any_blanks_are_filled_as_one_dense_gaussian_has_it(seed):
    world = random_world(seed)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, 7, 3, generator=generator).double()
    actions = torch.randn(1, 6, 2, generator=generator).double()
    states[torch.rand(states.shape, generator=generator) < 0.5] = NAN
    actions[torch.rand(actions.shape, generator=generator) < 0.5] = NAN
    found = world.fill(states, actions)
    mean, deviation, log_p = dense(world, states, actions)
    got = torch.cat([found.states.flatten(), found.actions.flatten()])
    spread = torch.cat([found.states_deviation.flatten(), found.actions_deviation.flatten()])
    torch.testing.assert_close(got, mean, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(spread**2, deviation**2, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.log_evidence[0], log_p, rtol=1e-8, atol=1e-8)
    drawn, acted = found.draw(4000, generator)
    both = torch.cat([drawn.flatten(1), acted.flatten(1)], 1)
    torch.testing.assert_close(both.mean(0), mean, rtol=0, atol=5 * float(deviation.max()) / 4000**0.5)
    torch.testing.assert_close(both.std(0), deviation, rtol=0.1, atol=1e-4)


def test_draws_obey_the_dynamics_where_nothing_is_random():
    """A blank action and what it led to are drawn together."""
    states, actions = blanks(5)
    states[0, 0], states[0, -1] = 0.0, torch.tensor([1.0, 0.0])
    s, a = integrator().fill(states, actions).draw(10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(s[:, :, 1:], s[:, :, :-1] @ A.mT + a @ B.mT, rtol=0, atol=1e-8)
    assert float(a.std(0).min()) > 0.01


def test_coefficients_and_noise_are_found_again():
    world = random_world(0)
    generator = torch.Generator().manual_seed(1)
    s, rows = torch.zeros(1000, 3).double(), [torch.zeros(1000, 3).double()]
    acts = (
        torch.randn(1000, 50, 2, generator=generator).double() @ world.action_covariance + world.action_mean
    )
    for t in range(50):
        s = world.draw(s, acts[:, t], generator)
        rows.append(s)
    steps = transitions(episodes((torch.stack(rows, 1).numpy(), acts.numpy())))
    found = LinearGaussian(3, 2).fit(steps)
    for name in ("a", "b", "c", "noise"):
        torch.testing.assert_close(getattr(found, name), getattr(world, name), rtol=0.02, atol=0.03)


def test_log_prob_is_the_gaussians_and_draws_have_its_moments():
    world, generator = random_world(2), torch.Generator().manual_seed(0)
    s, a, after = (torch.randn(5, k, generator=generator).double() for k in (3, 2, 3))
    law = torch.distributions.MultivariateNormal(world.mean(s, a), world.noise)
    torch.testing.assert_close(world.log_prob(s, a, after), law.log_prob(after))
    drawn = world.draw(s.expand(20000, 5, 3), a.expand(20000, 5, 2), generator)
    mean, deviation = world.moments(s, a)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.03, atol=0)
