"""Parts of pipelines."""


def split_pipeline(estimator):
    """Return the steps before the last, or None, and the last step."""
    if not hasattr(estimator, "steps"):
        return None, estimator
    before = estimator[:-1]
    return (before if len(before) else None), estimator[-1]


def transformed(before, X):
    """The data that reach the last step."""
    return X if before is None else before.transform(X)
