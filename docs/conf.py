"""Configuration of Sphinx."""

import sys
from pathlib import Path

import skmfr

# benchmarks, whose results are drawn, and the directive that draws them.
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]

project = "skmfr"
author = "the skmfr developers"
project_copyright = "the skmfr developers"
version = release = skmfr.__version__

extensions = [
    "house",
    "messages",
    "myst_parser",
    "numpydoc",
    "results",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx-mathjax-offline",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
# Another page includes the list of errors.
exclude_patterns = ["_build", "_tables", "examples", "generated/errors.md"]
templates_path = ["_templates"]
toc_object_entries_show_parents = "hide"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Methods are shown on the page of their class, but for what scikit-learn adds to route
# metadata, whose text refers to its own documentation.
autodoc_default_options = {
    "members": True,
    "exclude-members": "set_fit_request, set_score_request",
}
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "abort_on_example_error": True,
    # What draws itself, as estimators do; not what a call of Matplotlib returns.
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "write_computation_times": False,
    # Each example has its process, in which joblib allows one thread on two cores.
    "parallel": 2,
}

html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_prev_next": False, "show_nav_level": 2}
html_title = "skmfr"
# Without it, the theme reports an invalid mode in the browser's console.
html_context = {"default_mode": "auto"}
# These pages have no pages below them to list, and the changelog has a wide table.
html_sidebars = {"changelog": [], "contributing": []}
html_static_path = ["_static"]
html_css_files = ["skmfr.css"]
