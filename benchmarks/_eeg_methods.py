"""Ways to get clean epochs out of mixtures, for ``benchmarks.eeg``."""

import sys
from collections.abc import Callable

import numpy as np

from benchmarks import _eeg_baselines as baselines
from benchmarks import _eeg_network, _eeg_peers
from benchmarks._eeg_mixtures import Split
from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, atom_waveforms
from skmfr.eeg._artifacts import leading_vectors

SFREQ = baselines.SFREQ
N_ATOMS = 128
# They replace an EOG.
FRONTAL = ["Fp1", "Fpz", "Fp2"]

Method = Callable[[Split, int], np.ndarray]


def fixed(denoise: baselines.Denoise) -> Method:
    return lambda split, seed: denoise(split.noisy_test)


def selected(family: baselines.Family) -> Method:
    """The best of a family by cross-validation on the training mixtures."""

    def method(split: Split, seed: int) -> np.ndarray:
        chosen, denoise = baselines.select(
            family, split.noisy, split.clean, split.groups
        )
        print(f"  chosen: {chosen}", file=sys.stderr)
        return denoise(split.noisy_test)

    return method


def unsupervised(**parameters) -> Method:
    def method(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed, **parameters)
        return denoiser.fit(split.noisy).transform(split.noisy_test)

    return method


def supervised(
    alpha: float | None = None, way: str = "transform", **parameters
) -> Method:
    def method(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed, **parameters)
        if alpha is not None:
            denoiser.sae = MFRSparseAutoencoder(
                n_components=N_ATOMS,
                k=8,
                alpha=alpha,
                max_steps=1000,
                random_state=seed,
            )
        denoiser.fit(split.noisy, split.clean, groups=split.groups)
        return getattr(denoiser, way)(split.noisy_test)

    return method


def convolutional(split: Split, seed: int) -> np.ndarray:
    return _eeg_network.trained(split.noisy, split.clean, seed)(split.noisy_test)


FIRST: dict[str, Method] = {
    "nothing": fixed(baselines.unchanged),
    "zeros": fixed(np.zeros_like),
    "Butterworth, 4 to 45 Hz": fixed(baselines.band(4, 45)),
    "Butterworth, chosen": selected(baselines.bands),
}
OURS: dict[str, Method] = {
    "ours": supervised(),
    "ours, alpha=0": supervised(alpha=0.0),
    "ours, trusted atoms only": supervised(trusted_only=True),
    "ours, no codes": supervised(exclude=range(N_ATOMS)),
}
SINGLE: dict[str, Method] = {
    **FIRST,
    "wavelet threshold": selected(baselines.wavelets),
    "singular spectrum (mne-denoise)": selected(baselines.singular_spectrum),
    "PCA of clean epochs": selected(baselines.principal_components),
    "dictionary learning, OMP": selected(baselines.dictionary),
    "Wiener filter": selected(baselines.wiener),
    "ridge": selected(baselines.ridge),
    "ridge, augmented": selected(baselines.ridge_augmented),
    "convolutional network": convolutional,
    "ours, without clean signals": unsupervised(),
    **OURS,
}


def little_sae() -> MFRSparseAutoencoder:
    """For `apply` with clean signals, whose result no SAE has a part in."""
    return MFRSparseAutoencoder(16, k=4, max_steps=20, random_state=0)


APPLIED: dict[str, Method] = {
    "ours, with clean signals, apply": supervised(way="apply", sae=little_sae())
}


def multi_methods(
    topographies: np.ndarray | None, ch_names: list[str]
) -> dict[str, Method]:
    """Without topographies, those for muscles, which need no frontal channels."""
    learned = {
        "spatial ridge": selected(baselines.spatial_ridge),
        "spatial ridge by frequency": selected(baselines.spatial_ridge_by_frequency),
        "convolutional network": convolutional,
    }
    calibrated = {"ASR (mne-denoise)": selected(baselines.artifact_subspace)}
    frontal = [name for name in FRONTAL if name in ch_names]

    def without_clean(peers: dict[str, _eeg_peers.Peer]) -> dict[str, Method]:
        def method(clean_up: _eeg_peers.Peer) -> Method:
            return lambda split, seed: clean_up(
                split.noisy_test, ch_names, frontal, seed
            )

        return {name: method(clean_up) for name, clean_up in peers.items()}

    if topographies is None:
        muscular = without_clean(_eeg_peers.MUSCULAR)
        return {**FIRST, **muscular, **calibrated, **learned, **APPLIED, **OURS}

    def ica(split: Split, seed: int) -> np.ndarray:
        seen = np.concatenate([split.noisy, split.noisy_test])
        family = baselines.independent_components(seen, ch_names, topographies, seed)
        return selected(family)(split, seed)

    def atoms(split: Split, seed: int) -> np.ndarray:
        denoiser = EEGDenoiser(sfreq=SFREQ, random_state=seed).fit(split.noisy)
        patterns = leading_vectors(atom_waveforms(denoiser))[0]
        family = baselines.without_alike(patterns, topographies, denoiser.apply)
        return selected(family)(split, seed)

    return {
        **FIRST,
        "SSP, true topographies": fixed(baselines.projection(topographies)),
        "ICA, true topographies": ica,
        **without_clean(_eeg_peers.PEERS),
        **calibrated,
        **learned,
        "ours, without atoms like the topographies": atoms,
        **APPLIED,
        **OURS,
    }
