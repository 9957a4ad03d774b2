"""Taking artefacts out: what by atoms or pairs, how by the recording's covariance.

A sample is ``x = A s + b``: artefacts have a few topographies, the columns of A, and
what the brain does, b, has a covariance.  The covariance of artefacts, of marked atoms
or of noisy signals less clean ones, says where to begin with A, and which windows are
loud.  Windows that are quiet say what the brain does, and A is what
the whole recording has beyond that.  Both are then estimated in turn (expectation
maximisation).  At each frequency a filter gets s with the least of the brain.  Its
output is subtracted in windows, and at frequencies, where there is more than the brain
puts there.  How much that is in a window, clean signals of other people say better than
the recording, if there are any: relative to the rest of the window, which only the
brain fills.

Heartbeats leave no window quiet, but they are short.  Then samples between them say
what the brain does, and one filter for all frequencies is on all the time.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from ._windows import cut_windows, overlap_add, taper

# Topographies at most, and what artefacts contribute to each, relative to the brain's
# power in it.  Atoms contained up to 0.17 of this where there was no artefact.
N_TOPOGRAPHIES = 5
LEAST_POWER = 0.2
# Topographies of the artefacts in which windows are loud or quiet, at most, and the
# power, relative to the first, of the last.  Weaker ones of marked atoms, a fifth at
# most, were of the brain and differed between seeds.
N_LOUD = 3
LEAST_LOUD = 0.25
# Windows, or samples, below this quantile of loudness are all as quiet.
QUIETEST = 0.05
# Loudness of samples is an average over this share of a window; it and the filter are
# estimated in turn, so many times.
BEAT, N_TURNS = 0.05, 5
# Rounds in which artefacts' power, their topographies, and the brain's covariance are
# estimated in turn.
N_ITERATIONS = 2
# Numbers of neighbours that are averaged: frequencies, for the power of artefacts and
# for the covariances that filters are made of and for gains; windows, for loudness.
N_SMOOTHED, N_COVARIANCES, N_WINDOWS = 3, 5, 3
# Power of a filter's output, relative to the brain's, from which all is subtracted.
ALL_OF_IT = 4.0
# Powers below the first, relative to the largest, count as 0. The second, relative to
# the mean of a covariance's diagonal, is added to the diagonal.
NO_POWER = 1e-6
RIDGE = 1e-3
# Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2.355


class ArtifactFilter(NamedTuple):
    """Filters that find artefacts in a recording, and their topographies."""

    topographies: np.ndarray
    """(n_channels, n_topographies)"""
    filters: np.ndarray
    """From channels to sources of artefacts, (n_freqs, n_topographies, n_channels)"""
    brain: np.ndarray
    """Power of the brain in them, (n_topographies, n_freqs)"""
    band: np.ndarray
    """Where artefacts are larger on average, (n_topographies, n_freqs), bool"""
    in_clean: np.ndarray | None = None
    """Power of the brain in them within the band, relative to what is left of all
    channels, (n_topographies,); None: what `brain` has"""
    on_average: np.ndarray | None = None
    """How much of them is subtracted from averages, (n_topographies, n_freqs); None:
    all within the band"""


def learn_filter(spectra: np.ndarray, of_artifacts: np.ndarray) -> ArtifactFilter:
    """Find topographies of artefacts that leave windows quiet, and a filter for each.

    Parameters
    ----------
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex
        Of windows of a recording.
    of_artifacts : ndarray of shape (n_channels, n_channels)
        Covariance of artefacts, over all frequencies of a window: about what there is
        in the recording.

    Returns
    -------
    ArtifactFilter
    """
    x, whiten, back = _whitened(spectra)
    loud = whiten @ _main_topographies(of_artifacts)
    A, covariance = _beyond_quiet(x, whiten @ of_artifacts @ whiten.T, loud)
    for _ in range(N_ITERATIONS):
        mean, spread = _posterior(x, A, _inverse(covariance))
        spread = spread.sum(1)
        A = _products(x, mean).sum(0) @ np.linalg.inv(
            (_products(mean, mean) + spread).sum(0)
        )
        rest = x - mean @ A.T.astype(np.float32)
        covariance = (_products(rest, rest) + A @ spread @ A.T) / x.shape[1]
    smooth = uniform_filter1d(covariance, N_COVARIANCES, axis=0, mode="nearest")
    seen = np.swapaxes(_inverse(smooth) @ A, 1, 2)
    filters = np.linalg.inv(seen @ A) @ seen
    brain = np.einsum("fri,fij,frj->rf", filters, covariance, filters, optimize=True)
    sources = x @ np.swapaxes(filters, 1, 2).astype(np.float32)
    power = np.square(np.abs(sources)).mean(1).T
    return ArtifactFilter(back @ A, filters @ whiten, brain, power > 2 * brain)


def learn_fixed_filter(
    spectra: np.ndarray, of_artifacts: np.ndarray, length: int
) -> ArtifactFilter:
    """Find the topography of short artefacts that are in each window, and a filter.

    The filter is the same at all frequencies, and on all the time.  It has the least of
    samples in which its output is quiet, relative to all.  Each frequency
    counts as much as any other, because most of the brain's power is slow and
    heartbeats are sharp.

    Parameters
    ----------
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex
        Of windows of a recording.
    of_artifacts : ndarray of shape (n_channels, n_channels)
        Covariance of artefacts; its largest principal component is where to begin.
    length : int
        Samples in a window.

    Returns
    -------
    ArtifactFilter
    """
    x, whiten, back = _whitened(spectra)
    size = usual_size(np.square(np.abs(x)).sum(2))
    flat = np.fft.irfft(x / size[:, None, None], length, axis=0).astype(np.float32)
    samples = flat.reshape(-1, flat.shape[2])
    whole = (samples.T @ samples).astype(float)
    width, weight = BEAT * length / FWHM, taper(length)[:, None] ** 2
    average = partial(gaussian_filter1d, sigma=width, axis=0)
    w = np.linalg.solve(whole, whiten @ _main_topographies(of_artifacts)[:, 0])
    for _ in range(N_TURNS):
        loudness = np.square(flat @ w.astype(np.float32))
        quiet = _quietness(average(loudness) / average(weight))
        together = ((samples * quiet.reshape(-1, 1)).T @ samples).astype(float)
        together *= np.mean(weight) / np.mean(quiet * weight)
        w = eigh(whole, _ridged(together))[1][:, -1]
    A = whole @ w
    everywhere = np.ones((1, len(x)), dtype=bool)
    filters = np.repeat((w @ whiten)[None, None] / (w @ A), len(x), axis=0)
    no_brain = np.zeros(everywhere.shape)
    return ArtifactFilter(back @ A[:, None], filters, no_brain, everywhere)


def usual_size(power: np.ndarray) -> np.ndarray:
    """Usual size at each frequency (n_freqs,), of the power (n_freqs, n_windows)."""
    usual = np.median(power, axis=1)
    return np.sqrt(np.maximum(usual, RIDGE * usual.max()))


def share_removed(
    learned: ArtifactFilter, spectra: np.ndarray, atoms: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Share of the power of each atom that is subtracted from windows.

    It is small for what filters do not find, and for what they find but leave, because
    they take it for the brain: an artefact that is in quiet windows too.

    Parameters
    ----------
    learned : ArtifactFilter
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex
        Of windows of a recording.
    atoms : ndarray of shape (n_atoms, n_channels, n_freqs), complex
        Spectra.
    codes : ndarray of shape (n_windows, n_atoms)

    Returns
    -------
    ndarray of shape (n_atoms,)
        0 of atoms that are nowhere active.
    """
    spectra = spectra.swapaxes(0, 1)[None]
    gain = _gain_of(_sources(spectra, learned), spectra, learned)
    shares = np.zeros(len(atoms))
    for i, (atom, code) in enumerate(zip(atoms, codes.T, strict=True)):
        power = code[code != 0].astype(float) ** 2
        sources = np.einsum("fri,if->rf", learned.filters, atom)
        of_windows = np.swapaxes(gain[0][:, code != 0], 0, 1) * sources
        left = atom - np.einsum("ir,wrf->wif", learned.topographies, of_windows)
        before = np.square(np.abs(atom)).sum() * power.sum()
        after = np.square(np.abs(left)).sum((1, 2)) @ power
        shares[i] = 1 - after / before if before else 0.0
    return shares


def without_found(spectra: np.ndarray, learned: ArtifactFilter) -> np.ndarray:
    """Spectra (n_windows, n_channels, n_freqs) less the artefacts in them."""
    one = spectra.swapaxes(0, 1)[None]
    found = _sources(one, learned)
    removed = (found * _gain_of(found, one, learned))[0]
    topographies = learned.topographies.astype(np.float32)
    return spectra - np.einsum("ir,rwf->wif", topographies, removed)


def covariances(spectra: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Mean products of channels, one matrix for each frequency.

    Parameters
    ----------
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex
    weight : ndarray of shape (n_windows,), default=None
        Of windows, of mean 1.

    Returns
    -------
    ndarray of shape (n_freqs, n_channels, n_channels), float64
    """
    x = np.moveaxis(spectra, 2, 0)
    weighted = x if weight is None else x * weight[:, None]
    return _products(weighted, x) / len(spectra)


def found_in_clean(learned: ArtifactFilter, clean: np.ndarray) -> np.ndarray:
    """Power that filters find in clean signals, relative to the rest: `in_clean`.

    Parameters
    ----------
    learned : ArtifactFilter
    clean : ndarray of shape (n_freqs, n_channels, n_channels)
        Covariance of clean signals, whatever their scale.

    Returns
    -------
    ndarray of shape (n_topographies,)
    """
    filters = learned.filters
    found = np.sum((filters @ clean) * filters, axis=2).T
    left = _power_left(clean, learned.topographies, filters)
    return np.sum(found * learned.band, axis=1) / left


def gain_on_average(learned: ArtifactFilter, spectra: np.ndarray) -> np.ndarray:
    """Share of each source that is subtracted, averaged over windows: `on_average`.

    Weighted by power, which makes it the share with the least squared difference from
    what is subtracted in each window.

    Parameters
    ----------
    learned : ArtifactFilter
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex
        Of windows of a recording.

    Returns
    -------
    ndarray of shape (n_topographies, n_freqs)
    """
    spectra = spectra.swapaxes(0, 1)[None]
    found = _sources(spectra, learned)
    power = np.square(np.abs(found))
    subtracted = np.sum(_gain_of(found, spectra, learned) * power, axis=(0, 2))
    whole = np.sum(power, axis=(0, 2))
    return subtracted / np.maximum(whole, np.finfo(whole.dtype).tiny)


def artifacts_in(
    signals: np.ndarray,
    learned: ArtifactFilter,
    length: int,
    hop: int,
    everywhere: bool = False,
) -> np.ndarray:
    """Artefacts to subtract from signals (n_epochs, n_channels, n_times).

    `everywhere` is for averages, which mix windows with an artefact and windows
    without. It makes the subtraction linear.
    """
    spectra = np.fft.rfft(cut_windows(signals, length, hop))
    found = _sources(spectra, learned)
    # Only at frequencies where there is more of the artefact than of the brain.
    linear = learned.band if learned.on_average is None else learned.on_average
    found *= linear[:, None] if everywhere else _gain_of(found, spectra, learned)
    windows = np.fft.irfft(found, length).astype(signals.dtype)
    sources = overlap_add(windows, signals.shape[2], hop)
    return np.einsum("ir,nrt->nit", learned.topographies, sources, optimize=True)


def _sources(spectra: np.ndarray, learned: ArtifactFilter) -> np.ndarray:
    """Sources of artefacts in windows, (n_epochs, n_topographies, n_windows, n_freqs).

    The spectra are (n_epochs, n_channels, n_windows, n_freqs), complex.
    """
    filters = learned.filters.astype(spectra.real.dtype)
    return np.einsum("fri,niwf->nrwf", filters, spectra, optimize=True)


def _gain_of(
    found: np.ndarray, spectra: np.ndarray, learned: ArtifactFilter
) -> np.ndarray:
    """How much of each source is to be subtracted: 0 to 1, and 0 outside the band.

    Parameters
    ----------
    found : ndarray of shape (n_epochs, n_topographies, n_windows, n_freqs), complex
        From :func:`_sources`.
    spectra : ndarray of shape (n_epochs, n_channels, n_windows, n_freqs), complex
    learned : ArtifactFilter

    Returns
    -------
    ndarray of the shape of `found`
    """
    usual = np.sum(learned.brain * learned.band, axis=-1)[:, None]
    if learned.in_clean is not None:
        topographies = learned.topographies.astype(spectra.real.dtype)
        rest = spectra - np.einsum("ir,nrwf->niwf", topographies, found, optimize=True)
        rest = np.square(np.abs(rest)).sum((1, 3))[:, None]
        rest = uniform_filter1d(rest, N_WINDOWS, axis=-1, mode="nearest")
        usual = learned.in_clean[:, None] * rest
    band = learned.band[:, None]
    return band * _gain(found * band, usual, learned.brain * learned.band)


def _power_left(
    covariance: np.ndarray, topographies: np.ndarray, filters: np.ndarray
) -> float:
    """Power of signals with this covariance after all that filters find is taken out.

    Parameters
    ----------
    covariance : ndarray of shape (n_freqs, n_channels, n_channels)
    topographies : ndarray of shape (n_channels, n_topographies)
    filters : ndarray of shape (n_freqs, n_topographies, n_channels)
    """
    leave = np.eye(len(topographies)) - topographies @ filters
    return np.sum((leave @ covariance) * leave)


def _gain(spectra: np.ndarray, usual: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """How much of what filters find in a window is to be taken for the artefact.

    Nothing up to the brain's power, all from `ALL_OF_IT` times that, and in between in
    proportion: a Wiener filter would leave a part of the largest, too.  The power of
    the window counts, and so does that at the frequency: rhythms stay in loud windows.

    Parameters
    ----------
    spectra : ndarray of shape (n_epochs, n_topographies, n_windows, n_freqs), complex
    usual : ndarray that broadcasts to (n_epochs, n_topographies, n_windows)
        Power of the brain.
    brain : ndarray of shape (n_topographies, n_freqs)
        The same at each frequency.

    Returns
    -------
    ndarray of shape (n_epochs, n_topographies, n_windows, n_freqs)
    """
    power = uniform_filter1d(np.square(np.abs(spectra)), N_WINDOWS, 2, mode="nearest")
    around = partial(uniform_filter1d, size=N_COVARIANCES, axis=-1, mode="nearest")
    by_window = _beyond(power.sum(-1), usual)[..., None]
    return by_window * _beyond(around(power), around(brain)[:, None])


def _beyond(power: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """From 0 at the usual power to 1 at `ALL_OF_IT` times that."""
    usual = np.maximum(usual, np.finfo(power.dtype).tiny)
    gain = (np.minimum(power, ALL_OF_IT * usual) / usual - 1) / (ALL_OF_IT - 1)
    return gain.clip(0, 1).astype(power.dtype)


def _main_topographies(covariance: np.ndarray) -> np.ndarray:
    """Largest principal components, (n_channels, at most `N_LOUD`)."""
    values, vectors = np.linalg.eigh(covariance)
    largest = values[::-1][:N_LOUD]
    n = max(1, int(np.sum(largest > LEAST_LOUD * largest[0])))
    return vectors[:, ::-1][:, :n]


def _beyond_quiet(
    x: np.ndarray, of_artifacts: np.ndarray, loud: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Topographies of what all windows have beyond quiet ones, and these' covariance.

    There are as many as those in which artefacts contribute enough, relative to quiet
    windows: a blink and a saccade differ, and so does a blink as the lid moves.

    Parameters
    ----------
    x : ndarray of shape (n_freqs, n_windows, n_channels), complex
        The recording, whitened.
    of_artifacts : ndarray of shape (n_channels, n_channels)
        Their covariance, over all frequencies.
    loud : ndarray of shape (n_channels, n_loud)
        In which direction windows are loud or quiet.

    Returns
    -------
    A : ndarray of shape (n_channels, n_topographies)
    covariance : ndarray of shape (n_freqs, n_channels, n_channels)
    """
    sources = x @ np.linalg.qr(loud)[0].astype(np.float32)
    weight = _quietness(np.square(np.abs(sources)).sum((0, 2)))
    weight /= weight.sum()
    covariance = _products(x * weight[:, None].astype(np.float32), x)
    together = _ridged(covariance.sum(0))
    contributed = eigh(of_artifacts, together, eigvals_only=True)
    n = int(np.clip(np.sum(contributed > LEAST_POWER), 1, N_TOPOGRAPHIES))
    _, vectors = eigh(np.eye(len(together)), together)
    return vectors[:, -n:], covariance


def _quietness(loudness: np.ndarray) -> np.ndarray:
    """Weights of windows or samples, 1 of the quietest."""
    loudness = np.maximum(loudness, np.quantile(loudness, QUIETEST))
    return (loudness.min() / loudness) ** 2


def _posterior(
    x: np.ndarray, A: np.ndarray, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the sources of artefacts, given the brain's precision.

    The power of a source is what a filter without distortion finds beyond what it would
    find of the brain, averaged over neighbouring frequencies (the multichannel Wiener
    filter of a local Gaussian model: Duong, Vincent, Gribonval 2010).

    Returns
    -------
    mean : ndarray of shape (n_freqs, n_windows, n_topographies), complex
    spread : ndarray of shape (n_freqs, n_windows, n_topographies, n_topographies)
    """
    seen = precision @ A
    certainty = np.swapaxes(seen, 1, 2) @ A
    doubt = np.linalg.inv(certainty)
    filtered = x @ seen.astype(np.float32)
    power = np.square(np.abs(filtered @ doubt.astype(np.float32)))
    power -= np.diagonal(doubt, axis1=1, axis2=2)[:, None]
    power = uniform_filter1d(np.maximum(power, 0), N_SMOOTHED, axis=0, mode="nearest")
    power += NO_POWER * power.max() + np.finfo(np.float32).tiny
    diagonal = np.eye(A.shape[1]) / power[..., None]
    spread = np.linalg.inv(certainty[:, None] + diagonal)
    mean = (filtered[:, :, None] @ spread.astype(np.float32))[:, :, 0]
    return mean, spread


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Real parts of sums over windows, (n_freqs, n_one, n_other), float64."""
    return (np.swapaxes(one, 1, 2) @ other.conj()).real.astype(float)


def _inverse(covariances: np.ndarray) -> np.ndarray:
    return np.linalg.inv(_ridged(covariances))


def _ridged(covariances: np.ndarray) -> np.ndarray:
    """Covariances (..., n, n) with a little of the identity, so that they are full."""
    size = covariances.shape[-1]
    ridge = RIDGE * np.trace(covariances, axis1=-2, axis2=-1) / size
    ridge += np.finfo(float).tiny
    return covariances + ridge[..., None, None] * np.eye(size)


def _whitened(spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spectra whose covariance over all windows and frequencies is the identity.

    Parameters
    ----------
    spectra : ndarray of shape (n_windows, n_channels, n_freqs), complex

    Returns
    -------
    x : ndarray of shape (n_freqs, n_windows, n_dimensions), complex
    whiten : ndarray of shape (n_dimensions, n_channels)
    back : ndarray of shape (n_channels, n_dimensions)
    """
    x = np.moveaxis(spectra, 2, 0)
    # Recordings in average reference, or with projections, do not fill all channels.
    values, vectors = np.linalg.eigh(_products(x, x).sum(0))
    kept = values > NO_POWER * values[-1]
    whiten = (vectors[:, kept] / np.sqrt(values[kept])).T
    back = vectors[:, kept] * np.sqrt(values[kept])
    return x @ whiten.T.astype(np.float32), whiten, back
