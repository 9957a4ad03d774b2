"""Denoising of EEG with sparse autoencoders, for MNE-Python."""

from ._artifacts import atom_waveforms, score_atoms
from ._denoiser import EEGDenoiser
from ._figures import add_to_report, plot_atom, plot_overlay
from ._finding import find_artifacts
from ._quality import correlation, rrmse_s, rrmse_t

__all__ = [
    "EEGDenoiser",
    "add_to_report",
    "atom_waveforms",
    "correlation",
    "find_artifacts",
    "plot_atom",
    "plot_overlay",
    "rrmse_s",
    "rrmse_t",
    "score_atoms",
]
