"""Codes over time, as recordings and epochs of MNE with a channel for each atom."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from ._artifacts import code_windows, fitted_reader
from ._containers import is_epochs
from ._fitted import checked_atoms
from ._spans import Span, first_windows
from ._windows import count_windows, overlap_add, taper


def sources_of(denoiser, X, atoms: np.ndarray | None = None) -> Any:
    """Codes of X over time: mne.io.RawArray, or mne.EpochsArray for epochs.

    Of all atoms, or of some, as memory may not hold all of them.
    """
    import mne

    reader = fitted_reader(denoiser, X)
    spans = reader.spans()
    codes = code_windows(denoiser, reader, spans)
    if atoms is None:
        atoms = np.arange(codes.shape[1])
    data = codes_over_time(denoiser, codes[:, atoms], spans, reader.X.n_times)
    names = np.array(atom_names(denoiser))
    info = mne.create_info(names[atoms].tolist(), X.info["sfreq"], "misc")
    excluded = checked_atoms(denoiser, denoiser.exclude)
    info["bads"] = names[excluded[np.isin(excluded, atoms)]].tolist()
    if is_epochs(X):
        epochs = X if X.preload else X.copy().drop_bad(verbose="error")
        sources = mne.EpochsArray(
            data.reshape(len(data), len(epochs), -1).swapaxes(0, 1),
            info,
            tmin=epochs.tmin,
            selection=epochs.selection,
            drop_log=epochs.drop_log,
            metadata=epochs.metadata,
            proj=False,
            verbose="error",
        )
        # MNE would refuse two events at a sample, and kinds of events that have none
        # left, though it makes epochs of both.
        sources.events, sources.event_id = epochs.events.copy(), dict(epochs.event_id)
        return sources
    sources = mne.io.RawArray(data, info, first_samp=X.first_samp, verbose="error")
    sources.set_meas_date(X.info["meas_date"])
    notes = X.annotations
    # MNE counts onsets without a date from the first sample when they are set.
    onset = notes.onset - (X.first_time if notes.orig_time is None else 0)
    # Annotations may name channels of X, which sources do not have.
    notes = mne.Annotations(onset, notes.duration, notes.description, notes.orig_time)
    return sources.set_annotations(notes, verbose="error")


def atom_names(denoiser) -> list[str]:
    """Names of the channels that stand for atoms: atom000, atom001, ..."""
    return [f"atom{atom:03d}" for atom in range(len(denoiser.sae_.components_))]


def codes_over_time(
    denoiser, codes: sparse.csr_array, spans: list[Span], n_times: int
) -> np.ndarray:
    """Codes of windows, for each sample the mean of those of the windows over it.

    The mean is weighted as windows are when they are added up.

    Parameters
    ----------
    denoiser : EEGDenoiser
    codes : csr_array of shape (n_windows, n_atoms)
        Of the windows in the spans.
    spans : list of (start, stop)
    n_times : int
        Samples of the recording.

    Returns
    -------
    ndarray of shape (n_atoms, n_times), float64
        0 between spans.
    """
    length, hop = denoiser.n_times_, denoiser.hop_
    weight = taper(length)
    over_time = np.zeros((codes.shape[1], n_times))
    for (start, stop), first in zip(spans, first_windows(denoiser, spans), strict=True):
        n_windows = count_windows(stop - start, length, hop)
        part = codes[first : first + n_windows].toarray()
        for atom in np.flatnonzero(part.any(0)):
            windows = part[:, atom, None] * weight
            over_time[atom, start:stop] = overlap_add(windows, stop - start, hop)
    return over_time
