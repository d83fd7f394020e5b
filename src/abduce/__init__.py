"""Fit one generative model to unlabelled data, then ask it anything."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abduce.estimators.adapters import Imputer, OutlierDetector
    from abduce.estimators.compare import compare
    from abduce.estimators.folder import load
    from abduce.estimators.vae import VAE
    from abduce.objectives.bounds import CIWAE, ELBO, IWAE, MIWAE, PIWAE, Renyi

__version__ = "0.1.0"
__all__ = [
    "CIWAE",
    "ELBO",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "VAE",
    "Imputer",
    "OutlierDetector",
    "Renyi",
    "compare",
    "load",
]

# torch and scikit-learn take seconds to import: a name is fetched when it is first asked for, so that `abduce --help`
# and the reading of files do without them
_HOME = {
    "VAE": "abduce.estimators.vae",
    "Imputer": "abduce.estimators.adapters",
    "OutlierDetector": "abduce.estimators.adapters",
    "compare": "abduce.estimators.compare",
    "load": "abduce.estimators.folder",
    **dict.fromkeys(("CIWAE", "ELBO", "IWAE", "MIWAE", "PIWAE", "Renyi"), "abduce.objectives.bounds"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
