"""Fits to all rows of files that are more than a sample: the same for any cut, and those of all rows in memory."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abduce import ICA, PCA, GaussianMixture, KMeans, MixtureOfFactorAnalyzers, load
from abduce.data import shards, streams
from abduce.data.seen import Seen
from abduce.fit import classical, passes
from abduce.gaussians import gaussian_fit
from abduce.gaussians.centre_sums import CentreSums
from abduce.gaussians.factor_fit import factor_mixture

N, SAMPLE = 300, 60
MAKERS = {
    "mixture": lambda: GaussianMixture(components=2, random_state=0),
    "tied": lambda: GaussianMixture(components=3, covariance_type="tied", random_state=0),
    "spherical": lambda: GaussianMixture(components=2, covariance_type="spherical", random_state=0),
    "factors": lambda: MixtureOfFactorAnalyzers(components=2, factors=1, random_state=0),
    "k-means": lambda: KMeans(components=3, random_state=0),
    "PCA": lambda: PCA(components=2, random_state=0),
    "reconstruction": lambda: PCA(components=2, form="reconstruction", random_state=0),
}


def table(blanks: bool, constant: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4)) @ rng.normal(size=(4, 4)) + 5.0 * rng.integers(0, 2, size=(N, 1))
    x += np.linspace(0, 1, N)[:, None]  # files are not alike
    if blanks:
        x[rng.random(x.shape) < 0.2] = np.nan
    frame = pd.DataFrame(x, columns=list("abcd"))
    return frame.assign(same=2.5) if constant else frame


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What a sample and a part of the rows are."""
    monkeypatch.setattr(shards, "MOST_CELLS", 4)
    monkeypatch.setattr(shards, "LEAST_ROWS", SAMPLE)
    monkeypatch.setattr(shards, "ROWS", 50)
    monkeypatch.setattr(streams, "ROWS", 50)


def put(folder, frame, cuts):
    folder.mkdir(parents=True)
    ends = [0, *sorted(set(cuts) - {0, len(frame)}), len(frame)]
    for k, (a, b) in enumerate(itertools.pairwise(ends)):
        frame.iloc[a:b].to_parquet(folder / f"part-{k:03d}.parquet")
    return folder


def fitted(make, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none says that it took a sample
        return make().fit(X)


def same(one, other, **how):
    for name, value in one.model_.state_dict().items():
        torch.testing.assert_close(value, other.model_.state_dict()[name], **how)


@pytest.mark.parametrize("blanks", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_the_cut_into_files_does_not_matter(name, blanks, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(passes, "MOST", 10)
    frame = table(blanks)
    one = fitted(MAKERS[name], put(tmp_path_factory.mktemp("one") / "data", frame, []))

    @settings(max_examples=2, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, N), max_size=9))
    def check(cuts):
        many = fitted(MAKERS[name], put(tmp_path_factory.mktemp("many") / "data", frame, cuts))
        same(one, many, rtol=1e-8, atol=1e-8)
        assert one.offset_ == pytest.approx(many.offset_, rel=1e-8)

    check()


def encoded(model, frame):
    return Seen(*map(torch.from_numpy, model.schema_.encode(frame)))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", ["PCA", "reconstruction"])
def test_principal_components_are_those_of_all_rows(name, constant, tmp_path):
    frame = table(False, constant)
    model = fitted(MAKERS[name], put(tmp_path / "data", frame, [30, 31, 200]))
    seen = encoded(model, frame)
    known = classical.principal_components(seen.y, seen.mask, 2)
    energy = model.model_.energy
    for part in ("mean", "variances", "noise"):
        torch.testing.assert_close(getattr(energy, part), getattr(known, part), rtol=1e-8, atol=1e-8)
    turns = (energy.directions * known.directions).sum(0)
    torch.testing.assert_close(turns.abs(), torch.ones(2).double())


def test_principal_components_with_blanks_are_the_likeliest(tmp_path):
    """No step of EM in memory, from the fitted ones and of another kind, finds a better one."""
    frame = table(True)
    model = fitted(MAKERS["PCA"], put(tmp_path / "data", frame, [100, 200]))
    seen = encoded(model, frame)
    known = classical.principal_components(seen.y, seen.mask, 2)
    mean = [float(e.law().log_prob(seen).mean()) for e in (model.model_.energy, known)]
    assert mean[0] == pytest.approx(mean[1], abs=2e-3)


def test_rows_of_three_directions_with_blanks_are_fitted_by_passes_too(tmp_path):
    """Noise goes to zero there, and its rounding may be below it: as in memory some is left, by which blanks are found."""
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(N, 3)) @ rng.normal(size=(3, 4))
    gaps = np.where(rng.random(whole.shape) < 0.1, np.nan, whole)
    frame = pd.DataFrame(gaps, columns=list("abcd"))
    model = fitted(lambda: PCA(components=3, random_state=0), put(tmp_path / "data", frame, [100, 200]))
    assert float(model.model_.energy.noise) == pytest.approx(classical.LEAST_NOISE**2)
    lone = np.isnan(gaps) & (np.isnan(gaps).sum(1, keepdims=True) == 1)  # three others tell it
    assert np.abs(model.fill(frame).to_numpy() - whole)[lone].max() < 1e-3


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("blanks", [False, True])
def test_a_mixture_is_that_of_all_rows_in_memory(blanks, constant, tmp_path):
    frame = table(blanks, constant)
    model = fitted(MAKERS["mixture"], put(tmp_path / "data", frame, [100, 200]))
    with pytest.warns(UserWarning, match="uniform sample of 60 of 300 rows"):
        rows, none = shards.to_fit(tmp_path / "data", 0)
    assert none is None
    begun = MAKERS["mixture"]().fit(rows)
    seen = encoded(begun, frame)
    law = gaussian_fit.gaussian_mixture(begun.model_.energy.distribution(), seen, "full", 1e-3)
    found = model.model_.energy.distribution()
    for part in ("log_weights", "means", "covariances"):
        torch.testing.assert_close(
            getattr(found, part)[..., :4], getattr(law, part)[..., :4], rtol=1e-8, atol=1e-8
        )
    assert model.score(frame) > begun.score(frame) + 0.01


@pytest.mark.parametrize("constant", [False, True])
def test_factor_analysers_are_those_that_steps_in_memory_lead_to(constant, tmp_path):
    frame = table(True, constant)
    model = fitted(MAKERS["factors"], put(tmp_path / "data", frame, [100, 200]))
    with pytest.warns(UserWarning, match="uniform sample of 60 of 300 rows"):
        rows, _ = shards.to_fit(tmp_path / "data", 0)
    begun = MAKERS["factors"]().fit(rows)
    seen = encoded(begun, frame)
    start = begun.model_.energy.distribution()
    law = factor_mixture(seen.y, seen.mask, 2, 1, iterations=100, tolerance=2e-5, start=start)
    found = model.model_.energy.distribution()
    assert float(found.log_prob(seen).mean()) == pytest.approx(float(law.log_prob(seen).mean()), abs=5e-3)
    assert model.score(frame) > begun.score(frame) + 0.01
    if constant:
        torch.testing.assert_close(found.means[:, 4], start.means[:, 4])


@pytest.mark.parametrize("blanks", [False, True])
def test_centres_are_the_means_of_their_rows(blanks, tmp_path):
    frame = table(blanks)
    model = fitted(MAKERS["k-means"], put(tmp_path / "data", frame, [100, 200]))
    centres, seen = model.model_.energy.centres.detach(), encoded(model, frame)
    distance = torch.where(seen.mask[:, None], seen.y[:, None] - centres, 0.0).square().sum(2)
    own = distance.argmin(1)
    for k in range(3):
        rows = torch.where(seen.mask[own == k], seen.y[own == k], centres[k])
        torch.testing.assert_close(rows.mean(0), centres[k], rtol=0, atol=0.02)
    begun = MAKERS["k-means"]().fit(frame.iloc[:SAMPLE])
    sums = CentreSums.zero(centres).add(centres, seen)
    assert float(sums.energy) == pytest.approx(float(distance.amin(1).sum()), rel=1e-12)
    assert len(begun.model_.energy.centres) == 3


def test_others_take_a_sample_and_say_so(tmp_path):
    data = put(tmp_path / "data", table(False), [100])
    with pytest.warns(UserWarning, match="uniform sample of 60 of 300 rows"):
        ICA(random_state=0).fit(data)


def test_a_row_that_does_not_go_with_the_others_is_named_with_its_file(tmp_path):
    frame = table(False)
    frame.loc[250, "b"] = np.inf  # not in the sample
    data = put(tmp_path / "data", frame, [100, 200])
    assert 250 not in np.sort(np.random.default_rng(0).choice(N, SAMPLE, replace=False))
    with pytest.raises(ValueError, match=r"'b'.*rows counted from row 50 of .*part-002\.parquet"):
        MAKERS["mixture"]().fit(data)


@pytest.mark.parametrize("form", ["folder", "csv"])
def test_the_command_line_passes_over_all_rows(form, ask, tmp_path):
    frame = table(True).round(3)
    data = tmp_path / "one.csv"
    frame.to_csv(data, index=False)
    if form == "folder":
        (tmp_path / "data").mkdir()
        for k, (a, b) in enumerate([(0, 120), (120, N)]):
            frame.iloc[a:b].to_csv(tmp_path / "data" / f"{k}.csv", index=False)
        data = tmp_path / "data"
    how = "--model", "gaussian-mixture", "--set", "components=2", "--json"
    status, out, error = ask("fit", data, "-o", tmp_path / "all", *how)
    assert status == 0, error
    assert json.loads(out)["rows"] == N
    assert "uniform sample" not in error
    status, out, error = ask("fit", data, "-o", tmp_path / "some", *how, "--rows", SAMPLE)
    assert json.loads(out)["rows"] == SAMPLE
    assert f"uniform sample of {SAMPLE} of {N} rows" in error
    same(load(tmp_path / "all"), MAKERS["mixture"]().fit(data), rtol=0, atol=0)
    assert load(tmp_path / "all").score(frame) > load(tmp_path / "some").score(frame)
