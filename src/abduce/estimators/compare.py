"""Comparing models on the same rows: which explains them best, and by how much more than chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

DENSITIES = ("real", "positive")  # kinds of columns that have a density; the others have probabilities


def compare(
    models: Mapping[str, Any] | Sequence[Any], X, samples: int | None = None, method: str = "importance"
) -> pd.DataFrame:
    """Compare fitted models by log p of the same rows: a table, the best first.

    ``models`` maps names to models, or lists them; ``samples`` and ``method`` are those of ``log_prob``.  Columns, in nats a
    row:

    - ``log_prob``: mean over rows; ``standard_error``: its standard error over rows
    - ``monte_carlo_error``: mean standard error of a row's own estimate (rows share their random numbers, so their errors
      need not average out)
    - ``difference``: mean difference to the best on the same rows; ``difference_se``: its paired standard error over rows
    - ``ess``: median effective sample size

    >>> import numpy as np
    >>> from abduce import VAE, compare
    >>> X = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.9], [0.0, 0.4]]
    >>> models = {f"{k} latents": VAE(latent_dim=k, max_epochs=2, random_state=0).fit(X) for k in (1, 2)}
    >>> compare(models, X).columns.tolist()
    ['log_prob', 'standard_error', 'monte_carlo_error', 'difference', 'difference_se', 'ess']
    """
    named = dict(models) if isinstance(models, Mapping) else name(models)
    check_comparable(named)
    scores, errors, sizes = {}, {}, {}
    for label, model in named.items():
        scores[label], about = model.log_prob(X, samples, method, return_diagnostics=True)
        errors[label] = float(np.mean(about["standard_error"]))
        sizes[label] = float(np.median(about["effective_sample_size"]))
    order = sorted(scores, key=lambda label: -float(np.mean(scores[label])))
    best, rows = scores[order[0]], []
    for label in order:
        gap = scores[label] - best
        rows.append(
            {
                "log_prob": float(np.mean(scores[label])),
                "standard_error": over_rows(scores[label]),
                "monte_carlo_error": errors[label],
                "difference": float(np.mean(gap)),
                "difference_se": over_rows(gap),
                "ess": sizes[label],
            }
        )
    return pd.DataFrame(rows, index=pd.Index(order, name="model"))


def name(models: Sequence[Any]) -> dict[str, Any]:
    """Name models by their class, with numbers where a class comes more than once."""
    classes = [type(model).__name__ for model in models]
    count, seen = Counter(classes), Counter()
    named = {}
    for label, model in zip(classes, models, strict=True):
        seen[label] += 1
        named[f"{label}-{seen[label]}" if count[label] > 1 else label] = model
    return named


def check_comparable(models: Mapping[str, Any]) -> None:
    """Refuse models whose log p do not measure the same thing."""
    if len(models) < 2:
        raise ValueError(f"models must be at least 2, got {len(models)}")
    for model in models.values():
        check_is_fitted(model)
    widths = {label: int(model.n_features_in_) for label, model in models.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"models must have seen the same columns, got models of {widths} columns")
    columns = {label: [_has_density(f, m) for f in m.schema_.fields] for label, m in models.items()}
    first, *others = columns
    for other in others:
        if columns[other] != columns[first]:
            raise ValueError(
                "models must measure the same thing: a column has a density in one model and probabilities, or no part, "
                f"in the other ({first!r} and {other!r}); fit both with the same kinds"
            )


def _has_density(field: Any, model: Any) -> tuple[str, bool]:
    """An energy gives pixels a density, where a model with latents gives their levels probabilities."""
    return field.name, field.kind in DENSITIES or (field.kind == "pixel" and not model.model_.lattice_mass)


def over_rows(values: np.ndarray) -> float:
    """Standard error of the mean, NaN for a single row."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
