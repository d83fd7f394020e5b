"""What one process and several do alike, and what several refuse: a launcher runs ``together_for_tests.py FOLDER TABLE``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from models_for_tests import factor_rows, generator, plain_model
from safetensors.torch import save_file

from abduce import VAE, cli, together
from abduce.data.schema import Schema
from abduce.fit.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi
from abduce.fit.contrastive import NCE, ContrastiveDivergence, MinimumProbabilityFlow, PseudoLikelihood
from abduce.fit.loop import train
from abduce.fit.loss import MeanEnergy
from abduce.fit.matching import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from abduce.fit.settings import Settings
from abduce.fit.steps import EnergyStep, LatentStep
from abduce.inference.gibbs import BlockGibbs
from abduce.inference.langevin import Langevin
from abduce.models.autoencoder import AutoencoderEnergy
from abduce.models.boltzmann import RBMEnergy
from abduce.models.build import build_vae
from abduce.models.choice import Choice
from abduce.models.network import NetworkEnergy

CELLS, EPOCHS = 6, 3  # of twenty steps each
SETTINGS = Settings(EPOCHS, 48, learning_rate=1e-2, patience=None, device="cpu", seed=1, event_shape=(CELLS,))
ROWS = torch.from_numpy(factor_rows(1067, CELLS))
BITS = (ROWS > 0).to(ROWS)


def latent(objective, kind: str = "real", holes: bool = False, **settings) -> Callable[[], tuple]:
    """A VAE, trained by a bound."""

    def build():
        model, _ = plain_model(kind, CELLS)
        x = BITS if kind == "binary" else ROWS
        mask = torch.rand(x.shape, generator=generator()) < 0.7 if holes else None
        return LatentStep(model, objective, replace(SETTINGS, **settings), len(x)), x, mask, settings

    return build


def dropping(objective, shape: tuple[int, ...] = (CELLS,), **asked) -> Callable[[], tuple]:
    """A VAE whose networks leave out units, of rows or of images."""

    def build():
        schema = Schema.infer(ROWS.numpy().reshape(-1, *shape), "real")
        torch.manual_seed(0)
        choice = Choice(2, (8, 8), dropout=0.3, linear_path=False, **asked)
        pseudo = torch.randn(24, 2 * CELLS) if asked.get("prior") == "vamp" else None
        model = build_vae(schema, choice, pseudo=pseudo).double()
        return LatentStep(model, objective, SETTINGS, len(ROWS)), ROWS, None, {}

    return build


def energy(
    model: Callable, objective, kernel: Callable | None = None, binary: bool = False
) -> Callable[[], tuple]:
    """An energy, trained by an objective."""

    def build():
        torch.manual_seed(0)
        own, x = model().double(), BITS if binary else ROWS
        bound = kernel(own) if kernel else None
        return EnergyStep(objective.start(own, x, generator(), bound)), x, None, {"masking": False}

    return build


def network():
    return NetworkEnergy(CELLS, hidden=(8,), activation="silu")


def machine():
    return RBMEnergy.start(BITS, 4, generator())


def langevin(model):
    return Langevin(model, 0.1)


CASES: dict[str, Callable[[], tuple]] = {
    "elbo": latent(ELBO(warmup=0.1), "binary"),
    "elbo of blanks": latent(ELBO(), holes=True),
    "free bits": latent(ELBO(free_bits=0.1)),
    "total correlation": latent(ELBO(total_correlation=2.0)),
    "mmd": latent(ELBO(mmd=5.0)),
    "dip": latent(ELBO(dip=1.0)),
    "trimmed": latent(ELBO(), trim=0.1),
    "iwae": latent(IWAE(5), holes=True),
    "renyi": latent(Renyi(0.5, 4)),
    "vr-max": latent(Renyi(-np.inf, 4)),
    "miwae": latent(MIWAE(2, 3)),
    "piwae": latent(PIWAE(2, 3)),
    "ciwae": latent(CIWAE(0.5, 4)),
    "dropout": dropping(IWAE(3)),
    "dropout of images": dropping(IWAE(3), (3, 2), network="conv"),
    "dropout of pseudo-inputs": dropping(ELBO(), prior="vamp", components=24),
    "cd": energy(machine, ContrastiveDivergence(2), BlockGibbs, binary=True),
    "pcd": energy(machine, ContrastiveDivergence(1, True, 20, 0.05), BlockGibbs, binary=True),
    "cd of numbers": energy(network, ContrastiveDivergence(2), langevin),
    "nce": energy(network, NCE(ratio=3)),
    "probability flow": energy(machine, MinimumProbabilityFlow(), binary=True),
    "pseudo-likelihood": energy(machine, PseudoLikelihood(), binary=True),
    "score": energy(network, ScoreMatching()),
    "sliced": energy(network, SlicedScoreMatching()),
    "denoising": energy(network, DenoisingScoreMatching((0.1, 1.0))),
    "sparse": energy(lambda: AutoencoderEnergy(CELLS, 4, penalty="sparse", target=0.1), MeanEnergy()),
    "corrupted": energy(lambda: AutoencoderEnergy(CELLS, 4, corruption=0.2), MeanEnergy()),
}


def trained(case: str) -> dict[str, torch.Tensor]:
    """The weights after training."""
    step, x, mask, changed = CASES[case]()
    train(step, x, mask, replace(SETTINGS, **changed))
    return {name: tensor.contiguous() for name, tensor in step.state_dict().items()}


def fitted(X: np.ndarray, **arguments) -> None:
    """A fit that is refused before its first step."""
    VAE(max_epochs=1, random_state=0, **arguments).fit(X)


def command(method: str, output: Path, table: Path) -> list[object]:
    """The arguments of a command that fits, and goes on where it was stopped."""
    return [
        "fit",
        table,
        "-o",
        output,
        "--model",
        method,
        "--resume",
        *["--max-epochs", 10] * (method == "vae"),
    ]


REFUSED: dict[str, Callable[[], None]] = {
    "other rows": lambda: fitted(ROWS[: 60 + together.launched().rank].numpy()),
    "a batch of one row": lambda: fitted(ROWS[:60].numpy(), batch_size=1),
}


def main(folder: str, table: str) -> None:
    """Write the weights of each case, what is said of each that is refused, and the models of a command."""
    rank = together.launched().rank
    for case in CASES:
        save_file(trained(case), Path(folder) / f"{case} {rank}.safetensors")
    for case, refused in REFUSED.items():
        try:
            refused()
        except ValueError as error:
            Path(folder, f"{case} {rank}.txt").write_text(str(error))
    for name in ("vae", "pca"):  # the second is fitted by the first process, and the other ends
        sys.argv = ["abduce", *map(str, command(name, Path(folder) / name, Path(table)))]
        with suppress(SystemExit):
            cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
