"""The variational auto-encoder: a decoder for p(x|z), an encoder for q(z|x), both beside a linear path.

Without its networks it is a linear-Gaussian model, whose posterior is exact for any pattern of blanks; with them it bends
that model where the data ask for it:

    decoder   mean = W z + b + f(z)              encoder   exact posterior of the linear path, moved by g(x_obs, mask)

Without a linear path, prior and posterior may be of any family, and the latents may lie in several layers.

Source: Kingma & Welling 2014 (arXiv:1312.6114); Rezende, Mohamed & Wierstra 2014 (arXiv:1401.4082).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from abduce.answers.answer import EFFORT, Answer, Effort
from abduce.answers.weighed import Weighed
from abduce.data.schema import Schema
from abduce.data.seen import Seen
from abduce.declared import made
from abduce.distributions.heads import THINNABLE
from abduce.distributions.likelihoods import Product
from abduce.distributions.posteriors import MixtureNormal, MovesHead, Posterior
from abduce.distributions.priors import GaussianMixturePrior
from abduce.gaussians.linear import LinearPath
from abduce.inference.codes import CodeAxes, code_axes
from abduce.inference.importance import by_chunk
from abduce.inference.latent import LatentVariableModel
from abduce.models.choice import Choice
from abduce.models.columns import likelihood_of, reading
from abduce.models.hierarchy import LayeredPrior
from abduce.models.missingness import MaskModel, NotAtRandom
from abduce.models.model import Model, filled
from abduce.models.parts import FIXED, LAYERED, POSTERIORS, PRIORS
from abduce.models.shapes import DataSummary, Shapes
from abduce.nets.convolutions import ConvolutionalDecoder, ConvolutionalEncoder
from abduce.nets.mlp import MLP


class VariationalAutoencoder(LatentVariableModel, Model):
    """A VAE with any likelihood.

    With a linear path the prior is the path's mixture and the posterior its exact one, corrected by a network; without, the
    network gives the posterior whole.  ``hidden`` are the encoder's layers; the decoder has them reversed.  Of several layers
    of latents, from the top down, the decoder reads the last.

    Built by :mod:`abduce.models.build`.  ``schema``, ``choice`` and ``shapes`` (or their JSON values, as :attr:`config` has
    them) say all that a ``state_dict`` needs to fit; where the weights start from is random, from torch's global generator,
    but for what ``data``, a linear ``path`` and a VampPrior's ``pseudo``-inputs (components, features) say.
    """

    there: Tensor
    back: Tensor
    centre: Tensor

    def __init__(
        self,
        schema: Schema | Mapping[str, Any],
        choice: Choice | Mapping[str, Any],
        shapes: Shapes | Mapping[str, Any],
        data: DataSummary | None = None,
        path: LinearPath | None = None,
        pseudo: Tensor | None = None,
    ):
        super().__init__()
        self.schema = schema if isinstance(schema, Schema) else Schema.from_json(dict(schema))
        self.choice = choice if isinstance(choice, Choice) else made(Choice, choice, "choice")
        self.shapes = shapes = shapes if isinstance(shapes, Shapes) else made(Shapes, shapes, "shapes")
        self.layout, self.n_cells = self.schema.layout, self.schema.n_cells
        self.latent_dim, self.bottom = sum(shapes.latent), shapes.latent[-1]
        self.features = reading(self.schema, self.choice.masking, data)
        self.heads = likelihood_of(self.schema, self.shapes, self.choice.scale, data)
        if path is not None:
            path = replace(path, noise=self.heads.widened(path.b, path.noise, self.features.places))
        prior, head = self._parts(path, pseudo)
        self.decoder = self._decoder()
        linear = path or _blank_path(len(self.features.cell), self.latent_dim, shapes.path)
        self.surrogate = _Surrogate(linear) if shapes.path else None
        self.head = head
        self.noise_dim = head.noise_dim if shapes.path else self.latent_dim
        self.encoder = self._encoder()
        self.prior = prior
        self.mask_model = None if shapes.mask is None else made(MaskModel, dict(shapes.mask), "mask")
        for name in CodeAxes._fields[:2]:
            self.register_buffer(name, torch.eye(self.latent_dim))
        self.register_buffer("centre", torch.zeros(self.latent_dim))
        if path is not None:
            self._start(path)
        elif not shapes.path:
            with torch.no_grad():
                self.decoder.offset.copy_(self.heads.offset(self.decoder.offset))

    # ------------------------------------------------------------------ as a model

    lattice_mass = True
    stored_as = torch.float32

    @property
    def views(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Blanks, linear maps and flips; thinned counts where all likelihoods have a closed form of them."""
        thinned = {"thinned"} if set(self.shapes.likelihoods) <= set(THINNABLE) else set()
        return frozenset({"blanks", "linear", "flips"} | thinned)

    def answer(self, seen: Seen, effort: Effort = EFFORT) -> Answer:
        """Weigh draws of z; with a mask model, rows with blanks are seen with their mask."""
        self.check(seen)
        return Weighed(self.joint() if seen.exact else self, seen, effort)

    @property
    def most(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.heads.limits()

    def point(self, moments: list[Tensor]) -> Tensor:
        return self.heads.point(moments)

    def chances(self, moments: list[Tensor], cell: int) -> Tensor:
        return self.heads.chances(moments, cell, self.layout.levels[cell])

    # ------------------------------------------------------------------ codes

    def codes(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """The posterior mean of the latents of each row, on the codes' axes (:mod:`abduce.inference.codes`), (batch, latent).

        Several layers of latents stand side by side as they are.
        """
        return self.code_axes.codes(self.posterior(x, observed).mean)

    def decode(self, z: Tensor) -> Tensor:
        return self.heads.point(self.likelihood(self.code_axes.latents(z)).moments())

    @torch.no_grad()
    def place_axes(self, x: Tensor, observed: Tensor) -> None:
        """Let distances between codes be distances in the data, by the rows of a fitted model in double precision."""
        if len(self.shapes.latent) > 1:
            return  # what the upper layers tell reaches the data through the last alone
        (z,) = by_chunk(lambda v, o: (self.posterior(v, o).mean,), x, observed)
        axes = {name: t.to(self.stored_as) for name, t in code_axes(self._means, z)._asdict().items()}
        filled(self, **axes)

    @property
    def code_axes(self) -> CodeAxes:
        """The axes of codes; without :meth:`place_axes` the latents' own."""
        return CodeAxes(self.there, self.back, self.centre)

    def _means(self, z: Tensor) -> Tensor:
        """What latents decode to: numbers, the logarithms of counts and the probabilities of classes, (..., features)."""
        pairs = zip(self.heads.heads, self.likelihood(z).moments(), strict=True)
        return torch.cat(
            [(m.log1p() if head.estimate == "whole" else m).flatten(-2) for head, m in pairs], -1
        )

    @property
    def config(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"schema": self.schema.to_json(), "choice": asdict(self.choice), "shapes": asdict(self.shapes)}

    # ------------------------------------------------------------------ parts

    def _parts(self, path: LinearPath | None, pseudo: Tensor | None) -> tuple[Any, Any]:
        """The prior, and the head that reads the posterior off the encoder, or beside a linear path what moves its own."""
        shapes, choice = self.shapes, self.choice
        moves = MovesHead(self.latent_dim, shapes.posterior == "tied path") if shapes.path else None
        if path is not None:
            return GaussianMixturePrior(path.weights, path.means, path.covariances), moves
        if pseudo is None:
            pseudo = torch.zeros(shapes.components, self.features.n_features)
        prior = (PRIORS | FIXED)[shapes.prior](shapes.latent[0], shapes.components, self.encode, pseudo)
        if shapes.path:
            return prior, moves
        if len(shapes.latent) == 1:
            hidden = shapes.hidden[:1] or (64,)
            return prior, POSTERIORS[shapes.posterior](self.latent_dim, choice.transforms, hidden)
        between = [max(shapes.latent)] * len(shapes.hidden)
        prior = LayeredPrior(prior, shapes.latent, between, choice.activation)
        return prior, LAYERED[shapes.posterior](prior, between, choice.activation)

    def _decoder(self) -> MLP | ConvolutionalDecoder:
        shapes, choice, n_out = self.shapes, self.choice, self.heads.n_parameters
        after: Any = (choice.activation, bool(shapes.path), shapes.dropout)
        if shapes.image is None:
            return MLP(self.bottom, shapes.hidden[::-1], n_out, *after)
        planes = n_out // self.features.n_cells
        return ConvolutionalDecoder(
            self.bottom, shapes.image, planes, shapes.hidden, *after, blocks=shapes.blocks
        )

    def _encoder(self) -> MLP | ConvolutionalEncoder:
        """Beside a linear path it reads the path's posterior mean too, and starts by moving nothing."""
        shapes, choice, n_read = self.shapes, self.choice, self.features.n_features
        extra = self.latent_dim if shapes.path else 0
        n_out, zero = self.head.n_parameters, bool(shapes.path)
        after: dict[str, Any] = {"hidden": shapes.hidden, "out_dim": n_out, "zero_start": zero}
        after |= {"activation": choice.activation, "dropout": shapes.dropout}
        if shapes.image is None:
            return MLP(n_read + extra, **after)
        return ConvolutionalEncoder(
            shapes.image, n_read // self.features.n_cells, extra, **after, blocks=shapes.blocks
        )

    @torch.no_grad()
    def _start(self, path: LinearPath) -> None:
        """Start the decoder's linear path at the fitted one."""
        b = path.b.float() + self.features.loc
        weight, bias = self.heads.start(path.W.float(), b, path.noise.float(), self.features.places)
        linear: Any = self.decoder.linear
        filled(linear, weight=weight, bias=bias)

    def set_prior(self, prior: Any) -> None:
        """Put another prior in the place of the one there is, of one layer of latents."""
        if prior.latent_dim != self.latent_dim:
            raise ValueError(
                f"prior must have latent_dim {self.latent_dim} like the model, got {prior.latent_dim}"
            )
        self.prior = prior
        self.shapes = replace(self.shapes, prior=prior.name, components=prior.components)

    # ------------------------------------------------------------------ the model

    def joint(self) -> LatentVariableModel:
        """What is fitted and asked: the model itself, or with a mask model that of (x_obs, s)."""
        return self if self.mask_model is None else NotAtRandom(self, self.mask_model)

    def encode(self, read: Tensor) -> Posterior:
        """q(z|x) from what the encoder reads of a row, where it stands on its own."""
        return self.head(self.encoder(read))

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> Posterior:
        if observed is not None and bool(observed.all()):
            observed = None  # the exact posterior then shares its covariances over rows
        read = self.features(x, observed)
        if self.surrogate is None:
            return self.encode(read)
        with torch.no_grad():
            log_r, means, chol, _ = self.surrogate.path().posterior(*self.features.cells(x, observed))
            centre = torch.einsum("bc,bck->bk", log_r.exp(), means)
        return MixtureNormal(log_r, means, chol, *self.head(self.encoder(torch.cat([read, centre], -1))))

    def linear_path(self) -> LinearPath | None:
        """The linear path over the cells themselves; None if there is none, or if it reads classes or counts."""
        if self.surrogate is None or not self.features.all_numeric:
            return None
        path = self.surrogate.path()
        path.b = path.b + self.features.numeric_loc
        return path

    def likelihood(self, z: Tensor) -> Product:
        return self.heads(self.decoder(z[..., -self.bottom :]))


def _blank_path(n: int, k: int, components: int) -> LinearPath:
    """A linear path of n features to be loaded into."""
    zeros, ones, eye = torch.zeros, torch.ones, torch.eye(k).repeat(components, 1, 1)
    return LinearPath(zeros(n, k), zeros(n), ones(n), ones(components), zeros(components, k), eye)


class _Surrogate(nn.Module):
    """A linear path over what the encoder reads, kept fixed: where the posterior starts from."""

    NAMES = ("W", "b", "noise", "weights", "means", "covariances", "precisions", "log_det_precisions")

    def __init__(self, path: LinearPath):
        super().__init__()
        for name in self.NAMES:
            self.register_buffer(name, getattr(path, name).float())

    def path(self) -> LinearPath:
        """The path itself, with what it would compute at every call set aside."""
        *parts, precisions, log_det = (getattr(self, name) for name in self.NAMES)
        path = LinearPath(*parts)
        path.__dict__.update(precisions=precisions, log_det_precisions=log_det)
        return path
