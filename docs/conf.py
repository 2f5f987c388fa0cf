"""Sphinx: `make docs` builds the guides and the reference as a site in out/docs."""

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
# Pages link to files of the repository, which the site does not have.
suppress_warnings = ["myst.xref_missing"]
