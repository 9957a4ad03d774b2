"""Denoising of EEG with sparse autoencoders, for MNE-Python."""

from ._artifacts import atom_waveforms, score_atoms
from ._denoiser import EEGDenoiser
from ._figures import plot_atom, plot_overlay
from ._files import read_eeg_denoiser
from ._finding import find_artifacts
from ._quality import correlation, peak_kept, power_kept, rrmse_s, rrmse_t
from ._report import add_to_report

__all__ = [
    "EEGDenoiser",
    "add_to_report",
    "atom_waveforms",
    "correlation",
    "find_artifacts",
    "peak_kept",
    "plot_atom",
    "plot_overlay",
    "power_kept",
    "read_eeg_denoiser",
    "rrmse_s",
    "rrmse_t",
    "score_atoms",
]
