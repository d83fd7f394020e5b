"""Put a demonstration's figures and its picture into the README: python docs/figures.py out/demo."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- figures: python docs/figures.py out/demo -->", "<!-- end of figures -->"


def table(result: dict) -> str:
    """The questions that have a peer, as a Markdown table; the better figure is bold."""
    lines = ["| question | abduce | best peer | | unit |", "|---|---|---|---|---|"]
    for answer in result["answers"]:
        if not answer["peers"]:
            continue
        figures = [answer["ours"], answer["peers"][answer["best_peer"]]]
        cells = [f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}" for value in figures]
        better = 0 if answer["ours_is_best"] else 1
        cells[better] = f"**{cells[better]}**"
        lines.append(
            f"| {answer['task']} | {cells[0]} | {cells[1]} | {answer['best_peer']} | {answer['unit']} |"
        )
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Rewrite README.md between its markers, and docs/images/fill.png."""
    result = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n{table(result)}\n{END}{after}", encoding="utf-8")
    (ROOT / "docs" / "images").mkdir(exist_ok=True)
    shutil.copy(folder / "pictures" / "fill.png", ROOT / "docs" / "images" / "fill.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/figures.py FOLDER, where FOLDER is what `abduce demo -o FOLDER` wrote")
    main(Path(sys.argv[1]))
