"""Constant offsets are neither artefacts nor brain."""

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, _spans, _supervised, plot_atom, score_atoms
from skmfr.eeg._recordings import Reader
from skmfr.eeg._scales import centre_here, centre_of

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SFREQ, EPOCH = 100.0, 200
NAMES = ["Fp1", "Fp2", "Cz", "O1"]
# Volts; signals have a standard deviation of 10 microvolts.
OFFSETS = np.array([1, -0.5, 0.8, -1])[:, None]


def small_sae(**more):
    return MFRSparseAutoencoder(
        8, k=2, n_saes=1, n_witnesses=1, max_steps=20, random_state=0, **more
    )


@pytest.fixture(scope="module")
def pair():
    """A recording with blinks, and the same without: (n_channels, n_times) each."""
    rng = np.random.default_rng(0)
    n = int(60 * SFREQ)
    clean = rng.standard_normal((4, n + 4))
    clean = sum(clean[:, i : n + i] for i in range(4)) / 2
    clean = rng.standard_normal((4, 4)) @ clean / 2
    blinks = np.convolve(rng.random(n) < 0.4 / SFREQ, np.hanning(30), "same")
    noisy = clean + 20 * np.outer([1, 0.9, 0.2, 0], blinks)
    return 1e-5 * noisy, 1e-5 * clean, 1e-5 * 20 * blinks


def a_raw(data, eog):
    info = mne.create_info([*NAMES, "EOG"], SFREQ, ["eeg"] * 4 + ["eog"])
    raw = mne.io.RawArray(np.vstack([data, eog]), info, verbose="error")
    with raw.info._unlock():
        raw.info["highpass"] = 1.0
    return raw


@pytest.fixture(scope="module")
def noisy(pair):
    return a_raw(pair[0], pair[2])


@pytest.fixture(scope="module")
def denoiser(noisy):
    sae = small_sae(transform_algorithm="omp")
    return EEGDenoiser(window=0.5, sae=sae, random_state=0).fit(noisy)


@pytest.fixture(scope="module")
def supervised(pair, noisy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_supervised, "FIT_ROWS", 3000)
        fitted = EEGDenoiser(window=0.5, sae=small_sae(), random_state=0)
        return fitted.fit(noisy, a_raw(pair[1], pair[2]))


WAYS = [
    ("denoiser", lambda one, X: one.apply(X, exclude=[0, 1])),
    ("denoiser", lambda one, X: one.transform(X)),
    ("supervised", lambda one, X: one.apply(X)),
    ("supervised", lambda one, X: one.transform(X)),
]


@pytest.fixture(params=WAYS, ids=["apply", "transform", "apply to y", "transform to y"])
def way(request):
    """What is done with a recording."""
    name, use = request.param
    fitted = request.getfixturevalue(name)
    return lambda X: use(fitted, X)


@pytest.fixture
def kept(request):
    """Share of an offset that stays: none in estimates of clean signals."""
    return 0.0 if "transform to y" in request.node.name else 1.0


def shifted(raw, volts):
    there = raw.copy()
    there._data[:4] += volts * OFFSETS
    return there


@pytest.mark.parametrize("volts", [5e-5, 1e-3, 0.1])
def test_an_offset_stays_and_changes_nothing_else(way, kept, noisy, volts):
    expected = way(noisy).get_data("eeg") + kept * volts * OFFSETS
    got = way(shifted(noisy, volts)).get_data("eeg")
    # Centres that are their own differ a little from those of the fit.
    np.testing.assert_allclose(got, expected, atol=2e-7)


def test_epochs_with_an_offset_are_denoised_as_without(way, kept, noisy):
    epochs = mne.make_fixed_length_epochs(noisy, 2.0, preload=True, verbose="error")
    there = epochs.copy()
    there._data[:, :4] += 1e-3 * OFFSETS
    expected = way(epochs).get_data("eeg") + kept * 1e-3 * OFFSETS
    got = way(there).get_data("eeg")
    np.testing.assert_allclose(got, expected, atol=2e-7)


def test_centres_are_the_same_however_much_is_read_at_once(way, noisy, monkeypatch):
    there = shifted(noisy, 1e-3)
    expected = way(there).get_data("eeg")
    monkeypatch.setattr(_spans, "CHUNK", 7.3)
    monkeypatch.setattr("skmfr.eeg._recordings.CHUNK", 7.3)
    one, other = Reader(there, NAMES, "X"), Reader(there, NAMES, "X")
    monkeypatch.setattr("skmfr.eeg._recordings.CHUNK", 30.0)
    np.testing.assert_array_equal(one.moments(50), other.moments(50))
    np.testing.assert_allclose(way(there).get_data("eeg"), expected, atol=1e-9)


def test_atoms_have_the_scores_that_they_have_without_an_offset(denoiser, noisy):
    expected = score_atoms(denoiser, noisy).astype(float)
    got = score_atoms(denoiser, shifted(noisy, 3e-3)).astype(float)
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_explained_variance_has_no_part_in_an_offset(denoiser, noisy):
    expected = denoiser.score(noisy)
    assert denoiser.score(shifted(noisy, 3e-3)) == pytest.approx(expected, abs=0.01)


def test_an_offset_of_an_average_stays(denoiser, noisy):
    epochs = mne.make_fixed_length_epochs(noisy, 2.0, preload=True, verbose="error")
    average = epochs.average()
    there = average.copy()
    there.data += 1e-3 * OFFSETS
    one, other = (
        denoiser.apply(X, exclude=[0, 1], learn_from=noisy).data
        for X in (average, there)
    )
    # One average does not tell its offset from that of the blinks in it.
    difference = other - 1e-3 * OFFSETS - one
    difference -= difference.mean(1, keepdims=True)
    assert np.abs(difference).max() < 2e-7


def test_a_piece_has_the_offset_of_the_recording_that_it_learns_from(denoiser, noisy):
    there = shifted(noisy, 3e-5)  # too little to see in a second
    one, other = (
        denoiser.apply(X.copy().crop(20, 21), exclude=[0, 1], learn_from=X)
        for X in (noisy, there)
    )
    expected = one.get_data("eeg") + 3e-5 * OFFSETS
    np.testing.assert_allclose(other.get_data("eeg"), expected, atol=2e-7)


def test_a_slow_wave_in_one_epoch_is_no_offset(supervised, noisy):
    X = noisy.get_data("eeg").reshape(4, -1, EPOCH).swapaxes(0, 1).copy()
    X[3] += 1.5 * supervised.scale_[:, None]
    together = supervised.transform(X)[3:4]
    np.testing.assert_allclose(supervised.transform(X[3:4]), together, atol=1e-11)


def test_an_offset_that_responses_may_have_stays(supervised, noisy):
    """What all epochs have of a response is centred like one, but is the brain's."""
    X = noisy.get_data("eeg").reshape(4, -1, EPOCH).swapaxes(0, 1)
    there = X + 2 * 1e-5 * OFFSETS
    centre = centre_of(supervised, Reader(there, None, "X"))
    assert (np.abs(centre - supervised.mean_) > 5e-6).all()
    got, expected = supervised.transform(there), supervised.transform(X)
    np.testing.assert_allclose(got - expected, there - X, atol=2e-7)


def test_centres_are_far_if_chance_does_not_explain_them():
    class Fitted:
        mean_, scale_ = np.zeros(2), np.ones(2)

    def windows(n, *means):
        return np.tile(np.array(means, dtype=float), (n, 1)), np.ones((n, 2))

    def check(expected, *arguments):
        np.testing.assert_array_equal(centre_here(Fitted, *arguments), expected)

    check([0, 0], windows(1, 3.9, -3.9))
    check([0.1, 4.1], windows(1, 0.1, 4.1))
    check([0, 0], windows(16, 0.9, 0.9))
    check([0.9, 1.1], windows(16, 0.9, 1.1))
    check([0, 0], windows(900, 0.24, -0.24))
    check([0.24, -0.26], windows(900, 0.24, -0.26))
    check([3, 0], windows(1, 2, 1), np.array([3.0, 3.0]))
    # Not where a part is as in the fit.
    mean, variance = windows(900, 1, -1)
    mean[:200] = 0
    check([0, 0], (mean, variance))
    # An average, to which all that is done is linear.
    check([0, 0], windows(2, 29, 29), None, 100)
    check([29, 31], windows(2, 29, 31), None, 100)


def test_offsets_that_differ_between_epochs_are_warned_of(denoiser, noisy):
    X = noisy.get_data("eeg").reshape(4, -1, EPOCH).swapaxes(0, 1)
    X = X + 1e-4 * np.random.default_rng(0).standard_normal((len(X), 4, 1))
    with pytest.warns(UserWarning, match="Epochs of X have offsets that differ by"):
        denoiser.transform(X)
    fresh = EEGDenoiser(window=0.5, sfreq=SFREQ, sae=denoiser.sae, random_state=0)
    with pytest.warns(UserWarning, match="Epochs of X have offsets that differ by"):
        fresh.fit(X)


def test_averages_are_smaller_than_what_they_are_of(denoiser, noisy, recwarn):
    epochs = mne.make_fixed_length_epochs(noisy, 2.0, preload=True, verbose="error")
    average = epochs.average()
    average.nave, average.data = 10_000, average.data / 100
    denoiser.apply(average, exclude=[0], learn_from=noisy)
    assert not any("standard deviation" in str(each.message) for each in recwarn)
    average.data /= 100  # smaller than that of noise without a signal
    with pytest.warns(UserWarning, match="very different standard deviation"):
        denoiser.apply(average, exclude=[0], learn_from=noisy)


def test_windows_are_drawn_without_an_offset(denoiser, noisy):
    plt = pytest.importorskip("matplotlib.pyplot")
    one, other = (
        [line.get_ydata() for axis in figure.axes[3:] for line in axis.lines]
        for figure in (plot_atom(denoiser, 0, X) for X in (noisy, shifted(noisy, 1e-3)))
    )
    np.testing.assert_allclose(one, other, atol=0.2)  # microvolts
    plt.close("all")
