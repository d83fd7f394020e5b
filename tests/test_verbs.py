"""The table of questions beside what asks them: the estimators' methods and the command line."""

import inspect
import subprocess
import sys

import pytest
import typer

import abduce
from abduce import cli
from abduce.estimators.methods import ENERGIES, METHODS
from abduce.models.parts import POSTERIORS, PRIORS
from abduce.verbs import FIT, GIVES, NEEDS, REQUIRED, TAKES, VERBS

SOME = {"energy", "classes"}  # needs that only some estimators meet
OF_A_MODEL = [verb for verb in VERBS.values() if verb.takes not in ("models", "series")]
OF_SERIES = [verb for verb in VERBS.values() if verb.takes == "series"]


def parameters(function):
    """Arguments by name, without the model and the data, which come first, but for those that are arguments by the table."""
    given = dict(inspect.signature(function).parameters)
    for name in ("self", "X", "Y", "Z", "data", "models"):
        given.pop(name, None)
    return given


def assert_has(function, verb):
    """The method takes what the table says, with the same defaults."""
    given = parameters(function)
    for argument in verb.arguments:
        assert argument.name in given, (function.__qualname__, argument.name)
        default = given[argument.name].default
        assert argument.default == (REQUIRED if default is inspect.Parameter.empty else default)


@pytest.mark.parametrize("verb", OF_A_MODEL, ids=lambda verb: verb.name)
def test_estimators_take_the_arguments_of_the_table(verb):
    holders = [method for method in METHODS.values() if hasattr(method, verb.method)]
    assert holders
    if not SOME & set(verb.needs):
        assert holders == list(METHODS.values())
    if "energy" in verb.needs:
        assert holders == list(ENERGIES.values())
    for holder in holders:
        assert_has(getattr(holder, verb.method), verb)
    shared = set.intersection(*(set(parameters(getattr(holder, verb.method))) for holder in holders))
    assert shared == {argument.name for argument in verb.arguments}


@pytest.mark.parametrize("verb", OF_SERIES, ids=lambda verb: verb.name)
def test_series_takes_the_arguments_of_the_table(verb):
    assert_has(getattr(abduce.Series, verb.method), verb)


def test_compare_takes_the_arguments_of_the_table():
    assert_has(abduce.compare, VERBS["compare"])


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_words_of_the_table_are_explained(verb):
    assert verb.takes in TAKES
    assert verb.gives in GIVES
    assert set(verb.needs) <= set(NEEDS)
    assert verb.help.endswith(".")
    for argument in (*verb.arguments, *verb.options):
        assert argument.help.endswith(".")
        assert not argument.choices or argument.default in (None, REQUIRED, *argument.choices)


def test_commands_say_what_the_table_says():
    commands = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    asked = [verb for verb in VERBS.values() if verb.name in commands]
    assert len(asked) == 16
    for verb in asked:
        command = commands[verb.name]
        assert command.help == verb.help
        shown = {parameter.name: parameter for parameter in command.params}
        for argument in (*verb.arguments, *verb.options):
            if argument.name in shown:
                option = shown[argument.name]
                assert option.help == argument.help
                assert option.required == (argument.default is REQUIRED)
                assert (argument.option or f"--{argument.name}") in option.opts
                usual = argument.default if argument.option_default is None else argument.option_default
                assert option.required or option.default == usual


def test_options_of_fit_are_arguments_of_a_vae():
    given = abduce.VAE().get_params()
    assert {argument.name for argument in FIT} <= set(given)
    choices = {argument.name: argument.choices for argument in FIT}
    assert (choices["prior"], choices["posterior"]) == (tuple(PRIORS), tuple(POSTERIORS))


def test_the_table_imports_nothing_heavy():
    code = "import abduce.verbs, sys; print(*{'torch', 'sklearn', 'typer', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
