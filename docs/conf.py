"""The site, which `make docs` builds. Its source folder is the repository, so that links among the pages, README and
the notebooks work on a code host too."""

import re
import shutil
from pathlib import Path

from docutils.nodes import SkipNode

from wsolkit.report.notebook_page import mathml

ROOT = Path(__file__).resolve().parents[1]

project = "wsolkit"
author = "The wsolkit contributors"
copyright = "The wsolkit contributors, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*", "notebooks/*"]
exclude_patterns = [".*", "build", "reports", "docs/site"]

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # make docs EXECUTE=cache runs them
nb_execution_timeout = 3600
nb_execution_raise_on_error = True
default_role = "code"  # `name` in docstrings
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "wsolkit"
html_extra_path = ["site"]  # index.html, which leads to docs/index.html
html_math_renderer = "mathml"  # MathJax would be fetched from elsewhere
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # a browser fetches no pages from a folder
if (ROOT / "reports/index.html").is_file():
    tags.add("reports")  # noqa: F821  (Sphinx's own name)


def copy_reports(app, error):
    """The example reports where `make reports` wrote them, and README's screenshots."""
    if error is None:
        leave = shutil.ignore_patterns("runs", "*.md")
        shutil.copytree(ROOT / "reports", Path(app.outdir, "reports"), ignore=leave, dirs_exist_ok=True)


def complete_roles(app, page, template, context, doctree):
    """What pages of Sphinx lack: the level of a caption, and scrolling by keyboard where code or a formula is wide."""
    for part in ("body", "furo_navigation_tree"):
        text = context.get(part, "").replace('role="heading"', 'role="heading" aria-level="2"')
        context[part] = re.sub(r'<(pre|div class="math-wrapper[^"]*")>', r'<\1 tabindex="0">', text)


def formula(display):
    def visit(translator, node):
        translator.body.append(mathml(node.astext(), display))
        raise SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", formula(display=False), formula(display=True))
    app.connect("html-page-context", complete_roles, priority=900)  # the theme's own comes before
    app.connect("build-finished", copy_reports)
