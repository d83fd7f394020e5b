"""What tests share: one thread a worker, so that parallel workers do not fight over the cores; random numbers that are
the same each time; the command line, run here."""

import os
import sys

import numpy as np
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes a test starts

    import torch

    torch.set_num_threads(1)

settings.register_profile("abduce", deadline=None, derandomize=True)  # a busy machine may be slow
settings.load_profile("abduce")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before each test and its fixtures: what is given no seed draws one from NumPy's or torch's, not from luck."""
    np.random.seed(0)  # noqa: NPY002 - the state that random_state=None stands for
    if torch := sys.modules.get("torch"):  # what hangs on it, else, hangs on which tests ran before
        torch.manual_seed(0)


@pytest.fixture
def commanded(monkeypatch):
    """Run a command in this process, which spares the start; its status."""
    from abduce import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["abduce", *map(str, arguments)])
        monkeypatch.setitem(cli.options, "debug", False)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    return run


@pytest.fixture
def ask(commanded, capsys):
    """Run a command: (status, standard output, standard error)."""

    def run(*arguments):
        status = commanded(*arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
