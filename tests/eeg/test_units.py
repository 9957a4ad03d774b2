"""Channels in volts, in teslas, and in both."""

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, score_atoms

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SFREQ = 100.0


def a_raw(teslas=1e-13, volts=1e-5, kinds=("eeg", "mag")):
    """Three channels of each type, with blinks that all of them see."""
    rng = np.random.default_rng(0)
    n = 3000
    blinks = np.convolve(rng.random(n) < 0.01, np.hanning(30), "same")
    data = rng.standard_normal((6, n)) + np.outer([1, 9, 8, 7, 1, 3], blinks)
    names = ["Cz", "Fp1", "Fp2", "MEG 1", "MEG 2", "MEG 3"]
    units = {"eeg": volts, "mag": teslas}
    types = [kind for kind in kinds for _ in range(3)]
    scaled = [units[kind] * row for kind, row in zip(types, data, strict=False)]
    info = mne.create_info(names[: len(types)] + ["EOG"], SFREQ, [*types, "eog"])
    raw = mne.io.RawArray(np.vstack([*scaled, 1e-4 * blinks]), info, verbose="error")
    with raw.info._unlock():
        raw.info["highpass"] = 1.0
    return raw


def fitted(raw, picks):
    sae = MFRSparseAutoencoder(
        12, k=3, n_saes=1, transform_algorithm="omp", max_steps=30, random_state=0
    )
    return EEGDenoiser(window=0.5, picks=picks, sae=sae, random_state=0).fit(raw)


def test_scores_of_several_types_do_not_depend_on_units():
    topographies = {"eyes": [1, 9, 8, 7, 1, 3]}
    scores = []
    for teslas in 1e-13, 1e-5:
        raw = a_raw(teslas)
        unit = np.repeat([1e-5, teslas], 3)
        blink = {"eyes": topographies["eyes"] * unit}
        denoiser = fitted(raw, ["eeg", "mag"])
        scores.append(score_atoms(denoiser, raw, topographies=blink).astype(float))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    assert scores[0]["eyes: topography"].max() > 0.9
