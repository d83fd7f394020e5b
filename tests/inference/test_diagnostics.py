"""How the ELBO splits, which units are used, what the latents know of the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models_for_tests import generator, linear_model, plain_model, shaken, some_seen
from torch import Tensor

from abduce.data.schema import Schema
from abduce.distributions.posteriors import DiagonalNormal
from abduce.fit.bounds import ELBO
from abduce.inference.diagnostics import diagnose
from abduce.models.build import build_vae
from abduce.models.choice import Choice


def binary_rows(n: int = 12) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 2, size=(n, 4)).astype(float))


def a_model(**kw):
    schema = Schema.infer(binary_rows(50).numpy(), "binary")
    torch.manual_seed(0)
    return shaken(build_vae(schema, Choice(2, (6,), components=3, **kw)).double(), 0.3)


@pytest.mark.parametrize("arguments", [{}, {"prior": "mixture"}, {"posterior": "full"}, {"posterior": "iaf"}])
def test_the_split_is_that_of_the_elbo(arguments):
    model, x = a_model(**arguments), binary_rows()
    found = diagnose(model, x, samples=2000)
    assert found.reconstruction - found.kl == pytest.approx(found.elbo, abs=1e-12)
    with torch.no_grad():
        many = [ELBO(samples=2000)(model, x, None, 1.0, generator(s)) for s in (1, 2)]
    for name, value in (("elbo", "value"), ("reconstruction", "reconstruction"), ("kl", "kl")):
        expected = torch.stack([getattr(bound, value).mean() for bound in many]).mean().item()
        assert getattr(found, name) == pytest.approx(expected, abs=0.04)
    assert found.mutual_information is None
    assert found.marginal_kl is None


def test_units_kls_have_a_closed_form_and_add_up():
    model, x = a_model(), binary_rows()
    found = diagnose(model, x)
    q = model.posterior(x)
    closed = 0.5 * (q.mean.square() + torch.exp(2 * q.log_scale) - 1 - 2 * q.log_scale).mean(0)
    assert found.kl_per_unit == pytest.approx(closed.tolist(), abs=1e-12)
    assert sum(found.kl_per_unit) == pytest.approx(found.kl, abs=1e-12)
    assert found.activity == pytest.approx(q.mean.var(0, correction=0).tolist(), abs=1e-12)
    for other in ({"prior": "mixture"}, {"posterior": "full"}):
        assert diagnose(a_model(**other), x).kl_per_unit is None


def test_a_dead_unit_is_not_counted():
    model, x = a_model(), binary_rows()
    last = model.encoder.net[-1]
    with torch.no_grad():
        last.weight[1], last.bias[1] = 0.0, 3.0  # far from the prior, and the same for every row
        last.weight[3], last.bias[3] = 0.0, 0.0
    found = diagnose(model, x)
    assert found.active_units == 1
    assert found.activity[0] > 0.02
    assert found.activity[1] < 1e-12
    assert found.kl_per_unit[1] == pytest.approx(4.5)
    with torch.no_grad():
        last.bias[1] = 0.0
    assert diagnose(model, x).kl_per_unit[1] == pytest.approx(0.0, abs=1e-12)


def test_layers_are_counted_unit_by_unit():
    schema = Schema.infer(binary_rows(50).numpy(), "binary")
    torch.manual_seed(0)
    model = build_vae(schema, Choice((2, 3), (6,), posterior="top_down")).double()
    found = diagnose(model, binary_rows(), surgery=True)
    assert len(found.activity) == 5
    assert found.kl_per_unit is None
    assert found.mutual_information <= math.log(12)


# ---------------------------------------------------------------- the KL's two parts


class Given(torch.nn.Module):
    """A model whose posterior of row n, whose first cell says n, is set by hand."""

    def __init__(self, mean: Tensor, log_scale: Tensor):
        super().__init__()
        model, _ = plain_model(k=mean.shape[1])
        self.model, self.prior, self.likelihood = model, model.prior, model.likelihood
        self.noise_dim = mean.shape[1]
        self.mean, self.log_scale = mean, log_scale

    def posterior(self, x, observed=None):
        index = x[:, 0].long()
        return DiagonalNormal(self.mean[index], self.log_scale[index])


def numbered(n: int) -> Tensor:
    return torch.arange(n).double().unsqueeze(1).repeat(1, 4)


def brute_information(mean: Tensor, log_scale: Tensor) -> float:
    """I(x; z) of one latent on a grid: the entropy of the mixture less the mean of the entropies."""
    z = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    scale = log_scale.exp()
    parts = torch.exp(-0.5 * ((z - mean) / scale).square()) / (scale * math.sqrt(2 * math.pi))
    q = parts.mean(0)
    entropy = -float(torch.special.xlogy(q, q).sum() * (z[1] - z[0]))
    return entropy - float((0.5 * math.log(2 * math.pi * math.e) + log_scale).mean())


@pytest.mark.parametrize("apart", [0.3, 1.0, 3.0])
def test_mutual_information_against_a_grid(apart):
    n = 300  # more rows than a chunk holds
    mean = apart * torch.randn(n, 1, generator=generator(), dtype=torch.float64)
    log_scale = 0.2 * torch.randn(n, 1, generator=generator(1), dtype=torch.float64) - 0.5
    exact = brute_information(mean, log_scale)
    values = [
        diagnose(Given(mean, log_scale), numbered(n), samples=1, surgery=True, seed=s) for s in range(10, 18)
    ]
    found = np.array([v.mutual_information for v in values])
    assert found.std() < 0.1  # every row has noise of its own
    assert found.mean() == pytest.approx(exact, abs=4 * found.std() / math.sqrt(8) + 1e-3)
    for v in values:
        assert v.mutual_information + v.marginal_kl == pytest.approx(v.kl, abs=1e-12)
        assert v.mutual_information <= math.log(n) + 1e-12


def test_mutual_information_at_its_ends():
    rows = 20
    same = Given(torch.full((rows, 2), 0.7).double(), torch.full((rows, 2), -0.3).double())
    found = diagnose(same, numbered(rows), surgery=True)
    assert found.mutual_information == pytest.approx(0.0, abs=1e-12)  # nothing is known of the row
    assert found.marginal_kl == pytest.approx(found.kl, abs=1e-12)
    assert found.active_units == 0
    far = Given(100.0 * numbered(rows)[:, :2], torch.zeros(rows, 2).double())
    found = diagnose(far, numbered(rows), surgery=True)
    assert found.mutual_information == pytest.approx(math.log(rows), abs=1e-9)  # which row it is, and no more
    assert found.active_units == 2


@pytest.mark.parametrize("posterior", ["diagonal", "full", "iaf"])
def test_surgery_of_every_posterior(posterior):
    model, x = a_model(posterior=posterior), binary_rows()
    found = diagnose(model, x, samples=4, surgery=True)
    assert found.mutual_information <= math.log(len(x)) + 1e-12
    q = model.posterior(x)
    with torch.no_grad():
        z, own = q.draw(torch.randn(400, len(x), 2, generator=generator(), dtype=torch.float64))
        every = q.log_prob(z.reshape(-1, 1, 2).expand(-1, len(x), -1)).view(400, len(x), len(x))
        brute = own - torch.logsumexp(every, -1) + math.log(len(x))
    error = float(brute.mean(0).var().sqrt() + brute.std(0).mean()) / math.sqrt(len(x))
    assert abs(found.mutual_information - float(brute.mean())) < 4 * error


def test_blanks_and_a_linear_path():
    model, path, x = linear_model(components=2)
    seen = some_seen(x)
    found = diagnose(model, x * seen, seen, samples=64, surgery=True)
    assert found.elbo == pytest.approx(float(path.log_prob(x * seen, seen).mean()), abs=2e-3)  # q is exact
    assert found.kl_per_unit is None
    assert 0 < found.mutual_information <= math.log(len(x))
    assert found.active_units == 2
