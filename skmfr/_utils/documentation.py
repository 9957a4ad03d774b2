"""Where the documentation is, and links to it."""

# The one place in the package that knows; [project.urls] in pyproject.toml repeats it.
DOC_URL = "https://skmfr.readthedocs.io/en/latest"


class DocumentationLinkMixin:
    """Lets the HTML picture of an estimator link to its page.

    scikit-learn fills in the public module and the name of the class.
    """

    _doc_link_module = "skmfr"
    _doc_link_template = DOC_URL + "/generated/{estimator_module}.{estimator_name}.html"
