"""pythae with the 784-200-200-50 tanh network: the same layers as ours, its own trainer without callbacks."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

PIXELS, HIDDEN, LATENT = 784, 200, 50


def network(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh between them."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def pythae_model(samples: int = 0) -> Any:
    """pythae's VAE, or with ``samples`` its IWAE."""
    from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = network(PIXELS, HIDDEN, HIDDEN, 2 * LATENT)

        def forward(self, rows):
            mean, log_variance = self.net(rows).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = network(LATENT, HIDDEN, HIDDEN, PIXELS)

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    common = {"input_dim": (PIXELS,), "latent_dim": LATENT, "reconstruction_loss": "bce"}
    if samples:
        return IWAE(IWAEConfig(**common, number_samples=samples), encoder=Encoder(), decoder=Decoder())
    return VAE(VAEConfig(**common), encoder=Encoder(), decoder=Decoder())


def pythae_trainer(x: Tensor, batch: int, samples: int = 0, rate: float = 1e-3) -> tuple[Any, Any]:
    """A model and its trainer, ready for `trainer.train_step(epoch)`."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler

    model = pythae_model(samples)
    options = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_epochs=1,
        learning_rate=rate,
        no_cuda=True,
    )
    trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=options)
    trainer.prepare_training()
    trainer.callback_handler = CallbackHandler(callbacks=[], model=model)
    return model, trainer
