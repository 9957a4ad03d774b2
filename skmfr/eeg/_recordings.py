"""Signals in and out of MNE's objects: which channels, which spans, which unit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from .._utils.checks import float_dtypes

# Seconds of a continuous recording that are read at once.
CHUNK = 30.0
# Numbers of epochs that are.
EPOCHS_NUMBERS = 2**22


def is_raw(X: Any) -> bool:
    """Whether X is a recording of MNE.  Who has one has imported MNE."""
    mne = sys.modules.get("mne")
    return mne is not None and isinstance(X, mne.io.BaseRaw)


def is_epochs(X: Any) -> bool:
    """Whether X are epochs of MNE."""
    mne = sys.modules.get("mne")
    return mne is not None and isinstance(X, mne.BaseEpochs)


def as_epochs_array(X: Any, name: str) -> np.ndarray:
    """X as a finite array of shape (n_epochs, n_channels, n_times)."""
    X = np.asarray(X)
    if X.ndim != 3 or X.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be an mne.io.Raw, mne.Epochs, or an array of numbers of "
            f"shape (n_epochs, n_channels, n_times), got an array of shape {X.shape} "
            f"and type {X.dtype}."
        )
    if X.size == 0:
        raise ValueError(f"{name} is empty: its shape is {X.shape}.")
    dtypes = float_dtypes(X)
    return X if X.dtype in dtypes else X.astype(dtypes[0])


def check_channels(X: Any, names: list[str], complaint: str) -> None:
    """Raise, with a complaint, if X lacks channels of these names."""
    absent = [name for name in names if name not in X.ch_names]
    if absent:
        raise ValueError(f"{complaint}: {absent}; there are {X.ch_names}.")


def channels_to_fit(X: Any, picks: list[str] | None) -> list[str]:
    """Names of the channels to learn from: those asked for, or all good EEG ones."""
    import mne

    if picks is None:
        chosen = mne.pick_types(X.info, eeg=True, exclude="bads")
        names = [X.ch_names[i] for i in chosen]
        if not names:
            raise ValueError(
                "There are no EEG channels that are not marked as bad; the types of "
                f"the channels are {sorted(set(X.get_channel_types()))}."
            )
        return names
    check_channels(X, picks, "picks names channels that are not there")
    return list(picks)


def check_recording(X: Any, ch_names: list[str] | None, sfreq: Any) -> None:
    """Raise if X is not recorded as the data of the fit were."""
    if ch_names is None:
        raise ValueError(
            "The denoiser was fitted on an array, which has no names of channels, so "
            f"it does not know which channels of {type(X).__name__} it should take. "
            "Fit it on an object of MNE, or pass get_data()."
        )
    check_channels(X, ch_names, "Channels of the fit are missing here")
    bad = [name for name in ch_names if name in X.info["bads"]]
    if bad:
        raise ValueError(
            f"Channels of the fit are marked as bad here: {bad}. Interpolate them, or "
            "fit without them."
        )
    if not np.isclose(X.info["sfreq"], sfreq):
        raise ValueError(
            f"The sampling rate is {X.info['sfreq']:g} Hz here and was {sfreq:g} Hz in "
            "the fit; resample one of them."
        )


class Reader:
    """A recording, epochs, or an array of epochs, of which pieces are read.

    Parameters
    ----------
    X : Raw, Epochs, or array of shape (n_epochs, n_channels, n_times)
    ch_names : list of str or None
        Channels to read, in this order; None for arrays.
    name : str
        What messages call it.
    """

    def __init__(self, X: Any, ch_names: list[str] | None, name: str):
        if not (is_raw(X) or is_epochs(X)):
            X = as_epochs_array(X, name)
        elif is_epochs(X) and len(X) == 0:
            raise ValueError(f"{name} has no epochs.")
        self.X, self.name = X, name
        self.ch_names: list = list(range(X.shape[1])) if ch_names is None else ch_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_epochs, n_channels, n_times); a recording is one epoch."""
        if is_raw(self.X):
            return 1, len(self.ch_names), self.X.n_times
        if is_epochs(self.X):
            return len(self.X), len(self.ch_names), len(self.X.times)
        return self.X.shape

    def read(self, piece: slice) -> np.ndarray:
        """Samples of a recording, or epochs: (n_epochs, n_channels, n_times)."""
        if is_raw(self.X):
            data = self.X.get_data(
                self.ch_names, piece.start or 0, piece.stop, verbose="error"
            )[None]
        elif is_epochs(self.X):
            data = self.X[piece].get_data(self.ch_names, copy=False, verbose="error")
        else:
            data = self.X[piece]
        self._check_finite(data, piece.start or 0)
        return data

    def _check_finite(self, data: np.ndarray, start: int) -> None:
        finite = np.isfinite(data)
        if finite.all():
            return
        epoch, channel, time = np.argwhere(~finite)[0]
        if is_raw(self.X):
            where = f"{(start + time) / self.X.info['sfreq']:.3f} s"
        else:
            where = f"epoch {start + epoch}, sample {time}"
        raise ValueError(
            f"{self.name} has a value that is not finite in channel "
            f"{self.ch_names[channel]!r} at {where}. Repair such spans, or crop them."
        )

    def good_spans(self, shortest: int) -> list[tuple[int, int]]:
        """Spans of a recording, [start, stop), that no ``BAD`` annotation touches."""
        one, n_times = self.ch_names[:1], self.X.n_times
        step = int(CHUNK * self.X.info["sfreq"])
        good = np.empty(n_times, dtype=bool)
        for start in range(0, n_times, step):
            span = {"start": start, "stop": min(start + step, n_times)}
            data = self.X.get_data(one, **span, verbose="error")
            marked = self.X.get_data(
                one, **span, reject_by_annotation="NaN", verbose="error"
            )
            # The recording's own NaN are not passed over but reported on reading.
            good[start : span["stop"]] = (~np.isnan(marked) | np.isnan(data))[0]
        edges = np.flatnonzero(np.diff(good, prepend=False, append=False))
        spans = edges.reshape(-1, 2).tolist()
        return [(start, stop) for start, stop in spans if stop - start >= shortest]


def pieces_to_fit(
    reader: Reader, length: int, n_times_most: int, rng: np.random.Generator
) -> list[slice]:
    """What to read for a fit.

    Parameters
    ----------
    reader : Reader
    length : int
        Samples in a window.
    n_times_most : int
        Samples that fit into memory; of more, pieces are drawn at random.
    rng : Generator

    Returns
    -------
    list of slices for ``reader.read``
        In order, disjoint.
    """
    n_epochs, _, n_times = reader.shape
    if is_raw(reader.X):
        longest = max(length, int(CHUNK * reader.X.info["sfreq"]))
        pieces = []
        for start, stop in reader.good_spans(length):
            n = max(1, round((stop - start) / longest))
            edges = np.linspace(start, stop, n + 1).astype(int).tolist()
            pieces += list(map(slice, edges[:-1], edges[1:]))
        if not pieces:
            raise ValueError(
                f"{reader.name} has no span of {length} samples, a window, without "
                "BAD annotations."
            )
        n_most = n_times_most // longest
    elif n_epochs * n_times <= n_times_most:
        return [slice(0, n_epochs)]
    else:
        pieces = [slice(i, i + 1) for i in range(n_epochs)]
        n_most = n_times_most // n_times
    if len(pieces) > n_most:
        chosen = np.sort(rng.choice(len(pieces), max(1, n_most), replace=False))
        pieces = [pieces[i] for i in chosen]
    return pieces


def chunks(n_times: int, hop: int, margin: int, sfreq: float) -> Iterator[tuple]:
    """Cut a long recording for piecewise work that gives what work at once would.

    Yields
    ------
    (read_from, read_to, start, stop)
        The span to read, and the part of it whose result counts.  The span starts a
        multiple of `hop` from the beginning, and has `margin` samples more on each
        side than the part, unless the recording ends.
    """
    margin = -(-margin // hop) * hop
    step = max(1, int(CHUNK * sfreq) // hop) * hop
    for start in range(0, n_times, step):
        stop = min(start + step, n_times)
        if n_times - stop < margin:
            # What is left is too short for windows of its own.
            stop = n_times
        yield max(0, start - margin), min(n_times, stop + margin), start, stop
        if stop == n_times:
            break


def mapped(
    reader: Reader,
    change: Callable[[np.ndarray], np.ndarray],
    hop: int,
    margin: int,
    verbose: bool,
) -> Any:
    """A copy of X whose channels went through a function, piece by piece.

    Parameters
    ----------
    reader : Reader
        Of X.
    change : callable
        Takes and gives arrays of shape (n_epochs, n_channels, n_times).
    hop, margin : int
        As in :func:`chunks`.
    verbose : bool
        Whether to show a progress bar for recordings.
    """
    X = reader.X
    if is_raw(X):
        target = X.copy().load_data(verbose="error")
        rows = [target.ch_names.index(name) for name in reader.ch_names]
        parts = list(chunks(X.n_times, hop, margin, X.info["sfreq"]))
        for first, last, start, stop in tqdm(parts, disable=not verbose):
            part = change(reader.read(slice(first, last)))[0]
            target[rows, start:stop] = part[:, start - first : stop - first]
        return target
    if is_epochs(X):
        target = X.copy().load_data()
        values = target.get_data(copy=False)
        rows = [target.ch_names.index(name) for name in reader.ch_names]
    else:
        target = values = np.empty_like(X)
        rows = reader.ch_names
    n_epochs, n_channels, n_times = reader.shape
    n_together = max(1, EPOCHS_NUMBERS // (n_channels * n_times))
    for start in range(0, n_epochs, n_together):
        part = slice(start, start + n_together)
        values[part, rows] = change(reader.read(part))
    return target
