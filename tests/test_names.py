"""The house's own rules, read off its source: one name for one class, capabilities declared, files that fit in the head."""

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "abduce"
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 450
ROOMS = {"estimators", "answers"}
PROBES = {"isinstance", "getattr", "hasattr"}
MOST_PROBES = 4.0  # a thousand lines


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_two_classes_share_a_name():
    """Within one module too, and whether or not they are private."""
    places = defaultdict(list)
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    shared = {name: where for name, where in sorted(places.items()) if len(where) > 1}
    assert not shared, "\n".join(f"{name}: {', '.join(where)}" for name, where in shared.items())


def test_what_a_thing_can_do_is_declared_not_asked():
    probes, lines = defaultdict(int), 0
    for path in (path for path in FILES if path.parent.name in ROOMS):
        lines += len(path.read_text(encoding="utf-8").splitlines())
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PROBES:
                probes[f"{path.parent.name}/{path.name}"] += 1
    rate = 1000 * sum(probes.values()) / lines
    assert rate < MOST_PROBES, f"{rate:.1f} a thousand lines: {dict(probes)}"


def test_no_file_is_longer_than_fits_in_the_head():
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}
