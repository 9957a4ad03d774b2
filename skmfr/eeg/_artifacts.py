"""Which atoms are artefacts: scores against reference channels and topographies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from .._utils.extras import needed_by
from ._channels import indices_of, of_types, picked
from ._containers import as_recording, is_epochs, is_raw
from ._fitted import check_atoms_are_signals, check_shape
from ._recordings import (
    Reader,
    check_recording,
    warn_of_other_recording,
)
from ._references import correlations, high_passed, kurtosis
from ._scales import as_scaled, centre_of, warn_of_other_sizes
from ._spans import Span, chunks, first_windows, windows_of_spans
from ._unsupervised import as_signals, codes_of_windows
from ._windows import overlap_add

if TYPE_CHECKING:
    import pandas as pd

# Power below the first frequency is typical of eyes, above the second of muscles.
SLOW_HZ, FAST_HZ = 8.0, 30.0
# Distance from the frequency of the mains that counts as it.
MAINS_HZ = 1.0
# Length, in windows, of the stretches in which a channel counts as equally loud.
STRETCH = 20
# Number of channels from which on the median one is not where a local artefact is.
MANY_CHANNELS = 6


def atom_waveforms(denoiser) -> np.ndarray:
    """Give atoms as signals of all channels.

    The contribution of an atom to a tapered window is its waveform times its code.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Fitted without clean signals.

    Returns
    -------
    ndarray of shape (n_atoms, n_channels, `n_times_`)
        In the unit of the data, volts for those of MNE.

    Raises
    ------
    ValueError
        If the denoiser was fitted with clean signals.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser, atom_waveforms
    >>> X = np.random.default_rng(0).standard_normal((20, 2, 128))
    >>> sae = MFRSparseAutoencoder(n_components=8, max_steps=20, random_state=0)
    >>> denoiser = EEGDenoiser(window=0.5, sfreq=64, sae=sae).fit(X)
    >>> atom_waveforms(denoiser).shape
    (8, 2, 32)
    """
    check_is_fitted(denoiser)
    check_atoms_are_signals(denoiser, "atom_waveforms")
    return denoiser.atoms_ * denoiser.scale_.astype(denoiser.atoms_.dtype)[:, None]


def comparable_units(denoiser, X) -> np.ndarray:
    """Units in which channels can be compared, (n_channels, 1).

    1, or the usual size if channels are of several types, because volts and teslas
    cannot be compared.
    """
    types = X.get_channel_types(indices_of(X, denoiser.ch_names_))
    several = len(set(types)) > 1
    unit = denoiser.scale_ if several else np.ones_like(denoiser.scale_)
    return unit.astype(denoiser.atoms_.dtype)[:, None]


def as_waveforms(denoiser, directions: np.ndarray) -> np.ndarray:
    """Signals of all channels that directions in the space of the SAEs stand for.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Fitted without clean signals.
    directions : ndarray of shape (n_directions, n_dimensions)
        Atoms of any SAE of the denoiser, for instance.

    Returns
    -------
    ndarray of shape (n_directions, n_channels, `n_times_`)
        In the unit of the data, as :func:`atom_waveforms`.
    """
    signals = as_signals(directions, denoiser.pca_, denoiser.n_channels_)
    return signals * denoiser.scale_.astype(signals.dtype)[:, None]


def score_atoms(
    denoiser,
    X,
    *,
    channels: str | list[str] | None = None,
    topographies: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Compare atoms with reference channels and with topographies.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Fitted without clean signals, on a recording or epochs of MNE.
    X : mne.io.Raw or mne.Epochs
        Recording in which the atoms are active, that of the fit for instance. Spans
        annotated as ``BAD`` do not count.
    channels : str or list of str, default=None
        Channels that record artefacts, as MNE's `picks`. None means all of type EOG and
        ECG that are not marked as bad. Where there are none, frontal EEG channels can
        replace an EOG.
    topographies : mapping, default=None
        Topographies of artefacts by name, in volts or any other unit: a mapping from
        the names of the channels to numbers, or an array of shape (n_channels,) in the
        order of `ch_names_`.

    Returns
    -------
    DataFrame of shape (n_atoms, n_scores + 9)
        For each channel a column "NAME: correlation", for those of type ECG "NAME:
        cardiac correlation": absolute correlation of the channel with what the atom
        contributes, over the windows in which it is active. The channel is high-pass
        filtered as the data are, up to 1 Hz.
        For each topography a column "NAME: topography": absolute cosine with the one of
        the atom, both without their mean over channels, so that the reference
        electrode does not matter.
        For each channel a column "NAME: kurtosis": its excess kurtosis in stretches of
        20 windows, on average, the same for all atoms. Blinks are rare and large; few
        values of brain signals are.
        "activation_rate": share of windows in which the atom is active. "variance":
        share of the variance of the fitted channels that removing only this atom
        removes; negative where removal adds variance. "slow", "fast" and "line": share
        of the power of its time course below 8 Hz, above 30 Hz, and within 1 Hz of 50
        or 60 Hz, or nearest to these in windows whose frequencies are farther apart.
        "peak": the largest contribution to a channel anywhere, relative to
        the median over channels of `own_scale_`. Channels of several types, as volts
        and teslas, are compared in units of `scale_`.
        "breadth": size of the atom in the median channel, relative to the largest; nan
        with fewer than 6 channels, because most of these may be near the eyes.
        "agreement" and "trusted": whether other SAEs find the atom, see
        `feature_agreement_` and `trusted_` of :class:`~skmfr.MFRSparseAutoencoder`.

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If the denoiser was fitted with clean signals, X is not a recording or epochs,
        or lacks channels, or a topography does not fit the channels.

    See Also
    --------
    find_artifacts : Choose atoms by these scores.
    mne.preprocessing.ICA.find_bads_eog : The same for independent components.

    Notes
    -----
    The time course that is correlated is the first right singular vector of the atom's
    waveform, its topography the first left one. Channel and time course are tapered
    alike. Channels are high-pass filtered at 1 Hz first, since MNE's filters leave EOG
    and ECG as they are, and drifts would hide the artefacts.

    Examples
    --------
    >>> import mne
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser, find_artifacts, score_atoms
    >>> rng = np.random.default_rng(0)
    >>> blinks = np.convolve(rng.random(3000) < 0.005, np.hanning(30), "same")
    >>> noise = rng.standard_normal((4, 3000))
    >>> data = 1e-5 * (noise + 8 * np.outer([0.2, 1, 0.8, 1], blinks))
    >>> info = mne.create_info(["Cz", "Fp1", "Fp2", "EOG"], 100, ["eeg"] * 3 + ["eog"])
    >>> raw = mne.io.RawArray(data, info, verbose="error")
    >>> sae = MFRSparseAutoencoder(
    ...     n_components=16, k=4, n_saes=1, transform_algorithm="omp", max_steps=30,
    ...     random_state=0,
    ... )
    >>> denoiser = EEGDenoiser(sae=sae).fit(raw)
    >>> scores = score_atoms(denoiser, raw, topographies={"blink": [0.2, 1, 0.8]})
    >>> list(scores)[:3]
    ['EOG: correlation', 'blink: topography', 'EOG: kurtosis']
    >>> artifacts = find_artifacts(scores)
    >>> clean = denoiser.apply(raw, exclude=artifacts.index)
    >>> bool(clean.get_data("Fp1").std() < 0.7 * raw.get_data("Fp1").std())
    True
    """
    with needed_by("score_atoms", "eeg"):
        import pandas as pd

    reader = fitted_reader(denoiser, X)
    X = reader.X
    if channels is None:
        channels = of_types(X, "eog", "ecg")
    channels = picked(X, channels, "channels") if len(channels) else []
    good = Reader(X, [*reader.ch_names, *channels], "X").good_spans()
    spans = [(span.start, span.stop) for span in good]
    codes = code_windows(denoiser, reader, spans)
    unit = comparable_units(denoiser, X)
    waveforms = atom_waveforms(denoiser) / unit
    spatial, temporal = leading_vectors(waveforms)
    scores = {}
    tails = {}
    if channels:
        references = high_passed(Reader(X, channels, "X"), spans)
        together = np.concatenate([references[:, span] for span in good], axis=1)
        names = (f"{name}: kurtosis" for name in channels)
        length = STRETCH * denoiser.n_times_
        tails = dict(zip(names, kurtosis(together, length), strict=True))
        correlation = correlations(denoiser, references, spans, codes, temporal)
        kinds = zip(channels, X.get_channel_types(indices_of(X, channels)), strict=True)
        for (name, kind), column in zip(kinds, correlation.T, strict=True):
            cardiac = "cardiac " if kind == "ecg" else ""
            scores[f"{name}: {cardiac}correlation"] = column
    for name, topography in (topographies or {}).items():
        wanted = _checked_topography(topography, name, denoiser.ch_names_)
        wanted = wanted / unit[:, 0]
        scores[f"{name}: topography"] = np.abs(_centred(spatial) @ _centred(wanted))
    return pd.DataFrame(
        {
            **scores,
            **tails,
            "activation_rate": (codes != 0).mean(0),
            "variance": removed_variance(
                denoiser, reader, spans, codes, waveforms, unit
            ),
            **_shapes(denoiser, waveforms, temporal, codes, unit),
            "agreement": denoiser.sae_.feature_agreement_,
            "trusted": denoiser.sae_.trusted_,
        },
        index=pd.RangeIndex(len(waveforms), name="atom"),
    )


def _shapes(denoiser, waveforms, temporal, codes, unit) -> dict[str, np.ndarray]:
    """Spectra, sizes and extents of atoms, (n_atoms,) each; see `score_atoms`."""
    freqs = np.fft.rfftfreq(denoiser.n_times_, 1 / denoiser.sfreq_)
    power = np.square(np.abs(np.fft.rfft(temporal)))
    power /= power.sum(1, keepdims=True)
    # Of short windows, the nearest frequencies may be farther from it.
    beside = max(MAINS_HZ, freqs[1] / 2)
    mains = (np.abs(freqs - 50) <= beside) | (np.abs(freqs - 60) <= beside)
    size = np.abs(waveforms).max(2)
    largest = np.abs(codes).max(0).toarray().ravel()
    breadth = np.median(size, axis=1) / size.max(1)
    if waveforms.shape[1] < MANY_CHANNELS:
        breadth = np.full(len(waveforms), np.nan)
    return {
        "slow": power[:, freqs < SLOW_HZ].sum(1),
        "fast": power[:, (freqs > FAST_HZ) & ~mains].sum(1),
        "line": power[:, mains].sum(1),
        "peak": size.max(1) * largest / np.median(denoiser.own_scale_ / unit[:, 0]),
        "breadth": breadth,
    }


def _checked_topography(topography, name: str, ch_names: list[str]) -> np.ndarray:
    if isinstance(topography, Mapping):
        absent = [channel for channel in ch_names if channel not in topography]
        if absent:
            raise ValueError(f"topographies[{name!r}] lacks the channels {absent}.")
        topography = [topography[channel] for channel in ch_names]
    topography = np.asarray(topography, dtype=float)
    if topography.shape != (len(ch_names),) or not np.isfinite(topography).all():
        raise ValueError(
            f"topographies[{name!r}] must have a finite number for each of the "
            f"{len(ch_names)} channels of the fit, got shape {topography.shape}."
        )
    return topography


def _centred(topographies: np.ndarray) -> np.ndarray:
    """Without their mean over channels, the last axis, and of unit norm."""
    centred = topographies - topographies.mean(-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)


def leading_vectors(waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Topography and time course that together come nearest to each waveform.

    Parameters
    ----------
    waveforms : ndarray of shape (n_atoms, n_channels, n_times)

    Returns
    -------
    spatial : ndarray of shape (n_atoms, n_channels)
        Of unit norm, its largest entry positive.
    temporal : ndarray of shape (n_atoms, n_times)
        In the unit of the waveforms.
    """
    left, size, right = np.linalg.svd(waveforms, full_matrices=False)
    spatial = left[:, :, 0]
    largest = np.abs(spatial).argmax(1)[:, None]
    sign = np.sign(np.take_along_axis(spatial, largest, axis=1))
    return sign * spatial, sign * size[:, :1] * right[:, 0]


def fitted_reader(denoiser, X) -> Reader:
    """The channels of the fit of a recording, or of epochs as one, checked."""
    check_is_fitted(denoiser)
    check_atoms_are_signals(denoiser, "Scoring atoms")
    if not (is_raw(X) or is_epochs(X)):
        raise ValueError(
            f"X must be an mne.io.Raw or mne.Epochs, got {type(X).__name__}."
        )
    check_recording(X, denoiser)
    warn_of_other_recording(X, denoiser)
    check_shape(denoiser, Reader(X, denoiser.ch_names_, "X"))
    return Reader(as_recording(X), denoiser.ch_names_, "X")


def code_windows(denoiser, reader: Reader, spans: list[Span]) -> sparse.csr_array:
    """Codes of the windows in the spans, (n_windows, n_atoms)."""
    codes = []
    centre = centre_of(denoiser, reader)
    for piece, own, _ in windows_of_spans(denoiser, spans):
        signals = reader.read(piece)
        part = codes_of_windows(denoiser, as_scaled(denoiser, signals, centre))
        codes.append(sparse.csr_array(part[own]))
    warn_of_other_sizes(denoiser, reader.moments(denoiser.n_times_))
    return sparse.vstack(codes, format="csr")


def removed_variance(
    denoiser,
    reader: Reader,
    spans: list[Span],
    codes: sparse.csr_array,
    waveforms: np.ndarray,
    unit: np.ndarray,
) -> np.ndarray:
    """Share of the variance of the channels that removing each atom alone removes.

    The recording is cut into blocks of one hop. The same number of windows overlaps
    in each block, and the contribution of an atom to a block is a sum over these
    windows: code times a piece of the waveform. Samples left over at the ends of spans
    are not counted.

    Parameters
    ----------
    denoiser : EEGDenoiser
    reader : Reader
        Of the channels of the fit.
    spans : list of (start, stop)
    codes : csr_array of shape (n_windows, n_atoms)
        Of the windows in the spans.
    waveforms : ndarray of shape (n_atoms, n_channels, n_times_)
    unit : ndarray of shape (n_channels, 1)
        Of the waveforms.

    Returns
    -------
    ndarray of shape (n_atoms,)
        1 - variance after / variance before.
    """
    n_atoms, n_channels, length = waveforms.shape
    hop = denoiser.hop_
    n_pieces = -(-length // hop)
    # Contribution of one window to a recording; the window ends where a block ends.
    one = np.zeros((n_pieces, length), dtype=waveforms.dtype)
    one[-1] = 1
    footprint = overlap_add(one, n_pieces * hop, hop)
    excess = n_pieces * hop - length
    padded = np.pad(waveforms, [(0, 0), (0, 0), (excess, 0)]) * footprint
    # A block has the last piece of the first window that overlaps it, and so on.
    pieces = padded.reshape(n_atoms, n_channels, n_pieces, hop)[:, :, ::-1]
    piece_sum = pieces.sum(3)
    pieces = pieces.swapaxes(1, 2).reshape(n_atoms, n_pieces, n_channels * hop)
    gram = pieces @ pieces.swapaxes(1, 2)

    blocks_of_chunks = [
        (begin + start, (stop - start) // hop, number + start // hop)
        for (begin, end), number in zip(
            spans, first_windows(denoiser, spans), strict=True
        )
        for _, _, start, stop in chunks(end - begin, hop, hop, denoiser.sfreq_)
        if stop - start >= hop
    ]
    n = hop * sum(n_blocks for _, n_blocks, _ in blocks_of_chunks)
    centre = centre_of(denoiser, reader)
    total, square = np.zeros(n_channels), 0.0
    own_total, product, own_square = np.zeros((n_atoms, n_channels)), 0.0, 0.0
    for start, n_blocks, first_window in blocks_of_chunks:
        signal = reader.read(slice(start, start + n_blocks * hop))[0]
        signal = (signal - centre[:, None]) / unit
        total += signal.sum(1)
        square += np.sum(signal**2)
        blocks = signal.reshape(n_channels, n_blocks, hop).swapaxes(0, 1)
        blocks = blocks.reshape(n_blocks, -1).astype(pieces.dtype)
        dense = codes[first_window : first_window + n_blocks + n_pieces - 1].toarray()
        overlapping = np.lib.stride_tricks.sliding_window_view(dense, n_pieces, axis=0)
        fit = (blocks @ pieces.reshape(-1, n_channels * hop).T).reshape(
            n_blocks, n_atoms, n_pieces
        )
        product += np.sum(fit * overlapping, axis=(0, 2), dtype=float)
        own_square += np.sum(
            (overlapping[:, :, None] @ gram)[:, :, 0] * overlapping,
            axis=(0, 2),
            dtype=float,
        )
        own_total += np.einsum("acp,ap->ac", piece_sum, overlapping.sum(0, dtype=float))
    before = square - np.sum(total**2) / n
    after = square - 2 * product + own_square
    after -= np.sum((total - own_total) ** 2, axis=1) / n
    return 1 - after / before
