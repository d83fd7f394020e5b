"""The variational auto-encoder: a decoder for p(x|z), an encoder for q(z|x), both beside a linear path.

Without its networks it is a linear-Gaussian model, whose posterior is exact for any pattern of blanks; with them it bends
that model where the data ask for it:

    decoder   mean = W z + b + f(z)              encoder   exact posterior of the linear path, moved by g(x_obs, mask)

Without a linear path, prior and posterior may be of any family, and the latents may lie in several layers.

Source: Kingma & Welling 2014 (arXiv:1312.6114); Rezende, Mohamed & Wierstra 2014 (arXiv:1401.4082).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abduce.distributions.heads import Likelihood
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import DiagonalHead, MixtureNormal, Posterior
from abduce.distributions.priors import GaussianMixture, StandardNormal
from abduce.gaussians.linear import LinearPath
from abduce.inference.latent import LatentVariableModel
from abduce.models.missingness import MaskModel, NotAtRandom
from abduce.answers.answer import Answer, Effort
from abduce.answers.weighed import Weighed
from abduce.data.seen import Seen
from abduce.models.model import Model
from abduce.nets.convolutions import ConvolutionalDecoder, ConvolutionalEncoder
from abduce.nets.mlp import MLP, Features


class VariationalAutoencoder(LatentVariableModel, Model):
    """A VAE with any likelihood.

    With a ``path`` the prior is the path's mixture and the posterior its exact one, corrected by a network; without, the
    network gives the posterior whole, in the family of ``head`` (diagonal Gaussians by default), and the prior is ``prior``
    (N(0, I) by default).  ``hidden`` are the encoder's layers; the decoder has them reversed.  ``latent_dim`` may list
    several layers of latents from the top down: the decoder reads the last.  With ``image`` (H, W[, C]) both networks are
    convolutional, and ``hidden`` their widths.
    """

    def __init__(
        self,
        features: Features,
        likelihood: Likelihood,
        latent_dim: int | Sequence[int],
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        dropout: float = 0.0,
        path: LinearPath | None = None,
        prior: nn.Module | None = None,
        head: nn.Module | None = None,
        image: Sequence[int] | None = None,
    ):
        super().__init__()
        layers = [latent_dim] if isinstance(latent_dim, int) else list(latent_dim)
        self.latent_dim, self.bottom = sum(layers), layers[-1]
        self.features = features
        self.heads = likelihood
        self.mask_model: MaskModel | None = None
        linear, n_read = path is not None, features.n_features

        def encoder(extra: int, n_out: int, zero_start: bool) -> MLP | ConvolutionalEncoder:
            if image is None:
                return MLP(n_read + extra, hidden, n_out, activation, dropout=dropout, zero_start=zero_start)
            planes = n_read // features.n_cells
            return ConvolutionalEncoder(image, planes, extra, hidden, n_out, activation, dropout, zero_start)

        if image is None:
            self.decoder = MLP(
                self.bottom, tuple(reversed(hidden)), likelihood.n_parameters, activation, linear, dropout
            )
        else:
            planes = likelihood.n_parameters // features.n_cells
            self.decoder = ConvolutionalDecoder(
                self.bottom, image, planes, hidden, activation, linear, dropout
            )
        self.surrogate: _Surrogate | None = None
        self.head: nn.Module | None = None
        if path is None:
            self.head = DiagonalHead(self.latent_dim) if head is None else head
            n_out: Any = self.head.n_parameters
            self.encoder = encoder(0, n_out, zero_start=False)
            self.noise_dim = self.latent_dim
            prior = StandardNormal(self.latent_dim) if prior is None else prior
        else:
            self.surrogate = _Surrogate(path)
            self.encoder = encoder(self.latent_dim, 2 * self.latent_dim, zero_start=True)
            self.noise_dim = self.latent_dim + 1
            prior = GaussianMixture(path.weights, path.means, path.covariances) if prior is None else prior
        self.set_prior(prior)

    # ------------------------------------------------------------------ as a model

    views = frozenset({"blanks", "linear", "flips"})
    lattice_mass = True
    stored_as = torch.float32

    def answer(self, seen: Seen, effort: Effort = Effort()) -> Answer:
        """Weigh draws of z; with a mask model, rows with blanks are seen with their mask."""
        self.check(seen, self.views)
        return Weighed(self.joint() if seen.exact else self, seen, effort)

    @property
    def most(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The largest value that each cell can take, (D,)."""
        return self.heads.limits()

    def point(self, moments: list[Tensor]) -> Tensor:
        return self.heads.point(moments)

    def chances(self, moments: list[Tensor], cell: int) -> Tensor:
        return self.heads.chances(moments, cell, self.layout.levels[cell])

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z), numbers at their mean and classes at their likeliest code."""
        return self.heads.point(self.likelihood(z).moments())

    def joint(self) -> LatentVariableModel:
        """What is fitted and asked: the model itself, or with a mask model that of (x_obs, s)."""
        return self if self.mask_model is None else NotAtRandom(self, self.mask_model)

    def set_prior(self, prior: nn.Module) -> None:
        """Put another prior in the place of the one there is."""
        dim = getattr(prior, "latent_dim", None)
        if dim != self.latent_dim:
            raise ValueError(f"prior must have latent_dim {self.latent_dim} like the model, got {dim}")
        self.prior = prior  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, read: Tensor) -> Posterior:
        """q(z|x) from what the encoder reads of a row, where it stands on its own."""
        assert self.head is not None
        return self.head(self.encoder(read))

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> Posterior:
        if observed is not None and bool(observed.all()):
            observed = None  # the exact posterior then shares its covariances over rows
        read = self.features(x, observed)
        if self.surrogate is None:
            return self.encode(read)
        with torch.no_grad():
            log_r, means, chol = self.surrogate(*self.features.cells(x, observed))
            centre = torch.einsum("bc,bck->bk", log_r.exp(), means)
        shift, log_stretch = self.encoder(torch.cat([read, centre], -1)).chunk(2, -1)
        return MixtureNormal(log_r, means, chol, shift, log_stretch.clamp(-2.0, 2.0))

    def linear_path(self) -> LinearPath | None:
        """The linear path over the cells themselves; None if there is none, or if it reads classes or counts."""
        if self.surrogate is None or not self.features.all_numeric:
            return None
        path = self.surrogate.path()
        path.b = path.b + self.features.numeric_loc
        return path

    def likelihood(self, z: Tensor) -> Product:
        return self.heads(self.decoder(z[..., -self.bottom :]))


class _Surrogate(nn.Module):
    """A linear path over what the encoder reads, kept fixed: where the posterior starts from."""

    W: Tensor
    b: Tensor
    noise: Tensor
    weights: Tensor
    means: Tensor
    covariances: Tensor
    precisions: Tensor
    log_det_precisions: Tensor

    NAMES = ("W", "b", "noise", "weights", "means", "covariances", "precisions", "log_det_precisions")

    def __init__(self, path: LinearPath):
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, getattr(path, name).float())

    def forward(self, y: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.path().posterior(y, observed)[:3]

    def path(self) -> LinearPath:
        """The path itself, with what it would compute at every call set aside."""
        path = LinearPath(self.W, self.b, self.noise, self.weights, self.means, self.covariances)
        path.__dict__.update(precisions=self.precisions, log_det_precisions=self.log_det_precisions)
        return path
