"""Signals in and out of MNE's objects: which channels, which spans, which unit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from .._utils.checks import float_dtypes
from ._channels import check_channels, indices_of
from ._containers import is_epochs, is_evoked, is_raw
from ._rejection import PIECE, LeftOut, check_reject, is_loud
from ._scales import WindowMoments, moments_of_windows
from ._spans import CHUNK, Span, annotated, chunks, unmarked

# Numbers in the epochs that `mapped` changes at once.
EPOCHS_NUMBERS = 2**22


def check_no_other_of_mne(X: Any, name: str) -> None:
    """Raise if X is something else of MNE, or a list of such, and say what to do."""
    first = X[0] if isinstance(X, (list, tuple)) and len(X) else X
    if is_raw(X) or is_epochs(X) or type(first).__module__.split(".")[0] != "mne":
        return
    if first is X:
        what = f"{type(X).__name__}; pass get_data()[None]"
    elif is_evoked(first):
        what = (
            f"a {type(X).__name__} of {type(first).__name__}; pass them to apply one "
            "by one"
        )
    else:
        what = (
            f"a {type(X).__name__} of {type(first).__name__}; join them with "
            "mne.concatenate_raws or mne.concatenate_epochs"
        )
    raise ValueError(
        f"{name} must be an mne.io.Raw, mne.Epochs, or an array of shape (n_epochs, "
        f"n_channels, n_times), got {what}."
    )


def as_epochs_array(X: Any, name: str) -> np.ndarray:
    """X as an array of shape (n_epochs, n_channels, n_times)."""
    check_no_other_of_mne(X, name)
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


def check_recording(X: Any, denoiser) -> None:
    """Raise if X is not recorded as the data of the fit were."""
    ch_names, sfreq = denoiser.ch_names_, denoiser.sfreq_
    if ch_names is None:
        raise ValueError(
            "The denoiser was fitted on an array, which has no channel names, so it "
            f"cannot select channels of a {type(X).__name__}. Fit it on an MNE object, "
            "or with the parameter ch_names, or pass get_data()."
        )
    if sfreq is None:
        raise ValueError(
            "The denoiser was fitted on an array with sfreq=None, but this "
            f"{type(X).__name__} has {X.info['sfreq']:g} Hz. Fit it with the parameter "
            "sfreq."
        )
    check_channels(X, ch_names, "Channels of the fit are missing here")
    bad = [name for name in ch_names if name in X.info["bads"]]
    bad_there = (denoiser.recording_ or {"bads": []})["bads"]
    bad = [name for name in bad if name not in bad_there]
    if bad:
        raise ValueError(
            f"Channels that were used in fit are marked as bad here: {bad}. "
            "Interpolate them, or fit without them."
        )
    if not np.isclose(X.info["sfreq"], sfreq):
        raise ValueError(
            f"The sampling rate is {X.info['sfreq']:g} Hz here but was {sfreq:g} Hz in "
            "fit; resample one of them."
        )


def check_alike(X: Any, y: Any) -> None:
    """Raise if y cannot be the clean signals of X, by its type."""
    check_no_other_of_mne(y, "y")
    if not (is_raw(y) or is_epochs(y)) and np.ndim(y) < 3:
        raise ValueError(
            f"y must be the clean signals in the shape of X, got an array of shape "
            f"{np.shape(y)}. If y holds the labels of a classification pipeline, fit "
            "the denoiser first and put it into the pipeline as "
            "sklearn.frozen.FrozenEstimator(EEGDenoiser().fit(X))."
        )
    if is_raw(X) != is_raw(y) or is_epochs(X) != is_epochs(y):
        raise ValueError(
            f"y must be of the same type as X, got {type(y).__name__} for "
            f"{type(X).__name__}."
        )


def how_recorded(X: Any, ch_names: list[str]) -> dict[str, Any]:
    """Properties that must not change after the fit, and the bad channels."""
    references = ("as recorded", "changed", "current source density")
    projections = [each["desc"] for each in X.info["projs"] if each["active"]]
    return {
        # Three digits: files keep filters in float32.
        "high-pass": f"{X.info['highpass'] or 0:.3g} Hz",
        "low-pass": f"{X.info['lowpass'] or 0:.3g} Hz",
        "reference": references[int(X.info["custom_ref_applied"])],
        "projections": ", ".join(projections) or "none",
        "bads": [name for name in ch_names if name in X.info["bads"]],
    }


def warn_of_other_recording(
    X: Any, denoiser, name: str = "X", stacklevel: int = 4
) -> None:
    """Warn if filters or the reference of X are not those of the fit."""
    if denoiser.recording_ is None:  # fitted on arrays, which do not know theirs
        return
    here, there = how_recorded(X, denoiser.ch_names_), denoiser.recording_
    different = [
        f"{what} {here[what]} here, {there[what]} in the fit"
        for what in ("high-pass", "low-pass", "reference", "projections")
        if here[what] != there[what]
    ]
    if different:
        warnings.warn(
            f"{name} was recorded or filtered differently from the data in fit: "
            f"{'; '.join(different)}. Filter and reference both in the same way.",
            stacklevel=stacklevel,
        )


def warn_of_no_high_pass(X: Any) -> None:
    """Warn, as ICA of MNE does, if slow drifts are in X."""
    if np.isclose(X.info["highpass"] or 0, 0):
        warnings.warn(
            "X has not been high-pass filtered, so that most atoms will be of slow "
            "drifts. Filter it before, as with raw.filter(1.0, None).",
            stacklevel=4,
        )


class Reader:
    """Reads pieces of a recording, of epochs, or of an array of epochs.

    Parameters
    ----------
    X : Raw, Epochs, or array of shape (n_epochs, n_channels, n_times)
    ch_names : list of str or None
        Channels to read, in this order. Arrays have no names, and are read as they are.
    name : str
        Name of X in messages.
    """

    def __init__(self, X: Any, ch_names: list[str] | None, name: str):
        if not (is_raw(X) or is_epochs(X)):
            X, ch_names = as_epochs_array(X, name), None
        elif is_epochs(X):
            # Which epochs are rejected is known only after they are loaded.
            X = X if X.preload else X.copy().drop_bad(verbose="error")
            if len(X) == 0:
                raise ValueError(f"{name} has no epochs.")
        self.X, self.name = X, name
        # Clean signals that belong to X: what is marked as bad there is bad here, too.
        self.clean: Reader | None = None
        self._moments: dict[int, WindowMoments] = {}
        self.ch_names: list = list(range(X.shape[1])) if ch_names is None else ch_names

    @property
    def ch_types(self) -> list[str]:
        """Type of each channel; all the same in arrays."""
        if is_raw(self.X) or is_epochs(self.X):
            return self.X.get_channel_types(indices_of(self.X, self.ch_names))
        return ["eeg"] * len(self.ch_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_epochs, n_channels, n_times); a recording is one epoch."""
        if is_raw(self.X):
            return 1, len(self.ch_names), self.X.n_times
        if is_epochs(self.X):
            return len(self.X), len(self.ch_names), len(self.X.times)
        return self.X.shape

    @property
    def rows(self) -> list[int]:
        """Numbers of the channels in an object of MNE."""
        return indices_of(self.X, self.ch_names)

    def read(self, piece: slice) -> np.ndarray:
        """Samples of a recording, or epochs: (n_epochs, n_channels, n_times)."""
        if is_raw(self.X):
            span = piece.start or 0, piece.stop
            data = self.X.get_data(self.rows, *span, verbose="error")[None]
        elif is_epochs(self.X):
            data = self.X[piece].get_data(self.rows, copy=False, verbose="error")
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

    def read_spans(self, spans: list[slice]) -> np.ndarray:
        """Read spans of a recording, or of epochs, and join them."""
        axis = 2 if is_raw(self.X) else 0
        return np.concatenate([self.read(span) for span in spans], axis=axis)

    def moments(self, length: int) -> WindowMoments:
        """Mean and variance of all windows side by side that are not marked as bad.

        Of all others, if all are: these can be denoised, too.
        """
        if length not in self._moments:
            parts = [
                moments_of_windows(self.read(piece), length)
                for piece in self._pieces(length)
            ]
            mean, variance = zip(*parts, strict=True)
            self._moments[length] = np.concatenate(mean), np.concatenate(variance)
        return self._moments[length]

    def _pieces(self, length: int) -> Iterator[slice]:
        """Pieces of whole windows, which are the same however much is read at once."""
        n_epochs, n_channels, n_times = self.shape
        if not is_raw(self.X):
            step = max(1, EPOCHS_NUMBERS // (n_channels * n_times))
            for start in range(0, n_epochs, step):
                yield slice(start, min(start + step, n_epochs))
            return
        try:
            spans = self.good_spans(length)
        except ValueError:
            spans = [slice(*span) for span in self.spans()]
        step = max(1, int(CHUNK * self.X.info["sfreq"]) // length) * length
        for span in spans:
            n_whole = max(1, (span.stop - span.start) // length)
            end = min(span.stop, span.start + n_whole * length)
            for start in range(span.start, end, step):
                yield slice(start, min(start + step, end))

    def good_spans(
        self, shortest: int = 1, left_out: LeftOut | None = None
    ) -> list[slice]:
        """Spans to learn from, by default without ``BAD`` and ``EDGE`` annotations.

        All epochs together. Annotations without a duration, as there are where
        recordings were joined, end one span and begin the next.
        """
        left_out = left_out or LeftOut()
        if not is_raw(self.X):
            if left_out.reject is not None:
                raise ValueError(
                    "reject leaves out spans of an mne.io.Raw, got "
                    f"{type(self.X).__name__}; drop its epochs before, as drop_bad of "
                    "MNE does."
                )
            return [slice(0, len(self.X))]
        marked = self._marked(left_out)
        good = [
            span
            for span in unmarked(self.X.n_times, marked)
            if span[1] - span[0] >= shortest
        ]
        if not good:
            raise ValueError(
                f"{self.name} has no span of {shortest} samples without BAD "
                "annotations"
                + (
                    "."
                    if left_out.reject is None
                    else f" in which reject={left_out.reject} lets a piece through."
                )
            )
        return [slice(*span) for span in good]

    def _marked(self, left_out: LeftOut) -> list[Span]:
        """Spans that a fit leaves out, and places where it ends one span."""
        marked = annotated(self.X, "BAD", "EDGE")
        if not left_out.by_annotation:
            # The gaps between the spans that can be coded.
            edges = [0, *np.ravel(self.spans()).tolist(), self.X.n_times]
            marked = list(zip(edges[::2], edges[1::2], strict=True))
        if self.clean is not None:
            marked = marked + self.clean._marked(left_out)
        if left_out.reject is None:
            return marked
        kinds = self.ch_types
        check_reject(left_out.reject, kinds)
        step = max(1, round(PIECE * self.X.info["sfreq"]))
        pieces = [
            (first, min(first + step, stop))
            for start, stop in unmarked(self.X.n_times, marked)
            for first in range(start, stop, step)
        ]
        return marked + [
            piece
            for piece in pieces
            if is_loud(self.read(slice(*piece))[0], kinds, left_out.reject)
        ]

    def spans(self) -> list[Span]:
        """Spans [start, stop) of a recording that are coded, each for itself.

        All, but what MNE's filters leave out too, and spans marked as ``BAD`` in which
        a value is not finite.
        """
        marked = annotated(self.X, "EDGE", "BAD_ACQ_SKIP")
        for start, stop in annotated(self.X, "BAD"):
            if start == stop or not self._is_finite(start, stop):
                marked.append((start, stop))
        spans = unmarked(self.X.n_times, marked)
        if not spans:
            raise ValueError(
                f"{self.name} is marked as bad from beginning to end and has values "
                "there that are not finite."
            )
        return spans

    def _is_finite(self, start: int, stop: int) -> bool:
        step = int(CHUNK * self.X.info["sfreq"])
        return all(
            np.isfinite(
                self.X.get_data(
                    self.rows, first, min(first + step, stop), verbose="error"
                )
            ).all()
            for first in range(start, stop, step)
        )


def pieces_to_fit(
    reader: Reader,
    length: int,
    n_times_most: int,
    rng: np.random.Generator,
    left_out: LeftOut | None = None,
) -> list[slice]:
    """Choose the spans to read for a fit.

    Parameters
    ----------
    reader : Reader
    length : int
        Samples in a window.
    n_times_most : int
        Samples that fit into memory; of more, pieces are drawn at random.
    rng : Generator
    left_out : LeftOut or None
        None leaves out what is annotated as ``BAD``.

    Returns
    -------
    list of slices for ``reader.read``
        In order, disjoint.
    """
    n_epochs, _, n_times = reader.shape
    spans = reader.good_spans(length, left_out)
    if is_raw(reader.X):
        longest = max(length, int(CHUNK * reader.X.info["sfreq"]))
        pieces = []
        for span in spans:
            n = max(1, round((span.stop - span.start) / longest))
            edges = np.linspace(span.start, span.stop, n + 1).astype(int).tolist()
            pieces += list(map(slice, edges[:-1], edges[1:]))
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


def mapped(
    reader: Reader,
    change: Callable[[np.ndarray], np.ndarray],
    hop: int,
    margin: int,
    verbose: bool,
) -> Any:
    """A copy of X whose channels went through a function, piece by piece.

    No window reaches from one span of a recording into another; what is in none stays.

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
        rows = indices_of(target, reader.ch_names)
        parts = [
            (begin, *chunk)
            for begin, end in reader.spans()
            for chunk in chunks(end - begin, hop, margin, X.info["sfreq"])
        ]
        for begin, first, last, start, stop in tqdm(parts, disable=not verbose):
            part = change(reader.read(slice(begin + first, begin + last)))[0]
            kept = part[:, start - first : stop - first]
            target[rows, begin + start : begin + stop] = kept
        return target
    if is_epochs(X):
        target = X.copy().load_data()
        values = target.get_data(copy=False)
        change = _on_baseline(change, X)
        rows = indices_of(target, reader.ch_names)
    else:
        target = values = np.empty_like(X)
        rows = reader.ch_names
    n_epochs, n_channels, n_times = reader.shape
    n_together = max(1, EPOCHS_NUMBERS // (n_channels * n_times))
    for start in range(0, n_epochs, n_together):
        part = slice(start, start + n_together)
        values[part, rows] = change(reader.read(part))
    return target


def _on_baseline(change: Callable, epochs: Any) -> Callable:
    """The change, and after it the baseline that epochs say they have."""
    there = in_baseline(epochs)
    if there is None:
        return change

    def on_baseline(signals: np.ndarray) -> np.ndarray:
        changed = change(signals)
        return changed - changed[..., there].mean(-1, keepdims=True)

    return on_baseline


def in_baseline(X: Any) -> np.ndarray | None:
    """Samples in the baseline of epochs or of an average, (n_times,), bool.

    None if there is no baseline, or if a part of it is cropped away: the rest need not
    have a mean of 0.
    """
    if X.baseline is None:
        return None
    first, last = X.baseline
    half = 0.5 / X.info["sfreq"]
    if first < X.times[0] - half or last > X.times[-1] + half:
        return None
    return (X.times >= first - half) & (X.times <= last + half)
