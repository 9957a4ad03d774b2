"""Parts of a recording that a fit leaves out, as in mne.preprocessing.ICA."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import NamedTuple

import numpy as np

# Seconds of the pieces that are checked one by one: `tstep` of MNE.
PIECE = 2.0


class LeftOut(NamedTuple):
    """Parts that a fit leaves out."""

    by_annotation: bool = True
    """Whether spans annotated as ``BAD`` are left out."""
    reject: Mapping[str, float] | None = None
    """Peak-to-peak amplitude by type of channel, above which 2 s are left out."""
    decim: int = 1
    """One window in so many is kept."""


def checked_left_out(decim, reject, by_annotation, y) -> LeftOut:
    """Check the arguments of a fit; y are the clean signals."""
    for name, value in {"decim": decim, "reject": reject}.items():
        if y is not None and value is not None:
            raise ValueError(
                f"{name}={value!r} counts without clean signals only; leave out of X "
                "and y what is not to be learned from."
            )
    if decim is not None and (not isinstance(decim, Integral) or decim < 1):
        raise ValueError(f"decim must be an integer of at least 1, got {decim!r}.")
    if not isinstance(by_annotation, (bool, np.bool_)):
        raise ValueError(
            f"reject_by_annotation must be True or False, got {by_annotation!r}."
        )
    if reject is not None and not isinstance(reject, Mapping):
        raise ValueError(
            "reject must be a dict of peak-to-peak amplitudes by type of channel, such "
            f"as {{'eeg': 500e-6}}, got {reject!r}."
        )
    return LeftOut(bool(by_annotation), reject, int(decim or 1))


def check_reject(reject: Mapping[str, float], ch_types: list[str]) -> None:
    """Whether all thresholds are of types of channels that are fitted."""
    unknown = sorted(set(reject) - set(ch_types))
    if unknown:
        raise ValueError(
            f"reject has thresholds for {unknown}; the channels of the fit are of "
            f"types {sorted(set(ch_types))}."
        )
    for kind, threshold in reject.items():
        if not threshold > 0:
            raise ValueError(
                f"reject[{kind!r}] must be a peak-to-peak amplitude above 0, in units "
                f"of the data, got {threshold!r}."
            )


def is_loud(
    signals: np.ndarray, ch_types: list[str], reject: Mapping[str, float]
) -> bool:
    """Whether a channel of signals (n_channels, n_times) is above its threshold."""
    most = np.array([reject.get(kind, np.inf) for kind in ch_types])
    return bool((np.ptp(signals, axis=1) > most).any())
