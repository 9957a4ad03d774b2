"""Noisy signals and the clean ones that belong to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._containers import is_epochs, is_raw
from ._recordings import (
    Reader,
    check_alike,
    check_recording,
    how_recorded,
    warn_of_other_recording,
)


def opened_clean(denoiser, noisy: Reader, y: Any) -> Reader:
    """Clean signals as they will be read; `noisy` leaves out what is bad in either."""
    X = noisy.X
    check_alike(X, y)
    if is_raw(X) or is_epochs(X):
        check_recording(y, denoiser)
        # Where X is as y, there is a warning of X already.
        one, other = (how_recorded(each, denoiser.ch_names_) for each in (X, y))
        if one != other:
            warn_of_other_recording(y, denoiser, "y", stacklevel=5)
    clean = Reader(y, denoiser.ch_names_, "y")
    if clean.shape != noisy.shape:
        raise ValueError(
            f"y must have the shape of X, (n_epochs, n_channels, n_times) = "
            f"{noisy.shape}, got {clean.shape}."
        )
    if is_epochs(X):
        check_same_epochs(X, clean.X)
    noisy.clean = clean
    return clean


def check_same_epochs(X: Any, y: Any) -> None:
    """Raise if y are other epochs than X, by their events and their places.

    One of the two may differ: the same epochs have other places after some were joined
    with others, and other events in a copy of the recording that begins elsewhere.
    Epochs made of arrays without events do not tell.
    """
    samples = [epochs.events[:, 0] for epochs in (X, y)]
    if any(np.array_equal(each, np.arange(len(each))) for each in samples):
        return
    other_event = samples[0] != samples[1]
    other_place = X.selection != y.selection
    other = np.flatnonzero(other_event & other_place)
    if len(other):
        first = int(other[0])
        raise ValueError(
            f"y must have the epochs of X, but {len(other)} of {len(X)} are others: "
            f"epoch {first} of X is number {X.selection[first]} of its recording, with "
            f"an event at sample {samples[0][first]}, that of y number "
            f"{y.selection[first]}, with one at {samples[1][first]}. Drop the same "
            "epochs from both."
        )
