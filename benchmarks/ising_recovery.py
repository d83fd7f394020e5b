"""Couplings of an IsingEnergy model recovered from samples, by every objective that needs no log Z.

python benchmarks/ising_recovery.py [--cells 50] [--rows 10000] [--sweeps 1000]

The model is that of Sohl-Dickstein's demonstration of minimum probability flow (runme_ising.m in his repository
Minimum-Probability-Flow-Learning; the paper is arXiv:0906.4779): energy xᵀKx of x in {0, 1}^50 with K normal of standard
deviation 3/√50, symmetrised, its diagonal such that spins ±1 have no field. In our terms J = −2K off the diagonal, so
couplings have a standard deviation of 0.6. Each row is the end of a Gibbs chain of its own from a uniform start.

The yardstick is each estimator's own asymptotic standard error at the true parameters: for a loss with Hessian H and
per-row gradients of covariance G it is the root mean square of diag(H⁻¹ G H⁻¹)/n over couplings (H, G averaged over 50,000
rows); for maximum likelihood, the best possible, H = G is the covariance of the statistics. An estimator is within
statistical error if what it is off by divided by its standard error is about 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from common import Report, arguments, parse, say, spread
from torch import Tensor
from torch.nn.functional import softplus

from abduce.distributions.bases import RatesBase
from abduce.fit.contrastive import (
    NCE,
    Classifier,
    ContrastiveDivergence,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from abduce.fit.loss import EnergyObjective, Loss
from abduce.inference.energy import Energy
from abduce.inference.gibbs import Gibbs
from abduce.inference.partition import log_z
from abduce.inference.paths import Density
from abduce.models.boltzmann import IsingEnergy

SNAPSHOTS = 5  # of all chains, for the yardstick


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truth(cells: int, seed: int) -> IsingEnergy:
    """Random couplings without fields in the ±1 form: b_i = −½ Σ_j J_ij in the 0/1 form."""
    k = torch.randn(cells, cells, generator=generator(seed), dtype=torch.float64) * 3 / math.sqrt(cells)
    coupling = -(k + k.T)
    coupling = coupling - torch.diag(torch.diagonal(coupling))
    return IsingEnergy.of(coupling, -0.5 * coupling.sum(1))


def draw(model: IsingEnergy, rows: int, sweeps: int, seed: int) -> list[Tensor]:
    """Snapshots of ``rows`` Gibbs chains: the last is the data, all are for the yardstick."""
    g = generator(1000 + seed)
    kernel = Gibbs(IsingEnergy.of(model.coupling.detach().float(), model.bias.detach().float()))
    state = kernel.init((torch.rand(rows, model.n_cells, generator=g) < 0.5).float())
    kept = []
    for i in range(1, sweeps + 1):
        state, _ = kernel.step(state, g)
        if i > sweeps // 2 and (sweeps - i) % max(1, sweeps // (2 * SNAPSHOTS)) == 0:
            kept.append(state.x.double())
    return kept


def pairs(cells: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the couplings i < j."""
    return torch.triu_indices(cells, cells, 1).unbind(0)


def standard_error(
    model: IsingEnergy, snapshots: list[Tensor], rows: int, phi: Callable[[Tensor], Tensor] | None
) -> float:
    """Root mean square over couplings of the asymptotic standard error with ``rows`` rows.

    ``phi`` gives the loss Σ_i φ(f_i) of what flips cost; None is maximum likelihood.  f_i = s_i (Σ_j J_ij x_j + b_i) with
    s = 2x − 1 is linear in the parameters: H = Σ_i E[φ''(f_i) u_i u_iᵀ], u_i the statistics that multiply cell i's.
    """
    d = model.n_cells
    i, j = pairs(d)
    size = len(i) + d
    where = torch.empty(
        d, d, dtype=torch.long
    )  # the parameter that couples two cells; a cell's field on the diagonal
    where[i, j] = where[j, i] = torch.arange(len(i))
    where.fill_diagonal_(0).add_(torch.diag(torch.arange(len(i), size)))
    hessian, scores = (
        torch.zeros(size, size, dtype=torch.float64),
        torch.zeros(size, size, dtype=torch.float64),
    )
    first = torch.zeros(size, dtype=torch.float64)
    for x in snapshots:
        if phi is None:
            score = torch.cat([x[:, i] * x[:, j], x], 1)
        else:
            s = 2 * x - 1
            f = model.flip_energies(x).detach().requires_grad_()
            (slope,) = torch.autograd.grad(phi(f).sum(), f, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), f)
            pull = slope.detach() * s
            score = torch.cat([pull[:, i] * x[:, j] + pull[:, j] * x[:, i], pull], 1)
            for cell in range(d):
                u = x.clone()
                u[:, cell] = 1.0
                block = (u * bend[:, cell : cell + 1]).T @ u / len(x)
                hessian[where[cell].unsqueeze(1), where[cell]] += block / len(snapshots)
        scores += score.T @ score / len(x) / len(snapshots)
        first += score.mean(0) / len(snapshots)
    scores -= torch.outer(first, first)
    inverse = torch.linalg.inv(scores if phi is None else hessian)
    covariance = inverse if phi is None else inverse @ scores @ inverse
    return math.sqrt(float(torch.diagonal(covariance)[: len(i)].mean()) / rows)


def nce_standard_error(
    true: IsingEnergy, loss: Classifier, snapshots: list[Tensor], rows: int
) -> tuple[float, float, float]:
    """The same for noise-contrastive estimation with fresh noise without end, E[log p − log p_n], and log Z, nats.

    With log odds G of a row to be data and t the statistics and 1 (for c), data and noise together have H = E[σ(−G) t tᵀ]
    over data alone, and the data's own gradients are −σ(−G) t.  log Z, which G needs, is by tempered SMC.
    """
    i, j = pairs(true.n_cells)
    noise = RatesBase(loss.noise.get_buffer("logits").double())
    log_z_value = log_z(Density(true, noise), "smc").value
    hessian, scores, nats = 0.0, 0.0, 0.0
    for x in snapshots:
        with torch.no_grad():
            above = -true.energy(x) - log_z_value - noise.log_prob(x)
        t = torch.cat([x[:, i] * x[:, j], x, torch.ones_like(x[:, :1])], 1)
        score = t * torch.sigmoid(math.log(loss.ratio) - above).unsqueeze(1)
        hessian = hessian + score.T @ t / len(x) / len(snapshots)
        scores = scores + torch.cov(score.T) / len(snapshots)
        nats += float(above.mean()) / len(snapshots)
    inverse = torch.linalg.inv(hessian)
    variance = torch.diagonal(inverse @ scores @ inverse)[: len(i)]
    return math.sqrt(float(variance.mean()) / rows), nats, log_z_value


def full_batch(loss: Loss, x: Tensor, steps: int) -> None:
    """Minimise a loss without noise by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        loss.parameters(), max_iter=steps, history_size=30, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x).mean()
        value.backward()
        return value

    optimiser.step(closure)


def stochastic(loss: Loss, x: Tensor, steps: int, batch: int, rate: float, seed: int) -> None:
    """Minimise a noisy loss by Adam with a rate that falls to nothing; the parameters are the mean over the last half."""
    g = generator(2000 + seed)
    parameters = list(loss.parameters())
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    mean = [torch.zeros_like(p) for p in parameters]
    for step in range(steps):
        rows = x[torch.randint(len(x), (batch,), generator=g)]
        optimiser.zero_grad()
        loss(rows, g).mean().backward()
        optimiser.step()
        schedule.step()
        if step >= steps // 2:
            torch._foreach_add_(mean, [p.detach() for p in parameters])
    with torch.no_grad():
        for parameter, total in zip(parameters, mean, strict=True):
            parameter.copy_(total / (steps - steps // 2))


def off(model: Energy, true: IsingEnergy) -> float:
    """Root mean square error of the couplings."""
    assert isinstance(model, IsingEnergy)
    i, j = pairs(true.n_cells)
    return float((model.coupling - true.coupling).detach()[i, j].square().mean().sqrt())


FLIPS: dict[str, tuple[EnergyObjective, Callable[[Tensor], Tensor]]] = {
    "minimum probability flow": (MinimumProbabilityFlow(), lambda f: torch.exp(-0.5 * f)),
    "pseudo-likelihood": (PseudoLikelihood(), lambda f: softplus(-f)),
    "ratio matching": (RatioMatching(), lambda f: torch.sigmoid(-f).square()),
}
SAMPLED: dict[str, tuple[EnergyObjective, int, float]] = {  # steps of a batch of 1,000, rate
    "CD-1": (ContrastiveDivergence(), 4000, 0.05),
    "PCD, 1,000 chains": (ContrastiveDivergence(persistent=True, chains=1000), 12_000, 0.05),
    "NCE, 5 draws of rates a row": (NCE("rates", ratio=5), 4000, 0.02),
}


def recover(
    true: IsingEnergy, snapshots: list[Tensor], seed: int, quick: bool
) -> dict[str, dict[str, float]]:
    """Error, own and best possible standard error, and seconds of each method."""
    x = snapshots[-1]
    best = standard_error(true, snapshots, len(x), None)
    found: dict[str, dict[str, float]] = {
        "maximum likelihood, limit": {"error": best, "own": best, "best": best}
    }
    for name, (objective, phi) in FLIPS.items():
        own = standard_error(true, snapshots, len(x), phi)
        model = IsingEnergy.start(x)
        start = time.perf_counter()
        full_batch(objective.start(model, x, generator(seed)), x, 500)
        seconds = time.perf_counter() - start
        found[name] = {"error": off(model, true), "own": own, "best": best, "seconds": seconds}
        say(name, found[name])
    x = x.float()
    for name, (objective, steps, rate) in SAMPLED.items():
        model = IsingEnergy.start(x)
        start = time.perf_counter()
        loss = objective.start(model, x, generator(seed), Gibbs(model))
        stochastic(loss, x, 50 if quick else steps, 1000, rate, seed)
        found[name] = {"error": off(model, true), "best": best, "seconds": time.perf_counter() - start}
        if isinstance(loss, Classifier):
            own, nats, exact = nce_standard_error(true, loss, snapshots, len(x))
            found[name] |= {"own": own, "nats_above_noise": nats, "log_z": exact, "c": float(loss.c.detach())}
        say(name, found[name])
    return found


def main() -> None:
    parser = arguments(__doc__, 3)
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--sweeps", type=int, default=1000)
    args = parse(parser)
    cells, rows, sweeps = (10, 1000, 100) if args.quick else (args.cells, args.rows, args.sweeps)
    report = Report(
        "ising_recovery", f"An IsingEnergy model of {cells} spins recovered from {rows:,} samples", args
    )
    runs = []
    for seed in range(args.seeds):
        true = truth(cells, seed)
        runs.append(recover(true, draw(true, rows, sweeps, seed), seed, args.quick))

    def over(name: str, figure: str, by: str | None = None, digits: int = 3) -> str:
        """A figure over seeds, or its ratio to another."""
        values = [
            run[name].get(figure, math.nan) / (run[name].get(by, math.nan) if by else 1) for run in runs
        ]
        return spread(values, digits)

    report.table(
        "Root mean square error of the couplings",
        ["", "error", "own standard error", "error / own", "error / best possible", "seconds"],
        [
            [
                name,
                over(name, "error", digits=4),
                over(name, "own", digits=4),
                over(name, "error", "own", 2),
                over(name, "error", "best", 2),
                over(name, "seconds", digits=1),
            ]
            for name in runs[0]
        ],
    )
    nats, exact, c = (
        over("NCE, 5 draws of rates a row", figure, digits=1) for figure in ("nats_above_noise", "log_z", "c")
    )
    report.remark(
        "Energy xᵀKx, x in {0, 1}, K normal with standard deviation 3/√cells, symmetrised, no field in the ±1 form (the "
        "demonstration of minimum probability flow by Sohl-Dickstein, arXiv:0906.4779): couplings J = −2K of standard "
        f"deviation {6 / math.sqrt(2 * cells):.2f}. Every row is the end of a Gibbs chain of its own of {sweeps:,} sweeps. "
        "The first row is no run: it is the error of exact maximum likelihood, from the covariance of the statistics at the "
        "truth. Own standard errors are each loss's sandwich H⁻¹ G H⁻¹/n at the truth; error / own near 1 means within "
        "statistical error. Flip objectives by full-batch L-BFGS in double precision, the others by Adam in single "
        "precision, batches of 1,000, a rate that falls to zero, and the mean of the parameters over the last half."
    )
    report.remark(
        f"For NCE the data are {nats} nats denser under the model than under its noise of independent cells, so that few of "
        "its draws are ever mistaken for data; its own standard error is for fresh noise without end. c ended at "
        f"{c}, with log Z of the true model {exact}: where these are far apart the run is short of its optimum, and an error "
        "below its own standard error means that it is still close to its start, independent cells."
    )
    report.keep("runs", runs)
    report.save()


if __name__ == "__main__":
    main()
