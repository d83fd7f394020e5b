"""Gaussian processes against scikit-learn's, autograd, their own members, and worlds whose noise is known."""

import math

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from test_world_ensemble import check_jacobian, walks

from abduce.world import gaussian_process, gaussian_process_fit
from abduce.world.episodes import transitions
from abduce.world.gaussian_process import GaussianProcess
from abduce.world.gaussian_process_fit import fit_process


def random_model(points=7, members=4):
    torch.manual_seed(0)
    model = GaussianProcess(3, 2, points, members)
    for name in ("centre", "path", "offset", "places", "weights", "drawn"):
        buffer = model.get_buffer(name)
        buffer.copy_(torch.randn_like(buffer))
    for name in ("scale", "step", "rates", "power", "sigma"):
        buffer = model.get_buffer(name)
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    kernel = model.kernel(model.places)
    model.root.copy_(torch.linalg.inv(torch.linalg.cholesky(kernel)))
    return model


def rows(*lead):
    return torch.randn(*lead, 3).double(), torch.randn(*lead, 2).double()


def theirs(steps, model, j=0, **kw):
    """scikit-learn's process of an output beside the same linear path, and its inputs."""
    z = (torch.cat([steps.state, steps.action], 1) - model.centre) / model.scale
    rest = (steps.after - steps.state) / model.step - (z @ model.path.mT + model.offset)
    lengths = (1 / model.rates[j]).tolist()
    kernel = ConstantKernel(float(model.power[j]), (1e-6, 900)) * RBF(lengths, (0.1, 100.0))
    kernel = kernel + WhiteKernel(float(model.sigma[j]) ** 2, (1e-6, 9.0))
    return GaussianProcessRegressor(kernel, alpha=0.0, **kw).fit(z, rest[:, j]), z, rest


def test_the_jacobian_is_autograds_and_zero_where_the_mean_is_clamped(monkeypatch):
    monkeypatch.setattr(gaussian_process, "CELLS", 100)  # several chunks
    model = random_model()
    s, a = rows(6, 7)
    check_jacobian(model, s, a)


def test_rows_are_answered_alike_whatever_the_chunk_and_the_axes(monkeypatch):
    model = random_model()
    s, a = rows(5, 8)
    whole = [model.mean(s, a), *model.moments(s, a), model.log_prob(s, a, s + 0.1), *model.jacobian(s, a)]
    monkeypatch.setattr(gaussian_process, "CELLS", 3 * 7 * 3)
    parts = [model.mean(s, a), *model.moments(s, a), model.log_prob(s, a, s + 0.1), *model.jacobian(s, a)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(model.mean(s, a)[2, 3], model.mean(s[2, 3], a[2, 3]))
    broad = model.mean(s[:, :1], a)  # a start for several actions
    torch.testing.assert_close(broad[:, 4], model.mean(s[:, 0], a[:, 4]))


def test_log_prob_is_that_of_the_mixture_of_members_and_draws_come_from_it():
    model = random_model()
    s, a = rows(5)
    after = torch.randn(5, 3).double()
    each = torch.stack([model.mean(s, a, torch.full((5,), m)) for m in range(4)])
    spread = model._mixture(s, a)[2]
    normal = torch.distributions.Normal(each, spread)
    mixture = normal.log_prob(after).sum(-1).logsumexp(0) - math.log(4)
    torch.testing.assert_close(model.log_prob(s, a, after), mixture)
    torch.testing.assert_close(model.disagreement(s, a), each.std(0, correction=0))
    got = model.draw(s.expand(40000, 5, 3), a.expand(40000, 5, 2), torch.Generator().manual_seed(0))
    deviation = model.moments(s, a)[1]
    torch.testing.assert_close(got.mean(0), each.mean(0), rtol=0, atol=float(5 * deviation.max() / 200))
    torch.testing.assert_close(got.std(0), deviation, rtol=0.02, atol=0)


def test_the_posterior_is_scikit_learns(monkeypatch):
    """With every step a point; members' spread and what is left open are the variance that scikit-learn has."""
    monkeypatch.setattr(gaussian_process_fit, "OPEN", 0.0)
    monkeypatch.setattr(gaussian_process_fit, "MEMBERS", 4000)
    steps = transitions(walks(4, 30, 0.05))
    model = fit_process(steps, 0)
    model.low.fill_(-torch.inf), model.high.fill_(torch.inf)
    assert len(model.places.unique(dim=0)) == len(steps.state)
    other, _, _ = theirs(steps, model, optimizer=None)
    s = torch.linspace(-3, 3, 50).double().unsqueeze(1)
    a = torch.linspace(1, -1, 50).double().unsqueeze(1)
    z = (torch.cat([s, a], 1) - model.centre) / model.scale
    mean, deviation = (torch.as_tensor(x) for x in other.predict(z, return_std=True))
    linear = (z @ model.path.mT + model.offset)[:, 0]
    torch.testing.assert_close(
        model.mean(s, a)[:, 0], s[:, 0] + model.step * (linear + mean), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(model.moments(s, a)[1][:, 0], model.step * deviation, rtol=0.05, atol=0)


def test_the_likelihood_is_as_great_as_scikit_learn_finds_it():
    steps = transitions(walks(5, 40, 0.02, reach=3.0))
    model = fit_process(steps, 0)
    assert float(model.power) > 0.01
    ours = theirs(steps, model, optimizer=None)[0].log_marginal_likelihood_value_
    best = theirs(steps, model, n_restarts_optimizer=3, random_state=0)[0].log_marginal_likelihood_value_
    assert ours > best - 0.5


def test_few_points_say_what_all_steps_do(monkeypatch):
    steps = transitions(walks(5, 50, 0.03, reach=3.0))
    few = fit_process(steps, 0)
    monkeypatch.setattr(gaussian_process_fit, "OPEN", 0.0)
    many = fit_process(steps, 0)
    assert len(few.places) < 60 < len(many.places.unique(dim=0)) == 250
    gap = few.mean(steps.state, steps.action) - many.mean(steps.state, steps.action)
    assert float(gap.abs().max()) < 0.3 * float(few.step * few.sigma)


def test_noise_is_found_and_doubt_grows_where_no_data_were():
    steps = transitions(walks(20, 50, 0.05))
    model = fit_process(steps, 0)
    assert float(model.step * model.sigma) == pytest.approx(0.05, rel=0.1)
    s = torch.linspace(-0.6, 0.6, 30).double().unsqueeze(1)
    a = torch.zeros(30, 1).double()
    truth = s - 0.3 * torch.sin(2 * s)
    assert float((model.mean(s, a) - truth).abs().mean()) < 0.01
    model.low.fill_(-torch.inf), model.high.fill_(torch.inf)
    near, far = (model.moments(s + shift, a)[1].mean() for shift in (0.0, 4.0))
    assert float(near) == pytest.approx(0.05, rel=0.15)
    assert far > 3 * near
    torch.testing.assert_close(  # far away the linear path is left
        model.mean(s + 40.0, a), s + 40.0 + model.step * model._linear(model._inputs(s + 40.0, a)[0])
    )


@pytest.mark.parametrize("what", ["never seen", "constant", "twice", "few", "choices"])
def test_steps_of_any_kind_are_fitted(what):
    steps = transitions(walks(3, 30, 0.02))
    state = torch.cat([steps.state, steps.state.square()], 1)
    after = torch.cat([steps.after, steps.after.square()], 1)
    if what == "never seen":
        after[:, 1] = torch.nan
    elif what == "constant":
        state[:, 1] = after[:, 1] = 3.0
    steps = steps._replace(state=state, after=after)
    if what == "twice":
        steps = type(steps)(*(torch.cat([part, part]) for part in steps))
    elif what == "few":
        steps = type(steps)(*(part[:3] for part in steps))
    elif what == "choices":
        steps = steps._replace(action=torch.eye(3).double()[torch.arange(len(state)) % 3])
    model = fit_process(steps, 0)
    for found in (model.mean(steps.state, steps.action), *model.moments(steps.state, steps.action)):
        assert bool(found.isfinite().all())
    if what == "constant":
        assert torch.allclose(
            model.mean(steps.state, steps.action)[:, 1], torch.tensor(3.0).double(), atol=1e-3
        )
    gap = (model.mean(steps.state, steps.action) - steps.after)[:, 0]
    assert float(gap.abs().mean()) < 0.1


def test_what_is_written_to_is_what_is_asked():
    model, other = random_model(), random_model()
    s, a = rows(4)
    before = model.mean(s, a)
    other.rates.mul_(2.0)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model.mean(s, a), other.mean(s, a))
    assert not torch.allclose(model.mean(s, a), before)


def test_blank_targets_do_not_count_and_the_same_seed_gives_the_same_numbers():
    steps = transitions(walks(6, 40, 0.02))
    torn = steps._replace(after=steps.after.clone())
    torn.after[::5] = float("nan")
    wrong = steps._replace(after=steps.after.clone())
    wrong.after[::5] = 9.0
    models = [fit_process(x, 3) for x in (torn, torn, wrong)]
    s, a = steps.state, steps.action
    assert torch.equal(models[0].mean(s, a), models[1].mean(s, a))
    good = (models[0].mean(s, a) - steps.after).abs().mean()
    assert float(good) < 0.1 * float((models[2].mean(s, a) - steps.after).abs().mean())
