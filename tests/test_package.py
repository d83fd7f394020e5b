"""The package's front: public names that are fetched when first asked for."""

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import abduce


def test_every_public_name_is_there():
    assert set(abduce.__all__) <= set(dir(abduce))
    for name in abduce.__all__:
        assert getattr(abduce, name) is getattr(abduce, name)
    from abduce.estimators.vae import VAE

    assert abduce.VAE is VAE


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'abduce' has no attribute 'VAD'"):
        abduce.VAD


HEAVY = {"torch", "sklearn", "matplotlib"}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("abduce", HEAVY | {"numpy", "pandas"}),
        ("abduce.cli", HEAVY | {"numpy", "pandas"}),
        ("abduce.data.readers", HEAVY),
    ],
)
def test_light_modules_do_not_import_the_heavy_packages(module, without):
    code = f"import {module}, sys; print(*sorted({without} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_comes_at_once():
    """In the processor's time, which other work on the machine does not stretch."""
    code = """
import sys, time
from abduce.cli import main
sys.argv = ["abduce", "--help"]
try:
    main()
finally:
    print(time.process_time(), *sorted({"torch", "sklearn", "pandas", "numpy"} & set(sys.modules)))
"""
    seconds, found = [], []
    while len(seconds) < 20 and min(seconds, default=1.0) >= 0.3:  # the machine has slow seconds
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "Commands" in done.stdout
        first, *others = done.stdout.splitlines()[-1].split()
        seconds.append(float(first))
        found += others
    assert found == []
    assert min(seconds) < 0.3


def test_the_stub_and_the_mark_of_a_typed_package_are_shipped():
    for name in ("__init__.pyi", "py.typed"):
        assert resources.files(abduce).joinpath(name).is_file()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not there")
@pytest.mark.parametrize(
    ("new_enough", "taken"),
    [
        (["python3.11", "python3.12", "python3"], "python3.11 -m venv"),
        (["python3.12", "python3.13"], "python3.12 -m venv"),
        (["python3"], "python3 -m venv"),
        ([], "abduce needs Python 3.11 or later"),
    ],
)
def test_make_takes_the_first_python_that_is_new_enough(new_enough, taken, tmp_path):
    """Interpreters of which some say by their exit status that they are too old."""
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nexit {int(name not in new_enough)}\n")
        script.chmod(0o755)
    makefile = Path(__file__).parents[1] / "Makefile"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    target = f"{tmp_path}/venv/.installed"
    done = subprocess.run(
        ["make", "-n", "-f", makefile, f"VENV={tmp_path}/venv", target],
        capture_output=True,
        text=True,
        env=environment,
        cwd=makefile.parent,
    )
    if new_enough:
        assert any(line.startswith(taken) for line in done.stdout.splitlines())
    else:  # the first thing that is run fails
        assert done.stdout.startswith('test -n "" ||')
        assert taken in done.stdout
