"""Synthetic data with known features, and EEG data."""

from ._eeg import fetch_eegbci, fetch_eegdenoisenet, fetch_eegmat
from ._mixtures import make_noisy_eeg
from ._synthetic import make_mfr_synthetic, make_superposition

__all__ = [
    "fetch_eegbci",
    "fetch_eegdenoisenet",
    "fetch_eegmat",
    "make_mfr_synthetic",
    "make_noisy_eeg",
    "make_superposition",
]
