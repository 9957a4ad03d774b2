"""A section for mne.Report: what was removed, why, and what it looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._utils.extras import needed_by
from ._artifacts import score_atoms
from ._figures import draw_atoms, plot_overlay
from ._fitted import checked_atoms

if TYPE_CHECKING:
    import pandas as pd


def add_to_report(
    report,
    denoiser,
    X,
    *,
    artifacts: pd.DataFrame | None = None,
    title: str = "Sparse autoencoder",
):
    """Add to a report what was removed, why, and what it looks like.

    Parameters
    ----------
    report : mne.Report
        Report to add a section to.
    denoiser : EEGDenoiser
        Fitted without clean signals, on a recording or epochs of MNE.
    X : mne.io.Raw or mne.Epochs
        Recording, or all epochs of one, to remove artefacts from.
    artifacts : DataFrame, default=None
        Table whose index are the atoms to remove, as :func:`find_artifacts` gives it.
        None means the atoms in `exclude`, and what :func:`score_atoms` says about them.
    title : str, default="Sparse autoencoder"
        Name of the section.

    Returns
    -------
    report : mne.Report
        The same, with a table, a figure for each atom, and an overlay of the recording
        before and after.

    Raises
    ------
    ValueError
        If there is no such atom, or as in :func:`score_atoms`.

    Examples
    --------
    >>> import mne
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser, add_to_report
    >>> data = 1e-5 * np.random.default_rng(0).standard_normal((3, 2000))
    >>> info = mne.create_info(["Fp1", "Cz", "Oz"], 100, "eeg")
    >>> raw = mne.io.RawArray(data, info, verbose="error")
    >>> sae = MFRSparseAutoencoder(n_components=8, max_steps=20, random_state=0)
    >>> denoiser = EEGDenoiser(sae=sae, exclude=[5]).fit(raw)
    >>> report = add_to_report(mne.Report(verbose="error"), denoiser, raw)
    >>> len(report)
    3
    """
    with needed_by("add_to_report", "eeg"):
        import matplotlib.pyplot as plt

    if artifacts is None:
        excluded = checked_atoms(denoiser, denoiser.exclude)
        artifacts = score_atoms(denoiser, X).loc[excluded]
    atoms = checked_atoms(denoiser, artifacts.index, "the index of artifacts")
    table = artifacts.to_html(float_format="{:.3g}".format, classes="table")
    report.add_html(table, f"Atoms removed: {len(atoms)}", section=title)

    for atom, figure in zip(atoms, draw_atoms(denoiser, X, atoms), strict=True):
        report.add_figure(figure, f"Atom {atom}", section=title)
        plt.close(figure)
    clean = denoiser.apply(X, exclude=atoms)
    figure = plot_overlay(X, clean, picks=denoiser.ch_names_)
    report.add_figure(figure, "Before and after", section=title)
    plt.close(figure)
    return report
