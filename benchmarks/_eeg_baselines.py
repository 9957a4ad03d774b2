"""Denoising of EEG without sparse autoencoders, for ``benchmarks.eeg``.

A *family* is fitted on noisy and clean epochs and returns ways to denoise, one for each
setting of its parameters; :func:`select` takes the one with the smallest error on
groups left out.  Epochs are (n_epochs, n_channels, n_times) throughout, and ways to
denoise keep the shape.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.signal import butter, sosfiltfilt
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.preprocessing import normalize

from benchmarks._data import template_positions
from skmfr.eeg import rrmse_t
from skmfr.eeg._supervised import relative_weights

SFREQ = 256.0
MICRO = 1e-6
# Ridges that are tried, relative to the mean eigenvalue.
PENALTIES = 10.0 ** np.arange(-5, 2)
# Number of held-out epochs of each group by which settings are chosen; more change
# little.
N_VALIDATION = 100
# Shifted and reversed copies of each epoch that augmentation adds.
N_COPIES = 8

Denoise = Callable[[np.ndarray], np.ndarray]
Family = Callable[[np.ndarray, np.ndarray], dict[str, Denoise]]


def select(
    family: Family, noisy: np.ndarray, clean: np.ndarray, groups: np.ndarray
) -> tuple[str, Denoise]:
    """The best setting of a family by cross-validation, fitted on all epochs.

    Parameters
    ----------
    family : Family
    noisy, clean : ndarray of shape (n_epochs, n_channels, n_times)
    groups : ndarray of shape (n_epochs,)
        Left out one by one.
    """
    draw = np.random.default_rng(0)
    errors: dict[str, float] = {}
    for group in np.unique(groups):
        held_out = np.flatnonzero(groups == group)
        ways = family(noisy[groups != group], clean[groups != group])
        held_out = draw.permutation(held_out)[:N_VALIDATION]
        for name, denoise in ways.items():
            error = np.sum(rrmse_t(clean[held_out], denoise(noisy[held_out])))
            errors[name] = errors.get(name, 0.0) + error
    best = min(errors, key=errors.__getitem__)
    return best, family(noisy, clean)[best]


def info_of(ch_names: Sequence[str]):
    """MNE's, of EEG channels with positions."""
    import mne

    info = mne.create_info(list(ch_names), SFREQ, "eeg")
    return info.set_montage(template_positions())


def as_epochs(X: np.ndarray, ch_names: Sequence[str]):
    """Epochs of MNE of an array in microvolts."""
    import mne

    return mne.EpochsArray(MICRO * X.astype(float), info_of(ch_names), verbose="error")


def unchanged(X: np.ndarray) -> np.ndarray:
    return X


def band(low: float | None, high: float | None) -> Denoise:
    """Butterworth filter of order 4, forth and back; None is an open end."""
    if low is None and high is None:
        return unchanged
    kind = "lowpass" if low is None else "highpass" if high is None else "bandpass"
    edges = [edge for edge in (low, high) if edge is not None]
    sos = butter(4, np.squeeze(edges), kind, fs=SFREQ, output="sos")
    return lambda X: sosfiltfilt(sos, X.astype(float)).astype(X.dtype)


def bands(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    return {
        f"{low} to {high} Hz": band(low, high)
        for low in (None, 1, 2, 4, 6, 8, 10)
        for high in (None, 45, 30, 20, 15)
    }


def wavelet(
    X: np.ndarray, level: int, sigma_of: str, part: str, approximation: str
) -> np.ndarray:
    """Soft threshold of wavelet coefficients, universal, sigma from their median.

    Parameters
    ----------
    X : ndarray of shape (..., n_times)
    level : int
        Of the decomposition.
    sigma_of : {"finest", "each"}
        Which details sigma is the deviation of.
    part : {"beyond", "within"}
        Part of the details to keep: beyond the threshold, if they are small where
        there is only noise, or the rest, if artefacts are large.
    approximation : {"kept", "within", "removed"}
    """
    import pywt

    def sigma(details: np.ndarray) -> np.ndarray:
        return np.median(np.abs(details), -1, keepdims=True) / 0.6745

    def beyond(values: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        threshold = deviation * np.sqrt(2 * np.log(X.shape[-1]))
        return np.sign(values) * np.maximum(np.abs(values) - threshold, 0)

    coarse, *details = pywt.wavedec(X, "sym4", level=level)
    finest = sigma(details[-1])
    if approximation == "removed":
        coarse = np.zeros_like(coarse)
    elif approximation == "within":
        coarse = coarse - beyond(coarse, sigma(coarse))
    for number, values in enumerate(details):
        large = beyond(values, finest if sigma_of == "finest" else sigma(values))
        details[number] = large if part == "beyond" else values - large
    return pywt.waverec([coarse, *details], "sym4")[..., : X.shape[-1]].astype(X.dtype)


def wavelets(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    settings = [
        (level, sigma_of, part, approximation)
        for level in (4, 5, 6)
        for sigma_of in ("finest", "each")
        for part in ("beyond", "within")
        for approximation in ("kept", "within", "removed")
    ]
    return {
        f"level {setting[0]}, {', '.join(setting[1:])}": (
            lambda X, setting=setting: wavelet(X, *setting)
        )
        for setting in settings
    }


def singular_spectrum(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """mne-denoise's: components of an epoch, sorted out by their main frequency."""
    from mne_denoise.ssa import ssa_clean_channel

    def without(low: float, high: float) -> Denoise:
        def denoise(X: np.ndarray) -> np.ndarray:
            epochs = X.reshape(-1, X.shape[-1])
            cleaned = [
                ssa_clean_channel(x, SFREQ, window_length=64, drop_band=(low, high))
                for x in epochs
            ]
            return np.reshape(cleaned, X.shape).astype(X.dtype)

        return denoise

    dropped = [(0.0, high) for high in (2.0, 4.0, 8.0, 12.0)]
    dropped += [(low, SFREQ / 2) for low in (20.0, 30.0)]
    return {
        f"without {low:g} to {high:g} Hz": without(low, high) for low, high in dropped
    }


def flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1)


def principal_components(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """Projection on the first components of clean epochs."""
    pca = PCA(svd_solver="covariance_eigh").fit(flat(clean))

    def projection(n_components: int) -> Denoise:
        kept = pca.components_[:n_components]
        return lambda X: ((flat(X) - pca.mean_) @ kept.T @ kept + pca.mean_).reshape(
            X.shape
        )

    return {
        f"{n} components": projection(n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    }


def dictionary(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """scikit-learn's dictionary of clean epochs, coded by matching pursuit."""
    model = MiniBatchDictionaryLearning(
        128, alpha=1.0, max_iter=2, fit_algorithm="cd", random_state=0
    )
    atoms = normalize(model.fit(normalize(flat(clean)) * np.sqrt(SFREQ)).components_)
    atoms = atoms[np.any(atoms != 0, axis=1)]

    def pursuit(k: int) -> Denoise:
        def denoise(X: np.ndarray) -> np.ndarray:
            codes = sparse_encode(flat(X), atoms, algorithm="omp", n_nonzero_coefs=k)
            return (codes @ atoms).reshape(X.shape).astype(X.dtype)

        return denoise

    return {f"{k} atoms": pursuit(k) for k in (2, 4, 8, 16, 32)}


def weights(clean: np.ndarray) -> dict[str, np.ndarray]:
    """Of epochs, (n_epochs,): all alike, or as our denoiser weights them."""
    return {
        "all alike": np.ones(len(clean), dtype=clean.dtype),
        "relative to power": relative_weights([clean])[0],
    }


def ridge_maps(
    X: np.ndarray, Y: np.ndarray, weight: np.ndarray
) -> dict[float, np.ndarray]:
    """Weighted ridge regression without intercept, for each of `PENALTIES`.

    Parameters
    ----------
    X, Y : ndarray of shape (..., n_samples, n_inputs) and (..., n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)

    Returns
    -------
    dict of ndarray of shape (..., n_inputs, n_outputs)
    """
    weighted = np.swapaxes(X * weight[:, None], -1, -2)
    values, vectors = np.linalg.eigh(weighted @ X)
    rotated = np.swapaxes(vectors, -1, -2) @ (weighted @ Y)
    scale = values.mean(-1, keepdims=True)
    return {
        penalty: vectors @ (rotated / (values + penalty * scale)[..., None])
        for penalty in PENALTIES
    }


def ridges(
    clean: np.ndarray,
    fit: Callable[[np.ndarray], dict[float, np.ndarray]],
    apply: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> dict[str, Denoise]:
    """Ways to denoise, for each weighting of epochs and each penalty.

    ``fit`` takes weights to maps by penalty, ``apply`` epochs and a map to epochs.
    """
    return {
        f"{name}, penalty {penalty:g}": (
            lambda X, linear=linear: apply(X, linear).astype(X.dtype)
        )
        for name, weight in weights(clean).items()
        for penalty, linear in fit(weight).items()
    }


def ridge(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """All samples of an epoch from all."""
    return ridges(
        clean,
        lambda weight: ridge_maps(
            flat(noisy).astype(float), flat(clean).astype(float), weight
        ),
        lambda X, linear: (flat(X) @ linear).reshape(X.shape),
    )


def ridge_augmented(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """As :func:`ridge`, with copies that are shifted round, reversed, and negated.

    Negation changes nothing for a linear map without intercept, and is left out.
    """
    draw = np.random.default_rng(0)
    pair = np.stack([noisy, clean])
    copies = [pair]
    for number in range(N_COPIES):
        copy = np.roll(pair, draw.integers(pair.shape[-1]), axis=-1)
        copies.append(copy[..., ::-1] if number % 2 else copy)
    return ridge(*np.concatenate(copies, axis=1))


def wiener(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """Gain of mean power spectra: signal over signal and noise."""

    def gain(weight: np.ndarray) -> Denoise:
        signal, noise = (
            np.einsum("n,ncf->cf", weight, np.abs(np.fft.rfft(part)) ** 2)
            for part in (clean, noisy - clean)
        )
        share = signal / (signal + noise)
        return lambda X: np.fft.irfft(share * np.fft.rfft(X), X.shape[-1]).astype(
            X.dtype
        )

    return {name: gain(weight) for name, weight in weights(clean).items()}


def spatial_ridge(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """All channels of a sample from all."""
    n_times = noisy.shape[2]
    X, Y = (
        part.swapaxes(1, 2).reshape(-1, part.shape[1]).astype(float)
        for part in (noisy, clean)
    )
    return ridges(
        clean,
        lambda weight: ridge_maps(X, Y, np.repeat(weight, n_times)),
        lambda X, linear: np.einsum("ij,nit->njt", linear, X, optimize=True),
    )


def spatial_ridge_by_frequency(
    noisy: np.ndarray, clean: np.ndarray
) -> dict[str, Denoise]:
    """All channels of a frequency from all, by real numbers."""

    def by_frequency(part: np.ndarray) -> np.ndarray:
        spectra = np.moveaxis(np.fft.rfft(part), 2, 0)
        return np.concatenate([spectra.real, spectra.imag], axis=1)

    def apply(X: np.ndarray, linear: np.ndarray) -> np.ndarray:
        spectra = np.einsum("fij,nif->njf", linear, np.fft.rfft(X), optimize=True)
        return np.fft.irfft(spectra, X.shape[-1])

    X, Y = by_frequency(noisy), by_frequency(clean)
    return ridges(clean, lambda weight: ridge_maps(X, Y, np.tile(weight, 2)), apply)


def projection(topographies: np.ndarray) -> Denoise:
    """Signal-space projection: without the span of topographies (n, n_channels)."""
    basis = np.linalg.qr(topographies.T)[0]
    away = np.eye(len(basis)) - basis @ basis.T
    return lambda X: np.einsum("ij,njt->nit", away, X, optimize=True).astype(X.dtype)


def independent_components(
    seen: np.ndarray, ch_names: Sequence[str], topographies: np.ndarray, seed: int
) -> Family:
    """MNE's ICA of all epochs seen, without components like the topographies."""
    import mne

    ica = mne.preprocessing.ICA(random_state=seed, verbose="error")
    ica.fit(as_epochs(seen, ch_names), verbose="error")

    def apply(X: np.ndarray, components: np.ndarray) -> np.ndarray:
        epochs = as_epochs(X, ch_names)
        cleaned = ica.apply(epochs, exclude=components.tolist(), verbose="error")
        return (cleaned.get_data(copy=False) / MICRO).astype(X.dtype)

    return without_alike(ica.get_components().T, topographies, apply)


def without_alike(
    patterns: np.ndarray,
    topographies: np.ndarray,
    apply: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Family:
    """Leave out components whose patterns are like one of the topographies.

    Parameters
    ----------
    patterns : ndarray of shape (n_components, n_channels)
    topographies : ndarray of shape (n_topographies, n_channels)
    apply : callable
        Takes epochs and numbers of components to epochs without these.
    """
    alike = np.corrcoef(patterns, topographies)[: len(patterns), len(patterns) :]
    alike = np.abs(alike).max(1)
    ways = {
        f"correlation above {least:g}": (
            lambda X, least=least: apply(X, np.flatnonzero(alike > least))
        )
        for least in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    }
    return lambda noisy, clean: ways


def artifact_subspace(noisy: np.ndarray, clean: np.ndarray) -> dict[str, Denoise]:
    """mne-denoise's ASR, calibrated on clean epochs."""
    from mne_denoise.asr import ASR

    # Mirrored at their ends, so that epochs do not see each other.
    margin = int(SFREQ / 2)

    def joined(X: np.ndarray) -> np.ndarray:
        padded = np.pad(X, [(0, 0), (0, 0), (margin, margin)], mode="reflect")
        return padded.swapaxes(0, 1).reshape(X.shape[1], -1).astype(float)

    def without(cutoff: float) -> Denoise:
        asr = ASR(SFREQ, cutoff, calibration="manual", verbose="ERROR")
        asr.fit(joined(clean))

        def denoise(X: np.ndarray) -> np.ndarray:
            cleaned = asr.transform(joined(X)).reshape(X.shape[1], len(X), -1)
            return cleaned.swapaxes(0, 1)[..., margin:-margin].astype(X.dtype)

        return denoise

    return {f"cutoff {cutoff:g}": without(cutoff) for cutoff in (1, 2, 3, 5, 10, 20)}
