"""Where the documentation is, and links to it."""

# The address of the site, without a slash at the end, once there is one; then also
# Documentation in [project.urls] of pyproject.toml.
DOC_URL: str | None = None


class DocumentationLinkMixin:
    """Lets the HTML picture of an estimator link to its page, if there is a site.

    scikit-learn fills in the public module and the name of the class.
    """

    _doc_link_module = "skmfr"

    @property
    def _doc_link_template(self) -> str:
        if DOC_URL is None:
            return ""
        return DOC_URL + "/generated/{estimator_module}.{estimator_name}.html"
