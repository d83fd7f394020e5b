"""Music as steps of 88 notes: JSB chorales and Nottingham, nats a step of the test part, and missing steps.

-log p(x_t | x_<t) over all steps of all test pieces, divided by the number of steps, with the usual split; whatever is
chosen, weights or penalties, is by the validation part.  Peers measured here: the share of each note, whether it was on a
step before, and a logistic regression of each note on all notes of the step before; others are as published.  Steps from the
middle of chorales are then hidden, and filled from both sides.  Processor seconds.

    python benchmarks/music.py [--quick] [--seeds 1] [--sets jsb nottingham] [--threads 1]
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from common import Report, arguments, data_folder, parse, say, spread

from abduce import Steps

FILES = {"jsb": "JSB_Chorales", "nottingham": "Nottingham"}
SETTINGS: dict[str, dict[str, Any]] = {
    "jsb": {"shift": 5, "order": "down", "updates": 2500},
    "nottingham": {"shift": 5, "order": "down", "updates": 4000, "memory": 64},
}
PUBLISHED = {  # nats a step
    "RNN-NADE, Boulanger-Lewandowski et al. 2012 (arXiv:1206.6392)": (5.56, 2.31),
    "RNN-RBM, the same": (6.27, 2.39),
    "TCN, independent notes, Bai et al. 2018 (arXiv:1803.01271)": (8.10, 3.07),
    "LSTM, independent notes, the same": (8.45, 3.29),
}
OURS = "abduce Steps"
Pieces = list[np.ndarray]


def load(name: str, quick: bool) -> tuple[Pieces, Pieces, Pieces]:
    """Pieces (T, 88) of the training, validation and test parts."""
    file = scipy.io.loadmat(data_folder() / "series" / "music" / f"{FILES[name]}.mat")
    parts = [[np.asarray(x, np.int16) for x in file[f"{part}data"][0]] for part in ("train", "valid", "test")]
    return tuple(part[:10] for part in parts) if quick else tuple(parts)


# ---------------------------------------------------------------- peers


def shares(train: Pieces, valid: Pieces, test: Pieces) -> float:
    """Each note on in the share of steps in which it was."""
    x, y = np.concatenate(train), np.concatenate(test)
    p = (x.sum(0) + 0.5) / (len(x) + 1)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).sum(1).mean())


def pairs(pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Steps and those before them, nothing before the first."""
    before = [np.concatenate([np.zeros_like(x[:1]), x[:-1]]) for x in pieces]
    return np.concatenate(before), np.concatenate(pieces)


def copied(train: Pieces, valid: Pieces, test: Pieces) -> float:
    """Each note on in the share of steps in which it was after one with or without it."""
    total = 0.0
    (a, x), (b, y) = pairs(train), pairs(test)
    for was in (0, 1):
        p = ((x * (a == was)).sum(0) + 0.5) / ((a == was).sum(0) + 1)
        total -= (((y * np.log(p)) + (1 - y) * np.log1p(-p)) * (b == was)).sum()
    return float(total / len(y))


def logistic(train: Pieces, valid: Pieces, test: Pieces) -> float:
    """Each note by a logistic regression on all notes of the step before; the penalty that is best on the validation part."""
    (a, x), *rest = ([torch.from_numpy(v).float() for v in pairs(p)] for p in (train, valid, test))
    found = []
    w = torch.zeros(88, 88, requires_grad=True)
    b = torch.logit((x.sum(0) + 0.5) / (len(x) + 1)).requires_grad_()
    for penalty in (3e-4, 3e-5):  # each goes on from the one before
        search = torch.optim.LBFGS([w, b], max_iter=30, line_search_fn="strong_wolfe")

        def loss(penalty=penalty, search=search) -> torch.Tensor:
            search.zero_grad()
            value = F.binary_cross_entropy_with_logits(a @ w + b, x, reduction="sum") / len(x)
            value = value + penalty * w.square().sum()
            value.backward()
            return value

        search.step(loss)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            nats = [
                float(F.binary_cross_entropy_with_logits(u @ w + b, y, reduction="sum")) / len(y)
                for u, y in rest
            ]
        found.append(nats)
    return min(found)[1]


PEERS = {
    "share of each note": shares,
    "on after on, on after off": copied,
    "logistic regression on the step before": logistic,
}


# ---------------------------------------------------------------- measuring


def filled(model: Steps, test: Pieces, length: int, pieces: int) -> dict[str, float]:
    """Notes that are wrong a hidden step: filled from both sides, forecast from the past alone, and the step before copied."""
    wrong, worth = defaultdict(list), []
    for x in test[:pieces]:
        start = len(x) // 2
        gone = slice(start, start + length)
        torn = x.astype(float)
        torn[gone] = np.nan
        copies, ess = model.fill_draws(torn, 400, return_ess=True)
        worth.append(float(ess[0]))
        answers = {
            "both sides": np.mean(copies, 0)[gone] > 0.5,
            "past alone": model.forecast(length, x[:start]),
            "step before": np.repeat(x[start - 1 : start], length, 0),
        }
        for name, answer in answers.items():
            wrong[name].append((answer != x[gone]).sum(1).mean())
    return {name: float(np.mean(v)) for name, v in wrong.items()} | {"ess": float(np.median(worth))}


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    parser.add_argument("--sets", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--particles", type=int, default=1000, help="that hidden steps are filled by")
    args = parse(parser)
    report = Report("music", "Music: nats a step, and missing steps", args)
    nats, seconds, fills = defaultdict(dict), {}, {}
    for name in args.sets:
        train, valid, test = load(name, args.quick)
        for title, peer in PEERS.items():
            nats[title][name] = peer(train, valid, test)
            say(name, title, round(nats[title][name], 3))
        ours, clock = [], []
        for seed in range(args.seeds):
            settings = SETTINGS[name] | ({"updates": 30} if args.quick else {})
            start = time.process_time()
            model = Steps(
                **settings, particles=args.particles, random_state=seed, callback=lambda r: say(r)
            ).fit(train, valid=valid)
            clock.append(time.process_time() - start)
            ours.append(-model.score(test))
            say(
                name,
                "seed",
                seed,
                "test",
                round(ours[-1], 4),
                f"valid {-model.score(valid):.4f}, {clock[-1]:.0f} s",
            )
        nats[OURS][name], seconds[name] = ours, clock
        report.keep(name, {"ours": ours, "seconds": clock, **{t: nats[t][name] for t in PEERS}})
        if name == "jsb":
            pieces = 2 if args.quick else 20
            fills = {n: filled(model, test, n, pieces) for n in (1, 4)}
            say(fills)
            report.keep("fill", fills)

    def shown(title: str, name: str) -> str:
        value = nats[title].get(name)
        return "–" if value is None else spread(value if isinstance(value, list) else [value], 2)

    rows = [[f"**{OURS}**", *(f"**{shown(OURS, n)}**" for n in args.sets)]]
    rows += [[title, *(shown(title, n) for n in args.sets)] for title in PEERS]
    columns = [list(FILES).index(n) for n in args.sets]
    rows += [[f"{t}, as published", *(f"{v[c]:.2f}" for c in columns)] for t, v in PUBLISHED.items()]
    rows.append([f"processor seconds to fit, {OURS}", *(spread(seconds[n], 0) for n in args.sets)])
    report.table("Nats a step of the test part", ["", *args.sets], rows)
    if fills:
        rows = [
            [title, *(fills[n][key] for n in fills)]
            for title, key in (
                (f"{OURS}, from both sides", "both sides"),
                (f"{OURS}, from the past alone", "past alone"),
                ("the step before, copied", "step before"),
                ("particles in effect, median", "ess"),
            )
        ]
        report.table(
            "Wrong notes a hidden step, middle of chorales", ["", *(f"{n} hidden" for n in fills)], rows
        )
    report.remark(
        "Convention: the sum of -log p over all steps of the test part, divided by their number. The first steps of a piece, "
        "which nothing precedes, count like all others. Our model is told the number of the step in the piece, and its "
        "training moves pieces to other keys, by up to five semitones; the published peers do neither."
    )
    report.save()


if __name__ == "__main__":
    main()
