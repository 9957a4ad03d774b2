"""Channels in volts, in teslas, and in both."""

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, plot_atom, plot_overlay, score_atoms
from skmfr.eeg._sources import sources_of

mne = pytest.importorskip("mne")
plt = pytest.importorskip("matplotlib.pyplot")
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


def test_figures_are_in_the_unit_of_the_channels():
    raw = a_raw()
    denoiser = fitted(raw, ["mag"])
    clean = denoiser.apply(raw, exclude=[0, 1])
    figure = plot_atom(denoiser, int(score_atoms(denoiser, raw)["peak"].idxmax()), raw)
    shown = [axis.get_ylabel() for axis in figure.axes]
    assert "Femtoteslas" in shown
    axis = figure.axes[shown.index("Femtoteslas")]
    # A blink of 9 times 1e-13 T.
    assert 300 < np.abs(axis.lines[0].get_ydata()).max() < 3000
    figure = plot_overlay(raw, clean, picks=denoiser.ch_names_)
    assert figure.axes[0].get_title(loc="left").endswith(", femtoteslas")
    figure = plot_overlay(raw, clean, picks=["eeg", "mag"])
    assert figure.axes[0].get_title(loc="left").endswith(", microvolts and femtoteslas")
    # EEG was not changed, though its numbers are larger.
    assert figure.axes[1].get_ylabel().startswith("MEG")
    plt.close("all")


def test_atoms_and_windows_to_show_are_one_or_more():
    raw = a_raw()
    denoiser = fitted(raw, None)
    with pytest.raises(ValueError, match="n_windows must be at least 1, got 0"):
        plot_atom(denoiser, 0, raw, n_windows=0)
    with pytest.raises(ValueError, match="picks is empty: there are no atoms to show"):
        denoiser.plot_sources(raw, [], show=False)


def test_codes_over_time_are_of_the_atoms_that_are_shown(monkeypatch):
    raw = a_raw()
    denoiser = fitted(raw, None).set_params(exclude=[3, 5])
    expected = denoiser.get_sources(raw)
    made = []
    monkeypatch.setattr(
        "skmfr.eeg._like_ica.sources_of",
        lambda *a: made.append(sources_of(*a)) or made[-1],
    )
    with mne.viz.use_browser_backend("matplotlib"):
        denoiser.plot_sources(raw, [5, 2], show=False)
    (sources,) = made
    assert sources.ch_names == ["atom005", "atom002"]
    assert sources.info["bads"] == ["atom005"]
    np.testing.assert_array_equal(
        sources.get_data(), expected.get_data(sources.ch_names)
    )
    plt.close("all")


def test_what_was_told_of_arrays_is_true_of_a_recording():
    raw = a_raw(kinds=["eeg"])
    sae = MFRSparseAutoencoder(8, k=2, n_saes=1, max_steps=5, random_state=0)
    with pytest.raises(ValueError, match="ch_names=.'Cz', 'Oz'. names the channels"):
        EEGDenoiser(ch_names=["Cz", "Oz"], sae=sae).fit(raw)
    with pytest.raises(ValueError, match="sfreq=250 is the sampling rate of arrays"):
        EEGDenoiser(sfreq=250, sae=sae).fit(raw)
    same = EEGDenoiser(ch_names=["Fp2", "Cz", "Fp1"], sfreq=SFREQ, sae=sae).fit(raw)
    assert same.ch_names_ == ["Cz", "Fp1", "Fp2"]


def test_one_window_of_many_is_no_fit():
    raw = a_raw(kinds=["eeg"])
    sae = MFRSparseAutoencoder(8, k=2, n_saes=1, max_steps=5, random_state=0)
    with pytest.raises(ValueError, match="decim=1000 leaves 1 of 123 windows of X"):
        EEGDenoiser(sae=sae).fit(raw, decim=1000)


def test_large_windows_are_said_to_be_windows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 2, 50))
    X[::20] *= 50
    sae = MFRSparseAutoencoder(8, k=2, n_saes=1, max_steps=5, random_state=0)
    with pytest.warns(UserWarning, match="windows hold most of") as caught:
        fitted = EEGDenoiser(sfreq=50, window=1.0, overlap=0.5, sae=sae).fit(X)
    texts = [str(each.message) for each in caught]
    assert any(text.startswith(f"{fitted.sae_.n_outliers_} of ") for text in texts)
    assert not any("rows of X" in text for text in texts)


def test_averages_in_a_list_are_passed_one_by_one():
    raw = a_raw(kinds=["eeg"])
    denoiser = fitted(raw, None)
    epochs = mne.make_fixed_length_epochs(raw, 2.0, preload=True, verbose="error")
    with pytest.raises(ValueError, match="list of EvokedArray; pass them to apply one"):
        denoiser.apply([epochs.average()], exclude=[0])
