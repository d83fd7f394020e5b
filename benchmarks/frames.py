"""Two digits that bounce in a box of 32 x 32 binary pixels: ten frames seen, ten asked for.

Digits of scikit-learn, 12 x 12, move at a constant velocity of up to two pixels a frame and axis, and bounce off the walls;
those of the test are none of the training's.  Nats a frame of frames 11 to 20, each given all before it, and wrong pixels a
frame when all ten are forecast from the first ten.  Peers: each pixel as on the frame before, flipped by the share with which
pixels of the training flip; a convolutional LSTM of independent pixels, trained for as many processor seconds; and for
forecasts the block motion of the last two frames going on.  Two frames in the middle are then hidden, and filled.

    python benchmarks/frames.py [--quick] [--seeds 1] [--threads 1]
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from common import Report, arguments, parse, say, spread
from torch import nn

from abduce import Steps
from abduce.data.examples import load_digits_images

BOX, SIZE, LENGTH, SEEN = 32, 12, 20, 10
OURS = "abduce Steps"


def bouncing(n: int, pool: slice, seed: int) -> np.ndarray:
    """Sequences (n, 20, 32, 32) of two digits each, 0 or 1."""
    rng = np.random.default_rng(seed)
    images = load_digits_images()[0][pool]
    at = ((np.arange(SIZE) + 0.5) * 8 / SIZE).astype(int)
    shapes = (images > 7)[:, at][:, :, at]
    room = BOX - SIZE
    chosen = shapes[rng.integers(0, len(shapes), (n, 2))]
    place = rng.uniform(0, room, (n, 2, 2))[:, None] + np.arange(LENGTH)[:, None, None] * rng.uniform(
        -2, 2, (n, 1, 2, 2)
    )
    place = np.rint(room - np.abs(np.mod(place, 2 * room) - room)).astype(int)  # folded at the walls
    out = np.zeros((n, LENGTH, BOX, BOX), np.int16)
    for i in range(n):
        for t in range(LENGTH):
            for digit in range(2):
                r, c = place[i, t, digit]
                out[i, t, r : r + SIZE, c : c + SIZE] |= chosen[i, digit]
    return out


# ---------------------------------------------------------------- peers


def flips(train: np.ndarray, test: np.ndarray) -> float:
    """Nats a frame when pixels are as on the frame before but for the shares of on and off that flip."""
    total = 0.0
    for was in (0, 1):
        before, now = train[:, :-1] == was, train[:, 1:] != was
        p = (before & now).sum() / before.sum()
        before, now = test[:, SEEN - 1 : -1] == was, test[:, SEEN:] != was
        flipped = (before & now).sum()
        total -= flipped * np.log(p) + (before.sum() - flipped) * np.log1p(-p)
    return float(total / (len(test) * (LENGTH - SEEN)))


class ConvolutionalLSTM(nn.Module):
    """One layer with kernels of 5 x 5 and a 3 x 3 convolution to the logits of the next frame's pixels (Shi et al. 2015)."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(1 + width, 4 * width, 5, padding=2)
        self.out = nn.Conv2d(width + 1, 1, 3, padding=1)
        nn.init.constant_(self.out.bias, -2.0)

    def forward(self, frame: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]):
        h, c = state
        i, f, o, g = self.gates(torch.cat([frame, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(torch.cat([h, frame], 1)), (h, c)

    def start(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(n, self.width, BOX, BOX), torch.zeros(n, self.width, BOX, BOX)


def lstm(train: np.ndarray, test: np.ndarray, seconds: float, seed: int) -> tuple[float, np.ndarray]:
    """Nats a frame, and the forecast of the last ten frames; trained for so many processor seconds."""
    torch.manual_seed(seed)
    net, data = ConvolutionalLSTM(), torch.from_numpy(train).float()
    search = torch.optim.Adam(net.parameters(), 3e-3)
    began, rng = time.process_time(), np.random.default_rng(seed)
    while (done := (time.process_time() - began) / seconds) < 1:
        search.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + np.cos(np.pi * done))
        x = data[torch.from_numpy(rng.integers(0, len(data), 8))]
        state, loss = net.start(len(x)), torch.zeros(())
        for t in range(LENGTH - 1):
            logits, state = net(x[:, t, None], state)
            loss = loss + F.binary_cross_entropy_with_logits(
                logits[:, 0], x[:, t + 1], reduction="sum"
            ) / len(x)
        search.zero_grad()
        (loss / LENGTH).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 20.0)
        search.step()
    with torch.no_grad():
        x, nats = torch.from_numpy(test).float(), 0.0
        state, frames = net.start(len(x)), []
        for t in range(LENGTH - 1):
            logits, state = net(x[:, t, None], state)
            if t == SEEN - 1:
                free, on = (logits > 0).float(), state
            if t >= SEEN - 1:
                nats += float(F.binary_cross_entropy_with_logits(logits[:, 0], x[:, t + 1], reduction="sum"))
        for _ in range(LENGTH - SEEN):
            frames.append(free[:, 0])
            logits, on = net(free, on)
            free = (logits > 0).float()
    return nats / (len(test) * (LENGTH - SEEN)), torch.stack(frames, 1).numpy()


def motion(test: np.ndarray) -> np.ndarray:
    """The whole of frame 10 moved on by the shift that best explains it by frame 9."""
    moves = [(r, c) for r in range(-2, 3) for c in range(-2, 3)]
    out = np.zeros_like(test[:, SEEN:])
    for x, future in zip(test, out, strict=True):
        costs = [(np.roll(x[SEEN - 2], m, (0, 1)) != x[SEEN - 1]).sum() for m in moves]
        best = np.array(moves[int(np.argmin(costs))])
        for k in range(LENGTH - SEEN):
            future[k] = np.roll(x[SEEN - 1], best * (k + 1), (0, 1))
    return out


# ---------------------------------------------------------------- measuring


def main() -> None:
    args = parse(arguments(__doc__, seeds=1))
    report = Report("frames", "Frames: two bouncing digits", args)
    n_train, n_test, updates = (20, 2, 10) if args.quick else (1000, 30, 400)
    nats, wrong, seconds, fills = defaultdict(list), defaultdict(list), [], []
    for seed in range(args.seeds):
        train, test = (
            bouncing(n_train, slice(0, 1400), seed),
            bouncing(n_test, slice(1400, None), 1000 + seed),
        )
        future = test[:, SEEN:]
        start = time.process_time()
        model = Steps(
            width=32, updates=updates, batch_size=16, random_state=seed, callback=lambda r: say(r)
        ).fit(train)
        seconds.append(time.process_time() - start)
        nats[OURS].append(float(model.anomaly_score(test)[:, SEEN:].mean()))
        say("ours", nats[OURS], f"{seconds[-1]:.0f} s")
        forecasts = {OURS: model.forecast(LENGTH - SEEN, test[:, :SEEN], draws=1 if args.quick else 8)}
        peer = "convolutional LSTM, as many seconds"
        value, forecasts[peer] = lstm(train, test, seconds[-1], seed)
        nats[peer].append(value)
        copy = "the frame before"
        nats[copy].append(flips(train, test))
        forecasts[copy] = np.repeat(test[:, SEEN - 1 : SEEN], LENGTH - SEEN, 1)
        forecasts["the last two frames' motion going on"] = motion(test)
        forecasts["nothing"] = np.zeros_like(future)
        for name, frames in forecasts.items():
            each = (frames != future).sum((2, 3)).mean(0)
            wrong[name].append([float(each[0]), float(each[4]), float(each[-1]), float(each.mean())])
        say({k: v[-1] for k, v in nats.items()}, {k: v[-1] for k, v in wrong.items()})
        torn = test[: 1 if args.quick else 4].astype(float)
        torn[:, 10:12] = np.nan
        model.set_params(particles=10 if args.quick else 40)
        copies, ess = model.fill_draws(torn, 1, return_ess=True)
        truth = test[: len(torn), 10:12]
        fills.append(
            {
                OURS: float((model.fill(torn)[:, 10:12] != truth).sum((2, 3)).mean()),
                f"{OURS}, one draw": float((copies[0][:, 10:12] != truth).sum((2, 3)).mean()),
                "the nearest frame": float((test[: len(torn), [9, 12]] != truth).sum((2, 3)).mean()),
                "particles in effect": float(np.median(ess)),
            }
        )
        say(fills[-1])
    rows = [
        [
            f"**{name}**" if name == OURS else name,
            spread(nats.get(name, []), 1),
            *(spread([w[k] for w in wrong[name]], 1) for k in range(4)),
        ]
        for name in wrong
    ]
    header = ["", "nats a frame, one ahead", "wrong pixels, 1 ahead", "5 ahead", "10 ahead", "mean of ten"]
    report.table("Frames 11 to 20", header, rows)
    report.table(
        "Two frames hidden in the middle, wrong pixels a frame",
        ["", ""],
        [[k, spread([f[k] for f in fills], 1)] for k in fills[0]],
    )
    report.remark(
        f"{n_train} sequences of {LENGTH} frames to train on, {n_test} to test, of {BOX * BOX} pixels each; processor "
        f"seconds to fit, {OURS}: {spread(seconds, 0)}. A forecast of {OURS} is each pixel's most frequent value in eight "
        "paths; the peer's most probable frame is fed back to it."
    )
    for key, value in (("nats", nats), ("wrong", wrong), ("seconds", seconds), ("fill", fills)):
        report.keep(key, value)
    report.save()


if __name__ == "__main__":
    main()
