"""Taking artefacts out, against signals whose artefacts and brain are known."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import butter, lfilter, sosfilt

from skmfr.eeg import _unsupervised
from skmfr.eeg._applying import N_WINDOWS, windows_to_learn_from
from skmfr.eeg._recordings import Reader
from skmfr.eeg._removal import (
    ArtifactFilter,
    _gain,
    artifacts_in,
    covariances,
    found_in_clean,
    learn_filter,
    learn_fixed_filter,
    share_removed,
)
from skmfr.eeg._scales import common_as_scaled, without_common
from skmfr.eeg._unsupervised import (
    as_recorded,
    filters_as_recorded,
    filters_for,
    removal,
    sizes_for,
)
from skmfr.eeg._windows import cut_windows

LENGTH, HOP = 100, 50


@pytest.fixture(scope="module")
def parts():
    """Brain, blinks and their topography; (1, n_channels, n_times) each."""
    rng = np.random.default_rng(0)
    n_channels, n_times = 8, 12_000
    mixing = rng.standard_normal((n_channels, n_channels)) + 2 * np.eye(n_channels)
    brain = mixing @ rng.standard_normal((n_channels, n_times))
    train = np.zeros(n_times)
    train[200:-200:450] = rng.uniform(0.5, 1.5, len(train[200:-200:450]))
    blinks = np.convolve(train, np.hanning(35), "same")
    topography = np.linspace(1, 0.05, n_channels) ** 2
    artefact = 40 * topography[:, None] * blinks
    return *(part[None].astype(np.float32) for part in (brain, artefact)), topography


def spectra(signals):
    windows = cut_windows(signals, LENGTH, HOP)[0].swapaxes(0, 1)
    return np.fft.rfft(windows).astype(np.complex64)


def covariance(signals):
    """Over all frequencies of a window."""
    return covariances(spectra(signals)).sum(0)


def learned(parts, tilt=0.15):
    """From atoms that are a little off, and have some of the brain in them."""
    brain, artefact, topography = parts
    rng = np.random.default_rng(1)
    off = topography + tilt * rng.standard_normal(len(topography))
    activity = artefact[:, :1] / topography[0] + 0.3 * brain[:, 3:4]
    marked = (off[:, None] * activity).astype(np.float32)
    return learn_filter(spectra(brain + artefact), covariance(marked))


def test_topographies_are_those_of_the_artefact_not_of_the_atoms(parts):
    topography = parts[2] / np.linalg.norm(parts[2])
    (found,) = learned(parts).topographies.T
    cosine = abs(found @ topography) / np.linalg.norm(found)
    assert cosine > 0.995


def test_a_filter_learned_in_average_reference_serves_the_recorded_one(parts):
    """The reference electrode has noise of its own, and a part of the blinks."""
    brain, artefact, topography = parts
    rng = np.random.default_rng(2)
    noise = 20 * rng.standard_normal(brain.shape[2]).astype(np.float32)
    at_reference = -0.5 * artefact[:, :1] / topography[0]
    scale = rng.uniform(0.5, 2, 8)
    denoiser = SimpleNamespace(scale_=scale, reference_weights_=np.full(8, 1 / 8))

    def scaled(signals):
        return (signals / scale[:, None]).astype(np.float32)

    recorded = scaled(brain + artefact - at_reference - noise)
    average = without_common(denoiser, recorded)
    of_artefact = covariance(without_common(denoiser, scaled(artefact)))
    found = learn_filter(spectra(average), of_artefact)
    windows = cut_windows(recorded, LENGTH, HOP)[0].swapaxes(0, 1)
    served = as_recorded(denoiser, found, windows)
    # It finds the same, whatever the reference records.
    size = np.linalg.norm(served.filters)
    np.testing.assert_allclose(
        served.filters @ common_as_scaled(denoiser), 0, atol=1e-6 * size
    )
    np.testing.assert_allclose(
        served.filters @ recorded[0, :, :500],
        found.filters @ average[0, :, :500],
        atol=1e-3 * np.abs(found.filters @ average[0, :, :500]).max(),
    )
    # And takes out what the artefact is in this reference, the common part too.
    truth = scaled(artefact - at_reference)
    removed = artifacts_in(recorded, served, LENGTH, HOP)
    in_average = artifacts_in(average, found, LENGTH, HOP)
    assert np.square(removed - truth).sum() < 0.05 * np.square(truth).sum()
    assert np.square(in_average - truth).sum() > 0.3 * np.square(truth).sum()
    denoiser.reference_weights_ = np.zeros(8)
    assert filters_as_recorded(denoiser, [found], windows) == [found]


def test_artefacts_go_and_brain_stays(parts):
    """Nearly as well as with the true topography and the brain's own covariance."""
    brain, artefact, topography = parts
    mixed = brain + artefact
    error = brain - (mixed - artifacts_in(mixed, learned(parts), LENGTH, HOP))
    precision = np.linalg.inv(np.cov(brain[0]))
    best = topography @ precision / (topography @ precision @ topography)
    ideal = np.square(np.outer(topography, best @ brain[0])).sum()
    # The ideal filter is on all the time, ours where there are blinks.
    assert np.square(error).sum() < ideal
    there = np.convolve(np.abs(artefact[0, 0]) > 1, np.ones(2 * LENGTH), "same") > 0
    assert 0.2 < there.mean() < 0.9
    far = artifacts_in(mixed, learned(parts), LENGTH, HOP)[..., ~there]
    assert np.square(far).sum() < 0.01 * np.square(brain[..., ~there]).sum()


def test_topographies_are_right_where_no_window_is_quiet(parts):
    brain, _, topography = parts
    train = np.zeros(brain.shape[2])
    train[::40] = np.random.default_rng(5).uniform(0.5, 1.5, len(train[::40]))
    blinks = np.convolve(train, np.hanning(35), "same")
    artefact = (40 * topography[:, None] * blinks)[None].astype(np.float32)
    (found,) = learned((brain, artefact, topography)).topographies.T
    cosine = abs(found @ topography)
    cosine /= np.linalg.norm(found) * np.linalg.norm(topography)
    assert cosine > 0.998


def test_filters_are_of_each_frequency():
    """Two channels, and rhythms of the brain that no one filter can keep out."""
    rng = np.random.default_rng(6)
    n_times = 20_000

    def rhythm(*edges):
        sos = butter(2, edges, "bandpass", fs=LENGTH, output="sos")
        return 10 * sosfilt(sos, rng.standard_normal(n_times))

    brain = np.outer([1, -1], rhythm(1.5, 3.5)) + np.outer([1, 0], rhythm(6, 8))
    brain += 0.2 * rng.standard_normal(brain.shape)
    train = np.zeros(n_times)
    train[200:-200:450] = rng.uniform(0.5, 1.5, len(train[200:-200:450]))
    topography = np.array([1, 0.8])
    artefact = 30 * np.outer(topography, np.convolve(train, np.hanning(21), "same"))
    brain, artefact = (part[None].astype(np.float32) for part in (brain, artefact))
    found = learn_filter(spectra(brain + artefact), covariance(artefact))
    removed = artifacts_in(brain + artefact, found, LENGTH, HOP, everywhere=True)
    # What one filter for all frequencies takes of the brain, at best.
    precision = np.linalg.inv(np.cov(brain[0]))
    best = topography @ precision / (topography @ precision @ topography)
    single = np.square(np.outer(topography, best @ brain[0])).sum()
    assert np.square(artefact - removed).sum() < 0.3 * single


def test_as_many_topographies_as_stand_out_beside_the_brain(parts):
    """A second artefact counts if it is small beside the first, but not the brain."""
    brain, artefact, topography = parts
    rng = np.random.default_rng(7)
    train = np.zeros(brain.shape[2])
    train[400:-200:450] = rng.uniform(0.5, 1.5, len(train[400:-200:450]))
    blinks = np.convolve(train, np.hanning(35), "same")
    second = np.linspace(0, 1, len(topography)) ** 3
    small = (40 * second[:, None] * blinks)[None].astype(np.float32)
    artefact = 6 * artefact
    both = artefact + small
    found = learn_filter(spectra(brain + both), covariance(both)).topographies
    assert found.shape[1] == 2
    within = np.linalg.svd(
        np.linalg.qr(found)[0].T @ np.linalg.qr(np.c_[topography, second])[0]
    )[1]
    assert within.min() > 0.99
    # As small a part of the brain among the atoms is not an artefact.
    marked = artefact + 0.1 * second[:, None] * brain[:, -1:]
    found = learn_filter(spectra(brain + artefact), covariance(marked)).topographies
    assert found.shape[1] == 1


@pytest.mark.parametrize("n_artefacts", [4, 5, 7])
def test_at_most_five_topographies_are_removed(n_artefacts):
    """Bursts one after the other, each somewhere else."""
    rng = np.random.default_rng(11)
    brain = rng.standard_normal((8, 12_000))
    train = np.zeros((n_artefacts, 12_000))
    for i, each in enumerate(train):
        each[300 + 150 * i :: 150 * (n_artefacts + 6)] = 1
    bursts = np.array([np.convolve(each, np.hanning(35), "same") for each in train])
    artefact = 40 * np.eye(8)[:, :n_artefacts] @ bursts
    brain, artefact = (part[None].astype(np.float32) for part in (brain, artefact))
    found = learn_filter(spectra(brain + artefact), covariance(artefact)).topographies
    assert found.shape[1] == min(n_artefacts, 5)


def test_gain_rises_from_the_power_of_the_brain_to_four_times_that():
    power = np.array([0.5, 0.5, 0.5, 4.0, 4.0, 4.0, 0.0], dtype=np.float32)
    found = np.sqrt(power)[None, None, :, None].astype(np.complex64)
    gain = _gain(found, np.ones(1), np.zeros((1, 1)))
    # Of three windows side by side: 0.5, 0.5, 1.67, 2.83, 4, 2.67, 1.33.
    expected = [0, 0, 2 / 9, 11 / 18, 1, 5 / 9, 1 / 9]
    np.testing.assert_allclose(gain[0, 0, :, 0], expected, rtol=1e-5)
    assert not _gain(0 * found, np.zeros(1), np.zeros((1, 1))).any()


def test_gain_is_of_frequencies_too():
    """A loud window, with as much of the brain at some frequencies as ever."""
    power = np.repeat([10.0, 1.0], 10).astype(np.float32)
    found = np.sqrt(power)[None, None, None].astype(np.complex64)
    gain = _gain(found, np.ones(1), np.ones((1, 20)))[0, 0, 0]
    # Of five frequencies side by side: 10, ..., 8.2, 6.4, 4.6, 2.8, 1, ...
    expected = np.repeat([1.0, 0.0], [11, 9])
    expected[11] = 0.6
    np.testing.assert_allclose(gain, expected, atol=1e-5)


def test_covariances_are_weighted_means_of_products():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((5, 3, 4)) + 1j * rng.standard_normal((5, 3, 4))
    weight = np.array([0.5, 0.5, 1, 1, 2])
    expected = [
        [
            [np.mean(weight * x[:, i, f] * x[:, j, f].conj()).real for j in range(3)]
            for i in range(3)
        ]
        for f in range(4)
    ]
    np.testing.assert_allclose(covariances(x, weight), expected)
    np.testing.assert_allclose(covariances(x), covariances(x, np.ones(5)))


def test_what_filters_find_in_clean_signals_is_relative_to_the_rest():
    """Of two channels the first has the artefact, and a filter that hears half of it.

    With clean power 4 and 9 at the first frequency and anything at the second, which is
    not in the band, the filter finds 9 / 4, and what it leaves is the first channel
    less half of the second, and the second.
    """
    rng = np.random.default_rng(9)
    other = rng.standard_normal((2, 2))
    clean = np.stack([np.diag([4.0, 9.0]), other @ other.T])
    learned = ArtifactFilter(
        topographies=np.array([[1.0], [0.0]]),
        filters=np.array([[[0.0, 0.5]], [[0.0, 0.0]]]),
        brain=np.ones((1, 2)),
        band=np.array([[True, False]]),
    )
    left = 4 + 9 / 4 + 9 + np.trace(clean[1])
    expected = [9 / 4 / left]
    np.testing.assert_allclose(found_in_clean(learned, clean), expected)
    np.testing.assert_allclose(found_in_clean(learned, 1e-12 * clean), expected)


def test_clean_signals_set_the_gain_of_a_window():
    """Closed form: a steady artefact, in proportion to what is beyond the brain's."""
    length, hop = 100, 25
    slow, fast = (
        np.sin(2 * np.pi * cycles * np.arange(1000) / length) for cycles in (5, 20)
    )
    signals = np.stack([3 * slow, fast])[None]
    n_freqs = length // 2 + 1
    learned = ArtifactFilter(
        topographies=np.array([[1.0], [0.0]]),
        filters=np.tile([[1.0, 0.0]], (n_freqs, 1, 1)),
        brain=np.zeros((1, n_freqs)),
        band=np.ones((1, n_freqs), dtype=bool),
        in_clean=np.array([3.0]),
    )
    removed = artifacts_in(signals, learned, length, hop)
    # Power 9 of the artefact, and three times the power 1 of the rest.
    inside = slice(2 * length, -2 * length)
    expected = (9 / 3 - 1) / 3 * 3 * slow[inside]
    np.testing.assert_allclose(removed[0, 0, inside], expected, rtol=3e-4, atol=1e-6)
    assert not removed[0, 1].any()
    # What clean signals have as much of, relative to the rest, is the brain.
    quiet = artifacts_in(signals * [[1 / 3], [1]], learned, length, hop)
    assert not quiet[..., inside].any()


def test_average_reference_is_no_obstacle(parts):
    brain, artefact, topography = parts
    brain, artefact = (part - part.mean(1, keepdims=True) for part in (brain, artefact))
    centred = topography - topography.mean()
    filters = learn_filter(spectra(brain + artefact), covariance(artefact))
    (found,) = filters.topographies.T
    assert abs(found @ centred) > 0.99 * np.linalg.norm(found) * np.linalg.norm(centred)
    assert found.sum() == pytest.approx(0, abs=1e-3 * np.abs(found).max())


@pytest.fixture(scope="module")
def heartbeats():
    """Brain of slow rhythms, heartbeats in each window, and their topography."""
    rng = np.random.default_rng(10)
    n_channels, n_times = 8, 12_000
    mixing = rng.standard_normal((n_channels, n_channels))
    sources = rng.standard_normal((n_channels, n_times))
    brain = mixing @ lfilter([1], [1, -0.95], sources) + 0.3 * mixing @ sources
    train = np.zeros(n_times)
    train[np.cumsum(rng.integers(70, 100, n_times // 100))] = 1
    course = np.convolve(train, [-2, -3, 10, 20, 12, -5, -2, 0, 1, 2, 3, 2, 1], "same")
    topography = np.linspace(1, -1, n_channels)
    beats = 2.0 * topography[:, None] * course
    return *(part[None].astype(np.float32) for part in (brain, beats)), topography


@pytest.fixture(scope="module")
def marked_beats(heartbeats):
    """As atoms have them: a part of them, a little off, and some of the brain."""
    brain, beats, topography = heartbeats
    off = topography + 0.3 * np.random.default_rng(1).standard_normal(len(topography))
    return off[:, None].astype("f4") * (0.3 * beats[:, :1] + 0.1 * brain[:, 3:4])


@pytest.fixture(scope="module")
def learned_of_beats(heartbeats, marked_beats):
    mixed = heartbeats[0] + heartbeats[1]
    return learn_fixed_filter(spectra(mixed), covariance(marked_beats), LENGTH)


def test_heartbeats_go_though_no_window_is_without(heartbeats, learned_of_beats):
    """As the best fixed filter does that knows brain, topography and beats."""
    brain, beats, topography = heartbeats
    (found,) = learned_of_beats.topographies.T
    cosine = abs(found @ topography) / np.linalg.norm(found)
    assert cosine > 0.995 * np.linalg.norm(topography)
    mixed = brain + beats
    error = beats - artifacts_in(mixed, learned_of_beats, LENGTH, HOP)
    precision = np.linalg.inv(np.cov(brain[0]))
    best = topography @ precision / (topography @ precision @ topography)
    ideal = np.square(np.outer(topography, best @ brain[0])).sum()
    assert ideal < 0.2 * np.square(beats).sum()
    assert np.square(error).sum() < 1.05 * ideal


def test_one_filter_takes_heartbeats_out_at_all_times(heartbeats, learned_of_beats):
    mixed = heartbeats[0] + heartbeats[1]
    removed = artifacts_in(mixed, learned_of_beats, LENGTH, HOP)
    filters = learned_of_beats.filters
    assert np.ptp(filters, axis=0).max() == 0
    expected = learned_of_beats.topographies @ filters[0] @ mixed[0]
    np.testing.assert_allclose(removed[0], expected, atol=1e-4 * np.abs(expected).max())


def test_removal_learns_from_samples_where_no_window_is_quiet(heartbeats, marked_beats):
    """With an atom for each sample of a window, which together are as marked."""
    brain, beats, _ = heartbeats
    off, size, course = np.linalg.svd(marked_beats[0], full_matrices=False)
    codes = cut_windows(size[0] * course[0], LENGTH, HOP)
    denoiser = SimpleNamespace(
        n_times_=LENGTH,
        hop_=HOP,
        n_channels_=8,
        mean_=np.zeros(8),
        scale_=np.ones(8),
        reference_weights_=np.zeros(8),
        atoms_=off[:, 0, None] * np.eye(LENGTH, dtype="f4")[:, None],
        pca_=SimpleNamespace(transform=lambda windows: windows),
        sae_=SimpleNamespace(transform=lambda windows: codes),
    )
    mixed = brain + beats
    remove = removal(denoiser, np.arange(LENGTH), Reader(mixed, None, "X"))
    left = np.square(remove(mixed) - brain).sum() / np.square(beats).sum()
    assert left < 0.15


def as_atoms(*artefacts):
    """Atoms and codes of signals of rank 1: principal components of their windows."""
    atoms, codes = [], []
    for artefact in artefacts:
        off, size, course = np.linalg.svd(artefact[0], full_matrices=False)
        windows = cut_windows(size[0] * course[0], LENGTH, HOP)
        scores, sizes, components = np.linalg.svd(windows, full_matrices=False)
        n = np.sum(sizes > 0.05 * sizes[0])
        atoms.append(off[:, 0, None] * components[:n, None])
        codes.append((scores * sizes)[:, :n])
    return np.concatenate(atoms).astype("f4"), np.concatenate(codes, axis=1)


def test_each_of_two_filters_takes_its_own_part_of_the_reference():
    """Blinks have a mean over channels, and heartbeats, whose filter is later, none."""
    rng = np.random.default_rng(0)
    mixing = 0.3 * np.cumsum(rng.standard_normal((16, 16)), axis=0)
    brain = (mixing @ rng.standard_normal((16, 30_000)))[None].astype(np.float32)
    train, every = np.zeros((2, 30_000))
    train[300::450] = every[::80] = 1
    frontal, back = np.linspace(1, 0, 16) ** 3, np.where(np.arange(16) > 8, 1, -0.3)
    blinks = 30 * np.outer(frontal, np.convolve(train, np.hanning(30), "same"))
    beats = np.outer(back - back.mean(), np.convolve(every, [-4, 12, -5], "same"))
    artefacts = [part[None].astype(np.float32) for part in (blinks, beats)]
    weights = np.full(16, 1 / 16)
    denoiser = SimpleNamespace(scale_=np.ones(16), reference_weights_=weights)
    atoms, codes = as_atoms(*(without_common(denoiser, each) for each in artefacts))
    recorded = cut_windows(brain + sum(artefacts), LENGTH, HOP)[0].swapaxes(0, 1)
    found = filters_for(without_common(denoiser, recorded), atoms, codes)
    first, second = filters_as_recorded(denoiser, found, recorded)
    for learned, artefact in ((first, frontal), (second, back - back.mean())):
        topography = learned.topographies[:, -1]
        share = topography.mean() / np.abs(topography).max()
        assert abs(share) == pytest.approx(artefact.mean(), abs=0.1)


def share_of(artefact, mixed):
    """Share of an artefact that a filter which is learned from windows takes out."""
    learned = learn_filter(spectra(mixed), covariance(artefact))
    atoms, codes = as_atoms(artefact)
    of_atoms = np.fft.rfft(atoms).astype(np.complex64)
    removed = share_removed(learned, spectra(mixed), of_atoms, codes)
    power = np.square(codes).sum(0)
    return removed @ power / power.sum()


def test_share_removed_tells_heartbeats_from_blinks(parts, heartbeats, marked_beats):
    """Where no window is quiet, a filter of quiet windows misses what atoms have."""
    brain, blinks, _ = parts
    assert share_of(blinks, brain + blinks) > 0.9
    assert share_of(marked_beats, heartbeats[0] + heartbeats[1]) < 0.25


def test_share_removed_is_of_what_is_subtracted():
    """Closed form: of one channel, at one of two frequencies, in one of two windows."""
    learned = ArtifactFilter(
        topographies=np.array([[1.0], [0.0]]),
        filters=np.array([[[0.5, 0.0]], [[0.5, 0.0]]]),
        brain=np.ones((1, 2)),
        band=np.array([[True, False]]),
    )
    atoms = np.array([[[2.0, 1.0], [2.0, 1.0]], [[2.0, 1.0], [0.0, 0.0]]]) + 0j
    # Loud and quiet, at least three of each side by side.
    windows = np.repeat([100.0, 0.0], 4)[:, None, None] * np.ones((1, 2, 2)) + 0j
    codes = np.zeros((8, 3))
    codes[[0, 6], 0] = codes[0, 1] = 1
    atoms = np.concatenate([atoms, atoms[:1]])
    removed = share_removed(learned, windows, atoms, codes)
    # Of 10 in each of two windows, the amplitude of 4 is halved in one; of 5, the same.
    np.testing.assert_allclose(removed, [3 / 20, 3 / 5, 0])


@pytest.fixture(scope="module")
def hum():
    """The mains in all channels, (1, n_channels, n_times)."""
    time = np.arange(12_000) / LENGTH
    weight = np.random.default_rng(2).uniform(0.3, 1, 8)
    return (30 * weight[:, None] * np.sin(2 * np.pi * 25 * time))[None].astype("f4")


def test_what_leaves_windows_quiet_and_what_does_not_go_together(parts, hum):
    """Blinks and the mains, either of which is much larger than what is left."""
    brain, blinks, _ = parts
    mixed = brain + blinks + hum
    windows = cut_windows(mixed, LENGTH, HOP)[0].swapaxes(0, 1)
    first, second = filters_for(windows, *as_atoms(blinks, hum))
    after = mixed - artifacts_in(mixed, first, LENGTH, HOP)
    after -= artifacts_in(after, second, LENGTH, HOP)
    error = np.square(after - brain).sum()
    assert error < 0.05 * min(np.square(blinks).sum(), np.square(hum).sum())


def test_heartbeats_that_are_found_and_taken_for_the_brain_go(heartbeats):
    """The filter of windows finds all of them, and subtracts a quarter of the power."""
    brain, beats, _ = heartbeats
    beats = beats / 2
    mixed = brain + beats
    windows = cut_windows(mixed, LENGTH, HOP)[0].swapaxes(0, 1)
    (learned,) = filters_for(windows, *as_atoms(beats))
    error = beats - artifacts_in(mixed, learned, LENGTH, HOP)
    assert np.square(error).sum() < 0.4 * np.square(beats).sum()


def test_windows_to_learn_from_are_chosen_before_they_are_copied():
    """Each fourth that has a signal, in twice the memory of those and the signals."""
    n_channels, length, n_times = 8, 100, 60_000
    X = np.random.default_rng(11).standard_normal((1, n_channels, n_times))
    X = X.astype(np.float32)
    X[..., 20_000:30_000] = 0
    denoiser = SimpleNamespace(
        n_times_=length,
        hop_=25,
        n_channels_=n_channels,
        mean_=np.zeros(n_channels),
        scale_=np.ones(n_channels),
    )
    epochs = X.reshape(n_channels, -1, 300).swapaxes(0, 1)
    reader = Reader(epochs, None, "X")
    tracemalloc.start()
    windows = windows_to_learn_from(denoiser, reader)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    cut = cut_windows(epochs, length, 25).swapaxes(1, 2).reshape(-1, n_channels, length)
    cut = cut[np.square(cut).sum((1, 2)) > 0.05 * np.square(cut[0]).sum()]
    assert len(cut) > 2 * N_WINDOWS
    expected = cut[np.linspace(0, len(cut) - 1, N_WINDOWS).astype(int)]
    np.testing.assert_allclose(windows, expected, rtol=1e-6)
    assert most < 2 * (X.nbytes + windows.nbytes) + X.nbytes


@pytest.mark.parametrize(
    ("n_windows", "expected"),
    [(10, (4, 8, 2)), (600, (50, 100, 6)), (10_000, (512, 256, 16))],
)
def test_how_much_is_learned_follows_from_the_number_of_windows(n_windows, expected):
    assert sizes_for(n_windows, 10_240) == expected


def test_no_more_is_learned_than_there_is():
    assert sizes_for(10_000, 3) == (3, 6, 2)


@pytest.mark.parametrize(("size", "n_filters"), [(0.2, 1), (0.3, 2)])
def test_remnants_of_other_atoms_get_no_filter_that_is_always_on(
    monkeypatch, size, n_filters
):
    """Of an atom with .2² or .3² of the power of another, little is removed."""
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((200, 6, 32)).astype(np.float32)
    blink = np.outer([1, 0.9, 0.4, 0.3, 0.1, 0], np.hanning(32))
    codes = np.zeros((200, 2))
    codes[::10] = 30, 30 * size
    windows += codes[:, :1, None] * blink.astype(np.float32)
    monkeypatch.setattr(
        _unsupervised, "share_removed", lambda *args: np.array([0.98, 0.04])
    )
    atoms = np.stack([blink, blink]).astype(np.float32)
    assert len(filters_for(windows, atoms, codes)) == n_filters
