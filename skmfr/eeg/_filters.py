"""Sparse codes of spectra, and the second dictionary, whose atoms are filters.

An optimal filter depends on the amount and the kind of noise. The power spectrum of a
window shows both, whatever its phases. So the log-power spectrum of a window is coded,
and its codes combine filters: the clean spectrum at
frequency f is estimated as ``sum_j z_j (a_jf y_f + b_jf s_f)``, with the noisy spectrum
y and the same after a fixed spatial filter, s.  For one channel s is left out.  That is
a Wiener filter whose gain is linear in the codes, and the least-squares problem for the
gains of one frequency is small.  It ignores phases, so shifts, signs and reversal in
time do not change it.
"""

import numpy as np
from scipy.ndimage import uniform_filter1d

N_BANDS = 32
# Power below this share of the mean over frequencies counts as none.
POWER_FLOOR = 1e-4
# Windows on each side whose mean log-power is a feature of a window.
N_NEIGHBOURS = 3
# Ridge of the spatial filters, relative to the mean power of a channel.
SPATIAL_PENALTY = 1e-4
# Ridges of the gains that are tried, relative to the mean square of a regressor.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def band_edges(n_freqs: int) -> np.ndarray:
    """First bins of bands that widen with frequency, 0 Hz on its own, (n_bands,)."""
    edges = np.geomspace(1, n_freqs, min(N_BANDS, n_freqs)).round().astype(int)
    return np.unique(np.concatenate([[0], edges[:-1]]))


def log_power(spectra: np.ndarray) -> np.ndarray:
    """Logarithm of the mean power in bands, (..., n_freqs) to (..., n_bands)."""
    power = np.abs(spectra) ** 2
    edges = band_edges(power.shape[-1])
    widths = np.diff(np.append(edges, power.shape[-1]))
    bands = np.add.reduceat(power, edges, axis=-1) / widths
    floor = POWER_FLOOR * power.mean(-1, keepdims=True)
    return np.log(bands + floor + np.finfo(power.dtype).tiny)


def spatial_filters(
    noisy: np.ndarray, clean: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Matrices that take noisy channels to clean ones, one for each frequency.

    Weighted ridge regression; real, since volume conduction has no delay.

    Parameters
    ----------
    noisy, clean : ndarray of shape (n_windows, n_channels, n_freqs), complex
    weight : ndarray of shape (n_windows,)

    Returns
    -------
    ndarray of shape (n_freqs, n_channels, n_channels)
    """
    by_freq = np.moveaxis(noisy, 2, 0)
    weighted = (by_freq.conj() * weight[:, None]).swapaxes(1, 2)
    among = (weighted @ by_freq).real
    across = (weighted @ np.moveaxis(clean, 2, 0)).real
    n_channels = noisy.shape[1]
    ridge = SPATIAL_PENALTY * np.trace(among, axis1=1, axis2=2) / n_channels
    ridge += np.finfo(ridge.dtype).tiny
    among = among + ridge[:, None, None] * np.eye(n_channels)
    return np.linalg.solve(among, across).swapaxes(1, 2)


def spectral_features(noisy: np.ndarray, filtered: np.ndarray | None) -> np.ndarray:
    """Features of a channel in a window, which are coded.

    Log-power spectra of the channel, of its neighbourhood in time, and, with several
    channels, of what the spatial filter leaves and of what it takes away.

    Parameters
    ----------
    noisy : ndarray of shape (n_epochs, n_windows, n_channels, n_freqs), complex
    filtered : ndarray of the same shape, or None for one channel

    Returns
    -------
    ndarray of shape (n_epochs, n_windows, n_channels, n_features)
    """
    power = log_power(noisy)
    around = uniform_filter1d(power, 2 * N_NEIGHBOURS + 1, axis=1, mode="nearest")
    parts = [power, around]
    if filtered is not None:
        parts += [log_power(filtered), log_power(noisy - filtered)]
    return np.concatenate(parts, axis=-1)


def solve_filters(
    codes: np.ndarray,
    inputs: list[np.ndarray],
    clean: np.ndarray,
    weight: np.ndarray,
    folds: np.ndarray,
) -> tuple[np.ndarray, float]:
    """The second dictionary: gains that codes combine, by ridge regression.

    The ridge is the one of `PENALTIES` with the smallest error on folds left out, over
    all frequencies.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_codes)
    inputs : list of n_inputs ndarray of shape (n_samples, n_freqs), complex
        Spectra that the gains multiply.
    clean : ndarray of shape (n_samples, n_freqs), complex
    weight : ndarray of shape (n_samples,)
    folds : ndarray of shape (n_samples,), int
        Samples with the same number are left out together.

    Returns
    -------
    gains : ndarray of shape (n_freqs, n_inputs, n_codes)
    penalty : float
    """
    n_codes, n_freqs, n_inputs = codes.shape[1], clean.shape[1], len(inputs)
    size = n_inputs * n_codes
    # Folds one after the other, and frequencies in rows, so that all that follows reads
    # memory in order.
    order = np.argsort(folds, kind="stable")
    codes, weight = codes[order], weight[order]
    inputs = [np.ascontiguousarray(part[order].T) for part in inputs]
    clean = np.ascontiguousarray(clean[order].T)
    edges = np.unique(folds[order], return_index=True)[1].tolist()
    parts = list(map(slice, edges, [*edges[1:], None]))

    penalties = np.array(PENALTIES)[:, None, None]
    solutions = np.zeros((len(PENALTIES), n_freqs, size))
    errors = np.zeros(len(PENALTIES))
    for f in range(n_freqs):
        gram = np.zeros((len(parts), size, size))
        moment = np.zeros((len(parts), size))
        for i, one in enumerate(inputs):
            rows = slice(i * n_codes, (i + 1) * n_codes)
            weighted = weight * one[f].conj()
            across = (weighted * clean[f]).real
            for number, part in enumerate(parts):
                moment[number, rows] = codes[part].T @ across[part]
            for j, other in enumerate(inputs[: i + 1]):
                columns = slice(j * n_codes, (j + 1) * n_codes)
                among = codes * (weighted * other[f]).real[:, None]
                for number, part in enumerate(parts):
                    block = codes[part].T @ among[part]
                    gram[number, rows, columns] = block
                    gram[number, columns, rows] = block.T
        total, target = gram.sum(0), moment.sum(0)
        scale = np.trace(total) / size + np.finfo(float).tiny
        ridges = scale * penalties * np.eye(size)
        solutions[:, f] = np.linalg.solve(total + ridges, target[None, :, None])[..., 0]
        if len(parts) > 1:
            share = 1 - np.trace(gram, axis1=1, axis2=2) / (scale * size)
            without = (total - gram)[:, None] + share[:, None, None, None] * ridges
            moments = (target - moment)[:, None, :, None]
            gains = np.linalg.solve(without, moments)[..., 0]
            errors += np.einsum("kpi,kij,kpj->p", gains, gram, gains, optimize=True)
            errors -= 2 * np.einsum("kpi,ki->p", gains, moment)
    best = int(np.argmin(errors))
    return solutions[best].reshape(n_freqs, n_inputs, n_codes), PENALTIES[best]


def apply_filters(
    codes: np.ndarray, inputs: list[np.ndarray], gains: np.ndarray
) -> np.ndarray:
    """Clean spectra as estimated, (n_samples, n_freqs); parameters as above."""
    return np.einsum("inf,inf->nf", codes @ gains.transpose(1, 2, 0), np.stack(inputs))
