"""Configuration of the documentation site: `sphinx-build -n -W docs docs/_build`.

The build needs no network: formulas become MathML, the theme brings its own files, and no page loads anything
from elsewhere.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER / "_extensions"), str(FOLDER.parent / "src")]

import fedrecon  # noqa: E402 (found by the line above)

project = "fedrecon"
author = "The fedrecon authors"
project_copyright = author
version = release = fedrecon.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "docstring_markup",
    "mathml",
    "public_api",
    "repository_pages",
]
exclude_patterns = ["_build", "jupyter_execute", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"fedrecon {version}"
html_static_path: list[str] = []
templates_path: list[str] = []

# MyST: formulas between dollars, links to headings, and the one notebook, which every build executes.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

# The API reference: in the order of the sources, with the types in the signature.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_use_unqualified_type_names = True

# Names of other libraries have no page on this site, and neither have private classes that a signature
# names. Every other name of this library must resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!fedrecon\b).*"),
    (r"py:.*", r"fedrecon\.(.*\.)?_.*"),
    (r"py:.*", r"fedrecon\.experiment\..*"),
]

# Only `sphinx-build -b linkcheck docs docs/_build/links` opens addresses of other sites.
linkcheck_retries = 2
linkcheck_timeout = 20
