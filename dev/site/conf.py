"""Sphinx's settings for the site of the Python package; dev/site/build calls it.

The sources are the pages as they lie in the repository: README.md, docs/, and those of benchmarks/
that they link to. Links between them are checked, anchors included, and so are the references of
docstrings to the package's own names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]

project = "scvibridge"
author = "the scvibridge developers"
release = re.findall(
    r'__version__ = "(.+)"', (ROOT / "python/scvibridge/_version.py").read_text(encoding="utf-8")
)[0]

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc", "sphinxcontrib.mermaid"]
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/developer/*.md",
    "docs/recipes/*.md",
    "docs/notebooks/*.ipynb",
    "docs/reference/*.rst",
    "benchmarks/*.md",
    "benchmarks/*/*.md",
]
root_doc = "README"

# Headings are linked to by the names that GitHub gives them.
myst_heading_anchors = 3
myst_links_external_new_tab = True
# Fences of this language are diagrams, as on GitHub.
myst_fence_as_directive = ["mermaid"]

# Notebooks are committed without outputs, and run here.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# Notes of libraries on how they were installed, with paths of the machine that built the page.
nb_output_stderr = "remove"

nitpicky = True
# Names of other packages would need their inventories, which are on the network.
nitpick_ignore_regex = [(r"py:.*", r"(?!scvibridge).*")]
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "sphinx_book_theme"
html_title = f"scvibridge {release}"
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search, which the margin has
    "show_toc_level": 2,
    "use_download_button": False,
}
templates_path = ["templates"]
html_additional_pages = {"index": "to_readme.html"}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["../../llms.txt"]
html_copy_source = False
html_show_sphinx = False

# The sidebar of each page; not part of README.md, because GitHub would show it.
CONTENTS = {
    "Use": ["docs/install", "docs/python", "docs/r", "docs/command-line", "docs/faq"],
    "Tutorials": ["docs/notebooks/h5ad_to_seurat", "docs/notebooks/differential_expression"],
    "Recipes by tool": [
        "docs/recipes/index",
        "docs/recipes/deseq2-edger",
        "docs/recipes/seurat-findmarkers",
        "docs/recipes/scran-scater",
        "docs/recipes/cnmf",
        "docs/recipes/pyscenic",
        "docs/recipes/hdwgcna",
        "docs/recipes/cellchat",
        "docs/recipes/liana-cell2cell",
        "docs/recipes/deconvolution",
        "docs/recipes/infercnv",
    ],
    "Understand": [
        "docs/concepts",
        "docs/models",
        "docs/extend",
        "docs/large-data",
        "docs/glossary",
    ],
    "Trust": ["docs/diagnostics", "docs/report", "docs/validity", "docs/loading"],
    "Reference": [
        "docs/reference/models",
        "docs/reference/matrices",
        "docs/reference/diagnostics",
        "docs/reference/objects",
        "docs/reference/r",
    ],
    "Develop": ["CONTRIBUTING", "docs/developer/architecture", "docs/developer/statistics"],
    "Project": [
        "News <NEWS>",
        "SUPPORT",
        "SECURITY",
        "CODE_OF_CONDUCT",
        "LICENSE",
        "benchmarks/README",
        "benchmarks/RESULTS",
        "benchmarks/validity/RESULTS",
    ],
}


def add_contents(_app: Sphinx, name: str, source: list[str]) -> None:
    """Append the table of contents to the first page."""
    if name == root_doc:
        source[0] += "\n".join(
            f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
            for caption, pages in CONTENTS.items()
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the settings that are code."""
    app.connect("source-read", add_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
