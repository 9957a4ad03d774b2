"""Refuses early pickles of 0.1.0, which look for a class in this module."""

from ._utils.pickles import check_version


def __getattr__(name: str):
    if name == "Standardiser":
        check_version(None)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
