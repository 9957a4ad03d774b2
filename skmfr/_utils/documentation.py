"""The address of the documentation, and links to it."""

# The address of the site, without a trailing slash, once it exists.  Then also add
# Documentation to [project.urls] in pyproject.toml.
DOC_URL: str | None = None


class DocumentationLinkMixin:
    """Links the HTML representation of an estimator to its page, if a site exists.

    scikit-learn fills in the public module and the name of the class.
    """

    _doc_link_module = "skmfr"

    @property
    def _doc_link_template(self) -> str:
        if DOC_URL is None:
            return ""
        return DOC_URL + "/generated/{estimator_module}.{estimator_name}.html"
