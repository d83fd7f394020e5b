"""Energy networks in the plane beside torchebm: KL to densities whose log p is known, and seconds.

python benchmarks/energy_2d.py [--rows 10240] [--densities spiral ring] [--jobs 2]

Data: the toy densities of abduce.data.examples, each cell standardised, the same rows for both. Network: 2-64-64-1 with
SiLU; 256 evaluations of the energy on data a step (torchebm's examples take batches of 256; our denoising takes 128 rows,
each with noise of both signs) and 1000 steps, 2000 for torchebm's example of denoising, as it has them.

The figure is KL(p || model) = E_p[log p − log p_model] over 10,000 rows held out. A bare network, as in torchebm's
examples, has no finite integral, so every model, ours too, is normalised by quadrature over one box, |x| < 6.

torchebm runs in two ways. "Its example" is what its examples do: Adam at 0.001 throughout on a bare network, denoising at
σ = 0.1, a buffer of 8192 chains moved by 10 Langevin steps of η = 0.1. "Tuned" is its loss on our network with our bowl
‖x‖²/2w² at our learning rate and schedule, its weights averaged at the end as ours, with our bound on the gradient's norm
(for denoising times 1/σ², as its loss is 1/σ² times ours). Settings were chosen by KL on seed 0: the rate of
0.01 on ours, and on torchebm's denoising, where 0.002 and 0.005 were worse but for one σ on one density; torchebm's σ out of
0.03 to 0.15 (0.07 is its best on the spiral, 0.1 on the others), ours out of 0.03 to 0.1; the Hamiltonian steps on ours,
after which torchebm has the same (in 3 × 3 leapfrogs its rate of 0.01 was better than 0.005), a buffer as large as the batch
and no penalty (with Langevin steps of η from 0.001 to 0.02, ours ε²/2, its KL on the spiral was 0.6 or more).

Seconds are of the processor, of one thread: training from the loss's start to its end, everything else left out.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from common import Report, arguments, parse, say, spread
from torch import Generator, Tensor, nn

from abduce.data.examples import TOYS
from abduce.distributions.bases import BoxBase
from abduce.fit.contrastive import NCE, ContrastiveDivergence
from abduce.fit.loop import train
from abduce.fit.loss import EnergyObjective
from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from abduce.fit.settings import Settings
from abduce.fit.steps import EnergyStep
from abduce.inference import hmc
from abduce.inference.energy import Energy, log_density
from abduce.inference.integration import log_z_by_quadrature
from abduce.inference.kernels import State, start
from abduce.models.network import NetworkEnergy

BATCH, HALF = 256, 6.0  # rows a step; half the width of the box
HIDDEN = (64, 64)
AVERAGE = 0.3  # share of a run, at its end, whose weights are averaged
CLIP = 5 * math.sqrt(2)  # our bound on the gradient's norm


@dataclass(frozen=True)
class Plane:
    """Rows of a toy density in standard deviations of its cells, and log p of those held out, nats."""

    train: Tensor
    test: Tensor
    log_p: Tensor


def plane(name: str, rows: int, seed: int) -> Plane:
    toy = TOYS[name]()
    raw, held = toy.sample(rows, seed), toy.sample(10_000, 1000 + seed)
    mean, scale = raw.mean(0), raw.std(0)
    log_p = toy.log_prob(held) + np.log(scale).sum()
    return Plane(
        torch.from_numpy((raw - mean) / scale).float(),
        torch.from_numpy((held - mean) / scale),
        torch.from_numpy(log_p),
    )


@torch.no_grad()
def divergence(model: Energy, data: Plane) -> float:
    """KL(p || model), nats, the model on the box."""
    model = model.double().eval()
    side = torch.full((2,), HALF, dtype=torch.float64)
    base = BoxBase(-side, side)
    log_z = log_z_by_quadrature(model, base, tolerance=1e-3).value
    log_q = -model.energy(data.test) + base.log_prob(data.test) - log_z
    return float((data.log_p - log_q).mean())


# ---------------------------------------------------------------- ours


@dataclass(frozen=True)
class Hamiltonian:
    """Hamiltonian Monte Carlo on exp(−E) as a kernel of chains (n, D)."""

    model: Energy
    step_size: float
    leapfrogs: int

    def init(self, x: Tensor) -> State:
        return start(x, partial(log_density, self.model))

    def step(self, state: State, generator: Generator) -> tuple[State, Tensor]:
        return hmc.step(state, partial(log_density, self.model), self.step_size, generator, self.leapfrogs)


@dataclass(frozen=True)
class Ours:
    """An objective with the settings that it is trained at; with ``step`` its chains move by Hamiltonian steps."""

    objective: EnergyObjective
    steps: int = 1000
    rate: float = 1e-2
    step: float | None = None
    width: float = 2.0
    average: float = AVERAGE

    def __call__(self, data: Plane, seed: int, steps: int | None = None) -> tuple[Energy, float]:
        torch.manual_seed(seed)
        model = NetworkEnergy(2, HIDDEN, width=self.width)
        kernel = None if self.step is None else Hamiltonian(model, self.step, leapfrogs=6)
        began = time.process_time()
        loss = self.objective.start(model, data.train, torch.Generator().manual_seed(seed), kernel)
        # denoising sees a row twice, with noise of both signs
        batch = BATCH // 2 if isinstance(self.objective, DenoisingScoreMatching) else BATCH
        settings = Settings(
            epochs=math.ceil((steps or self.steps) / (len(data.train) // batch)),
            batch_size=batch,
            learning_rate=self.rate,
            validation=0.0,
            patience=None,
            average=self.average,
            device="cpu",
            seed=seed,
        )
        train(EnergyStep(loss), data.train, None, settings)
        return model, time.process_time() - began


# ---------------------------------------------------------------- torchebm


class Wrapped(Energy):
    """torchebm's model as an energy of ours, to be normalised."""

    n_cells = 2

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def energy(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.net(x.reshape(-1, 2)).reshape(x.shape[:-1])

    def log_z(self, beta=1.0, base=None):
        return None

    def law(self, beta=1.0, base=None):
        return None

    def represent(self, x: Tensor) -> Tensor:
        return x


def peer_model(width: float | None) -> nn.Module:
    """torchebm's model around our network with its bowl, or without one as in torchebm's examples."""
    from torchebm.core import BaseModel

    class Network(BaseModel):
        def __init__(self):
            super().__init__()
            self.net = NetworkEnergy(2, HIDDEN, width=width or 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.net.energy(x) if width else self.net.top(self.net.represent(x)).squeeze(-1)

    return Network()


@dataclass(frozen=True)
class Peer:
    """A loss of torchebm, built from a model, and a loop as in its examples, or (``tuned``) with our schedule and average."""

    loss: Callable[[nn.Module], nn.Module]
    steps: int = 1000
    rate: float = 1e-3
    width: float | None = None
    tuned: bool = False
    clip: float = math.inf

    def __call__(self, data: Plane, seed: int, steps: int | None = None) -> tuple[Energy, float]:
        torch.manual_seed(seed)
        model = peer_model(self.width)
        loss = self.loss(model)
        parameters = list(model.parameters())
        steps = steps or self.steps
        start = time.process_time()
        optimiser = torch.optim.Adam(parameters, lr=self.rate, fused=self.tuned)
        mean = [torch.zeros_like(p) for p in parameters]
        for i in range(steps):
            if self.tuned:
                t = i / steps
                warm = 0.1 + 0.9 * t / 0.02
                falling = 0.05 + 0.475 * (1 + math.cos(math.pi * (t - 0.02) / 0.98))
                optimiser.param_groups[0]["lr"] = self.rate * (warm if t < 0.02 else falling)
            value = loss(data.train[torch.randint(len(data.train), (BATCH,))])
            value = value[0] if isinstance(value, tuple) else value
            optimiser.zero_grad()
            value.backward()
            if self.clip < math.inf:
                nn.utils.clip_grad_norm_(parameters, self.clip)
            optimiser.step()
            if self.tuned and (late := i + 1 - round((1 - AVERAGE) * steps)) > 0:
                with torch.no_grad():
                    torch._foreach_lerp_(mean, parameters, 1 / late)
        if self.tuned:
            nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(mean), parameters)
        return Wrapped(model), time.process_time() - start


def denoising(model, sigma: float):
    from torchebm.losses import DenoisingScoreMatching as Loss

    return Loss(model, noise_scale=sigma)


def sliced(model, projections: int):
    from torchebm.losses import SlicedScoreMatching as Loss

    return Loss(model, n_projections=projections)


def exact(model):
    from torchebm.losses import ScoreMatching as Loss

    return Loss(model)


def persistent(model, sampler: str, buffer: int, k: int, penalty: float, **settings):
    """Chains in a replay buffer, moved by torchebm's ``sampler``; Langevin's step is η of x − η ∇E + √2η ε, ours ε²/2."""
    from torchebm import samplers
    from torchebm.losses import ContrastiveDivergence as Loss

    moves = getattr(samplers, sampler)(model, **settings)
    return Loss(model, moves, k_steps=k, persistent=True, buffer_size=buffer, energy_reg_weight=penalty)


langevin = partial(persistent, sampler="LangevinDynamics", k=10)
hamiltonian = partial(persistent, sampler="HamiltonianMonteCarlo", k=2, buffer=BATCH, penalty=0.0)


# ---------------------------------------------------------------- the comparison

TUNED: Any = {"width": 2.0, "tuned": True, "rate": 1e-2}
CHAINS = ContrastiveDivergence(k=2, persistent=True, chains=BATCH)
RUNS: dict[str, dict[str, Ours | Peer]] = {
    "denoising": {
        "abduce, σ = 0.05": Ours(DenoisingScoreMatching(0.05)),
        "abduce, σ = 0.1": Ours(DenoisingScoreMatching(0.1)),
        "torchebm, tuned, σ = 0.05": Peer(partial(denoising, sigma=0.05), clip=CLIP / 0.05**2, **TUNED),
        "torchebm, tuned, σ = 0.1": Peer(partial(denoising, sigma=0.1), clip=CLIP / 0.1**2, **TUNED),
        "torchebm, its example, σ = 0.1": Peer(partial(denoising, sigma=0.1), steps=2000),
    },
    "sliced": {
        "abduce": Ours(SlicedScoreMatching()),
        "torchebm, tuned, 1 projection": Peer(partial(sliced, projections=1), clip=CLIP, **TUNED),
    },
    "exact": {
        "abduce": Ours(ScoreMatching()),
        "torchebm, tuned": Peer(exact, clip=CLIP, **TUNED),
    },
    "persistent chains": {
        "abduce, 2 × 6 leapfrogs": Ours(CHAINS, step=0.15),
        "torchebm, tuned, 2 × 6 leapfrogs": Peer(
            partial(hamiltonian, step_size=0.15, n_leapfrog_steps=6), clip=CLIP, **TUNED
        ),
        "torchebm, its example": Peer(partial(langevin, step_size=0.1, buffer=8192, penalty=0.001)),
    },
    "noise-contrastive": {"abduce": Ours(NCE())},
}


def one(density: str, seed: int, rows: int, steps: int | None) -> dict[str, tuple[float, float]]:
    """KL and seconds of every run on one density and seed."""
    torch.set_num_threads(1)
    data, out = plane(density, rows, seed), {}
    for method, runs in RUNS.items():
        for who, run in runs.items():
            model, seconds = run(data, seed, steps)
            out[f"{method}: {who}"] = divergence(model, data), seconds
            say(density, seed, f"{method}: {who}", *(f"{v:.3f}" for v in out[f"{method}: {who}"]))
    return out


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--rows", type=int, default=10_240, help="rows to train on (default %(default)s)")
    parser.add_argument("--densities", nargs="*", default=list(TOYS), choices=list(TOYS))
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes, of a thread each (default %(default)s)"
    )
    args = parse(parser)
    steps = None
    if args.quick:
        args.densities, args.rows, steps = args.densities[:1], 1024, 20
    report = Report("energy_2d", "Energy networks in the plane, and torchebm", args)
    cases = [(d, s) for s, d in itertools.product(range(args.seeds), args.densities)]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(one, *zip(*cases, strict=True), [args.rows] * len(cases), [steps] * len(cases)))
    report.remark(
        f"A 2-{HIDDEN[0]}-{HIDDEN[1]}-1 network with SiLU, {args.rows:,} standardised rows, {BATCH} evaluations of the energy "
        "on data a step (denoising of ours: 128 rows, each with noise of both signs), 1000 steps. KL(p || model) on 10,000 "
        f"rows held out, every model normalised over the box |x| < {HALF:g}. “Its example”: as in torchebm's examples, Adam "
        "at 0.001, a bare network, 2000 steps of denoising, Langevin steps of 0.1. “Tuned”: its loss on our network at the "
        "learning rate, schedule and averaging of ours, denoising at noises tried for it; settings of both were chosen on "
        "seed 0. Seconds are of one processor thread."
    )
    names = list(found[0])
    for title, which, digits in (("KL(p || model), nats", 0, 3), ("Seconds", 1, 1)):
        table = [
            [name.replace(": abduce", ": **abduce**")]
            + [
                spread(
                    [f[name][which] for (d, _), f in zip(cases, found, strict=True) if d == density], digits
                )
                for density in args.densities
            ]
            for name in names
        ]
        report.table(title, ["objective", *args.densities], table)
    report.keep("runs", [{"density": d, "seed": s, **f} for (d, s), f in zip(cases, found, strict=True)])
    report.save()


if __name__ == "__main__":
    main()
