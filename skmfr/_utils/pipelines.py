"""Parts of pipelines."""

import numpy as np


def split_pipeline(estimator):
    """Return the steps before the last, or None, and the last step."""
    if not hasattr(estimator, "steps"):
        return None, estimator
    before = estimator[:-1]
    return (before if len(before) else None), estimator[-1]


def transformed(before, X):
    """The data that reach the last step."""
    return X if before is None else before.transform(X)


def original_directions(before, atoms: np.ndarray) -> np.ndarray:
    """Atoms as directions of the data that enter a pipeline, (n_components, n).

    They are the atoms as they are if the steps before cannot be undone.
    """
    if not hasattr(before, "inverse_transform"):
        return atoms
    zero = np.zeros((1, atoms.shape[1]), atoms.dtype)
    return before.inverse_transform(atoms) - before.inverse_transform(zero)
