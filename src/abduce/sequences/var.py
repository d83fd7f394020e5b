"""A vector autoregression seen through noise, fitted through blanks by expectation-maximisation.

    x_t = A_1 x_{t−1} + … + A_p x_{t−p} + w,   w ~ N(0, Q),        y_t = x_t + e,   e ~ N(0, diag(R))

as a state space of the last p steps (:mod:`abduce.sequences.kalman`).  EM starts from autoregressions of order one, a feature
each, found by EM too: moments of what happens to be seen together start it badly where much is blank.

Sources: Shumway & Stoffer 1982 (EM for state spaces); Lütkepohl 2005 (vector autoregressions).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.answers.answer import EFFORT, Effort
from abduce.checks import check_count
from abduce.data.seen import Seen
from abduce.gaussians.em import heed
from abduce.models.model import filled
from abduce.sequences import kalman
from abduce.sequences.kalman import Moments, StateSpace
from abduce.sequences.paths import Paths, SequenceModel
from abduce.sequences.windows import blanks_given, positive

STABLE = 0.9995  # largest modulus of an eigenvalue: a step's memory
FLOOR = 1e-5  # least variance of a step's news and of the noise, of series of unit variance
ROUNDS = 10
COMPLETED = 6  # rounds of series that are completed: more make their own fills too sure
RICH = 10.0  # steps a feature that one round of EM must see
NOISE = 3e-3  # variance of the noise where it is not fitted: surer of each other, features mislead where they drift apart
CELLS = 2**22  # of series that are smoothed at once
AGAIN = 3  # rounds that go on from a fit to other cells


class VectorAutoregression(SequenceModel):
    """``coefficients`` (F, p F), newest lag first, ``noise`` Q (F, F), ``first`` (p F, p F), ``spread`` R (F,).

    The last ``given`` features are no numbers but indicators of classes: log p of a step is that of the others given these.

    >>> model = VectorAutoregression(1, 1).load(coefficients=torch.tensor([[0.5]]), noise=torch.tensor([[0.75]]))
    >>> y = torch.tensor([[[2.0], [0.0]]]).double()
    >>> model.answer(Seen(y, torch.tensor([[[True], [False]]]))).mean()[0, 1]
    tensor([1.0000], dtype=torch.float64)
    """

    memory = 256
    coefficients: Tensor
    noise: Tensor
    first: Tensor
    spread: Tensor

    def __init__(self, features: int, lags: int, given: int = 0):
        super().__init__(features)
        check_count("lags", lags)
        self.lags, self.given = lags, given
        self.config = {"features": features, "lags": lags, "given": given}
        shapes = {
            "coefficients": (features, lags * features),
            "noise": (features, features),
            "first": (lags * features, lags * features),
            "spread": (features,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def load(self, coefficients: Tensor, noise: Tensor, spread: Tensor | None = None) -> VectorAutoregression:
        """The same with these parameters, in its stationary state at the first step."""
        model = filled(self, coefficients=coefficients.double(), noise=noise.double())
        if spread is not None:
            model.spread.copy_(spread)
        model.first.copy_(kalman.stationary(model.space.transition, model.space.noise))
        return model

    def giving(self, given: int) -> VectorAutoregression:
        """The same, the last ``given`` features of which are indicators."""
        out = VectorAutoregression(self.n_cells, self.lags, given)
        out.load_state_dict(self.state_dict())
        return out

    @property
    def space(self) -> StateSpace:
        """The state space over the last p steps."""
        f, s = self.coefficients.shape
        transition = torch.zeros(s, s, dtype=torch.float64)
        transition[:f] = self.coefficients
        transition[f:, : s - f] = torch.eye(s - f, dtype=torch.float64)
        noise = torch.zeros(s, s, dtype=torch.float64)
        noise[:f, :f] = self.noise
        return StateSpace(transition, noise, self.first, self.spread)

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Paths:
        self.check(seen)
        space = self.space
        given = torch.arange(self.n_cells) >= self.n_cells - self.given if self.given else None
        found = kalman.smoothed(space, seen.y, seen.mask, given)
        deviation = (found.variance + space.spread).sqrt()

        def draw(n: int, generator: Generator) -> Tensor:
            return kalman.draws(space, seen.y, seen.mask, n, generator)

        centre = found.mean[..., : self.n_cells]
        left = found.left_out, found.left_out_variance
        return Paths(seen, centre, deviation, found.log_prob, draw, left_out=left)

    def window(self, steps: int) -> Tensor:
        """Covariance of what is seen in so many steps on end, (steps F, steps F)."""
        space, f = self.space, self.n_cells
        p, rows = self.first, []
        reach = p  # cov(s_{t+k}, s_t), whose first F columns are kept
        for _ in range(steps):
            rows.append(reach[:f, :f])
            reach = space.transition @ reach
        out = torch.zeros(steps, f, steps, f, dtype=torch.float64)
        for t in range(steps):
            for u in range(steps):
                out[t, :, u] = rows[t - u] if t >= u else rows[u - t].mT
        whole = out.reshape(steps * f, steps * f) + torch.diag(space.spread.repeat(steps))
        return positive(whole)


def fit_var(
    y: Tensor,
    mask: Tensor,
    lags: int,
    start: VectorAutoregression | None = None,
    most: int = 10**9,
    seed: int = 0,
) -> VectorAutoregression:
    """Fit to series (N, T, F) of about unit variance, with their mask; with ``start``, from there on.

    Of more than ``most`` series each round takes others, and sums are averaged over rounds (Cappé & Moulines 2009).  Those of
    order one are completed first (`fit_completed`); so wide that a round would see too few steps, they are only completed.
    """
    rounds = ROUNDS if start is None else AGAIN
    if len(y) > most and lags == 1:
        rich = most * y.shape[1] >= RICH * y.shape[2]
        if start is None or not rich:
            start = fit_completed(y, mask, COMPLETED if start is None else AGAIN)
        rounds = AGAIN if rich else 0
    model = start or _start(y, mask, lags)
    if len(y) <= most:
        for _ in range(rounds):
            heed()
            model = _maximised(kalman.moments(model.space, y, mask), model)
        return model
    order = torch.randperm(len(y), generator=Generator().manual_seed(seed))
    mean: Moments | None = None
    for turn in range(rounds):
        heed()
        part = order[(turn * most + torch.arange(most)) % len(y)]
        found = kalman.moments(model.space, y[part], mask[part])
        share = (turn + 1) ** -0.6
        if mean is not None:
            found = Moments(*((1 - share) * a + share * b for a, b in zip(mean, found, strict=True)))
        mean = found
        model = _maximised(mean, model)
    return model


def fit_completed(y: Tensor, mask: Tensor, rounds: int) -> VectorAutoregression:
    """Fit an autoregression of order one to many wide series, with a little noise, `NOISE`, in what is seen.

    Blank cells are filled by their mean given the steps before and after, of all odd steps and of all even ones in turn, and
    the regression of each step on the one before is taken anew (iterated conditional modes, Besag 1986).  The covariance of
    the filled cells given their neighbours goes into that of the news.
    """
    m = mask.to(y)
    x, *_ = smoothed_first_orders(y, m, first_orders(y, m))
    x = torch.where(mask, y, x)
    n, steps, f = y.shape
    unsure, eye = torch.zeros(f, f, dtype=y.dtype), torch.eye(f, dtype=y.dtype)
    model = VectorAutoregression(f, 1)
    for turn in range(rounds):
        heed()
        if turn:  # what fills the first time knows each feature alone
            x, unsure = completed(model, x, mask)
        flat = x[:, :-1].reshape(-1, f), x[:, 1:].reshape(-1, f)
        second = flat[0].mT @ flat[0]
        ridge = 1e-6 * second.diagonal().mean() * eye
        coefficients = torch.linalg.solve(second + ridge, flat[0].mT @ flat[1]).mT
        left = flat[1] - flat[0] @ coefficients.mT
        noise = (left.mT @ left + unsure * (steps - 1) / steps) / len(left)
        first = (x.reshape(-1, f).mT @ x.reshape(-1, f) + unsure) / (n * steps)
        model = filled(
            VectorAutoregression(f, 1),
            coefficients=_stabilised(coefficients, f),
            noise=positive(noise) + FLOOR * eye,
            first=positive(first),
            spread=torch.full((f,), NOISE, dtype=y.dtype),
        )
    return model


def completed(model: VectorAutoregression, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Series x (N, T, F) with their blank cells at their means given the steps around, and the sum of their covariances."""
    steps, f = x.shape[1], x.shape[2]
    a = model.coefficients
    precise = torch.cholesky_inverse(torch.linalg.cholesky(model.noise))
    prior = torch.cholesky_inverse(torch.linalg.cholesky(model.first))
    ahead = a.mT @ precise  # what the next step tells, AᵀQ⁻¹ x_{t+1}
    unsure = torch.zeros(f * f, dtype=x.dtype)
    x = x.clone()
    for parity in (0, 1):
        for part in (range(0, 1), range(1, steps - 1), range(steps - 1, steps)):
            which = [t for t in part if t % 2 == parity]
            if not which:
                continue
            at = torch.tensor(which)
            inside = torch.zeros(f, f, dtype=x.dtype)
            pull = x.new_zeros(len(x), len(which), f)
            if which[0] > 0:
                inside = inside + precise
                pull = pull + x[:, at - 1] @ (precise @ a).mT
            else:
                inside = inside + prior
            if which[-1] < steps - 1:
                inside = inside + ahead @ a
                pull = pull + x[:, at + 1] @ ahead.mT
            covariance = positive(torch.cholesky_inverse(torch.linalg.cholesky(inside)))
            mean = (pull @ covariance).reshape(-1, f)
            rows = x[:, at].reshape(-1, f) - mean
            for some, places, real, centre, left in blanks_given(
                covariance, rows, mask[:, at].reshape(-1, f)
            ):
                row = some.unsqueeze(1).expand_as(places)[real]
                rows[row, places[real]] = centre[real]
                unsure.index_add_(
                    0, (places.unsqueeze(2) * f + places.unsqueeze(1)).flatten(), left.flatten()
                )
            x[:, at] = (rows + mean).view(len(x), len(which), f)
    return x, unsure.view(f, f)


def _maximised(m: Moments, before: VectorAutoregression) -> VectorAutoregression:
    """The M-step.  The first step is as any other: its covariance is the mean over all steps."""
    f, lags = before.n_cells, before.lags
    ridge = 1e-6 * m.before.diagonal().mean() * torch.eye(len(m.before), dtype=torch.float64)
    cross = m.cross[:f]
    coefficients = torch.linalg.solve(m.before + ridge, cross.mT).mT
    noise = (m.after[:f, :f] - coefficients @ cross.mT - cross @ coefficients.mT) / m.steps
    noise = noise + coefficients @ m.before @ coefficients.mT / m.steps
    first = (m.first + m.after) / (m.series + m.steps)
    spread = (m.errors + 0.01) / (m.seen + 1.0)
    out = VectorAutoregression(f, lags)
    eye = torch.eye(f, dtype=torch.float64)
    return filled(
        out,
        coefficients=_stabilised(coefficients, f),
        noise=positive(noise) + FLOOR * eye,
        first=positive(first),
        spread=spread.clamp_min(FLOOR),
    )


def _stabilised(coefficients: Tensor, f: int) -> Tensor:
    """Coefficients whose longest memory is at most `STABLE`: lag k is shrunk by the k-th power of one factor."""
    s = coefficients.shape[1]
    transition = torch.cat([coefficients, torch.eye(s, dtype=torch.float64)[: s - f]])
    radius = float(torch.linalg.eigvals(transition).abs().max())
    if radius <= STABLE:
        return coefficients
    factor = STABLE / radius
    powers = torch.arange(1, s // f + 1, dtype=torch.float64).repeat_interleave(f)
    return coefficients * factor**powers


def _start(y: Tensor, mask: Tensor, lags: int) -> VectorAutoregression:
    """Independent features, each an autoregression of order one seen through noise."""
    f = y.shape[2]
    a, q, r, _ = first_orders(y, mask)
    out = VectorAutoregression(f, lags)
    out.coefficients[:, :f] = torch.diag(a)
    out.noise.copy_(torch.diag(q))
    out.spread.copy_(r)
    out.first.copy_(kalman.stationary(out.space.transition, out.space.noise))
    return out


class FirstOrders(NamedTuple):
    """Autoregressions of order one seen through noise: a, q and r, and the first step's variance p, (F,) each."""

    a: Tensor
    q: Tensor
    r: Tensor
    p: Tensor


def first_orders(y: Tensor, mask: Tensor, rounds: int = 30) -> FirstOrders:
    """One autoregression of order one for each feature of series (N, T, F), by EM over all series at once."""
    m = mask.to(y)
    f, count = y.shape[2], len(y) * (y.shape[1] - 1)
    power = ((y * m).square().sum((0, 1)) + 1.0) / (m.sum((0, 1)) + 1.0)
    found = FirstOrders(torch.full((f,), 0.9, dtype=y.dtype), 0.2 * power, 0.1 * power, power)
    several = max(1, CELLS // (y.shape[1] * f))
    for _ in range(rounds if count else 0):
        parts = zip(y.split(several), m.split(several), strict=True)
        sums = zip(*(smoothed_first_orders(*part, found)[1:] for part in parts), strict=True)
        s00, s10, s11, error = (torch.stack(part).sum(0) for part in sums)
        a = (s10 / s00.clamp_min(1e-12)).clamp(-STABLE, STABLE)
        q = ((s11 - 2 * a * s10 + a * a * s00) / count).clamp_min(FLOOR)
        r = ((error + 0.01) / (m.sum((0, 1)) + 1.0)).clamp_min(FLOOR)
        found = FirstOrders(a, q, r, (s00 / count).clamp_min(FLOOR))
    return found


def smoothed_first_orders(
    y: Tensor, m: Tensor, model: FirstOrders
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Smoothed means (N, T, F) of series with their mask as numbers, and EM's sums (F,): Σ x_t², Σ x_{t+1} x_t, Σ x_{t+1}² and
    Σ (y − x)².

    Filter and smoother are scalar, so that a step is a few operations on (N, F) numbers whatever F is.
    """
    n, steps, f = y.shape
    a, q, r, p = model
    mean, var = y.new_zeros(n, f), p.expand(n, f)
    ahead, kept = [], []
    for t in range(steps):
        gain = var / (var + r) * m[:, t]
        ahead.append((mean, var))
        mean = mean + gain * (y[:, t] - mean) * m[:, t]
        var = (1 - gain) * var
        kept.append((mean, var))
        mean, var = a * mean, a * a * var + q
    later, spread = kept[-1]
    means = [later]
    s00, s10, s11 = (y.new_zeros(f) for _ in range(3))
    error = (m[:, -1] * ((y[:, -1] - later).square() + spread)).sum(0)
    for t in range(steps - 2, -1, -1):
        mean, var = kept[t]
        next_mean, next_var = ahead[t + 1]
        back = a * var / next_var
        now = mean + back * (later - next_mean)
        own = var + back.square() * (spread - next_var)
        s11 = s11 + (later.square() + spread).sum(0)
        s10 = s10 + (later * now + back * spread).sum(0)
        s00 = s00 + (now.square() + own).sum(0)
        error = error + (m[:, t] * ((y[:, t] - now).square() + own)).sum(0)
        later, spread = now, own
        means.append(now)
    return torch.stack(means[::-1], 1), s00, s10, s11, error
