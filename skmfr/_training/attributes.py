"""Set fitted attributes on an estimator, or compute them when they are read.

PyTorch is imported only when something is computed, so that importing skmfr is fast.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Arrays from which coders or agreement are computed.
READ_ONLY = {
    "components_",
    "dictionaries_",
    "witness_dictionaries_",
    "encoder_weights_",
    "encoder_bias_",
    "decoder_bias_",
    "threshold_",
}
# The arrays that hold the decoder of training after a fit.
DICTIONARIES = {"dictionaries_", "witness_dictionaries_"}


class Late:
    """An attribute that a call may leave to be computed when it is read.

    Once it is set on the estimator, it is an ordinary attribute. If it is missing, it
    is computed and set, together with the attributes that share its computation.

    Parameters
    ----------
    make : callable(estimator) -> None
        Sets the attribute, or leaves it missing if it cannot be computed.
    """

    def __init__(self, make: Callable[[Any], None]):
        self.make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, estimator, owner: type | None = None):
        if estimator is None:
            return self
        self.make(estimator)
        try:
            return estimator.__dict__[self.name]
        except KeyError:
            raise AttributeError(
                f"{type(estimator).__name__!r} object has no attribute {self.name!r}"
            ) from None


def make_weights(estimator) -> None:
    """Set the weights that `partial_fit` has left to be computed."""
    from .results import weights_of

    if is_late(estimator):
        _add(estimator, weights_of(estimator.__dict__))


def make_agreement(estimator) -> None:
    """Set the agreement attributes that `partial_fit` has left to be computed."""
    from .results import agreement_of

    if is_late(estimator):
        make_weights(estimator)
        _add(estimator, agreement_of(estimator.__dict__))


def make_reappearance(estimator) -> None:
    """Set the probability of each atom to return, and say if nothing is known of it."""
    from .results import reappearance_of

    make_agreement(estimator)
    if "dictionaries_" in estimator.__dict__ and "reappearance_" not in vars(estimator):
        set_fitted(estimator, {"reappearance_": reappearance_of(estimator.__dict__)})


def reappearance_without_warning(estimator) -> np.ndarray:
    """Probability of each atom to return; NaN if nothing is known of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return estimator.reappearance_


def is_saved_alone(estimator) -> bool:
    """Whether a model was read from a file without the other SAEs of its fit."""
    return estimator.n_witnesses > 0 and not estimator.__dict__.get("_training", True)


def is_late(estimator) -> bool:
    """Whether attributes are left to be computed."""
    return "decoder" in estimator.__dict__.get("_training", ())


def keep_decoder(estimator) -> None:
    """Keep what training continues from, before another dictionary is assigned."""
    # Weights that are not computed yet must come from the fit, not from what follows.
    make_weights(estimator)
    known = vars(estimator)
    if known.get("_training") and known.keys() >= DICTIONARIES:
        decoder = decoder_of(known)
        known["_training"] = known["_training"] | {"decoder": decoder}


def decoder_of(known: Mapping[str, Any]) -> np.ndarray:
    """The decoder of training, which after a fit is public, in its precision.

    Parameters
    ----------
    known : mapping
        Attributes of a fitted estimator.

    Returns
    -------
    ndarray of shape (n_members, n_components, n_features)
    """
    training = known["_training"]
    if "decoder" in training:
        return training["decoder"]
    decoder = np.concatenate([known["dictionaries_"], known["witness_dictionaries_"]])
    return decoder.astype(training["encoder_bias"].dtype, copy=False)


def forget_late(estimator) -> None:
    """Remove attributes that were computed from an earlier state."""
    for kind in type(estimator).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, Late):
                estimator.__dict__.pop(name, None)


def set_fitted(estimator, attributes: Mapping[str, Any]) -> None:
    """Set fitted attributes; those that coders use become read-only.

    An edit in place, which coders would not notice, then raises an error.
    """
    for name, value in attributes.items():
        # Not what a user assigns, see :func:`keep_decoder`.
        estimator.__dict__[name] = value
        # The array that it is a view of must not change either.
        while name in READ_ONLY and isinstance(value, np.ndarray):
            value.flags.writeable = False
            value = value.base


def _add(estimator, made: Mapping[str, Any]) -> None:
    """Set the attributes that are not set yet."""
    missing = made.keys() - estimator.__dict__.keys()
    set_fitted(estimator, {name: made[name] for name in missing})


def rows_of_witnesses(training: Mapping[str, np.ndarray]) -> str:
    """Rows that witnesses saw, "same" or "disjoint"; only "same" in earlier builds."""
    return "disjoint" if training.get("disjoint") else "same"


def along_of(
    training: Mapping[str, np.ndarray], reference: int, atoms: np.ndarray
) -> np.ndarray:
    """Share of the variance along each atom, of the data or of the starts.

    Two SAEs agree before the first step if few features have most of the variance,
    because :func:`~skmfr._training.initial.initial_atoms` vary as features do.  The
    larger share counts.  Models of earlier builds know that of the starts alone, and
    those of other packages, and files without the state of training, neither: they
    have the share of directions on the sphere.

    Parameters
    ----------
    training : mapping
    reference : int
    atoms : ndarray of shape (n_components, n_features)
        Those of the reference.

    Returns
    -------
    ndarray of shape (n_components,)
    """
    if "variance" not in training:
        return np.full(len(atoms), 1 / atoms.shape[1])
    variance = training["variance"]
    of_starts = np.square(atoms) @ variance / max(variance.sum(), np.finfo(float).tiny)
    if "along" not in training:
        return of_starts
    return np.maximum(training["along"][reference], of_starts)
