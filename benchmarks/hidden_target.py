"""Classification and regression as filling: a target column that is blank in new rows.

The table of the training rows, target and all, is fitted once; the test rows come with a blank target, which is filled.
Beside it, methods that are told which column is the target.  30 % of the rows are held out, a new split a seed; with blanks,
30 % of the feature cells of training and test rows are hidden, the same cells for every method.

    python benchmarks/hidden_target.py [--quick] [--seeds 3] [--sets iris diabetes]
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from common import Report, arguments, data_folder, parse, say, spread, timed
from sklearn import datasets
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from abduce import Auto
from abduce.data.examples import penguins

ROWS = 3000
RATE = 0.3  # of feature cells that are hidden
OURS, LINEAR, TREES, NONE = (
    "abduce Auto, filled",
    "logistic regression / ridge",
    "HistGradientBoosting",
    "most frequent class / mean",
)


class Task(NamedTuple):
    """A table, the name of its target column, and whether that is a class."""

    table: pd.DataFrame
    target: str
    classes: bool


class Answer(NamedTuple):
    """What a method says of the test rows: numbers (n,), or probabilities (n, L) in the order of the levels."""

    said: np.ndarray
    seconds: float


def tasks() -> dict[str, Callable[[], Task]]:
    """All tasks by name, read when asked for."""

    def own(name: str, classes: bool) -> Task:
        bunch: Any = getattr(datasets, f"load_{name}")(as_frame=True)
        names = [str(n) for n in bunch.target_names] if classes else []
        y = bunch.target.map(dict(enumerate(names))) if classes else bunch.target.astype(float)
        return Task(bunch.data.assign(target=y), "target", classes)

    def adult() -> Task:
        table = pd.read_csv(data_folder() / "tables" / "adult.csv")
        return Task(table.sample(ROWS, random_state=0, ignore_index=True), "sex", True)

    def wine_quality() -> Task:
        table = pd.read_csv(data_folder() / "tables" / "wine_quality.csv").sample(
            ROWS, random_state=0, ignore_index=True
        )
        return Task(table.astype({"quality": float}), "quality", False)

    return {
        "iris": lambda: own("iris", True),
        "wine": lambda: own("wine", True),
        "breast_cancer": lambda: own("breast_cancer", True),
        "penguins": lambda: Task(penguins(), "species", True),
        "adult": adult,
        "diabetes": lambda: own("diabetes", False),
        "wine_quality": wine_quality,
    }


def prepared(task: Task) -> Task:
    """Text as categories, whose levels are known before rows are split; a number to be filled with what may be between."""
    table = task.table.copy()
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype("category")
    return task._replace(table=table)


# ---------------------------------------------------------------- methods


def ours(task: Task, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """Fit to the training rows, target included; fill the target of the others."""
    kinds = None if task.classes else {task.target: "real"}
    model = Auto(random_state=seed, kinds=kinds).fit(train)
    blank = test.assign(**{task.target: pd.Series(np.nan, test.index).astype(train[task.target].dtype)})
    if not task.classes:
        return model.fill(blank)[task.target].to_numpy(float)
    return model.class_probabilities(blank, task.target).to_numpy()


def peer(name: str) -> Callable[..., np.ndarray]:
    """A method that is told the target."""

    def run(task: Task, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
        model = build(name, task.classes, seed)
        X, y = features(train, task, name), train[task.target]
        model.fit(X, y.cat.codes if task.classes else y)
        new = features(test, task, name)
        return model.predict_proba(new) if task.classes else model.predict(new)

    return run


def build(name: str, classes: bool, seed: int) -> Any:
    """The peer's estimator, in its defaults but for Ridge's penalty, which it chooses."""
    if name == NONE:
        return DummyClassifier(strategy="prior") if classes else DummyRegressor()
    if name == TREES:
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        return kind(random_state=seed, categorical_features="from_dtype")
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (text, make_column_selector(dtype_exclude="number")),
    )
    last = LogisticRegression(max_iter=1000) if classes else RidgeCV(np.logspace(-3, 3, 13))
    return make_pipeline(columns, last)


def features(table: pd.DataFrame, task: Task, name: str) -> pd.DataFrame:
    """Columns without the target; trees take categories as they are, imputers as text."""
    X = table.drop(columns=task.target)
    if name == TREES:
        return X
    text = list(X.select_dtypes("category").columns)
    return X.astype(dict.fromkeys(text, object))


METHODS: dict[str, Callable[..., np.ndarray]] = {OURS: ours} | {n: peer(n) for n in (LINEAR, TREES, NONE)}


# ---------------------------------------------------------------- run


def with_blanks(task: Task, rate: float, seed: int) -> pd.DataFrame:
    """The table with ``rate`` of its feature cells hidden, each on its own."""
    hide = np.random.default_rng([seed, 7]).random(task.table.shape) < rate
    hide[:, task.table.columns.get_loc(task.target)] = False
    return task.table.mask(hide)


def measures(task: Task, test: pd.DataFrame, said: np.ndarray) -> dict[str, float]:
    """Accuracy and log loss, or R²."""
    y = test[task.target]
    if not task.classes:
        return {"R²": float(r2_score(y, said))}
    true, levels = y.cat.codes.to_numpy(), np.arange(said.shape[1])
    return {
        "accuracy": float(np.mean(said.argmax(1) == true)),
        "log loss": float(log_loss(true, said, labels=levels)),
    }


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    parser.add_argument("--sets", nargs="+", choices=list(tasks()), help="only these (default: all)")
    args = parse(parser)
    warnings.filterwarnings("ignore")
    report = Report("hidden_target", "Classification and regression by filling a hidden column", args)
    names = args.sets or (["iris", "diabetes"] if args.quick else list(tasks()))
    found: dict[tuple, list[float]] = defaultdict(list)
    about = {}
    for name in names:
        task = prepared(tasks()[name]())
        about[name] = task
        for rate in (0.0, RATE):
            for seed in range(args.seeds):
                table = with_blanks(task, rate, seed)
                strata = task.table[task.target] if task.classes else None
                parts: Any = train_test_split(table, test_size=0.3, random_state=seed, stratify=strata)
                train, test = parts
                for method, run in METHODS.items():
                    said, seconds = timed(run, task, train, test, seed)
                    values = measures(task, test, said) | {"seconds": seconds}
                    for what, value in values.items():
                        found[rate, what, method, name].append(value)
                say(name, f"{rate:.0%}", seed, f"{found[rate, 'seconds', OURS, name][-1]:.1f} s")
    for rate in (0.0, RATE):
        blanks = "complete features" if not rate else f"{100 * rate:.0f} % of the feature cells blank"
        for what, digits in (("accuracy", 3), ("log loss", 3), ("R²", 3), ("seconds", 1)):
            sets = [n for n in names if (rate, what, OURS, n) in found]
            if not sets:
                continue
            rows = [[m, *(spread(found[rate, what, m, n], digits) for n in sets)] for m in METHODS]
            better = {"log loss": " (lower is better)", "seconds": " to fit and answer"}.get(what, "")
            report.table(f"{what.capitalize()}{better}, {blanks}", ["", *sets], rows)
    report.remark(
        "Targets: "
        + "; ".join(
            f"{n} {t.target}, {len(t.table[t.target].cat.categories)} classes of {len(t.table)} rows"
            if t.classes
            else f"{n} {t.target}, a number, {len(t.table)} rows"
            for n, t in about.items()
        )
        + ". Logistic regression and ridge: scaled numbers and one-hot classes, blanks by the mean or the most frequent "
        "class. HistGradientBoosting, in its defaults, takes blanks and classes as they are. Peers are fitted to one target; "
        "Auto answers for any column."
    )
    report.keep(
        "measures",
        [
            dict(zip(("rate", "measure", "method", "set", "seeds"), (*k, v), strict=True))
            for k, v in found.items()
        ],
    )
    report.save()


if __name__ == "__main__":
    main()
