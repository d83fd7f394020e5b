"""The command line: fit a model to a file, then ask it questions; the answer takes the form of the question.

Standard output carries only the answer; progress and remarks go to standard error. Exit status: 0 done, 1 the
data or the model would not do (one line says why; ``--debug`` shows the traceback), 2 wrong usage, 130
interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from abduce.cli import acting, models, pictures, questions, times  # noqa: F401  (they add their commands)
from abduce.cli.common import app, options


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Fit one generative model to unlabelled data, then ask it anything."""
    options["debug"] = debug


def main() -> None:
    """Run a command; an error becomes one line and status 1."""
    try:
        app()
    except Exception as error:
        if options["debug"]:
            raise
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        print(f"abduce: {kind}{error}", file=sys.stderr)
        sys.exit(1)
