"""The public names and where each lives: what type checkers read, and what ``__init__.py`` fetches names by."""

from abduce.answers.views import (
    Flips as Flips,
    Thinned as Thinned,
)
from abduce.bulk.answering import answer_files as answer_files
from abduce.data.seen import Blanks as Blanks, Unanswerable as Unanswerable
from abduce.estimators.adapters import (
    Imputer as Imputer,
    OutlierDetector as OutlierDetector,
)
from abduce.estimators.agent import Agent as Agent
from abduce.estimators.auto import Auto as Auto
from abduce.estimators.autoencoders import (
    Autoencoder as Autoencoder,
    ContractiveAutoencoder as ContractiveAutoencoder,
    DenoisingAutoencoder as DenoisingAutoencoder,
    SaturatingAutoencoder as SaturatingAutoencoder,
    SparseAutoencoder as SparseAutoencoder,
)
from abduce.estimators.classical import (
    ICA as ICA,
    PCA as PCA,
    GaussianMixture as GaussianMixture,
    KMeans as KMeans,
    MixtureOfFactorAnalyzers as MixtureOfFactorAnalyzers,
)
from abduce.estimators.compare import compare as compare
from abduce.estimators.contrastive import (
    RBM as RBM,
    EnergyNetwork as EnergyNetwork,
    Ising as Ising,
)
from abduce.estimators.ensemble import MixtureEnsemble as MixtureEnsemble
from abduce.estimators.load import load as load
from abduce.data.observations import (
    Blur as Blur,
    Downsample as Downsample,
    LinearMap as LinearMap,
    Noise as Noise,
    Quantise as Quantise,
)
from abduce.estimators.latent_classes import LatentClasses as LatentClasses
from abduce.estimators.rubin import pool as pool
from abduce.estimators.sensitivity import Sensitivity as Sensitivity, sensitivity as sensitivity
from abduce.estimators.series import Series as Series
from abduce.estimators.sound import Sound as Sound
from abduce.estimators.sparse import (
    PSD as PSD,
    SparseCoding as SparseCoding,
)
from abduce.estimators.steps import Steps as Steps
from abduce.estimators.text import Text as Text
from abduce.estimators.vae import VAE as VAE
from abduce.estimators.world_model import WorldModel as WorldModel
from abduce.fit.bounds import (
    CIWAE as CIWAE,
    ELBO as ELBO,
    IWAE as IWAE,
    MIWAE as MIWAE,
    PIWAE as PIWAE,
    Renyi as Renyi,
)
from abduce.fit.contrastive import (
    NCE as NCE,
    ContrastiveDivergence as ContrastiveDivergence,
    MinimumProbabilityFlow as MinimumProbabilityFlow,
    PseudoLikelihood as PseudoLikelihood,
    RatioMatching as RatioMatching,
)
from abduce.fit.matching import (
    DenoisingScoreMatching as DenoisingScoreMatching,
    ScoreMatching as ScoreMatching,
    SlicedScoreMatching as SlicedScoreMatching,
)
from abduce.fit.maximum_likelihood import MaximumLikelihood as MaximumLikelihood
from abduce.fit.loss import MeanEnergy as MeanEnergy
from abduce.inference.energy import (
    Diverged as Diverged,
    LogZ as LogZ,
    NotNormalized as NotNormalized,
)
from abduce.world.costs import Cost as Cost, Goal as Goal
from abduce.world.recorder import Recorder as Recorder

__version__: str
