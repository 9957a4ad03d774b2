"""Noisy signals and clean ones that belong together, or do not."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, _filters, _supervised, read_eeg_denoiser
from skmfr.eeg._removal import ArtifactFilter, gain_on_average, without_found

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


def test_spans_marked_as_bad_in_the_clean_signals_are_left_out_too(pair):
    noisy, clean = map(a_raw, pair)
    marks = mne.Annotations([10], [20], ["BAD_amplifier"])
    broken = clean.copy().set_annotations(marks)
    rng = np.random.default_rng(0)
    broken._data[:, 1000:3000] = 1e-3 * rng.standard_normal((4, 2000))
    both = noisy.copy().set_annotations(marks)
    expected = new_denoiser().fit(both, broken)
    denoiser = new_denoiser().fit(noisy, broken)
    np.testing.assert_array_equal(denoiser.filters_, expected.filters_)
    assert denoiser.score(noisy, broken) == expected.score(both, broken)
    assert denoiser.score(noisy, broken) > -0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.drop([19], verbose="error"), "19 of 29"),
        (lambda X: X.crop(0, 1), "y must have the shape of X"),
    ],
)
def test_clean_epochs_are_those_of_the_noisy_ones(pair, change, message):
    noisy, clean = (
        mne.make_fixed_length_epochs(a_raw(X), 2.0, preload=True, verbose="error")
        for X in pair
    )
    noisy.drop([0], verbose="error")
    denoiser = new_denoiser()
    with pytest.raises(ValueError, match=message):
        denoiser.fit(noisy, change(clean))


def test_epochs_that_are_the_same_may_be_called_otherwise(pair):
    noisy, clean = (
        mne.make_fixed_length_epochs(a_raw(X), 2.0, preload=True, verbose="error")
        for X in pair
    )
    noisy.drop([0, 7], verbose="error")
    clean.drop([0, 7], verbose="error")
    denoiser = new_denoiser().fit(noisy, clean)
    expected = denoiser.score(noisy, clean)
    as_array = mne.EpochsArray(clean.get_data(), noisy.info, verbose="error")
    later = clean.copy()
    later.events[:, 0] += 500
    joined = mne.concatenate_epochs([clean[:10], clean[10:]], verbose="error")
    joined.events = clean.events
    for same in (as_array, later, joined):
        assert denoiser.score(noisy, same) == expected


def test_clean_signals_recorded_otherwise_are_warned_of(pair):
    noisy, clean = map(a_raw, pair)
    referenced = clean.copy().set_eeg_reference("average", verbose="error")
    with pytest.warns(UserWarning, match="y was recorded or filtered differently"):
        denoiser = new_denoiser().fit(noisy, referenced)
    with pytest.warns(UserWarning, match="y was recorded or filtered differently"):
        denoiser.score(noisy, referenced)


def test_a_pair_recorded_otherwise_than_the_fit_is_warned_of_once(pair):
    noisy, clean = map(a_raw, pair)
    denoiser = new_denoiser().fit(noisy, clean)
    for raw in noisy, clean:
        with raw.info._unlock():
            raw.info["lowpass"] = 40.0
    with pytest.warns(UserWarning, match="recorded or filtered differently") as caught:
        denoiser.score(noisy, clean)
    assert [str(each.message).split()[0] for each in caught] == ["X"]


def test_clean_signals_in_another_unit_are_warned_of(pair, recwarn):
    noisy, clean = map(in_epochs, pair)
    new_denoiser(sfreq=SFREQ).fit(noisy, 0.1 * clean)
    assert not any("standard deviation" in str(each.message) for each in recwarn)
    with pytest.warns(UserWarning, match="4 of 4 channels of y have a very different"):
        new_denoiser(sfreq=SFREQ).fit(noisy, 1e6 * clean)


@pytest.mark.parametrize("window", [0.25, 0.5, 1.0])
def test_the_mains_are_found_in_windows_that_miss_their_frequency(pair, window):
    from skmfr.eeg import find_artifacts, score_atoms

    rng = np.random.default_rng(0)
    n = 12_000
    waves = 1e-5 * rng.standard_normal((4, n))
    hum = np.sin(2 * np.pi * 50 * np.arange(n) / 200)
    info = mne.create_info(NAMES, 200.0, "eeg")
    data = waves + 5e-5 * np.outer([1, -0.5, 0.3, 0.8], hum)
    raw = mne.io.RawArray(data, info, verbose="error")
    sae = small_sae().set_params(transform_algorithm="omp")
    denoiser = EEGDenoiser(window=window, sae=sae, random_state=0).fit(raw)
    found = find_artifacts(score_atoms(denoiser, raw, channels=[]))
    assert "line" in set(found["kind"])
    assert "muscular" not in set(found["kind"])


@pytest.mark.parametrize("open_", [a_raw, lambda data: data[None]])
def test_one_epoch_is_cut_so_that_the_ridge_can_be_chosen(open_, monkeypatch):
    seen = []
    solve = _supervised.solve_filters
    monkeypatch.setattr(
        _supervised, "solve_filters", lambda *a: seen.append(a) or solve(*a)
    )
    noisy, clean = recordings(seconds=10, seed=2)
    denoiser = new_denoiser(sfreq=None if open_ is a_raw else SFREQ)
    denoiser.fit(open_(noisy), open_(clean))
    *_, folds = seen[0]
    np.testing.assert_array_equal(np.unique(folds), np.arange(5))
    assert np.ptp(np.bincount(folds)) < 0.1 * len(folds)
    assert denoiser.penalty_ > min(_filters.PENALTIES)


def test_an_epoch_too_short_to_leave_a_part_out_is_warned_of():
    noisy, clean = (X[None, :, :90] for X in recordings(seconds=10))
    with pytest.warns(UserWarning, match="X has one epoch of 90 samples, less than"):
        new_denoiser(sfreq=SFREQ).fit(noisy, clean)


def test_of_averages_the_share_is_subtracted_that_is_of_windows(monkeypatch):
    def averages(learn_from):
        """Relative errors of averages of clean epochs and of noisy ones."""
        return [
            np.linalg.norm(denoiser.apply(X, learn_from=Y).data - truth) / size
            for X, Y in zip((clean.average(), noisy.average()), learn_from, strict=True)
        ]

    denoiser = new_denoiser().fit(*map(a_raw, recordings()))
    noisy, clean = map(epochs_of, recordings(seed=1))
    truth = clean.average().data
    size = np.linalg.norm(truth)
    of_clean, of_noisy = averages((clean, noisy))
    # All of it, as before.
    everything = lambda learned, spectra: learned.band  # noqa: E731
    monkeypatch.setattr(_supervised, "gain_on_average", everything)
    all_of_clean, all_of_noisy = averages((clean, noisy))
    assert of_clean < 0.6 * all_of_clean
    assert of_noisy < all_of_noisy


def test_the_share_of_averages_is_the_one_with_the_least_squares():
    rng = np.random.default_rng(0)
    spectra = rng.standard_normal((50, 3, 5)) + 1j * rng.standard_normal((50, 3, 5))
    spectra *= rng.uniform(0, 4, (50, 1, 1))
    filters = rng.standard_normal((5, 2, 3))
    brain, band = np.ones((2, 5)), np.ones((2, 5), dtype=bool)
    learned = ArtifactFilter(rng.standard_normal((3, 2)), filters, brain, band)
    share = gain_on_average(learned, spectra)
    found = np.einsum("fri,wif->wrf", filters, spectra)
    taken = spectra - without_found(spectra, learned)
    taken = np.einsum("ri,wif->wrf", np.linalg.pinv(learned.topographies), taken)
    for r, f in np.ndindex(2, 5):
        a, b = found[:, r, f], taken[:, r, f]
        fit, *_ = np.linalg.lstsq(np.r_[a.real, a.imag][:, None], np.r_[b.real, b.imag])
        assert share[r, f] == pytest.approx(fit[0], rel=1e-4)


def test_without_artefacts_in_the_fit_apply_removes_none(pair):
    clean = a_raw(pair[1])
    denoiser = new_denoiser().fit(clean, clean)
    with pytest.warns(UserWarning, match="it knows no artefacts, and apply removes"):
        got = denoiser.apply(clean)
    np.testing.assert_array_equal(got.get_data(), clean.get_data())


@pytest.mark.parametrize("with_clean", [False, True])
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], "groups must have an entry for each epoch of X, got 2 for 30"),
        (
            [None] + ["a"] * 29,
            "each epoch, but it is None for 1 of them, first epoch 0",
        ),
        ([1.0] * 28 + [np.nan] * 2, "it is .*nan.* for 2 of them, first epoch 28"),
    ],
)
def test_groups_are_checked(pair, with_clean, groups, message):
    noisy, clean = map(in_epochs, pair)
    with pytest.raises(ValueError, match=message):
        new_denoiser(sfreq=SFREQ).fit(noisy, clean if with_clean else None, groups)
