"""Sphinx: prose in MyST, pages with code executed as they build, the reference from the docstrings."""

import os
import shutil
import sys
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

autodoc_member_order = "bysource"
autodoc_typehints = "none"


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out what scikit-learn's base classes bring: its own pages describe it."""
    return True if (getattr(obj, "__module__", "") or "").startswith("sklearn") else None


def setup(app):
    app.connect("autodoc-skip-member", skip_inherited)
