"""The command that acts, on a real environment, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from abduce import load
from abduce.cli import app
from abduce.cli.acting import parse_goal

RUN = CliRunner()


def test_a_pendulum_is_learnt_and_reported(tmp_path):
    """Few steps: what counts is that everything is there."""
    pytest.importorskip("gymnasium", reason="needs Gymnasium: pip install 'abduce[world]'")
    arguments = ["act", "--env", "Pendulum-v1", "--steps", "101", "--starts", "1", "--horizon", "5"]
    done = RUN.invoke(app, [*arguments, "-o", str(tmp_path), "--json", "-q"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["steps"] == 101
    assert len(found["returns"]) == 1
    page = (tmp_path / "report.html").read_text()
    assert "Foreseen and come" in page
    assert load(tmp_path / "model").n_features_in_ == 3


def test_an_environment_without_an_objective_asks_for_a_goal(tmp_path):
    done = RUN.invoke(app, ["act", "--env", "Acrobot-v1", "-o", str(tmp_path), "-q"])
    assert isinstance(done.exception, ValueError)
    assert "--goal" in str(done.exception)


def test_goals_are_numbers():
    assert parse_goal(None) is None
    assert parse_goal("1,-2.5")[1] == -2.5
    done = RUN.invoke(app, ["act", "--env", "Pendulum-v1", "--goal", "up"])
    assert done.exit_code == 2
