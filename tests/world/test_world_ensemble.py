"""The ensemble against autograd, its own members, and worlds whose noise and doubt are known."""

import math

import numpy as np
import pytest
import torch

from abduce.world.calibration import Calibration, calibrate, coverage
from abduce.world.ensemble import Ensemble
from abduce.world.ensemble_fit import EnsembleTraining, bootstraps, fit_ensemble
from abduce.world.episodes import Episode, transitions
from abduce.world.rollout import drawn
from abduce.world.transitions import derivatives

QUICK = EnsembleTraining(members=3, hidden=(16, 16), updates=300)


def random_model(hidden=(8, 8), seed=0):
    torch.manual_seed(seed)
    model = Ensemble(3, 2, members=4, hidden=hidden)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
        model.centre.copy_(torch.randn(5))
        model.scale.copy_(torch.rand(5) + 0.5)
        model.step.copy_(torch.rand(3) + 0.5)
        model.path.copy_(torch.randn(3, 5))
        model.offset.copy_(torch.randn(3))
    return model.double().eval().requires_grad_(False)


def check_jacobian(model, s, a):
    """Autograd's, and zero where the mean is clamped."""
    free = model.mean(s, a)
    low, high = torch.quantile(free.flatten(0, 1), torch.tensor([0.2, 0.8]).double(), dim=0)
    for ends in ((-torch.inf, torch.inf), (low, high)):
        model.low.copy_(torch.as_tensor(ends[0])), model.high.copy_(torch.as_tensor(ends[1]))
        by_state, by_action = model.jacobian(s, a)
        expected = derivatives(model.mean, s, a)
        torch.testing.assert_close(by_state, expected[0])
        torch.testing.assert_close(by_action, expected[1])
    assert float((by_state == 0).all(-1).double().mean()) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("hidden", [(8,), (8, 6), (5, 6, 7)])
def test_the_jacobian_is_autograds_and_zero_where_the_mean_is_clamped(hidden):
    model = random_model(hidden)
    s, a = torch.randn(6, 7, 3).double(), torch.randn(6, 7, 2).double()
    check_jacobian(model, s, a)


def test_the_mean_is_the_average_of_members_and_what_trains_is_what_is_asked():
    model = random_model()
    s, a = torch.randn(9, 3).double(), torch.randn(9, 2).double()
    each = torch.stack([model.mean(s, a, torch.full((9,), m)) for m in range(4)])
    torch.testing.assert_close(model.mean(s, a), each.mean(0))
    z = (torch.cat([s, a], 1) - model.centre) / model.scale
    torch.testing.assert_close(s + model.differences(z) * model.step, each)
    some = model.some(slice(1, 3)).double()
    torch.testing.assert_close(some.means(s, a), each[1:3])
    torch.testing.assert_close(model.disagreement(s, a), each.std(0, correction=0))


def test_log_prob_is_that_of_the_mixture_and_draws_come_from_it():
    model = random_model()
    s, a, after = torch.randn(5, 3).double(), torch.randn(5, 2).double(), torch.randn(5, 3).double()
    normal = torch.distributions.Normal(model.means(s, a), model.sigma.unsqueeze(1))
    mixture = normal.log_prob(after).sum(-1).logsumexp(0) - math.log(4)
    torch.testing.assert_close(model.log_prob(s, a, after), mixture)
    drawn_ = model.draw(s.expand(40000, 5, 3), a.expand(40000, 5, 2), torch.Generator().manual_seed(0))
    mean, deviation = model.moments(s, a)
    torch.testing.assert_close(drawn_.mean(0), mean, rtol=0, atol=float(5 * deviation.max() / 200))
    torch.testing.assert_close(drawn_.std(0), deviation, rtol=0.02, atol=0)


def walks(n, steps, noise, seed=0, reach=1.0):
    """Episodes of s' = s + .3 sin(2 s) + .2 a + noise."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        acts = rng.uniform(-1, 1, (steps, 1))
        s = [rng.uniform(-reach, reach, 1)]
        for a in acts:
            s.append(s[-1] + 0.3 * np.sin(2 * s[-1]) * (-1) + 0.2 * a + noise * rng.normal(size=1))
        out.append(Episode(np.stack(s), acts))
    return out


def room(n, seed=0, corner=False):
    """Steps s' = s + .1 a that end at the walls of a room, none of them from its corner, or all."""
    rng = np.random.default_rng(seed)
    s = rng.uniform(-1, 1, (4 * n, 2))
    s = s[((s > 0).all(1) if corner else ~(s > -0.2).all(1))][:n]
    a = rng.uniform(-1, 1, (len(s), 2))
    after = np.clip(s + 0.1 * a, -1, 1)
    return [Episode(np.stack(pair), act[None]) for *pair, act in zip(s, after, a, strict=True)]


def test_where_nothing_was_seen_a_step_is_a_usual_one_and_doubted():
    seen, unseen = transitions(room(1500)), transitions(room(400, 1, corner=True))
    model = fit_ensemble(seen, EnsembleTraining(updates=600), 0)
    open_ = (unseen.after < 0.999).all(1)
    gap = (model.mean(unseen.state, unseen.action) - unseen.after)[open_]
    assert float(gap.square().mean().sqrt()) < 0.008  # of steps of .06
    doubt = [model.disagreement(x.state, x.action).median() for x in (seen, unseen)]
    assert doubt[1] > 3 * doubt[0]
    assert doubt[1] > 0.25 * gap.square().mean().sqrt()


def test_noise_is_found_and_doubt_grows_where_no_data_were():
    steps = transitions(walks(20, 50, 0.05))
    model = fit_ensemble(steps, EnsembleTraining(members=5, hidden=(32, 32), updates=600), 0)
    assert model.sigma.mean().item() == pytest.approx(0.05, rel=0.15)
    s = torch.linspace(-0.6, 0.6, 30).double().unsqueeze(1)
    a = torch.zeros(30, 1).double()
    truth = s - 0.3 * torch.sin(2 * s)
    assert float((model.mean(s, a) - truth).abs().mean()) < 0.035
    model.low.fill_(-torch.inf), model.high.fill_(torch.inf)
    near = model.disagreement(s, a).mean()
    far = model.disagreement(s + 4.0, a).mean()
    assert far > 5 * near


def test_a_linear_world_is_left_to_the_linear_path():
    rng = np.random.default_rng(1)
    acts = rng.normal(size=(8, 40, 1))
    states = np.zeros((8, 41, 2))
    for t in range(40):
        states[:, t + 1] = states[:, t] @ np.array([[0.9, -0.2], [0.1, 0.8]]) + acts[:, t] * [0.0, 0.5]
    steps = transitions([Episode(s, a) for s, a in zip(states, acts, strict=True)])
    model = fit_ensemble(steps, QUICK, 0)
    gap = model.mean(steps.state, steps.action) - steps.after
    assert float(gap.square().mean().sqrt()) < 0.01 * float((steps.after - steps.state).std())


def test_blank_targets_do_not_count_and_the_same_seed_gives_the_same_numbers():
    steps = transitions(walks(6, 40, 0.02))
    torn = steps._replace(after=steps.after.clone())
    torn.after[::5] = float("nan")
    wrong = steps._replace(after=steps.after.clone())
    wrong.after[::5] = 9.0
    models = [fit_ensemble(x, QUICK, 3) for x in (torn, torn, wrong)]
    s, a = steps.state, steps.action
    assert torch.equal(models[0].mean(s, a), models[1].mean(s, a))
    good = (models[0].mean(s, a) - steps.after).abs().mean()
    assert float(good) < 0.1 * float((models[2].mean(s, a) - steps.after).abs().mean())


def test_bootstraps_draw_n_of_n():
    counts = bootstraps(4, 1000, torch.Generator().manual_seed(0))
    assert counts.sum(1).tolist() == [1000.0] * 4
    assert float((counts == 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.03)


def test_spreads_that_are_wrong_are_made_right_by_held_out_rollouts():
    """A model with a third of the noise, calibrated on some walks, covers others as stated."""
    model = fit_ensemble(transitions(walks(20, 50, 0.06)), QUICK, 0)
    model.log_sigma -= math.log(3.0)
    fixed = calibrate([(model, walks(20, 50, 0.06, 5))], 1, 0)

    def ask(calibration):
        def draws(start, acts):
            found = drawn(model, start, acts, 100, torch.Generator().manual_seed(1))[0][:, :, 1:]
            return calibration.stretch(start, found)

        return [float(coverage(draws, walks(40, 50, 0.06, 9), h)) for h in (1, 3, 10, 25)]

    before, after = ask(Calibration.none(1)), ask(fixed)
    assert max(before) < 0.7
    assert all(0.85 <= c <= 0.95 for c in after), after
