"""The command that acts: learn an environment from a few hundred steps of it, then plan in what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abduce.cli.common import Json, Quiet, app, print_json, print_table, progress, remark


def parse_goal(text: str | None) -> list[float] | None:
    """Turn ``"1,0,nan"`` into numbers.

    >>> parse_goal("1,0,nan")
    [1.0, 0.0, nan]
    """
    if text is None:
        return None
    try:
        return [float(cell) for cell in text.split(",")]
    except ValueError:
        wrong = f"expected numbers and nan between commas, as 1,0,nan, got {text!r}"
        raise typer.BadParameter(wrong, param_hint="--goal") from None


@app.command()
def act(
    env: Annotated[str, typer.Option("--env", help="Id of a Gymnasium environment, as Pendulum-v1.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report and model.")] = Path(
        "out/act"
    ),
    steps: Annotated[int, typer.Option(min=2, help="Steps of experience, all counted.")] = 400,
    episodes: Annotated[int | None, typer.Option(min=1, help="Episodes of experience, at most.")] = None,
    starts: Annotated[int, typer.Option(min=1, help="Episodes to act in afterwards.")] = 10,
    goal: Annotated[
        str | None, typer.Option(help="State to come to, as 1,0,nan: nan does not matter.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Distance from the goal that costs 1, in observations' units.")
    ] = 1.0,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps planned ahead.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn an environment in a few hundred steps, plan in what was learnt, and write a report with pictures."""
    target = parse_goal(goal)
    from abduce.showcase import acting

    objective = acting.objective_of(env, target, tolerance, horizon)
    with progress(quiet) as show:
        result = acting.run(output, env, objective, steps, episodes, starts, seed, show)
    if as_json:
        print_json(result)
        return
    returns = result["returns"]
    row = (env, str(result["steps"]), f"{sum(returns) / len(returns):.1f}", f"{min(returns):.1f}")
    print_table(("environment", "steps of experience", "mean return", "worst"), [row], 120)
    remark(f"report: {output / 'report.html'}  ({result['seconds']:.0f} s)", quiet)
