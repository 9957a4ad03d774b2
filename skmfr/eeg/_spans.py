"""Spans of recordings: what annotations leave of them, and which windows are where.

A span is [start, stop), in samples.  No window reaches from one into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ._windows import count_windows

# Seconds of a continuous recording that are read at once.
CHUNK = 30.0

Span = tuple[int, int]


def annotated(raw: Any, *kinds: str) -> list[Span]:
    """Spans of the annotations of an mne.io.Raw whose description begins so."""
    n_times = raw.n_times
    onset = raw.annotations.onset - raw.first_samp / raw.info["sfreq"]
    starts, stops = (
        np.clip(raw.time_as_index(seconds, use_rounding=True), 0, n_times).tolist()
        for seconds in (onset, onset + raw.annotations.duration)
    )
    texts = raw.annotations.description
    return [
        (start, stop)
        for start, stop, text in zip(starts, stops, texts, strict=True)
        if text.upper().startswith(kinds)
    ]


def unmarked(n_times: int, marked: list[Span]) -> list[Span]:
    """Spans of n_times samples outside some spans, cut where these are empty."""
    free = np.ones(n_times, dtype=bool)
    for start, stop in marked:
        free[start:stop] = False
    edges = np.flatnonzero(np.diff(free, prepend=False, append=False)).tolist()
    spans: list[Span] = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        cuts = {i for i, j in marked if i == j and start < i < stop}
        places = [start, *sorted(cuts), stop]
        spans += zip(places[:-1], places[1:], strict=True)
    return spans


def chunks(n_times: int, hop: int, margin: int, sfreq: float) -> Iterator[tuple]:
    """Cut a long recording into pieces that give the same result as the whole.

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
            # The rest is too short for a window.
            stop = n_times
        yield max(0, start - margin), min(n_times, stop + margin), start, stop
        if stop == n_times:
            break


def windows_of_spans(
    denoiser, spans: list[Span]
) -> Iterator[tuple[slice, slice, slice]]:
    """Pieces of a recording, each window of its spans in one of them.

    Yields
    ------
    piece : slice
        Samples to read.
    own : slice
        Windows cut from these samples that count.
    windows : slice
        The same windows, numbered in the recording.
    """
    hop, length = denoiser.hop_, denoiser.n_times_
    for (begin, end), number in zip(spans, first_windows(denoiser, spans), strict=True):
        n_times = end - begin
        for first, last, start, stop in chunks(n_times, hop, length, denoiser.sfreq_):
            n = count_windows(n_times, length, hop) if stop == n_times else stop // hop
            windows, before = slice(start // hop, n), first // hop
            yield (
                slice(begin + first, begin + last),
                slice(windows.start - before, windows.stop - before),
                slice(number + windows.start, number + windows.stop),
            )


def first_windows(denoiser, spans: list[Span]) -> list[int]:
    """Number of the first window of each span, in all of them."""
    counts = [
        count_windows(stop - start, denoiser.n_times_, denoiser.hop_)
        for start, stop in spans
    ]
    return [0, *np.cumsum(counts[:-1]).tolist()]


def window_starts(denoiser, spans: list[Span]) -> np.ndarray:
    """First sample of each window of a recording, -1 if it reaches beyond its span."""
    starts = []
    for start, stop in spans:
        n = count_windows(stop - start, denoiser.n_times_, denoiser.hop_)
        first = start + denoiser.hop_ * np.arange(1, n + 1) - denoiser.n_times_
        inside = (first >= start) & (first + denoiser.n_times_ <= stop)
        starts.append(np.where(inside, first, -1))
    return np.concatenate(starts)
