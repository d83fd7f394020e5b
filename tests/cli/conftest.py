"""What tests of the command line share."""

import sys

import pytest

from abduce import cli


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run a command in this process, which spares the start: (status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["abduce", *map(str, arguments)])
        monkeypatch.setitem(cli.options, "debug", False)
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run
