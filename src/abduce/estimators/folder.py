"""Loading any saved model, whatever its method."""

from __future__ import annotations

from pathlib import Path

from abduce.estimators.methods import METHODS
from abduce.fit import checkpoint


def load(folder: str | Path):
    """Load a model that was saved with ``save``; executes no code from the folder.

    Raises FileNotFoundError if the folder is not there, ModelFolderError (a ValueError) if it is damaged, was changed, or
    is of another format version.
    """
    body, tensors = checkpoint.load(folder)
    estimator = METHODS.get(body.get("estimator", ""))
    if estimator is None:
        raise checkpoint.ModelFolderError(
            f"folder {str(folder)!r} holds {body.get('kind')!r} {body.get('estimator')!r}, expected one of"
            f" {sorted(METHODS)}"
        )
    return estimator._from_folder(body, tensors)
