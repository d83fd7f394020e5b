"""Run the code cells of pages as plain Python, without building them: python docs/quick.py [PAGE.md ...].

Without arguments, all pages but the slowest, two at a time.  Each runs in a process of its own, in this folder as
when it is built; a line that starts with ``!`` goes to the shell.  A cell that fails, or a page that takes longer than its
limit, ends with status 1 and says where.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SLOW = (
    "command_line.md",
)  # a process for each line: only when named, and in the build; tests/cli has its commands
LIMIT = 600.0  # seconds a page
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code(page: Path) -> str:
    """The cells of a page as one module; every line keeps the number it has on the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for cell in CELL.finditer(text):
        first = text.count("\n", 0, cell.start(1))
        for number, line in enumerate(cell[1].splitlines(), start=first):
            shell = re.match(r"( *)!(.*)", line)
            option = number == first and line.startswith(":")
            lines[number] = f"{shell[1]}in_shell({shell[2]!r})" if shell else "" if option else line
    return "\n".join(lines)


def in_shell(command: str) -> None:
    """Run a line as the shell would; CalledProcessError if it fails."""
    subprocess.run(command, shell=True, check=True)


def run(page: Path) -> tuple[bool, str]:
    """Run a page in a process of its own: whether it went through, and a line about it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    settings = {"PATH": path, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--here", str(page.resolve())]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=HERE, env=os.environ | settings, timeout=LIMIT, capture_output=True, text=True
        )
        status, said = done.returncode, f"\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    except subprocess.TimeoutExpired:
        status, said = 1, f"\nit takes longer than {LIMIT:.0f} s"
    line = f"{page.name}: {'failed' if status else 'runs'}, {time.monotonic() - start:.1f} s"
    return not status, line + said * bool(status)


def main(pages: list[Path]) -> int:
    """Run pages, two at a time; status 1 if one fails."""
    well = True
    with ThreadPoolExecutor(2) as pool:
        for went, line in pool.map(run, pages):
            print(line, flush=True)
            well &= went
    return not well


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        page = Path(sys.argv[2])
        exec(compile(code(page), str(page), "exec"), {"__name__": "__main__", "in_shell": in_shell})
    else:
        given = [Path(name) for name in sys.argv[1:]]
        executed = [p for p in sorted(HERE.glob("*.md")) if CELL.search(p.read_text(encoding="utf-8"))]
        sys.exit(main(given or [p for p in executed if p.name not in SLOW]))
