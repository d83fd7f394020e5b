"""What every preset answers, kept, so that the inside of the library can be redrawn without a number changing.

    python tests/golden/golden.py make --out FILE.npz                     every answer in full, and the seconds it took
    python tests/golden/golden.py check --against FILE.npz [--rtol 1e-6]  what has moved since; exit status 1 if anything has
    python tests/golden/golden.py digest                                  the digest that test_golden.py holds the library to

FILE is good on the machine that made it.  The digest, a handful of numbers an answer, is good on others: how far each
answer may move there is said in golden_digest.py.  Only the public API is asked, so that walls inside may stand anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from golden_cases import CASES, CHAINS, Case, Data, data
from golden_digest import DIGEST, write_digest
from golden_file import Entries, Seconds, read, report, report_seconds, write
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import abduce

LIBRARY = Path(abduce.__file__).parent

# ------------------------------------------------------------------ what is asked


def questions(case: Case, about: Data, model: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions put to a fitted model, in their order; those that leave it changed come last."""
    rows, gaps = about.rows, about.gaps
    yield "fitted", lambda: _fitted(model)
    known = getattr(model, "log_z_", 0) is not None  # else to estimate it is a question of its own
    if known:
        yield "score_samples", lambda: model.score_samples(rows)
    if hasattr(model, "energy"):
        yield "energy", lambda: model.energy(rows)
    yield "fill", lambda: model.fill(gaps)
    yield "transform", lambda: model.transform(rows)
    yield "sample", lambda: model.sample(3, random_state=1)
    if case.brief:
        return
    if known:
        yield "score_samples, blanks", lambda: model.score_samples(gaps)
    yield "anomaly_score, blanks", lambda: model.anomaly_score(gaps)
    yield "predict", lambda: model.predict(rows)
    yield "realism", lambda: model.realism(rows, references=50)
    yield "transform, blanks", lambda: model.transform(gaps)
    yield "inverse_transform", lambda: model.inverse_transform(model.transform(rows))
    yield "fill, draws", lambda: model.fill(gaps, draws=2, random_state=1)
    yield (
        "fill, observed",
        lambda: model.fill(rows, observed=gaps.notna() if _frame(gaps) else ~np.isnan(gaps)),
    )
    yield "fill_interval", lambda: model.fill_interval(gaps, level=0.8)
    yield "denoise", lambda: model.denoise(about.noisy, about.noise)
    for name, (seen, how) in about.seen.items():
        yield f"restore, {name}", lambda seen=seen, how=how: model.restore(seen, how)
    name, (seen, how) = next(iter(about.seen.items()))
    yield f"restore, {name}, draws", lambda: model.restore(seen, how, draws=2, random_state=1)
    yield "spread", lambda: model.restore(seen, how, return_std=True)[1]
    if about.small is not None:
        yield "upscale", lambda: model.upscale(about.small, 2)
    yield "estimate_noise", lambda: model.estimate_noise(about.noisy)
    yield "compress", lambda: _packed(model, about.rows)
    if hasattr(model, "class_probabilities"):
        yield "class_probabilities", lambda: model.class_probabilities(rows, rows.columns[0])
    if hasattr(model, "sampling_diagnostics"):
        yield "sampling_diagnostics", lambda: model.sampling_diagnostics(16, random_state=1)
    if hasattr(model, "effective_sample_size"):
        yield "effective_sample_size", lambda: model.effective_sample_size(gaps)
    yield "save", lambda: _reloaded(model, rows)
    for name in case.more:
        yield name, lambda name=name: MORE[name](model, about)


def _log_prob(model: Any, about: Data) -> Any:
    return model.log_prob(about.gaps, samples=200, return_diagnostics=True)


def _annealed(model: Any, about: Data) -> Any:
    given = {"samples": 4, "return_diagnostics": True}
    return {
        "ais": model.log_prob(about.rows, method="ais", temperatures=10, **given),
        "smc": model.log_prob(about.rows, method="smc", **given),
        "from the prior": model.log_prob(about.rows, method="ais", temperatures=10, start="prior", **given),
        "single": model.log_prob(about.rows, precision="single"),
    }


def _certify(model: Any, about: Data) -> Any:
    return model.certify(n=4, samples=4, temperatures=10, random_state=1)


def _diagnose(model: Any, about: Data) -> Any:
    return model.diagnose(about.rows, samples=4, surgery=True)


def _fit_prior(model: Any, about: Data) -> Any:
    model.fit_prior(about.train, components=3)
    return {"score": model.score_samples(about.rows), "fill": model.fill(about.gaps), "offset": model.offset_}


def _normalize(model: Any, about: Data) -> Any:
    found = model.normalize(particles=32, populations=3, random_state=1)
    return {"log_z": found, "score": model.score_samples(about.rows), "predict": model.predict(about.rows)}


def _bootstrap(model: Any, about: Data) -> Any:
    copies = model.fill(about.train, draws=2, parameters="bootstrap", random_state=1)
    means = np.array([np.asarray(copy, np.float64).mean(0) for copy in copies])
    return {"means": means, "pooled": abduce.pool(means, np.full_like(means, 0.01), n=len(about.train))}


def _members(model: Any, about: Data) -> Any:
    return model.members()


def _adapters(model: Any, about: Data) -> Any:
    imputer = abduce.Imputer(clone(model)).fit(about.train)
    detector = abduce.OutlierDetector(clone(model)).fit(about.train)
    other = clone(model).set_params(components=1).fit(about.train)
    return {
        "imputer": imputer.transform(about.gaps),
        "detector": detector.decision_function(about.rows),
        "compare": abduce.compare({"this": model, "other": other}, about.rows),
    }


MORE: dict[str, Callable[[Any, Data], Any]] = {
    "log_prob": _log_prob,
    "annealed": _annealed,
    "certify": _certify,
    "diagnose": _diagnose,
    "fit_prior": _fit_prior,
    "normalize": _normalize,
    "bootstrap": _bootstrap,
    "members": _members,
    "adapters": _adapters,
}


def _fitted(model: Any) -> dict[str, Any]:
    """What the fit left behind: how training went, where outliers begin, log Z."""
    kept = [name for name in (model.history_ or [{}])[0] if name != "seconds"]
    history = {name: np.array([record[name] for record in model.history_]) for name in kept}
    out = {"history": history, "offset": model.offset_}
    return out | {name: getattr(model, name) for name in ("log_z_", "beta_") if hasattr(model, name)}


def _packed(model: Any, rows: Any) -> dict[str, Any]:
    packed = model.compress(rows)
    back = model.decompress(packed)
    same = back.equals(rows) if _frame(rows) else np.array_equal(back, rows) and back.dtype == rows.dtype
    return {"bytes": packed, "round trip": str(bool(same))}


def _reloaded(model: Any, rows: Any) -> str:
    """Whether a model that was saved and loaded scores as it did."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        loaded = abduce.load(Path(folder) / "model")
    same = np.allclose(loaded.anomaly_score(rows), model.anomaly_score(rows), rtol=1e-9, atol=1e-9)
    return f"{type(loaded).__name__} {'scores the same' if same else 'scores otherwise'}"


def _frame(value: Any) -> bool:
    return isinstance(value, pd.DataFrame)


# ------------------------------------------------------------------ what is kept


def collect(name: str, quick: bool = False) -> tuple[Entries, Seconds]:
    """Fit one case and ask it everything, or what the digest holds: its entries by name, and the seconds of each question."""
    case = CASES[name]
    skip = {*case.skip, *(CHAINS if quick and case.chains else ())}
    about = data(case.data)
    entries: Entries = {}
    seconds: Seconds = {}
    model = case.model()

    def ask(question: str, answer: Callable[[], Any]) -> None:
        start = time.process_time()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                given = answer()
            except Exception as error:
                given = f"{type(error).__name__}: {str(error)[:80]}"
        seconds[f"{name}|{question}"] = time.process_time() - start
        parts = {} if question == "fit" and given is model else flat(given)
        if own := sorted({f"{w.category.__name__}: {w.message}"[:80] for w in said if _spoken(w)}):
            parts["warns"] = np.array("; ".join(own))
        entries.update({f"{name}|{question}|{part}": value for part, value in parts.items()})

    with one_thread():
        ask("fit", lambda: model.fit(about.train))
        if f"{name}|fit|text" not in entries:
            for question, answer in questions(case, about, model):
                if question not in skip:
                    ask(question, answer)
    return entries, seconds


def _spoken(warning: warnings.WarningMessage) -> bool:
    """Whether the library itself gave a warning, wherever it is installed; torch gives each of its own once a process."""
    own = Path(warning.filename).is_relative_to(LIBRARY) or "site-packages" not in warning.filename
    return own and "Triggered internally" not in str(warning.message)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, however many cores there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def flat(value: Any, name: str = "") -> Entries:
    """An answer as named arrays of float64 or text, and its form: types, columns, shapes."""
    if value is None:
        return {f"{name}text": np.array("None")}
    if isinstance(value, str):
        return {f"{name}text": np.array(value)}
    if isinstance(value, bytes):
        digest = hashlib.sha256(value).hexdigest()
        return {f"{name}length": np.array(float(len(value))), f"{name}sha256": np.array(digest)}
    if isinstance(value, Mapping):
        return _joined({str(key): part for key, part in value.items()}, name)
    if isinstance(value, list | tuple):
        return _joined({str(i): part for i, part in enumerate(value)}, name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return _joined(
            {"class": type(value).__name__} | {f.name: getattr(value, f.name) for f in fields}, name
        )
    if isinstance(value, pd.DataFrame):
        return _table(value, name)
    array = np.asarray(value)
    form = f"{type(value).__name__} {array.dtype} {array.shape}"
    kept = array.astype(np.float64) if array.dtype.kind in "biuf" else array.astype(str)
    return {f"{name}form": np.array(form), f"{name}values": kept}


def _joined(parts: Mapping[str, Any], name: str) -> Entries:
    return {
        key: array for part, value in parts.items() for key, array in flat(value, f"{name}{part}.").items()
    }


def _table(frame: pd.DataFrame, name: str) -> Entries:
    form = "; ".join(f"{column}: {dtype}" for column, dtype in frame.dtypes.items())
    out = {f"{name}form": np.array(f"DataFrame {frame.shape} {form}")}
    for i, label in enumerate(frame.columns):
        column: pd.Series = frame.iloc[:, i]
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            kept = ((column - pd.Timestamp("2000-01-01")) / pd.Timedelta(days=1)).to_numpy(np.float64)
        elif pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            kept = column.to_numpy(np.float64, na_value=np.nan)
        else:
            kept = column.astype(str).to_numpy(str)
        out[f"{name}{label}"] = kept
    return out


# ------------------------------------------------------------------ the commands


def collect_all(pattern: str = "", quick: bool = False) -> tuple[Entries, Seconds]:
    """Entries and seconds of every case whose name holds ``pattern``."""
    entries: Entries = {}
    seconds: Seconds = {}
    for name in CASES:
        if pattern in name:
            for whole, part in zip((entries, seconds), collect(name, quick), strict=True):
                whole.update(part)
    return entries, seconds


def main() -> int:
    """Make, check or digest; see the top of the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["make", "check", "digest"])
    parser.add_argument("--out", type=Path, help="file that make writes")
    parser.add_argument("--against", type=Path, help="file that check compares with")
    parser.add_argument("--rtol", type=float, default=1e-6, help="change that check lets pass, in spreads")
    parser.add_argument("--only", default="", help="cases whose names hold this text")
    given = parser.parse_args()
    if {"make": given.out, "check": given.against, "digest": DIGEST}[given.command] is None:
        parser.error(f"{given.command} needs {'--out' if given.command == 'make' else '--against'}")
    start = time.perf_counter()
    entries, seconds = collect_all(given.only, quick=given.command == "digest")
    if given.command == "make":
        write(given.out, entries, seconds)
        print(
            f"{len(entries)} entries of {len(CASES)} cases in {time.perf_counter() - start:.0f} s: {given.out}"
        )
        return 0
    if given.command == "digest":
        write_digest(entries)
        print(f"{DIGEST.stat().st_size / 1000:.0f} kB: {DIGEST}")
        return 0
    then, took = read(given.against)
    then = {name: value for name, value in then.items() if given.only in name.split("|")[0]}
    count = report(then, entries, given.rtol)
    report_seconds(took, seconds)
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
