"""Sphinx: `make docs` builds the guides and the reference as a site in out/docs."""

import pathlib
import re
import shutil

project = "tf_seqattn"
copyright = "the tf_seqattn authors"  # noqa: A001 (Sphinx's name)
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "tf_seqattn"
exclude_patterns = ["BUILD", "*.py"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Docstrings have Markdown's single backticks: they mean code.
default_role = "code"
# Pages link to code and notebooks of the repository, which the site does not have.
suppress_warnings = ["myst.xref_missing"]

_DOCS = pathlib.Path(__file__).parent


def copy_results(app):
    """Makes pages of the benchmarks' results, which Sphinx only finds below docs."""
    shutil.copytree(
        _DOCS.parent / "benchmarks" / "results",
        _DOCS / "benchmarks",
        ignore=shutil.ignore_patterns("*.json"),
        dirs_exist_ok=True,
    )


def point_to_results(app, page, text):
    """Turns links to the results in the repository into links to their pages."""
    text[0] = re.sub(r"\]\((\.\./)+benchmarks/results/", "](/benchmarks/", text[0])


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", copy_results)
    app.connect("source-read", point_to_results)
