"""Run the code cells of pages as plain Python, without building them: python docs/quick.py [PAGE.md ...].

Each page runs in a process and an empty folder of its own; a line that starts with ``!`` goes to the shell. The first cell
that fails, or a page that takes longer than its limit, ends with status 1 and says where.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 120.0  # seconds a page
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = """
def run_in_shell(command):
    import subprocess, sys
    sys.stdout.flush()
    subprocess.run(command, shell=True, check="||" not in command)
"""


def code(page: Path) -> str:
    """The cells of a page as one module; a cell keeps the line numbers it has on the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * text.count("\n")
    for cell in CELL.finditer(text):
        first = text.count("\n", 0, cell.start(1))
        for number, line in enumerate(cell[1].splitlines(), start=first):
            shell = re.match(r"( *)!(.*)", line)
            option = number < first + 3 and line.startswith(":")
            lines[number] = f"{shell[1]}run_in_shell({shell[2]!r})" if shell else "" if option else line
    return "\n".join(lines)


def run(page: Path) -> None:
    """Execute a page in this process."""
    said: dict[str, object] = {"__name__": "__main__"}
    exec(SHELL, said)
    exec(compile(code(page), str(page), "exec"), said)


def main(pages: list[Path]) -> int:
    """Run pages one after another; the number of those that failed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": threads}
    failed = 0
    for page in pages:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--here", str(page.resolve())]
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, timeout=LIMIT, capture_output=True, text=True
                )
                status, said = done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
            except subprocess.TimeoutExpired:
                status, said = 1, f"longer than {LIMIT:.0f} s\n"
        print(f"{'failed' if status else 'ran'}  {page.name}  {time.monotonic() - start:.1f} s", flush=True)
        if status:
            failed += 1
            print(said, file=sys.stderr)
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        run(Path(sys.argv[2]))
    else:
        sys.exit(1 if main([Path(p) for p in sys.argv[1:]]) else 0)
