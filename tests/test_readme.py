"""What the README shows is true: its Python runs, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import numpy as np
import typer

from abduce import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs_and_does_what_it_says():
    said = {}
    for code in blocks("python"):  # the second goes on where the first ends
        exec(code, said)
    holes, whole = said["holes"], said["whole"]
    assert not whole.isna().any().any()
    assert whole.where(holes.notna()).equals(holes)
    blank = holes.isna()
    truth, spread = said["X"][blank], said["X"].std()
    error = np.sqrt((((whole - truth) / spread) ** 2).stack().mean())
    assert error < 0.9  # the column's mean would leave about 1
    inside = ((said["low"] <= truth) & (truth <= said["high"]))[blank].stack().mean()
    assert 0.8 < inside < 0.97
    assert said["odd"].shape == (178,)
    assert set(said["table"].index) == {"default", "richer"}
    assert said["value"].shape == said["trust"]["pareto_k"].shape == (178,)


def test_the_commands_are_commands_with_these_options():
    (setup, shown) = blocks("sh")
    group = typer.main.get_command(cli.app)
    seen = []
    for line in shown.strip().splitlines():
        program, name, *arguments = shlex.split(line)
        assert program == "abduce"
        command = group.commands[name]
        command.make_context(name, arguments)  # exits with a usage error if they do not fit
        seen.append(name)
    assert seen[:2] == ["fit", "fill"]
    targets = re.findall(r"^make ?(\w*)", setup, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["", "test"]
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert ".DEFAULT_GOAL := demo" in makefile


def test_links_into_the_repository_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
