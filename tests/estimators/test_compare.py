"""log p with diagnostics, and models compared on the same rows, by Python and from the command line."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError

import abduce
from abduce import VAE, cli
from abduce.inference.diagnostics import warn_of_heavy_tails

ROWS = np.random.default_rng(0).normal(size=(300, 3)) @ np.array(
    [[3.0, 1.0, -2.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.3]]
)


@pytest.fixture(scope="module")
def models():
    """Linear-Gaussian models: the second leaves the correlations to noise."""
    good = VAE(latent_dim=2, max_epochs=20, random_state=0).fit(ROWS[:200])
    poor = VAE(latent_dim=1, max_epochs=1, linear_path=False, random_state=0).fit(ROWS[:200])
    return {"good": good, "poor": poor}


class TestLogProb:
    def test_importance_is_score_samples(self, models):
        X = ROWS[200:].copy()
        X[::3, 1] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value, about = models["good"].log_prob(X, return_diagnostics=True)
        np.testing.assert_array_equal(value, models["good"].score_samples(X))
        np.testing.assert_array_equal(about["effective_sample_size"], models["good"].effective_sample_size(X))
        assert all(v.shape == (100,) and v.dtype == np.float64 for v in about.values())

    @pytest.mark.parametrize(("method", "samples"), [("ais", 8), ("smc", 32)])
    def test_annealing_says_the_same(self, models, method, samples):
        X = ROWS[200:240]
        drawn = models["good"].log_prob(X, samples=2000)
        annealed, about = models["good"].log_prob(
            X, samples, method, return_diagnostics=True, temperatures=15, start="posterior"
        )
        assert set(about) == {"standard_error", "effective_sample_size", "acceptance"}
        np.testing.assert_allclose(annealed.mean(), drawn.mean(), atol=0.05)

    def test_units_are_the_datas(self, models):
        scaled = VAE(latent_dim=2, max_epochs=20, random_state=0).fit(10 * ROWS[:200])
        shift = scaled.log_prob(10 * ROWS[200:]) - models["good"].log_prob(ROWS[200:])
        np.testing.assert_allclose(shift, -3 * np.log(10), atol=0.02)

    def test_single_precision(self, models):
        single = models["good"].log_prob(ROWS[200:], precision="single")
        np.testing.assert_allclose(single, models["good"].log_prob(ROWS[200:]), atol=1e-3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"samples": 0}, "samples must be an int >= 1, got 0"),
            ({"samples": 2.5}, "samples must be an int >= 1, got 2.5"),
            ({"temperatures": 0, "method": "ais"}, "temperatures must be an int >= 1, got 0"),
            (
                {"method": "annealing"},
                r"method must be one of \['importance', 'ais', 'smc'\], got 'annealing'",
            ),
            ({"precision": "half"}, r"precision must be one of \['double', 'single'\], got 'half'"),
            ({"start": "encoder"}, r"start must be one of \['posterior', 'prior'\], got 'encoder'"),
        ],
    )
    def test_what_will_not_do(self, models, given, message):
        with pytest.raises(ValueError, match=message):
            models["good"].log_prob(ROWS, **given)

    def test_not_fitted(self):
        with pytest.raises(NotFittedError):
            VAE().log_prob(ROWS)
        with pytest.raises(NotFittedError):
            VAE().certify()

    def test_heavy_tails_are_told_once(self):
        k = torch.tensor([0.1, 0.9, 1.3, -torch.inf, torch.nan])
        with pytest.warns(
            RuntimeWarning, match=r"2 of 5 rows .* worst 1.30\. Give more samples, or method='ais'"
        ):
            warn_of_heavy_tails(k)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_heavy_tails(k[[0, 2, 3]])  # one row may be odd

    def test_a_certificate(self, models):
        bounds = models["good"].certify(n=32, samples=4, temperatures=10, random_state=1)
        assert abs(bounds["gap"]) < 0.05  # the posterior is all but exact
        with pytest.raises(ValueError, match="n must be an int >= 1, got 0"):
            models["good"].certify(n=0)


class TestCompare:
    def test_the_better_model_comes_first(self, models):
        table = abduce.compare({"poor": models["poor"], "good": models["good"]}, ROWS[200:])
        assert table.index.tolist() == ["good", "poor"]
        good, poor = (models[name].log_prob(ROWS[200:]) for name in ("good", "poor"))
        best, worst = table.loc["good"], table.loc["poor"]
        assert best["log_prob"] == pytest.approx(good.mean())
        assert best["standard_error"] == pytest.approx(good.std(ddof=1) / 10)
        assert (best["difference"], best["difference_se"]) == (0, 0)
        assert worst["difference"] == pytest.approx((poor - good).mean())
        assert worst["difference_se"] == pytest.approx((poor - good).std(ddof=1) / 10)
        assert worst["difference"] < -5 * worst["difference_se"]
        assert (table["monte_carlo_error"] >= 0).all()
        assert table["ess"].between(1, 100).all()

    def test_a_list_is_named(self, models):
        table = abduce.compare([models["poor"], models["good"]], ROWS[200:210])
        assert sorted(table.index) == ["VAE-1", "VAE-2"]
        assert table.index[0] == "VAE-2"

    def test_what_will_not_do(self, models):
        with pytest.raises(ValueError, match="models must be at least 2, got 1"):
            abduce.compare({"one": models["good"]}, ROWS)
        narrow = VAE(latent_dim=1, max_epochs=1, random_state=0).fit(ROWS[:, :2])
        with pytest.raises(
            ValueError, match=r"same columns, got models of \{'good': 3, 'narrow': 2\} columns"
        ):
            abduce.compare({"good": models["good"], "narrow": narrow}, ROWS)
        with pytest.raises(NotFittedError):
            abduce.compare([models["good"], VAE()], ROWS)

    def test_a_density_is_not_compared_with_a_probability(self):
        X = np.random.default_rng(0).integers(0, 2, size=(60, 2)).astype(float)
        fitted = [VAE(latent_dim=1, max_epochs=1, kinds=k, random_state=0).fit(X) for k in ("binary", "real")]
        with pytest.raises(ValueError, match="models must measure the same thing"):
            abduce.compare(fitted, X)


def test_the_command(models, tmp_path, monkeypatch, capsys):
    for name, model in models.items():
        model.save(tmp_path / name)
    pd.DataFrame(ROWS[200:230]).to_csv(tmp_path / "rows.csv", index=False)

    def ask(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["abduce", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    folders = [tmp_path / "poor", tmp_path / "good"]
    status, out, _ = ask(*folders, tmp_path / "rows.csv", "--json")
    answer = json.loads(out)
    assert (status, answer["rows"], answer["unit"]) == (0, 30, "nats")
    assert [m["model"] for m in answer["models"]] == [str(tmp_path / "good"), str(tmp_path / "poor")]
    assert answer["models"][1]["difference"] < 0
    status, out, _ = ask(*folders, tmp_path / "rows.csv", "--samples", 20)
    assert status == 0
    assert out.startswith("model,log_prob,standard_error,monte_carlo_error,difference,difference_se,ess\n")
    status, _, err = ask(folders[0], tmp_path / "rows.csv")
    assert status == 2
    assert "at least two models" in err
