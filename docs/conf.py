"""Sphinx: prose in MyST, pages with code executed as they build, the reference from the docstrings."""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent

# The pages run commands and kernels of this environment, with one thread each.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The results of the benchmarks are pages as they stand.
shutil.rmtree(HERE / "results", ignore_errors=True)
(HERE / "results").mkdir()
pages = sorted((HERE.parent / "benchmarks" / "results").glob("*.md"))
for page in pages:
    shutil.copy(page, HERE / "results" / page.name)
if not pages:
    (HERE / "results" / "none.md").write_text(
        "# No results yet\n\n`make bench` writes them.\n", encoding="utf-8"
    )

project = "abduce"
author = "the contributors to abduce"
copyright = "the contributors to abduce"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = "abduce"

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# Formulas are set by MathJax from beside the pages, so that these need no network.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
MATHJAX_PARTS = ("tex-chtml-full.js", "output/chtml/fonts")
mathjax_path = f"mathjax/{MATHJAX_PARTS[0]}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out what scikit-learn's base classes bring: its own pages describe it."""
    return True if (getattr(obj, "__module__", "") or "").startswith("sklearn") else None


def link_results(app, name, source):
    """Links to results lead to the pages copied here; as they stand they lead there in the repository too."""
    source[0] = source[0].replace("](../benchmarks/results/", "](results/")


def add_mathjax(app, error):
    """Copy what the pages load."""
    target = Path(app.outdir) / "_static" / "mathjax"
    if error is None and app.builder.format == "html":
        (target / "output" / "chtml").mkdir(parents=True, exist_ok=True)
        shutil.copy(MATHJAX / MATHJAX_PARTS[0], target)
        shutil.copytree(MATHJAX / MATHJAX_PARTS[1], target / MATHJAX_PARTS[1], dirs_exist_ok=True)


def setup(app):
    app.connect("source-read", link_results)
    app.connect("build-finished", add_mathjax)
    app.connect("autodoc-skip-member", skip_inherited)
