"""The variational auto-encoder: a decoder for p(x|z), an encoder for q(z|x), both beside a linear path.

Without its networks it is factor analysis; with them it bends the linear model where the data ask for it.

Source: Kingma & Welling 2014 (arXiv:1312.6114); Rezende, Mohamed & Wierstra 2014 (arXiv:1401.4082).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from abduce.distributions.heads import Likelihood
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import DiagonalNormal
from abduce.distributions.priors import StandardNormal
from abduce.models.latent import LatentVariableModel
from abduce.nets import MLP, Features


class VariationalAutoencoder(LatentVariableModel):
    """Standard normal prior, diagonal Gaussian posterior, and any likelihood.

    ``hidden`` are the encoder's layers; the decoder has them reversed.
    """

    def __init__(
        self,
        features: Features,
        likelihood: Likelihood,
        latent_dim: int,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        linear_path: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.prior = StandardNormal(latent_dim)
        self.features = features
        self.encoder = MLP(features.n_features, hidden, 2 * latent_dim, activation, linear_path, dropout)
        self.decoder = MLP(latent_dim, tuple(reversed(hidden)), likelihood.n_parameters, activation, linear_path)
        self.heads = likelihood

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> DiagonalNormal:
        return DiagonalNormal.from_parameters(self.encoder(self.features(x, observed)))

    def likelihood(self, z: Tensor) -> Product:
        return self.heads(self.decoder(z))
