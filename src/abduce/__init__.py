"""Fit one generative model to unlabelled data, then ask it anything."""

from abduce.estimators.adapters import Imputer, OutlierDetector
from abduce.estimators.folder import load
from abduce.estimators.vae import VAE

__version__ = "0.1.0"
__all__ = ["VAE", "Imputer", "OutlierDetector", "load"]
