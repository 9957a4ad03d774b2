"""Packages that clean EEG, and need no clean signals, for ``benchmarks.eeg``.

Each function takes epochs (n_epochs, n_channels, n_times) in microvolts, which are
256 Hz and one recording, names of the channels, names of the frontal ones, which
replace an EOG, and a seed, and gives the epochs back.
"""

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks._eeg_added import fast, ours, without_components
from benchmarks._eeg_baselines import MICRO, SFREQ, as_epochs, info_of
from skmfr.eeg import EEGDenoiser, find_artifacts, score_atoms

Peer = Callable[[np.ndarray, Sequence[str], Sequence[str], int], np.ndarray]
# Labels of mne-icalabel that are not artefacts.
NO_ARTEFACT = ("brain", "other")


def as_raw(X: np.ndarray, ch_names: Sequence[str]):
    """The epochs one after the other."""
    import mne

    joined = np.concatenate(list(MICRO * X.astype(float)), axis=1)
    return mne.io.RawArray(joined, info_of(ch_names), verbose="error")


def back(cleaned, X: np.ndarray) -> np.ndarray:
    """An array like X of epochs or a recording of MNE."""
    return like(cleaned.get_data() / MICRO, X)


def like(data: np.ndarray, X: np.ndarray) -> np.ndarray:
    """An array like X of epochs, which may be one after the other."""
    if data.ndim == 2:
        data = data.reshape(X.shape[1], len(X), -1).swapaxes(0, 1)
    return data.astype(X.dtype)


def without_found_atoms(X, ch_names, frontal, seed) -> np.ndarray:
    """Ours."""
    epochs = as_epochs(X, ch_names)
    denoiser = EEGDenoiser(random_state=seed).fit(epochs)
    # Atoms are scored on a recording.
    scores = score_atoms(denoiser, as_raw(X, ch_names), channels=list(frontal))
    artefacts = find_artifacts(scores)
    return back(denoiser.apply(epochs, exclude=artefacts.index), X)


def without_found_muscles(X, ch_names, frontal, seed) -> np.ndarray:
    """Ours, which finds muscles in a copy without slow waves."""
    artefacts, _ = ours(fast(as_raw(X, ch_names)), "muscle", seed)
    return X - like(artefacts, X)


def independent_components(X, ch_names, frontal, seed) -> np.ndarray:
    """MNE's ICA, without what `find_bads_eog` finds."""
    epochs, frontal = as_epochs(X, ch_names), list(frontal)
    return back(without_components(epochs, "eog", seed, ch_name=frontal)[0], X)


def muscular_components(X, ch_names, frontal, seed) -> np.ndarray:
    """MNE's ICA, without what `find_bads_muscle` finds."""
    return back(without_components(as_epochs(X, ch_names), "muscle", seed)[0], X)


def labelled_components(X, ch_names, frontal, seed) -> np.ndarray:
    """MNE's ICA, without what ICLabel calls an artefact; its network is in the package.

    ICLabel was trained on components of extended Infomax.
    """
    import mne
    from mne_icalabel import label_components

    epochs = as_epochs(X, ch_names).set_eeg_reference("average", verbose="error")
    ica = mne.preprocessing.ICA(
        method="infomax",
        fit_params={"extended": True},
        random_state=seed,
        verbose="error",
    )
    with mne.utils.use_log_level("error"):
        ica.fit(epochs)
        labels = label_components(epochs, ica, method="iclabel")["labels"]
    bad = [n for n, label in enumerate(labels) if label not in NO_ARTEFACT]
    return back(ica.apply(epochs, exclude=bad, verbose="error"), X)


def eog_regression(X, ch_names, frontal, seed) -> np.ndarray:
    """MNE's regression on copies of the frontal channels."""
    import mne

    # With epochs, EOGRegression would not change the mean of each epoch.
    raw = as_raw(X, ch_names)
    info = mne.create_info([f"EOG {name}" for name in frontal], SFREQ, "eog")
    eog = mne.io.RawArray(raw.get_data(list(frontal)), info, verbose="error")
    raw.add_channels([eog]).set_eeg_reference("average", verbose="error")
    regression = mne.preprocessing.EOGRegression(picks="eeg", picks_artifact="eog")
    return back(regression.fit(raw).apply(raw).pick("eeg"), X)


def signal_space_projection(X, ch_names, frontal, seed) -> np.ndarray:
    """MNE's projections of blinks that it finds in a frontal channel."""
    import mne

    raw = as_raw(X, ch_names)
    with mne.utils.use_log_level("error"):
        projections, _ = mne.preprocessing.compute_proj_eog(
            raw, ch_name=frontal[0], n_eeg=2, reject=None, no_proj=True
        )
        return back(raw.add_proj(projections or []).apply_proj(), X)


def artifact_subspace(X, ch_names, frontal, seed) -> np.ndarray:
    """mne-denoise's ASR as it comes, calibrated on what it finds to be clean."""
    from mne_denoise.asr import ASR

    asr = ASR(picks="eeg", random_state=seed, verbose="ERROR")
    return back(asr.fit_transform(as_raw(X, ch_names)), X)


def generalised_eigenvalues(X, ch_names, frontal, seed) -> np.ndarray:
    """GEDAI as it comes: broad band, then by wavelet band, with its own lead field."""
    import mne
    from gedai import MultibandGedai

    raw = as_raw(X, ch_names).set_eeg_reference("average", verbose="error")
    with mne.utils.use_log_level("error"):
        gedai = MultibandGedai()
        gedai.fit_raw(raw, verbose="error")
        return back(gedai.transform_raw(raw, verbose="error"), X)


# Methods against artefacts of all kinds.
OF_ANY_KIND: dict[str, Peer] = {
    "ICA, ICLabel (mne-icalabel)": labelled_components,
    "GEDAI (gedai)": generalised_eigenvalues,
    "ASR, default (mne-denoise)": artifact_subspace,
}
# Methods against artefacts of the eyes, and against those of muscles.
PEERS: dict[str, Peer] = {
    "regression on frontal channels (EOGRegression)": eog_regression,
    "SSP, compute_proj_eog": signal_space_projection,
    "ICA, find_bads_eog": independent_components,
    **OF_ANY_KIND,
    "ours, without clean signals, find_artifacts": without_found_atoms,
}
MUSCULAR: dict[str, Peer] = {
    "ICA, find_bads_muscle": muscular_components,
    **OF_ANY_KIND,
    "ours, without clean signals, find_bads_muscle": without_found_muscles,
}
