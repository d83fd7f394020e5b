"""Commands that ask series, as a user calls them."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from abduce.cli import app

DAYS = pd.date_range("2024-01-01", periods=140, freq="D")


@pytest.fixture(scope="module")
def sales(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sales")
    rng = np.random.default_rng(0)
    y = 20 + 5.0 * (DAYS.day_of_week < 5) + 0.1 * rng.normal(size=len(DAYS))
    frame = pd.DataFrame({"day": DAYS.strftime("%Y-%m-%d"), "sales": y})
    frame.loc[30:33, "sales"] = np.nan
    frame.to_csv(folder / "sales.csv", index=False)
    return folder


def run(*arguments) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_backcast_gives_the_rows_before_the_first(sales):
    assert run("backcast", sales / "sales.csv", "-n", 7, "-o", sales / "before.csv").exit_code == 0
    found = pd.read_csv(sales / "before.csv")
    assert found["day"].tolist() == [f"2023-12-{d}" for d in range(25, 32)]
    np.testing.assert_allclose(found["sales"], [25, 25, 25, 25, 25, 20, 20], atol=0.5)


def test_backtest_judges_what_was_not_fitted_to(sales):
    result = run("backtest", sales / "sales.csv", "--horizon", 7, "--windows", 4, "--json")
    told = json.loads(result.stdout)
    rows = {row["model"]: row for row in told["models"]}
    assert rows["abduce"]["MAE"] < 0.3 < rows["last value"]["MAE"]
    assert "the 112 of 140 rows" in result.stderr


def test_backtest_of_more_than_there_is_says_so(sales):
    with pytest.raises(ValueError, match=r"horizon \* windows = 200 steps .* longest series has 140"):
        run("backtest", sales / "sales.csv", "--horizon", 20, "--windows", 10)


def test_parts_add_up_and_the_smooth_has_no_blanks(sales):
    assert run("decompose", sales / "sales.csv", "-o", sales / "parts.csv").exit_code == 0
    parts, given = pd.read_csv(sales / "parts.csv"), pd.read_csv(sales / "sales.csv")
    assert list(parts.columns) == ["day", "sales_level", "sales_season", "sales_rest"]
    total = parts[["sales_level", "sales_season", "sales_rest"]].sum(axis=1, skipna=False)
    np.testing.assert_allclose(total, given["sales"], atol=1e-9)
    assert run("smooth", sales / "sales.csv", "-o", sales / "smooth.csv").exit_code == 0
    smooth = pd.read_csv(sales / "smooth.csv")
    assert not smooth["sales"].isna().any()
    assert np.abs(smooth["sales"] - given["sales"]).mean() < 0.2


def test_a_saved_model_goes_on_from_other_data_with_a_picture(sales):
    assert run("fit", sales / "sales.csv", "--model", "series", "-o", sales / "model", "-q").exit_code == 0
    later = pd.read_csv(sales / "sales.csv").iloc[:100]
    later.to_csv(sales / "later.csv", index=False)
    pd.DataFrame({"sales": [np.nan, 99.0, np.nan]}).to_csv(sales / "known.csv", index=False)
    result = run(
        "forecast", sales / "later.csv", "-m", sales / "model", "-n", 3, "--known", sales / "known.csv",
        "--picture", sales / "fan.png", "-o", sales / "next.csv",
    )  # fmt: skip
    assert result.exit_code == 0
    found = pd.read_csv(sales / "next.csv")
    assert found["day"].tolist() == ["2024-04-10", "2024-04-11", "2024-04-12"]
    assert found["sales"][1] == 99.0
    assert (sales / "fan.png").read_bytes().startswith(b"\x89PNG")


def test_alarms_of_a_series(sales, tmp_path):
    broken = pd.read_csv(sales / "sales.csv")
    broken.loc[120, "sales"] = 90.0
    broken.to_csv(tmp_path / "broken.csv", index=False)
    assert run("fit", sales / "sales.csv", "--model", "series", "-o", tmp_path / "model", "-q").exit_code == 0
    result = run(
        "flag",
        tmp_path / "broken.csv",
        "-m",
        tmp_path / "model",
        "--contamination",
        0.01,
        "-o",
        tmp_path / "odd.csv",
    )
    found = pd.read_csv(tmp_path / "odd.csv")
    assert result.exit_code == 0
    assert list(found.columns) == ["anomaly_score", "flagged"]
    assert found["flagged"].to_numpy().nonzero()[0].tolist() == [120]


def test_a_folder_of_another_model_is_refused(sales, tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    table.to_csv(tmp_path / "table.csv", index=False)
    assert run("fit", tmp_path / "table.csv", "--model", "pca", "-o", tmp_path / "pca", "-q").exit_code == 0
    result = run("smooth", sales / "sales.csv", "-m", tmp_path / "pca")
    assert result.exit_code == 2
    assert "not a Series" in result.stderr
