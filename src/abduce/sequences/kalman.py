"""The Kalman filter and smoother: exact inference in linear-Gaussian state spaces, with blanks anywhere.

    s_1 ~ N(0, P₁),   s_{t+1} = A s_t + w,  w ~ N(0, Q),      y_t = (s_t)_{1..F} + e,  e ~ N(0, diag(R))

What is seen are the first F of the S states, through noise.  Blank cells are left out of the update exactly: with M the
diagonal matrix of what was observed, the innovations' covariance M (P + R) M + I − M holds that of the observed ones.

Covariances depend on where the blanks are and not on the values.  They are worked out once for all series with the same
blanks, and each series then costs a few products of matrices and vectors a step.  Steps are a loop; series, draws and
patterns are batched in it.

Smoothing runs backward over r and N, with which E[s_t | y] = a_t + P_t r_t and cov[s_t | y] = P_t − P_t N_t P_t, where a_t and
P_t predict s_t from the steps before: no inverse of a covariance of states is needed, so Q and R may be singular.  The same
recursion gives each cell's distribution given all *other* cells of its series.

Sources: Kalman 1960; de Jong 1989 (smoothing without inverses); de Jong 1988 (leaving one cell out); Durbin & Koopman 2002
(draws of states by smoothing what was drawn).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from abduce.distributions.cells import LOG_2PI

BUDGET = 2**22  # numbers of the covariances that one block of series keeps, and of their states


class StateSpace(NamedTuple):
    """``transition`` A (S, S), ``noise`` Q (S, S), ``first`` P₁ (S, S), and ``spread`` R (F,), variances of what is seen;
    (T, F) where they differ by step.

    >>> level = StateSpace(torch.eye(1).double(), torch.eye(1).double(), torch.eye(1).double(), torch.zeros(1).double())
    >>> y = torch.tensor([[[1.0], [0.0], [3.0]]]).double()
    >>> smoothed(level, y, torch.tensor([[[True], [False], [True]]])).mean.flatten().tolist()
    [1.0, 2.0, 3.0]
    """

    transition: Tensor
    noise: Tensor
    first: Tensor
    spread: Tensor


class Gains(NamedTuple):
    """What a pattern of blanks decides, a tensor a step: K (U, S, F), the innovations' precision (U, F, F), P_t (U, S, S), and
    the log determinant of the innovations' covariance (U,)."""

    gain: list[Tensor]
    precision: list[Tensor]
    ahead: list[Tensor]
    log_det: list[Tensor]


class Smoothed(NamedTuple):
    """States given a whole series, (B, T, ...).

    ``mean`` (B, T, S) and ``variance`` (B, T, F) of the states that are seen; ``log_prob`` (B, T) of each step given those
    before it, nats; ``left_out`` and ``left_out_variance`` (B, T, F) of each observed cell given all cells but itself.
    """

    mean: Tensor
    variance: Tensor
    log_prob: Tensor
    left_out: Tensor
    left_out_variance: Tensor


class Moments(NamedTuple):
    """Expected sums over the steps of many series, what EM needs.

    ``before`` Σ E[s_t s_tᵀ] over all but the last step of each, ``cross`` Σ E[s_{t+1} s_tᵀ], ``after`` Σ E[s_{t+1} s_{t+1}ᵀ],
    (S, S); ``steps`` how many; ``first`` Σ E[s_1 s_1ᵀ] over ``series``; ``errors`` (F,) Σ E[(y − s)²] over ``seen`` (F,)
    observed cells; ``log_prob`` of all.
    """

    before: Tensor
    cross: Tensor
    after: Tensor
    steps: float
    first: Tensor
    series: float
    errors: Tensor
    seen: Tensor
    log_prob: float


def smoothed(space: StateSpace, y: Tensor, mask: Tensor, given: Tensor | None = None) -> Smoothed:
    """Smooth series y (B, T, F) with their mask; values at blanks do not count.

    Of features ``given`` (F,) the own log p is not counted: ``log_prob`` is that of the others given these of the same step.
    """
    out: list[Smoothed] = []
    for part, which, patterns in _blocks(mask, space):
        gains = gains_of(space, patterns)
        seen = mask[part]
        ahead, pulled, log_prob = _forward(space, gains, which, y[part].unsqueeze(1), seen)
        if given is not None:
            log_prob = _of_others(gains, which, pulled, seen, given)
        means, r = [], None
        variances, left, left_variance = [], [], []
        n = torch.zeros_like(gains.ahead[0])
        f = y.shape[2]
        for t in reversed(range(y.shape[1])):
            gain, precision, p = gains.gain[t], gains.precision[t], gains.ahead[t]
            r, e = _backward(space, gain[which], r, pulled[t], seen[:, t])
            pulled_n = space.transition.mT @ n @ space.transition
            bridge = pulled_n @ gain  # (U, S, F)
            influence = precision + gain.mT @ bridge  # cov of the smoothing errors of cells
            n = _spread_back(pulled_n, bridge, precision, gain)
            means.append((ahead[t] + r @ p[which]).squeeze(1))
            head = p[:, :f]
            own = head.diagonal(dim1=1, dim2=2) - (head @ n * head).sum(2)
            variances.append(own.clamp_min(0.0)[which])
            weight = influence.diagonal(dim1=1, dim2=2).clamp_min(1e-300)[which]
            left.append(y[part, t] - e.squeeze(1) / weight)
            left_variance.append(1 / weight)
        stack = [torch.stack(v[::-1], 1) for v in (means, variances, left, left_variance)]
        out.append(Smoothed(stack[0], stack[1], log_prob.squeeze(1), stack[2], stack[3]))
    return Smoothed(*(_in_order(list(parts), mask) for parts in zip(*out, strict=True)))


def draws(
    space: StateSpace, y: Tensor, mask: Tensor, n: int, generator: Generator, states_alone: bool = False
) -> Tensor:
    """Draw what would be seen, (n, B, T, F), given series y (B, T, F); observed cells as they are.

    A series drawn from the model plus the smoothed difference between what was seen and the same cells of it.  With
    ``states_alone`` the states behind the cells are drawn, without the noise of what is seen.
    """
    out = []
    root_q, root_p, deviation = _root(space.noise), _root(space.first), space.spread.sqrt()
    t_all, f = y.shape[1:]
    for part, which, patterns in _blocks(mask, space, n):
        gains = gains_of(space, patterns)
        b = len(which)
        states = torch.empty(b, n, t_all, len(root_q), dtype=y.dtype)
        s = torch.randn(b, n, len(root_q), generator=generator, dtype=y.dtype) @ root_p.mT
        for t in range(t_all):
            states[:, :, t] = s
            noise = torch.randn(b, n, len(root_q), generator=generator, dtype=y.dtype)
            s = s @ space.transition.mT + noise @ root_q.mT
        seen = states[..., :f] + deviation * torch.randn(b, n, t_all, f, generator=generator, dtype=y.dtype)
        gap = torch.where(mask[part].unsqueeze(1), y[part].unsqueeze(1) - seen, 0.0)
        drawn = states[..., :f].clone() if states_alone else seen
        ahead, pulled, _ = _forward(space, gains, which, gap, mask[part])
        r = None
        for t in reversed(range(t_all)):
            r, _ = _backward(space, gains.gain[t][which], r, pulled[t], mask[part][:, t])
            drawn[:, :, t] += (ahead[t] + r @ gains.ahead[t][which])[..., :f]
        kept = mask[part].unsqueeze(1) & (not states_alone)
        out.append(torch.where(kept, y[part].unsqueeze(1), drawn))
    return _in_order(out, mask).transpose(0, 1)


def moments(space: StateSpace, y: Tensor, mask: Tensor) -> Moments:
    """Expected sums of what the model of many series is made of: the E-step."""
    s, f = len(space.transition), y.shape[2]
    before, cross, after, first = (torch.zeros(s, s, dtype=y.dtype) for _ in range(4))
    errors, log_prob = torch.zeros(f, dtype=y.dtype), 0.0
    for part, which, patterns in _blocks(mask, space):
        gains = gains_of(space, patterns)
        count = torch.bincount(which, minlength=len(patterns)).to(y)[:, None, None]
        seen = mask[part]
        ahead, pulled, value = _forward(space, gains, which, y[part].unsqueeze(1), seen)
        log_prob += float(value.sum())
        r, later = None, None
        n = torch.zeros_like(gains.ahead[0])
        for t in reversed(range(y.shape[1])):
            gain, precision, p = gains.gain[t], gains.precision[t], gains.ahead[t]
            r, _ = _backward(space, gain[which], r, pulled[t], seen[:, t])
            mean = (ahead[t] + r @ p[which]).squeeze(1)
            if (
                later is not None
            ):  # cov[s_{t+1}, s_t] = (I − P_{t+1} N_{t+1}) A P_{t|t}, before n moves on to t
                now = p - gain @ p[:, :f]
                moved = space.transition @ now
                pair = moved - gains.ahead[t + 1] @ (n @ moved)
                cross += later.mT @ mean + (count * pair).sum(0)
            pulled_n = space.transition.mT @ n @ space.transition
            n = _spread_back(pulled_n, pulled_n @ gain, precision, gain)
            covariance = p - p @ n @ p
            total = mean.mT @ mean + (count * covariance).sum(0)
            if t:
                after += total
            else:
                first += total
            if t < y.shape[1] - 1:
                before += total
            own = covariance.diagonal(dim1=1, dim2=2)[:, :f].clamp_min(0.0)[which]
            error = (y[part, t] - mean[:, :f]).square() + own
            errors += torch.where(seen[:, t], error, 0.0).sum(0)
            later = mean
    steps = float(len(y) * (y.shape[1] - 1))
    count_seen = mask.sum((0, 1)).to(y)
    return Moments(before, cross, after, steps, first, float(len(y)), errors, count_seen, log_prob)


def gains_of(space: StateSpace, patterns: Tensor) -> Gains:
    """Covariances and gains of patterns of blanks (U, T, F), which no value of a series changes."""
    out = Gains([], [], [], [])
    f = patterns.shape[2]
    p = space.first.expand(len(patterns), -1, -1)
    spread = space.spread.expand(patterns.shape[1], f)
    for t in range(patterns.shape[1]):
        m = patterns[:, t].to(p)
        across = p[:, :, :f] * m.unsqueeze(1)  # cov(s, what is seen)
        inside = across[:, :f] * m.unsqueeze(2)
        inside = inside + torch.diag_embed(spread[t] * m + (1 - m))
        root = torch.linalg.cholesky(inside)
        precision = torch.cholesky_inverse(root)
        gain = across @ precision
        precision = precision * m.unsqueeze(1) * m.unsqueeze(2)
        out.gain.append(gain)
        out.precision.append(precision)
        out.ahead.append(p)
        out.log_det.append(2 * root.diagonal(dim1=1, dim2=2).log().sum(1))
        now = p - gain @ across.mT
        p = space.transition @ now @ space.transition.mT + space.noise
        p = 0.5 * (p + p.mT)
    return out


def stationary(transition: Tensor, noise: Tensor) -> Tensor:
    """The covariance P = A P Aᵀ + Q that a stable system settles to, by doubling; A's spectral radius must be below 1."""
    p, a = noise, transition
    for _ in range(60):
        moved = a @ p @ a.mT
        p, a = p + moved, a @ a
        if float(moved.abs().max()) <= 1e-15 * float(p.abs().max()):
            break
    return 0.5 * (p + p.mT)


# ---------------------------------------------------------------- recursions


def _forward(
    space: StateSpace, gains: Gains, which: Tensor, y: Tensor, mask: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Of y (B, n, T, F): predicted states (B, n, S) and precision times innovation (B, n, F) of each step, log p (B, n, T)."""
    b, n, steps, f = y.shape
    a = y.new_zeros(b, n, len(space.transition))
    ahead, pulled, log_prob = [], [], []
    for t in range(steps):
        m = mask[:, t].unsqueeze(1)
        v = torch.where(m, y[:, :, t] - a[..., :f], 0.0)
        w = v @ gains.precision[t][which]
        size = m.sum(2).to(y) * LOG_2PI + gains.log_det[t][which].unsqueeze(1)
        log_prob.append(-0.5 * ((v * w).sum(2) + size))
        ahead.append(a)
        pulled.append(w)
        a = (a + v @ gains.gain[t][which].mT) @ space.transition.mT
    return ahead, pulled, torch.stack(log_prob, 2)


def _of_others(gains: Gains, which: Tensor, pulled: list[Tensor], mask: Tensor, given: Tensor) -> Tensor:
    """log p (B, n, T) of the features of each step that are not ``given``, given those that are and all steps before.

    With Λ the innovations' precision and w = Λ v, these have precision Λ_oo and miss their mean by Λ_oo⁻¹ w_o.
    """
    out = []
    for t, w in enumerate(pulled):
        other = (mask[:, t] & ~given).to(w)
        inner = gains.precision[t][which] * other.unsqueeze(1) * other.unsqueeze(2)
        root = torch.linalg.cholesky(inner + torch.diag_embed(1 - other))
        half = torch.linalg.solve_triangular(root, (w * other.unsqueeze(1)).mT, upper=False)
        size = other.sum(1) * LOG_2PI - 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        out.append(-0.5 * (half.square().sum(1) + size.unsqueeze(1)))
    return torch.stack(out, 2)


def _backward(
    space: StateSpace, gain: Tensor, r: Tensor | None, pulled: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """r of a step from that of the next, (B, n, S), and the smoothing errors of its cells, (B, n, F)."""
    f = pulled.shape[2]
    if r is None:
        r = pulled.new_zeros(*pulled.shape[:2], len(space.transition))
    q = r @ space.transition
    e = pulled - q @ gain
    e = torch.where(mask.unsqueeze(1), e, 0.0)
    return torch.cat([q[..., :f] + e, q[..., f:]], 2), e


def _spread_back(pulled_n: Tensor, bridge: Tensor, precision: Tensor, gain: Tensor) -> Tensor:
    """N of a step from AᵀNA of the next and AᵀNA K; the gain is zero at blanks, so no mask is needed."""
    f = gain.shape[2]
    n = pulled_n.clone()
    n[:, :, :f] -= bridge
    n[:, :f] -= bridge.mT
    n[:, :f, :f] += gain.mT @ bridge + precision
    return n


def _blocks(mask: Tensor, space: StateSpace, copies: int = 1) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of series: their places, which pattern each has, and the patterns (U, T, F), as many as the budget allows;
    ``copies`` of each series are worked with at once."""
    patterns, which = torch.unique(mask.flatten(1), dim=0, return_inverse=True)
    states = len(space.transition)
    size = max(1, BUDGET // (mask.shape[1] * states**2))
    series = max(1, BUDGET // (mask.shape[1] * states * copies))
    order = torch.argsort(which, stable=True)
    for start in range(0, len(patterns), size):
        chosen = order[(which[order] >= start) & (which[order] < start + size)]
        for some in chosen.split(series):
            first, last = int(which[some[0]]), int(which[some[-1]]) + 1
            yield some, which[some] - first, patterns[first:last].view(-1, *mask.shape[1:])


def _in_order(parts: list[Tensor], mask: Tensor) -> Tensor:
    """What blocks gave, in the order of the series."""
    joined = torch.cat(parts)
    order = torch.argsort(torch.unique(mask.flatten(1), dim=0, return_inverse=True)[1], stable=True)
    out = torch.empty_like(joined)
    out[order] = joined
    return out


def _root(covariance: Tensor) -> Tensor:
    """A square root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0.0).sqrt()
