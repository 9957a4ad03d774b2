"""Noisy signals and clean ones that belong together, or do not."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, _supervised, read_eeg_denoiser

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SFREQ = 100.0
NAMES = ["Fp1", "Fp2", "Cz", "O1"]


def small_sae():
    return MFRSparseAutoencoder(
        8, k=2, n_saes=1, n_witnesses=1, max_steps=20, random_state=0
    )


def new_denoiser(**more):
    return EEGDenoiser(window=0.5, sae=small_sae(), random_state=0, **more)


@pytest.fixture(autouse=True)
def small_fits(monkeypatch):
    monkeypatch.setattr(_supervised, "FIT_ROWS", 3000)


def recordings(seconds=60, n_channels=4, seed=0):
    """Signals with blinks and without, in volts, (n_channels, n_times) each."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SFREQ)
    clean = rng.standard_normal((n_channels, n + 4))
    clean = sum(clean[:, i : n + i] for i in range(4)) / 2
    clean = rng.standard_normal((n_channels, n_channels)) @ clean / 2
    blinks = np.convolve(rng.random(n) < 0.4 / SFREQ, np.hanning(30), "same")
    noisy = clean + 20 * np.outer([1, 0.9, 0.2, 0.1][:n_channels], blinks)
    return 1e-5 * noisy, 1e-5 * clean


def a_raw(data):
    info = mne.create_info(NAMES[: len(data)], SFREQ, "eeg")
    raw = mne.io.RawArray(data, info, verbose="error")
    with raw.info._unlock():
        raw.info["highpass"] = 1.0
    return raw


def in_epochs(data, n_times=200):
    return data.reshape(len(data), -1, n_times).swapaxes(0, 1)


def epochs_of(data):
    info = mne.create_info(NAMES[: len(data)], SFREQ, "eeg")
    return mne.EpochsArray(in_epochs(data), info, verbose="error")


@pytest.fixture(scope="module")
def pair():
    return recordings()


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("with_clean", [False, True])
def test_codes_are_arrays_whatever_scikit_learn_is_told(
    with_clean, kind, pair, tmp_path
):
    pytest.importorskip(kind)
    noisy, clean = map(in_epochs, pair)
    y = clean if with_clean else None
    expected = new_denoiser(sfreq=SFREQ).fit(noisy, y).transform(noisy[:3])
    told = new_denoiser(sfreq=SFREQ)
    told.sae.set_output(transform=kind)
    np.testing.assert_array_equal(told.fit(noisy, y).transform(noisy[:3]), expected)
    with config_context(transform_output=kind):
        denoiser = clone(told).fit(noisy, y)
        np.testing.assert_array_equal(denoiser.transform(noisy[:3]), expected)
        denoiser.save(tmp_path / "denoiser.skmfr")
        read = read_eeg_denoiser(tmp_path / "denoiser.skmfr")
        np.testing.assert_array_equal(read.transform(noisy[:3]), expected)
        if not with_clean:
            denoiser.apply(noisy, exclude=[0])
