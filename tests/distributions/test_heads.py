"""Heads: from a decoder's output to distributions, one family of cells at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abduce.data.fields import Field
from abduce.distributions.heads import (
    BernoulliHead,
    BetaBinomialHead,
    CategoricalHead,
    ContinuousBernoulliHead,
    CountHead,
    NumberHead,
    OrdinalHead,
    PixelHead,
)
from abduce.distributions.likelihoods import Cells, Likelihood, Product
from abduce.distributions.pixels import DiscretizedLogisticMixture


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(n: int, kind: str = "real", means=None, variances=None, scale: str = "cell", **field) -> Cells:
    """Cells of one kind, as a head is made for them."""
    fields = [Field(f"x{i}", kind, "float64", **field) for i in range(n)]
    means, variances = (None if v is None else torch.tensor(v) for v in (means, variances))
    return Cells(fields, means, variances, scale)


def classes(*sizes: int) -> Cells:
    return Cells([Field("x", "ordinal", "int64", categories=tuple(range(size))) for size in sizes])


GREYS = Cells([Field("g", "pixel", "uint8", scale=8.0, denominator=1, low=0.0, high=16.0)] * 2, components=3)


@pytest.mark.parametrize("law", ["gaussian", "laplace", "student_t"])
@pytest.mark.parametrize("scale", ["shared", "cell", "network"])
def test_scales_keep_their_floor(scale, law):
    head = NumberHead(law, cells(3, scale=scale)).double()
    head.floor = 0.2
    with torch.no_grad():
        head.raw_scale.fill_(-50.0)
    h = normal(4, head.n_parameters)
    law = head(h)
    torch.testing.assert_close(law.moments().squeeze(-1), h[:, :3])
    torch.testing.assert_close(law.scale, torch.full((4, 3), 0.2).double(), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        head.raw_scale.fill_(1.0)
    assert (head(h).scale > 0.2).all()
    if scale == "network":
        assert head(h).scale.std() > 0
    else:
        assert head(h).scale.unique().numel() == 1
    assert torch.equal(head.point(law.moments()), h[:, :3])


@pytest.mark.parametrize("law", ["gaussian", "laplace", "student_t"])
def test_scale_must_be_known(law):
    with pytest.raises(ValueError, match="scale must be 'shared', 'cell' or 'network', got 'row'"):
        NumberHead(law, cells(2, scale="row"))


@pytest.mark.parametrize("extreme", [-1e4, 0.0, 1e4])
def test_degrees_of_freedom_leave_a_variance(extreme):
    head = NumberHead("student_t", cells(2, "pixel", denominator=4))
    assert head.floor == 0.125
    torch.testing.assert_close(head.df, torch.full((2,), 8.0))
    with torch.no_grad():
        head.log_df.fill_(extreme)
    law = head(torch.zeros(1, 2))
    assert (law.df > 2).all()
    assert torch.isfinite(law.gaussian().scale).all()
    assert torch.isfinite(law.log_prob(torch.tensor([[0.0, 50.0]]))).all()


def test_categorical_softmax_over_legal_classes():
    head = CategoricalHead("categorical", classes(2, 4)).double()
    h = normal(3, head.n_parameters)
    p = head(h).moments()
    torch.testing.assert_close(p[:, 0, :2], torch.softmax(h.view(3, 2, 4)[:, 0, :2], -1))
    torch.testing.assert_close(p[:, 1], torch.softmax(h.view(3, 2, 4)[:, 1], -1))
    assert (p[:, 0, 2:] == 0).all()
    assert head.point(p).max() < 4


@given(st.lists(st.integers(2, 7), min_size=1, max_size=4), st.integers(0, 1000), st.floats(-30, 30))
def test_ordinal_is_a_distribution_and_moves_with_its_location(sizes, seed, location):
    head = OrdinalHead("ordinal", classes(*sizes)).double()
    with torch.no_grad():
        head.gaps.copy_(normal(*head.gaps.shape, seed=seed))
    d = len(sizes)
    p = head(torch.full((1, d), location, dtype=torch.float64)).moments()[0]
    torch.testing.assert_close(p.sum(-1), torch.ones(d).double())
    for i, size in enumerate(sizes):
        assert (p[i, size:] == 0).all()
        # P(x ≤ k) = σ(t_k − location)
        thresholds = torch.cat([head.first[i : i + 1], torch.nn.functional.softplus(head.gaps[i])]).cumsum(0)
        expected = torch.sigmoid(thresholds[: size - 1] - location)
        torch.testing.assert_close(p[i].cumsum(0)[: size - 1], expected, atol=2e-6, rtol=0)
    codes = torch.arange(p.shape[-1]).double()
    higher = head(torch.full((1, d), location + 0.5, dtype=torch.float64)).moments()[0]
    assert ((higher * codes).sum(-1) >= (p * codes).sum(-1)).all()  # a higher location, higher codes


@pytest.mark.parametrize("location", [-200.0, 0.0, 200.0])
def test_ordinal_is_finite_far_out(location):
    head = OrdinalHead("ordinal", classes(2, 5, 3))
    h = torch.full((1, 3), location, requires_grad=True)
    codes = torch.tensor([[1.0, 4.0, 0.0]])
    value = head(h).log_prob(codes)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


GRADED = [[0.1, 0.2, 0.4, 0.3], [0.6, 0.3, 0.1]]


def graded(shares=GRADED) -> Cells:
    levels = [
        Field(f"g{i}", "ordinal", "int64", categories=tuple(range(len(p)))) for i, p in enumerate(shares)
    ]
    return Cells(levels, shares=shares)


@torch.no_grad()
def beside_path(head, z: torch.Tensor) -> torch.Tensor:
    """Shares of levels at latents z (n, 1), of a head that starts at a path with loadings .8 and -.6 of unit variance."""
    W = torch.tensor([[0.8], [-0.6]], dtype=torch.float64)
    weight, bias = head.start(W, torch.zeros(2, dtype=torch.float64), 1 - W.square().squeeze(1))
    return head(z @ weight.mT + bias).moments()


def test_grades_start_as_what_a_path_with_cut_points_says_of_them():
    """Known answer: P(x ≤ k | z) = Φ((Φ⁻¹(P(x ≤ k)) − w z) / √D), of which a logistic of scale 1/1.7 is within .01."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    found = beside_path(OrdinalHead("ordinal", graded()).double(), z)
    for i, w in enumerate((0.8, -0.6)):
        cuts = torch.special.ndtri(torch.tensor(GRADED[i], dtype=torch.float64).cumsum(0)[:-1])
        below = torch.special.ndtr((cuts - w * z) / (1 - w * w) ** 0.5)
        torch.testing.assert_close(found[:, i, : len(cuts)].cumsum(1), below, atol=0.012, rtol=0)


def test_grades_as_classes_start_as_what_a_path_says_of_them():
    """A level's share is tilted by the density of its place: N(s; w z, D) / N(s; 0, 1), whose z ~ N(0, 1) average is one."""
    z = normal(200_000, 1, seed=3)
    found = beside_path(CategoricalHead("categorical", graded()).double(), z)
    for i, w in enumerate((0.8, -0.6)):
        p = torch.tensor(GRADED[i], dtype=torch.float64)
        codes = torch.arange(len(p), dtype=torch.float64)
        s = (codes - p @ codes) / (p @ codes.square() - (p @ codes) ** 2).sqrt()
        D = 1 - w * w
        log = p.log() - (s - w * z).square() / (2 * D) + s.square() / 2
        torch.testing.assert_close(found[:, i, : len(p)], torch.softmax(log, 1))


def test_counts_start_at_their_means():
    head = CountHead("negative_binomial", cells(2, "count", [2.0, 40.0]))
    law = head(torch.zeros(1, 2))
    torch.testing.assert_close(law.moments().squeeze(-1), torch.tensor([[2.0, 40.0]]))
    assert head.point(torch.tensor([[[2.4], [39.6]]])).tolist() == [[2.0, 40.0]]
    extreme = head(torch.tensor([[1e4, -1e4]])).log_prob(torch.tensor([[3.0, 3.0]]))
    assert torch.isfinite(extreme).all()


def test_rates_and_shares_start_at_their_means():
    poisson = CountHead("poisson", cells(2, "count", [0.5, 40.0]))
    torch.testing.assert_close(poisson(torch.zeros(1, 2)).moments().squeeze(-1), torch.tensor([[0.5, 40.0]]))
    assert poisson.point(torch.tensor([[[2.4], [39.6]]])).tolist() == [[2.0, 40.0]]
    # binomial with n = 10, p = 0.3 has variance 2.1; of 6.3 half the excess is left: a ratio of 2
    bounded = BetaBinomialHead("beta_binomial", cells(2, "count", [3.0, 3.0], [6.3, 2.1], high=10.0))
    law = bounded(torch.zeros(1, 2))
    torch.testing.assert_close(law.moments().squeeze(-1), torch.tensor([[3.0, 3.0]]))
    assert law.gaussian().variance()[0, 0].item() == pytest.approx(4.2)
    assert law.log_concentration[0, 1].item() == pytest.approx(math.log(1000))  # as narrow as a binomial
    assert bounded.point(torch.tensor([[[2.4], [9.6]]])).tolist() == [[2.0, 10.0]]
    pixels = BetaBinomialHead("beta_binomial", GREYS)
    assert pixels(torch.zeros(1, 2)).moments().abs().max() == 0
    assert pixels.point(torch.tensor([[[0.24], [0.5]]])).tolist() == [[pytest.approx(0.24), 0.5]]
    for head in (poisson, bounded, pixels):
        value = head(torch.tensor([[1e4, -1e4]])).log_prob(torch.tensor([[1.0, 1.0]]))
        assert torch.isfinite(value).all()


def test_grey_is_where_shares_of_light_start():
    head = ContinuousBernoulliHead("continuous_bernoulli", GREYS)
    law = head(torch.zeros(1, 2))
    assert law.moments().abs().max() == 0
    assert law.log_prob(torch.zeros(1, 2)).item() == pytest.approx(2 * math.log(1 / 16))
    assert head.point(torch.tensor([[[0.25], [0.5]]])).tolist() == [[0.25, 0.5]]


def test_only_bounded_counts_have_limits():
    high = Cells([Field("a", "count", "int64", high=4.0), Field("b", "count", "int64", high=9.0)])
    heads = [
        ([0, 2], BetaBinomialHead("beta_binomial", high)),
        ([1], NumberHead("gaussian", cells(1))),
        ([3], CountHead("poisson", cells(1, "count"))),
    ]
    assert Likelihood(heads, 4).limits().tolist() == [4.0, math.inf, 9.0, math.inf]
    assert Likelihood([([0, 1], BetaBinomialHead("beta_binomial", GREYS))], 2).limits().min() == math.inf


def test_pixels_start_spread_over_the_range():
    head = PixelHead("discretized_logistic_mixture", GREYS)
    law = head(torch.zeros(1, head.n_parameters))
    assert law.loc.shape == (1, 3, 2)
    np.testing.assert_allclose(law.loc[0, :, 0].detach(), [-0.8, 0.0, 0.8], atol=1e-6)
    torch.testing.assert_close(law.gaussian().mean, torch.zeros(1, 2), atol=1e-6, rtol=0)
    one = PixelHead("discretized_logistic", GREYS)
    assert one(torch.zeros(1, one.n_parameters)).loc.abs().max() == 0
    assert head.point(torch.tensor([[[0.25], [0.5]]])).tolist() == [[0.25, 0.5]]


@pytest.mark.parametrize("name", ["stopped_logistic", "stopped_logistic_mixture"])
def test_stops_start_with_what_the_linear_path_has_beyond_them(name):
    """At z = 0 but for odds beyond e⁸, and nearby to first order: with the probabilities of the open logistic."""
    head = PixelHead(name, GREYS).double()
    W, b, noise = (
        torch.tensor([[0.3], [-0.2]]).double(),
        torch.tensor([-0.9, 0.6]).double(),
        torch.tensor([0.1, 0.2]).double(),
    )
    with torch.no_grad():
        weight, bias = head.start(W, b, noise)
        for z, tolerance in ((0.0, 5e-4), (0.3, 0.01)):
            law = head((weight @ torch.tensor([z]).double() + bias)[None])
            open_ = DiscretizedLogisticMixture(law.logits, law.loc, law.log_scale, law.levels)
            one = law.logits.shape[-2] == 1
            got, wanted = law.probabilities(), open_.probabilities()
            torch.testing.assert_close(got.sum(-1), wanted.sum(-1))
            if one:
                torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)
    two = Cells([Field("g", "pixel", "uint8", scale=0.5, denominator=1, low=0.0, high=1.0)] * 2)
    assert PixelHead("stopped_logistic", two).stops == 0  # nothing lies between


def mixed() -> Likelihood:
    heads = [
        ([0, 4], NumberHead("gaussian", cells(2))),
        ([2], BernoulliHead("bernoulli", cells(1, "binary"))),
        ([1, 5], CategoricalHead("categorical", classes(3, 2))),
        ([3], OrdinalHead("ordinal", classes(4))),
        ([6], CountHead("negative_binomial", cells(1, "count", [3.0]))),
    ]
    return Likelihood(heads, 7).double()


def test_a_row_is_the_product_of_its_heads():
    row = mixed()
    assert row.n_parameters == 2 + 1 + 6 + 1 + 1
    h = normal(3, row.n_parameters)
    law = row(h)
    assert isinstance(law, Product)
    x = law.sample(torch.Generator().manual_seed(0))
    pieces = h.split([2, 1, 6, 1, 1], -1)
    cells = [[0, 4], [2], [1, 5], [3], [6]]
    assert row.cells() == cells
    parts = [head(p).log_prob(x[:, c]) for head, p, c in zip(row.heads, pieces, cells, strict=True)]
    torch.testing.assert_close(law.log_prob(x), sum(parts))
    point = row.point(law.moments())
    torch.testing.assert_close(point[:, [0, 4]], h[:, :2])
    assert (point[:, 1] == pieces[2].view(3, 2, 3)[:, 0].argmax(-1)).all()
    assert (point[:, 2] == (pieces[1][:, 0] >= 0)).all()
    assert (point[:, [3, 6]] == point[:, [3, 6]].round()).all()


def test_one_head_over_all_cells_is_not_copied():
    whole = Likelihood([([0, 1, 2], BernoulliHead("bernoulli", cells(3, "binary")))], 3)
    h = torch.randn(2, 3)
    assert whole(h).parts[0][1].logits is h
    assert whole.cells() == [[0, 1, 2]]
    assert whole.point(whole(h).moments()).shape == (2, 3)
    assert math.prod(whole(h).sample().shape) == 6
