"""Fitted attributes on an estimator: set, and made when they are read.

PyTorch is imported when something is made, so that importing skmfr is light.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Arrays that coders, or agreement, are computed from.
READ_ONLY = {
    "components_",
    "dictionaries_",
    "witness_dictionaries_",
    "encoder_weights_",
    "encoder_bias_",
    "decoder_bias_",
    "threshold_",
}


class Late:
    """An attribute that a call may leave to be made when it is read.

    Set on the estimator, it is an attribute like any other; where it is missing, it is
    made with those that are made with it, and set.

    Parameters
    ----------
    make : callable(estimator) -> None
        Sets it, or leaves it missing where there is nothing to make it of.
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
    """Set the weights that `partial_fit` left to be made."""
    from .results import weights_of

    if is_late(estimator):
        _add(estimator, weights_of(estimator.__dict__))


def make_agreement(estimator) -> None:
    """Set what tells of agreement, where `partial_fit` left it to be made."""
    from .results import agreement_of

    if is_late(estimator):
        make_weights(estimator)
        _add(estimator, agreement_of(estimator.__dict__))


def make_reappearance(estimator) -> None:
    """Set the probability of each atom to return, and say if nothing is known of it."""
    from .results import reappearance_of

    make_agreement(estimator)
    if "reappearance_" not in estimator.__dict__:
        set_fitted(estimator, {"reappearance_": reappearance_of(estimator.__dict__)})


def is_late(estimator) -> bool:
    """Whether there is something to make attributes of."""
    return "decoder" in estimator.__dict__.get("_training", ())


def forget_late(estimator) -> None:
    """Remove what was made of an earlier state."""
    for kind in type(estimator).__mro__:
        for name, value in vars(kind).items():
            if isinstance(value, Late):
                estimator.__dict__.pop(name, None)


def set_fitted(estimator, attributes: Mapping[str, Any]) -> None:
    """Set fitted attributes; those that coders are made of become read-only.

    An edit in place, which coders would not see, then raises.
    """
    for name, value in attributes.items():
        setattr(estimator, name, value)
        # Nor may what it is a view of change.
        while name in READ_ONLY and isinstance(value, np.ndarray):
            value.flags.writeable = False
            value = value.base


def _add(estimator, made: Mapping[str, Any]) -> None:
    """Set those that nobody has set."""
    missing = made.keys() - estimator.__dict__.keys()
    set_fitted(estimator, {name: made[name] for name in missing})
