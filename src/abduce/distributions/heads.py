"""Heads: modules that turn a decoder's output into a likelihood, one for each sort of cell, and their registry by name.

Columns of one kind share one head, so the cost does not grow with a Python loop over columns.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abduce.distributions.continuous import ContinuousBernoulli, Gaussian, Laplace, RoundedGaussian, StudentT
from abduce.distributions.discrete import Bernoulli, BetaBinomial, Categorical, NegativeBinomial, Poisson
from abduce.distributions.likelihoods import Cells, Head
from abduce.distributions.pixels import DiscretizedLogisticMixture, log_between

SCALES = ("network", "cell", "shared")
FLOOR = 0.05  # smallest noise standard deviation of a numeric cell, in model units
NUMBERS = ("real", "positive", "pixel")


class NumberHead(Head):
    """Numbers by location and scale: locations from the network, noise scale ``"shared"``, per ``"cell"`` or from the
    ``"network"``.

    Scales never fall below a floor (in standard deviations of the data; of Laplace cells it is the mean absolute deviation
    that is not smaller).  Student-t cells learn their degrees of freedom, above 2.1 and 8 at first; their floor is at least
    half the step of a lattice, where the mass of a rounding interval is exact enough.
    """

    fits = {"gaussian": NUMBERS, "student_t": NUMBERS, "laplace": NUMBERS, "lognormal": ("positive",)}
    drawable = ("gaussian", "lognormal", "laplace")

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        if cells.scale not in SCALES:
            raise ValueError(f"scale must be 'shared', 'cell' or 'network', got {cells.scale!r}")
        n = self.n_cells = len(cells.fields)
        self.law, self.scale, self.half_step = name, cells.scale, cells.half
        self.floor = {"laplace": FLOOR / math.sqrt(2), "student_t": max(FLOOR, cells.half)}.get(name, FLOOR)
        self.raw_scale = nn.Parameter(torch.zeros(n if self.scale != "shared" else 1))
        if name == "student_t":
            self.log_df = nn.Parameter(torch.full((n,), math.log(5.9)))
        self.n_parameters = n * (1 + (self.scale == "network"))

    @property
    def df(self) -> Tensor:
        """Degrees of freedom of each Student-t cell."""
        return 2.1 + self.log_df.clamp(-6.0, 6.0).exp()

    def forward(self, h: Tensor) -> Gaussian | RoundedGaussian | Laplace | StudentT:
        loc, raw, log_floor = h[..., : self.n_cells], self.raw_scale, math.log(self.floor)
        if self.scale == "network":
            raw = raw + h[..., self.n_cells :].clamp(-4.0, 4.0)
        scale = torch.exp(log_floor + F.softplus(raw - log_floor)).expand_as(loc)
        if self.law == "student_t":
            return StudentT(loc, scale, self.df, self.half_step)
        if self.law == "laplace":
            return Laplace(loc, scale, self.half_step)
        return RoundedGaussian(loc, scale, self.half_step) if self.half_step else Gaussian(loc, scale)

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        log_floor = math.log(self.floor)
        if self.law == "laplace":
            noise = noise / 2
        elif self.law == "student_t":
            noise = noise * (self.df - 2) / self.df
        above = (0.5 * noise.log() - log_floor).clamp_min(0.02)
        raw = log_floor + torch.log(torch.expm1(above))
        self.raw_scale.copy_(raw if self.scale != "shared" else raw.mean())
        rest = self.n_parameters - self.n_cells
        return F.pad(W, (0, 0, 0, rest)), F.pad(b, (0, rest))


class PixelHead(Head):
    """Pixel cells of some number of grey levels: a discretised mixture of logistics, or one that is cut off at the first and
    the last level, which have masses of their own."""

    fits = {
        "discretized_logistic": ("pixel",),
        "discretized_logistic_mixture": ("pixel",),
        "stopped_logistic": ("pixel",),
        "stopped_logistic_mixture": ("pixel",),
    }

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        n, c = len(cells.fields), cells.components if name.endswith("mixture") else 1
        self.levels, self.components = cells.fields[0].levels or 2, c
        self.stops = 2 if name.startswith("stopped") and self.levels > 2 else 0
        self.n_parameters = (3 * c + self.stops) * n
        spread = torch.linspace(-0.8, 0.8, c) if c > 1 else torch.zeros(1)
        self.spread = nn.Parameter(spread.unsqueeze(-1).expand(-1, n).clone())

    def forward(self, h: Tensor) -> DiscretizedLogisticMixture:
        c = self.components
        logits, loc, log_scale, stops = h.unflatten(-1, (3 * c + self.stops, -1)).split(
            [c, c, c, self.stops], -2
        )
        log_scale = (log_scale - 1.5).clamp(-7.0, 2.0)
        masses = stops if self.stops else None
        return DiscretizedLogisticMixture(logits, loc + self.spread, log_scale, self.levels, masses)

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        # every component follows the path; the later ones are rarer and wider
        self.spread.zero_()
        later = torch.arange(self.components, dtype=b.dtype).unsqueeze(-1)
        log_scale = 0.5 * noise.log() + math.log(math.sqrt(3) / math.pi)
        weight = W.new_zeros(3, self.components, *W.shape)
        weight[1] = W
        logits, loc = (-2.0 * later).expand(-1, len(b)), b.expand(len(later), -1)
        bias = torch.stack([logits, loc, log_scale + 1.5 + 0.7 * later])
        weight, bias = weight.flatten(0, 2), bias.flatten()
        if not self.stops:
            return weight, bias
        # what the path's logistic has beyond the stops, beside what it has between, to first order in its place
        place = b.detach().clone().requires_grad_()
        with torch.enable_grad():
            end, scale = 1 - 1 / (self.levels - 1), log_scale.exp()
            a, c = (-end - place) / scale, (end - place) / scale
            room = log_between(a, c)
            odds = torch.stack([F.logsigmoid(a) - room, F.logsigmoid(-c) - room]).clamp(-8.0, 8.0)
            slopes = torch.stack([torch.autograd.grad(o.sum(), place, retain_graph=True)[0] for o in odds])
        more = slopes.unsqueeze(-1) * W
        return torch.cat([weight, more.flatten(0, 1)]), torch.cat([bias, odds.detach().flatten()])


class ContinuousBernoulliHead(Head):
    """Pixel cells as shares of light."""

    fits = {"continuous_bernoulli": ("pixel",)}

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        self.n_parameters, self.half_step = len(cells.fields), cells.half

    def forward(self, h: Tensor) -> ContinuousBernoulli:
        return ContinuousBernoulli(h, self.half_step)

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        law = self.narrowest(b)
        slope = 0.5 * law.gaussian().variance()  # of the mean in the logit: half the variance
        return W / slope.unsqueeze(-1), law.logits

    def narrowest(self, b: Tensor) -> ContinuousBernoulli:
        """The density of mean b: its logit is coth(η/2) − 2/η inverted, by Cohen's approximation."""
        mean = b.clamp(-0.95, 0.95)
        return ContinuousBernoulli(2 * mean * (3 - mean.square()) / (1 - mean.square()))


class CountHead(Head):
    """Count cells; the network moves the log-mean around the data's.

    The dispersion of the negative binomial is one a column; it starts where half of the counts' variance beyond Poisson's is
    left: r = 2 mean² / (variance − mean), as z explains some of it.
    """

    fits = {"negative_binomial": ("count",), "poisson": ("count",)}
    thinnable = ("negative_binomial", "poisson")
    estimate = "whole"
    log_base: Tensor

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        self.n_parameters, self.law = len(cells.fields), name
        means = torch.ones(self.n_parameters) if cells.means is None else cells.means
        mean = means.clamp_min(1e-2)
        self.register_buffer("log_base", mean.log())
        if name == "negative_binomial":
            beyond = (2.0 * means + 1.0 if cells.variances is None else cells.variances) - mean
            start = (2 * mean.square() / beyond.clamp_min(1e-2)).log()
            self.log_dispersion = nn.Parameter(start.clamp(-2.0, 6.0))

    def forward(self, h: Tensor) -> NegativeBinomial | Poisson:
        log_mean = (self.log_base + h).clamp(-12.0, 15.0)
        if self.law == "poisson":
            return Poisson(log_mean)
        return NegativeBinomial(log_mean, self.log_dispersion.clamp(-6.0, 9.0))

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return W, torch.zeros_like(b)  # counts are read as log(1 + x), whose move moves the log-mean


class BetaBinomialHead(Head):
    """Cells that count up to a known n: counts, up to the largest seen, or grey levels, spread over [−1, 1].

    The network moves the logit of the mean share around the data's, of grey levels around ½.  The concentration is one a
    column; it starts where half of the variance beyond the binomial's is left, as z explains some of it.
    """

    fits = {"beta_binomial": ("pixel", "count")}
    n: Tensor
    base: Tensor

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        self.n_parameters, self.pixels = len(cells.fields), cells.fields[0].kind == "pixel"
        if self.pixels:
            n = torch.tensor([f.levels or 2 for f in cells.fields], dtype=torch.float32) - 1
            share, variances = torch.full_like(n, 0.5), None
        else:  # high is NaN where nothing was seen
            highs = [1 if math.isnan(f.high) else max(1, round(f.high)) for f in cells.fields]
            n = torch.tensor(highs, dtype=torch.float32)
            share, variances = (1.0 if cells.means is None else cells.means) / n, cells.variances
            self.estimate, self.largest = "whole", n.clone()
        share = share.clamp(0.01, 0.99)
        self.register_buffer("n", n, persistent=False)
        self.register_buffer("base", torch.logit(share))
        excess = 4.0 if variances is None else variances / (n * share * (1 - share))
        self.log_concentration = nn.Parameter(self.concentration_of(0.5 * (1 + excess), n).log())

    @staticmethod
    def concentration_of(ratio: Tensor | float, n: Tensor) -> Tensor:
        """Solve variance / binomial variance = (n + c) / (1 + c) for the concentration c, kept in [0.1, 1000]."""
        ratio = torch.as_tensor(ratio, dtype=n.dtype).clamp_min(1.001)
        return ((n - ratio) / (ratio - 1)).clamp(0.1, 1000.0)

    def forward(self, h: Tensor) -> BetaBinomial:
        logits, concentration = (self.base + h).clamp(-15.0, 15.0), self.log_concentration.clamp(-4.0, 8.0)
        return BetaBinomial(logits, concentration, self.n, self.pixels)

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        if not self.pixels:  # read as log(1 + x), whose move moves a share's logit by 1 / (1 − share) of it
            return W / (1 - torch.sigmoid(self.base)).unsqueeze(-1), torch.zeros_like(b)
        p = (0.5 * b + 0.5).clamp(0.02, 0.98)
        spread = p * (1 - p)
        ratio = 0.25 * noise / spread * self.n
        self.log_concentration.copy_(self.concentration_of(ratio, self.n).log())
        return 0.5 * W / spread.unsqueeze(-1), torch.logit(p)

    def narrowest(self, b: Tensor) -> BetaBinomial | None:
        if not self.pixels:
            return None
        logits = torch.logit((0.5 * b + 0.5).clamp(0.02, 0.98))
        return BetaBinomial(logits, b.new_tensor(1000.0).log(), self.n.to(b.dtype), pixels=True)


class BernoulliHead(Head):
    """Binary cells; without a linear path they start at their means, which a network otherwise spends its first thousand steps
    to learn."""

    fits = {"bernoulli": ("binary",)}
    summable = ("bernoulli",)
    estimate = "bit"

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        self.n_parameters = len(cells.fields)
        self.offset = None if cells.means is None else torch.logit(cells.means.clamp(0.002, 0.998))

    def forward(self, h: Tensor) -> Bernoulli:
        return Bernoulli(h)

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        p = b.clamp(0.02, 0.98)  # that moves by w·z moves its logit by w·z / p(1 − p)
        return W / (p * (1 - p)).unsqueeze(-1), torch.logit(p)


class OrdinalHead(Head):
    """Ordinal cells by cumulative logits, P(x ≤ k | z) = σ(t_k − location(z)), thresholds t rising (McCullagh 1980)."""

    fits = {"ordinal": ("ordinal",)}
    summable = ("ordinal",)
    estimate = "grade"
    beyond: Tensor

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        sizes = self.sizes = cells.sizes
        self.k, self.n_parameters = max(2, *sizes), len(sizes)
        self.shares = cells.shares
        self.first = nn.Parameter(torch.tensor([-0.75 * math.log(max(s - 1, 1)) - 0.1 for s in sizes]))
        self.gaps = nn.Parameter(torch.zeros(len(sizes), max(self.k - 2, 0)))
        last = torch.arange(self.k - 1) >= torch.tensor(sizes).unsqueeze(-1) - 1
        self.register_buffer("beyond", last, persistent=False)

    def forward(self, h: Tensor) -> Categorical:
        thresholds = torch.cat([self.first.unsqueeze(-1), F.softplus(self.gaps)], -1).cumsum(-1)
        a = thresholds - h.unsqueeze(-1)  # (..., d, K − 1)
        below = F.logsigmoid(a).masked_fill(self.beyond, 0.0)  # log P(x ≤ k), 0 past the last class
        above = F.logsigmoid(-a).masked_fill(self.beyond, -torch.inf)  # log P(x > k)
        first, last = below[..., :1], above[..., -1:]
        gap = (a[..., 1:] - a[..., :-1]).clamp_min(1e-6)
        middle = torch.log(-torch.expm1(-gap)) + below[..., 1:] + above[..., :-1]
        middle = torch.where(self.beyond[..., 1:], above[..., :-1], middle)
        return Categorical(torch.cat([first, middle, last], -1))

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        scale = 1.7 / noise.sqrt()  # a logistic of scale 1/1.7 is nearly a standard normal
        for i, share in enumerate(self.shares or ()):
            below = torch.as_tensor(share).cumsum(0)[:-1].clamp(1e-3, 1 - 1e-3)
            cuts = scale[i] * torch.special.ndtri(below).to(b.dtype)
            self.first[i] = cuts[0]
            self.gaps[i, : len(cuts) - 1] = torch.log(torch.expm1((cuts[1:] - cuts[:-1]).clamp_min(1e-2)))
        return scale.unsqueeze(-1) * W, scale * b


class CategoricalHead(Head):
    """Categorical cells of some number of classes each, padded to the largest."""

    fits = {"categorical": ("categorical", "ordinal")}
    summable = ("categorical",)
    estimate = "class"
    illegal: Tensor

    def __init__(self, name: str, cells: Cells):
        super().__init__()
        sizes = self.sizes = cells.sizes
        self.shares = cells.shares
        self.k, self.n_parameters = max(sizes), len(sizes) * max(sizes)
        legal = torch.arange(self.k) < torch.tensor(sizes).unsqueeze(-1)
        self.register_buffer("illegal", ~legal, persistent=False)

    def forward(self, h: Tensor) -> Categorical:
        logits = h.unflatten(-1, (-1, self.k)).masked_fill(self.illegal, -torch.inf)
        return Categorical(torch.log_softmax(logits, -1))

    def start(self, W: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = W.new_zeros(self.n_parameters, W.shape[1]), b.new_zeros(self.n_parameters)
        legal = ~self.illegal.flatten()
        if self.shares is not None:  # grades, read as numbers s: p(s) is tilted by s (w·z + b) / D
            places = [_standard(torch.tensor(share, dtype=W.dtype)) for share in self.shares]
            pull = torch.cat([s / d for s, d in zip(places, noise, strict=True)])
            at = torch.repeat_interleave(torch.arange(len(places)), torch.tensor(self.sizes))
            logs = torch.cat([torch.tensor(share, dtype=W.dtype).log() for share in self.shares])
            level = torch.cat([s.square() * (1 / d - 1) / 2 for s, d in zip(places, noise, strict=True)])
            weight[legal], bias[legal] = pull.unsqueeze(-1) * W[at], logs + pull * b[at] - level
            return weight, bias
        p = torch.cat([_shares(share) for share in b.split(self.sizes)])
        # a class's share p that moves by w·z moves its logit by w·z / p
        weight[legal], bias[legal] = W / p.unsqueeze(-1), p.log()
        return weight, bias


def _standard(p: Tensor) -> Tensor:
    """Codes 0, 1, ... of levels with shares p in standard deviations from their mean."""
    codes = torch.arange(len(p), dtype=p.dtype)
    away = codes - p @ codes
    return away / (p @ away.square()).sqrt().clamp_min(1e-3)


def _shares(b: Tensor) -> Tensor:
    """Class shares of a linear path, positive and with sum one."""
    p = b.clamp_min(0.01)
    return p / p.sum()


# the likelihoods by name, and the kinds of cells that each fits: the first that fits a kind is its default
HEADS: dict[str, Any] = {name: head for head in Head.__subclasses__() for name in head.fits}
FITS = {name: head.fits[name] for name, head in HEADS.items()}
DRAWABLE = tuple(name for name, head in HEADS.items() if name in head.drawable)
SUMMABLE = tuple(name for name, head in HEADS.items() if name in head.summable)
THINNABLE = tuple(name for name, head in HEADS.items() if name in head.thinnable)
