import pickle
import warnings
from copy import copy
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_noisy_eeg
from skmfr.eeg import EEGDenoiser, _learning, _spans, _supervised, rrmse_t
from skmfr.eeg._supervised import (
    corrections,
    folds_of_epochs,
    relative_weights,
    remixed,
)
from skmfr.eeg._windows import cut_windows, overlap_add

mne = pytest.importorskip("mne")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SFREQ = 100.0
# Filters for windows of a second, the default, take three times as long to find.
SHORT = {"sfreq": SFREQ, "window": 0.5}
NAMES = ["Fp1", "Fp2", "Cz", "O1"]
APPLY = {"transform": {}, "apply": {"exclude": [1, 3]}}


def small_sae(**changes) -> MFRSparseAutoencoder:
    usual = {"n_components": 16, "k": 4, "n_saes": 2, "max_steps": 30}
    return MFRSparseAutoencoder(
        **(usual | {"n_witnesses": 1, "random_state": 0} | changes)
    )


def signals(n_epochs=30, n_channels=4, n_times=200, seed=0):
    """Alpha rhythms of random phase, and slow artefacts with one topography, volts."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_times) / SFREQ
    phase = rng.uniform(0, 2 * np.pi, (n_epochs, n_channels, 1))
    clean = np.sin(2 * np.pi * 10 * time + phase)
    clean += 0.3 * rng.standard_normal(clean.shape)
    topography = np.linspace(1, 0.1, n_channels)[:, None]
    slow = np.cumsum(rng.standard_normal((n_epochs, 1, n_times)), axis=2)
    noisy, clean, *_ = make_noisy_eeg(1e-5 * clean, topography * slow, random_state=0)
    return 1e-5 * noisy, 1e-5 * clean


def a_raw(data, names=NAMES, **more):
    """Recording of one or more epochs, one after the other, with a stimulus channel."""
    data = data if data.ndim == 2 else np.concatenate(list(data), axis=1)
    info = mne.create_info([*names, "STI"], SFREQ, ["eeg"] * len(names) + ["stim"])
    stim = np.arange(data.shape[1])[None] % 7
    return mne.io.RawArray(np.vstack([data, stim]), info, verbose="error", **more)


def some_epochs(data):
    info = mne.create_info(NAMES, SFREQ, "eeg")
    return mne.EpochsArray(data, info, verbose="error")


@pytest.fixture(scope="module", autouse=True)
def small_fits():
    """No mixtures beyond a few, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_supervised, "FIT_ROWS", 3000)
        yield


@pytest.fixture(scope="module")
def supervised():
    noisy, clean = signals(60)
    return EEGDenoiser(**SHORT, sae=small_sae(), random_state=0).fit(noisy, clean)


@pytest.fixture(scope="module")
def unsupervised():
    raw = a_raw(signals()[0])
    return EEGDenoiser(sae=small_sae(transform_algorithm="omp")).fit(raw)


def test_clean_signals_are_recovered_better_than_by_a_fixed_filter(supervised):
    """A Wiener filter from the very signals that are scored, but one for all epochs."""
    noisy, clean = signals(40, seed=1)
    spectra = [np.fft.rfft(part) for part in (noisy, clean)]
    weight = 1 / np.square(clean).mean((1, 2), keepdims=True)
    gain = np.sum(weight * (spectra[0].conj() * spectra[1]).real, axis=0)
    gain /= np.sum(weight * np.abs(spectra[0]) ** 2, axis=0)
    fixed = np.fft.irfft(gain * spectra[0], 200)
    ours = rrmse_t(clean, supervised.transform(noisy)).mean()
    assert ours < rrmse_t(clean, fixed).mean()
    assert supervised.score(noisy, clean) == pytest.approx(-ours, rel=1e-12)


def test_clean_signals_stay_and_noisy_ones_are_no_worse():
    """Beside the same filters applied to all windows."""

    def centred(n_epochs, seed):
        noisy, clean = signals(n_epochs, seed=seed)
        noise = noisy - clean
        return clean + noise - noise.mean(2, keepdims=True), clean

    denoiser = EEGDenoiser(**SHORT, sae=small_sae(), random_state=0)
    denoiser.fit(*centred(60, 0))
    everywhere = copy(denoiser)
    everywhere.least_correction_ = 0.0
    noisy, clean = centred(40, 1)
    harm, harm_everywhere, left, left_everywhere = (
        rrmse_t(clean, one.transform(X)).mean()
        for X in (clean, noisy)
        for one in (denoiser, everywhere)
    )
    assert harm < 0.4 * harm_everywhere
    assert left < 1.01 * left_everywhere
    with np.errstate(all="raise"):
        denoiser.transform(np.tile(denoiser.mean_[:, None], (1, 1, 200)))


def test_windows_without_correction_keep_their_mean(supervised):
    """Clean signals may have another mean, to which only denoised windows move."""
    moved = copy(supervised)
    moved.clean_mean_ = moved.mean_ + moved.scale_
    data = signals(4, seed=1)[0]
    moved.least_correction_ = 1e12
    np.testing.assert_allclose(moved.transform(data), data, rtol=1e-12)
    moved.least_correction_ = 0.0
    unmoved = copy(moved)
    unmoved.clean_mean_ = moved.mean_
    np.testing.assert_allclose(
        moved.transform(data) - unmoved.transform(data),
        np.broadcast_to(moved.scale_[:, None], data.shape),
        rtol=1e-4,
    )


@pytest.fixture(scope="module")
def of_eyes():
    """Noisy and clean recordings of two people, and a denoiser fitted on the first."""

    def person(seed, n_epochs=40, n_times=200):
        rng = np.random.default_rng(seed)
        mixing = np.eye(6) + 0.3 * rng.standard_normal((6, 6))
        clean = mixing @ rng.standard_normal((n_epochs, 6, n_times))
        blink = 40 * np.hanning(60) * rng.uniform(0.5, 1.5, (n_epochs // 2, 1))
        noisy = clean.copy()
        noisy[::2, :, 70:130] += topography * blink[:, None]
        return 1e-5 * noisy, 1e-5 * clean

    topography = np.linspace(1, 0, 6)[:, None] ** 2
    pairs = person(0), person(1)
    return EEGDenoiser(**SHORT, sae=small_sae(), random_state=0).fit(*pairs[0]), pairs


def test_apply_with_clean_signals_beats_a_filter_of_the_others(of_eyes):
    """Topographies of the one person, and the covariance of the brain of the other."""
    denoiser, ((noisy, clean), (other_noisy, other)) = of_eyes
    (topography,) = np.linalg.svd(np.cov(np.hstack(noisy - clean)))[0][:, :1].T

    def error(brain):
        precision = np.linalg.inv(np.cov(np.hstack(brain)))
        best = topography @ precision / (topography @ precision @ topography)
        found = np.einsum("i,j,njt->nit", topography, best, other_noisy)
        return rrmse_t(other, other_noisy - found)[::2].mean()

    left = rrmse_t(other, denoiser.apply(other_noisy))
    assert left[::2].mean() < error(other) < error(clean)
    # Epochs without a blink stay nearly as they are, and so do clean recordings.
    assert left[1::2].mean() < 0.05
    assert rrmse_t(other, denoiser.apply(other)).mean() < 0.1


def test_apply_with_clean_signals_learns_from_what_it_is_told(of_eyes):
    denoiser, (_, (noisy, _)) = of_eyes
    whole = denoiser.apply(noisy)
    np.testing.assert_array_equal(
        denoiser.apply(noisy[:5], learn_from=noisy), whole[:5]
    )
    np.testing.assert_array_equal(whole, denoiser.apply(noisy.copy()))


def test_artefacts_of_many_topographies_are_left_to_transform(of_eyes):
    denoiser, (_, (noisy, _)) = of_eyes
    muscles = copy(denoiser)
    muscles.artifact_covariance_ = np.eye(6)
    with pytest.warns(UserWarning, match="5 topographies.* have 83% .* Use transform"):
        muscles.apply(noisy)


def test_one_channel_has_no_topography():
    noisy, clean = signals(n_channels=1)
    denoiser = EEGDenoiser(**SHORT, sae=small_sae()).fit(noisy, clean)
    with pytest.raises(ValueError, match="apply needs .* several channels.*transform"):
        denoiser.apply(noisy)


def test_corrections_are_relative_and_of_neighbours():
    kept = np.ones((1, 5, 2, 3), dtype=complex)
    taken = np.zeros_like(kept)
    taken[0, 2] = 3j
    expected = [[0, 3, 3, 3, 0]]
    np.testing.assert_allclose(corrections(kept + taken, kept), expected)


def test_noise_free_signals_pass_unharmed_if_that_is_what_was_learned():
    _, clean = signals(40)
    denoiser = EEGDenoiser(**SHORT, sae=small_sae()).fit(clean, clean)
    # A ridge of 1e-4 times the mean square takes a little of everything.
    assert -denoiser.score(clean, clean) < 0.02


def test_gain_of_signals_does_not_matter(supervised):
    """Volts or microvolts: the fit is the same."""
    noisy, clean = signals(60)
    in_uv = clone(supervised).fit(1e6 * noisy, 1e6 * clean)
    np.testing.assert_allclose(
        in_uv.transform(1e6 * noisy),
        1e6 * supervised.transform(noisy),
        atol=1e-3 * noisy.std() * 1e6,
    )


def test_reconstruction_is_from_windows_and_their_atoms(unsupervised):
    """The same by hand: scale, code, take the atoms together, add windows."""
    data = signals(1, seed=2)[0]
    mean, scale = (part[:, None] for part in (unsupervised.mean_, unsupervised.scale_))
    windows = cut_windows((data - mean) / scale, 100, 25)[0].swapaxes(0, 1)
    flat = windows.reshape(len(windows), -1).astype(np.float32)
    codes = unsupervised.sae_.transform(unsupervised.pca_.transform(flat))
    by_hand = np.tensordot(codes, unsupervised.atoms_, 1)
    # What no atom changes: the mean window, which PCA and SAE take out.
    rest = unsupervised.pca_.inverse_transform(unsupervised.sae_.decoder_bias_[None])
    by_hand += rest.reshape(1, 4, 100)
    expected = overlap_add(by_hand.swapaxes(0, 1)[None], 200, 25)[0] * scale + mean
    got = unsupervised.transform(a_raw(data)).get_data(NAMES)
    np.testing.assert_allclose(got, expected, atol=1e-4 * data.std())


def test_codes_may_be_asked_for_sparse(unsupervised):
    """It is the denoiser that sees them."""
    raw = a_raw(signals()[0])
    sae = clone(unsupervised.sae).set_params(sparse_output=True)
    sparse = clone(unsupervised).set_params(sae=sae).fit(raw)
    np.testing.assert_array_equal(
        sparse.apply(raw, [0]).get_data(), unsupervised.apply(raw, [0]).get_data()
    )


def test_score_without_clean_signals_is_explained_variance(unsupervised):
    raw = a_raw(signals(4, seed=3)[0])
    before, after = (
        (part.get_data(NAMES) - unsupervised.mean_[:, None])
        / unsupervised.scale_[:, None]
        for part in (raw, unsupervised.transform(raw))
    )
    residual = np.sum((after - before) ** 2)
    variance = np.sum((before - before.mean(1, keepdims=True)) ** 2)
    score = unsupervised.score(raw)
    assert isinstance(score, float)
    assert score == pytest.approx(1 - residual / variance, abs=1e-5)
    assert score > 0.5


def test_applying_nothing_changes_nothing(unsupervised):
    raw = a_raw(signals(2)[0])
    applied = unsupervised.apply(raw)
    np.testing.assert_allclose(
        applied.get_data(), raw.get_data(), atol=1e-12 * raw.get_data(NAMES).std()
    )


def test_what_apply_takes_away_is_the_parameter_or_the_argument(unsupervised):
    raw = a_raw(signals(20, seed=4)[0])
    kept = copy(unsupervised).set_params(exclude=[1, 3])
    by_argument = unsupervised.apply(raw, [1, 3]).get_data()
    np.testing.assert_array_equal(kept.apply(raw).get_data(), by_argument)
    assert np.abs(by_argument - raw.get_data())[:4].max() > 1e-6
    # Their reconstruction does without them too.
    assert not np.allclose(
        kept.transform(raw).get_data(NAMES), unsupervised.transform(raw).get_data(NAMES)
    )


@pytest.mark.parametrize(
    "atoms",
    [
        [3, 5, 3],
        (5, 3, 5, 3),
        np.array([3, 5], dtype=np.int8),
        [np.int64(5), np.int64(3)],
        np.isin(np.arange(16), [3, 5]),
    ],
)
def test_each_excluded_atom_counts_once(unsupervised, atoms):
    raw = a_raw(signals(20)[0])
    expected = unsupervised.apply(raw, [3, 5]).get_data(NAMES)
    got = unsupervised.apply(raw, atoms).get_data(NAMES)
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize(
    "atoms", [[-1], [16], [[3, 5]], 3, [3.0], ["3"], [True, False], np.ones(17, bool)]
)
def test_what_is_no_atom_is_named(unsupervised, atoms):
    with pytest.raises(ValueError, match="exclude must be atom indices"):
        unsupervised.apply(a_raw(signals(2)[0]), atoms)


def test_what_leaves_nothing_or_little_is_said(unsupervised):
    raw = a_raw(signals(2)[0])
    trusting = clone(unsupervised)
    sae = copy(unsupervised.sae_)
    sae.trusted_ = np.zeros(16, dtype=bool)
    trusting.__dict__.update(
        unsupervised.__dict__ | {"trusted_only": True, "sae_": sae}
    )
    with pytest.warns(
        UserWarning, match="None of 16 atoms is trusted.* sets all codes to 0"
    ):
        trusting.transform(raw)
    with pytest.warns(UserWarning, match="has 4 windows of 100 samples, from which 4"):
        clone(unsupervised).fit(raw)


def test_white_noise_is_not_learned_by_heart():
    rng = np.random.default_rng(0)
    seen, fresh = rng.standard_normal((2, 240, 8, 50))
    denoiser = EEGDenoiser(window=0.5, sfreq=SFREQ, random_state=0).fit(seen)
    assert denoiser.score(seen) - denoiser.score(fresh) < 0.1


def test_untrusted_atoms_can_be_left_out(unsupervised):
    trusting = clone(unsupervised)
    untrusted = np.flatnonzero(~unsupervised.sae_.trusted_)
    assert len(untrusted) > 0
    trusting.__dict__.update(unsupervised.__dict__ | {"trusted_only": True})
    excluding = clone(unsupervised)
    excluding.__dict__.update(unsupervised.__dict__ | {"exclude": untrusted})
    raw = a_raw(signals(2)[0])
    np.testing.assert_array_equal(
        trusting.transform(raw).get_data(), excluding.transform(raw).get_data()
    )


def test_raw_epochs_and_arrays_come_back_as_they_came(supervised):
    noisy, clean = signals(20)
    by_array = supervised.transform(noisy)
    assert by_array.shape == noisy.shape
    assert by_array.dtype == np.float64
    assert supervised.transform(noisy.astype(np.float32)).dtype == np.float32

    epochs, targets = some_epochs(noisy), some_epochs(clean)
    denoiser = clone(supervised).set_params(sfreq=None).fit(epochs, targets)
    denoised = denoiser.transform(epochs)
    assert isinstance(denoised, mne.BaseEpochs)
    np.testing.assert_array_equal(denoised.events, epochs.events)
    # Not to the bit: sums run in another order, and training makes that larger.
    by_array = clone(supervised).fit(noisy, clean).transform(noisy)
    np.testing.assert_allclose(
        denoised.get_data(), by_array, atol=0.03 * by_array.std()
    )
    np.testing.assert_array_equal(epochs.get_data(), noisy)
    assert denoiser.score(epochs, targets) > -1

    raw = a_raw(noisy)
    denoised = denoiser.transform(raw)
    assert isinstance(denoised, mne.io.BaseRaw)
    np.testing.assert_array_equal(raw.get_data(NAMES), a_raw(noisy).get_data(NAMES))


def test_raw_noisy_and_clean_can_be_learned_from():
    noisy, clean = (a_raw(part) for part in signals(20))
    denoiser = EEGDenoiser(window=0.5, sae=small_sae()).fit(noisy, clean)
    assert -0.9 < denoiser.score(noisy, clean) < 0


@pytest.mark.parametrize("fitted", ["supervised", "unsupervised"])
def test_long_recordings_in_pieces_are_as_at_once(fitted, request, monkeypatch):
    denoiser = request.getfixturevalue(fitted)
    raw = a_raw(signals(17)[0][..., :187])
    if fitted == "supervised":
        noisy, clean = signals(20)
        denoiser = clone(denoiser).set_params(sfreq=None)
        denoiser.fit(some_epochs(noisy), some_epochs(clean))
    at_once = denoiser.transform(raw).get_data()
    monkeypatch.setattr(_spans, "CHUNK", 1.9)
    in_pieces = denoiser.transform(raw).get_data()
    np.testing.assert_allclose(
        in_pieces, at_once, atol=1e-5 * raw.get_data(NAMES).std()
    )


def test_recordings_on_disk_are_as_those_in_memory(unsupervised, tmp_path):
    raw = a_raw(signals(6)[0])
    raw.save(tmp_path / "some_raw.fif", fmt="double", verbose="error")
    on_disk = mne.io.read_raw_fif(tmp_path / "some_raw.fif", verbose="error")
    assert not on_disk.preload
    np.testing.assert_array_equal(
        unsupervised.transform(on_disk).get_data(),
        unsupervised.transform(raw).get_data(),
    )
    assert not on_disk.preload


def test_channels_are_found_by_name_and_others_left_alone(unsupervised):
    data = signals(3)[0]
    raw = a_raw(data)
    order = [3, 1, 0, 2]
    other = a_raw(data[:, order], [NAMES[i] for i in order])
    more = mne.io.RawArray(
        np.ones((1, other.n_times)), mne.create_info(["EXTRA"], SFREQ, "eeg"), verbose=0
    )
    other.add_channels([more])
    expected = unsupervised.transform(raw).get_data(NAMES)
    denoised = unsupervised.transform(other)
    np.testing.assert_allclose(denoised.get_data(NAMES), expected, atol=1e-18)
    np.testing.assert_array_equal(
        denoised.get_data(["STI", "EXTRA"]), other.get_data(["STI", "EXTRA"])
    )


def test_bad_channels_and_spans_are_not_learned_from():
    data = np.concatenate(list(signals(20)[0]), axis=1)
    spoiled = data.copy()
    spoiled[:, 1000:1500] = 1e3
    spoiled[2] = np.nan
    raw, expected = (
        a_raw(spoiled),
        a_raw(np.delete(data, 2, axis=0), ["Fp1", "Fp2", "O1"]),
    )
    raw.info["bads"] = ["Cz"]
    for part in (raw, expected):
        part.set_annotations(mne.Annotations([10.0], [5.0], ["BAD_movement"]))
    denoiser = EEGDenoiser(sae=small_sae())
    one, other = clone(denoiser).fit(raw), clone(denoiser).fit(expected)
    assert one.ch_names_ == ["Fp1", "Fp2", "O1"]
    np.testing.assert_array_equal(one.sae_.components_, other.sae_.components_)
    denoised = one.transform(raw)
    assert denoised.annotations == raw.annotations
    np.testing.assert_array_equal(denoised.get_data("Cz"), raw.get_data("Cz"))


@pytest.mark.parametrize("channel", [0, 2])
def test_values_not_finite_in_bad_spans_are_nobodys_business(unsupervised, channel):
    data = np.concatenate(list(signals(20)[0]), axis=1)
    marked = mne.Annotations([10.0], [5.0], ["BAD_movement"])
    clean = a_raw(data).set_annotations(marked)
    spoiled = clean.copy()
    spoiled._data[channel, 1200:1300] = np.nan
    fits = [clone(unsupervised).fit(raw) for raw in (clean, spoiled)]
    np.testing.assert_array_equal(fits[0].atoms_, fits[1].atoms_)

    for method in ("transform", "apply"):
        denoise = partial(getattr(unsupervised, method), **APPLY[method])
        denoised = denoise(spoiled)
        # Each side as if it were a recording of its own, the span to the byte.
        expected = spoiled.get_data()
        for start, stop in [(0, 1000), (1500, 4000)]:
            side = spoiled.copy().crop(start / SFREQ, (stop - 1) / SFREQ)
            expected[:, start:stop] = denoise(side.set_annotations(None)).get_data()
        if method == "apply":
            # It learns from both sides; windows off the span are the same.
            near = slice(900, 1600)
            expected = denoise(clean).get_data()
            expected[:, near] = denoised.get_data()[:, near]
        np.testing.assert_allclose(
            denoised.get_data(), expected, atol=1e-5 * data.std()
        )
        assert denoised.get_data(start=1000, stop=1500).tobytes() == (
            spoiled.get_data(start=1000, stop=1500).tobytes()
        )
        # What is marked, but finite, is denoised.
        whole = denoise(clean).get_data(start=1000, stop=1500)
        assert not np.allclose(whole, clean.get_data(start=1000, stop=1500))
    assert unsupervised.score(spoiled) == pytest.approx(
        unsupervised.score(clean), abs=0.01
    )


def test_no_window_reaches_over_where_recordings_were_joined(unsupervised):
    parts = [a_raw(factor * signals(n, seed=n)[0]) for n, factor in [(3, 1), (4, 5)]]
    expected = np.hstack([unsupervised.transform(part).get_data() for part in parts])
    joined = mne.concatenate_raws([part.copy() for part in parts], verbose="error")
    np.testing.assert_allclose(
        unsupervised.transform(joined).get_data(), expected, atol=1e-9
    )


def test_a_channel_marked_as_bad_is_denoised_where_picks_name_it(unsupervised):
    raw = a_raw(signals()[0])
    raw.info["bads"] = ["Cz"]
    named = clone(unsupervised).set_params(picks=NAMES).fit(raw)
    assert named.ch_names_ == NAMES
    good = raw.copy()
    good.info["bads"] = []
    expected = unsupervised.transform(good).get_data()
    for same in (raw, good):
        np.testing.assert_array_equal(named.transform(same).get_data(), expected)
    raw.info["bads"] = ["Cz", "O1"]
    with pytest.raises(ValueError, match=r"bad here: \['O1'\]"):
        named.transform(raw)
    with pytest.raises(ValueError, match="picks='eeg' selects channels of MNE"):
        EEGDenoiser(**SHORT, picks="eeg").fit(signals(3)[0])


def test_picks_name_the_channels_to_denoise():
    raw = a_raw(signals(5)[0])
    denoiser = EEGDenoiser(sae=small_sae(), picks=["O1", "Fp1"]).fit(raw)
    assert denoiser.ch_names_ == ["O1", "Fp1"]
    denoised = denoiser.transform(raw)
    np.testing.assert_array_equal(
        denoised.get_data(["Fp2", "Cz"]), raw.get_data(["Fp2", "Cz"])
    )


def test_of_large_data_a_part_is_drawn(monkeypatch):
    monkeypatch.setattr(_learning, "FIT_NUMBERS", 4 * 4 * 400)
    for X in (signals(40)[0], a_raw(np.concatenate(list(signals(40)[0]), axis=1))):
        denoiser = EEGDenoiser(sfreq=SFREQ, sae=small_sae(), random_state=0).fit(X)
        assert len(denoiser.pca_.components_) <= 2 * 11 + 120  # of 40 epochs: 440


def test_same_seed_same_result():
    noisy, clean = signals(20)
    denoiser = EEGDenoiser(**SHORT, random_state=0)
    denoiser.set_params(sae=small_sae())
    one, other = (clone(denoiser).fit(noisy, clean) for _ in range(2))
    np.testing.assert_array_equal(one.transform(noisy), other.transform(noisy))


def test_survives_pickling_and_cloning(supervised):
    noisy, _ = signals(5)
    again = pickle.loads(pickle.dumps(supervised))
    np.testing.assert_array_equal(again.transform(noisy), supervised.transform(noisy))
    assert not hasattr(clone(supervised), "filters_")


def test_grid_search_takes_arrays():
    noisy, clean = signals(30)
    search = GridSearchCV(
        EEGDenoiser(**SHORT, sae=small_sae(max_steps=5)),
        {"sae__k": [2, 4]},
        cv=2,
    ).fit(noisy, clean)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ < 0


def test_grid_search_over_an_sae_that_is_not_given_says_so():
    noisy, clean = signals(10)
    search = GridSearchCV(EEGDenoiser(**SHORT), {"sae__k": [2, 4]}, cv=2)
    with pytest.raises(
        ValueError, match=r"\['sae__k'\] are parameters of sae, but sae is None"
    ):
        search.fit(noisy, clean)
    given = EEGDenoiser().set_params(sae=small_sae(), sae__k=2)
    assert given.sae.k == 2


def test_epochs_that_are_not_loaded_are_denoised_as_loaded_ones():
    raw = a_raw(signals(5)[0])
    events = mne.make_fixed_length_events(raw, duration=2.0)
    lazy, loaded = (
        mne.Epochs(raw, events, None, 0, 1.99, baseline=None, preload=preload)
        for preload in (False, True)
    )
    denoiser = EEGDenoiser(sae=small_sae(n_saes=1, max_steps=5))
    denoised = denoiser.fit(lazy).transform(lazy)
    expected = denoiser.fit(loaded).transform(loaded)
    np.testing.assert_array_equal(denoised.get_data(), expected.get_data())
    assert not lazy.preload


def test_epochs_keep_the_baseline_that_they_say_they_have(unsupervised):
    info = mne.create_info(NAMES, SFREQ, "eeg")
    data = signals(4)[0]
    baseline = (None, 0.5)
    epochs = mne.EpochsArray(data, info, baseline=baseline, verbose="error")
    denoised = unsupervised.transform(epochs)
    assert denoised.baseline == epochs.baseline == (0.0, 0.5)
    before = denoised.get_data()[..., :51].mean(-1)
    np.testing.assert_allclose(before, 0, atol=1e-12 * data.std())
    expected = unsupervised.transform(some_epochs(epochs.get_data()))
    np.testing.assert_allclose(
        denoised.get_data(),
        expected.apply_baseline(baseline, verbose="error").get_data(),
        atol=1e-9 * data.std(),
    )
    # What was cropped away cannot be subtracted again.
    cropped = epochs.crop(0.6, None)
    np.testing.assert_array_equal(
        unsupervised.transform(cropped).get_data(),
        unsupervised.transform(some_epochs(cropped.get_data())).get_data(),
    )


def test_clean_epochs_of_zeros_are_not_scored(supervised):
    noisy, clean = signals(6)
    expected = supervised.score(noisy[1:], clean[1:])
    clean[0] = 0
    with pytest.warns(UserWarning, match=r"Epochs \[0\] of y are zero .* other 5"):
        assert supervised.score(noisy, clean) == pytest.approx(expected)
    with pytest.raises(ValueError, match="y is zero everywhere"):
        supervised.score(noisy, 0 * clean)


def test_another_filter_or_reference_than_in_the_fit_is_named(unsupervised):
    raw = a_raw(signals(5)[0])
    with pytest.warns(UserWarning, match="low-pass 30 Hz here, 50 Hz in the fit"):
        unsupervised.transform(raw.copy().filter(None, 30, verbose="error"))
    other = raw.copy().set_eeg_reference("average", verbose="error")
    with pytest.warns(UserWarning, match="reference changed here, as recorded in"):
        unsupervised.apply(other, [0])
    other = raw.copy().set_eeg_reference(projection=True, verbose="error").apply_proj()
    with pytest.warns(
        UserWarning, match="projections Average EEG reference here, none"
    ):
        unsupervised.apply(other, [0])


def test_fitted_denoiser_stands_in_a_classifying_pipeline(supervised):
    frozen = pytest.importorskip("sklearn.frozen")
    noisy, _ = signals(30)
    y = np.arange(30) % 2
    noisy[y == 1] *= 2
    pipeline = make_pipeline(
        frozen.FrozenEstimator(supervised),
        mne.decoding.Vectorizer(),
        PCA(5),
        LinearDiscriminantAnalysis(),
    )
    assert pipeline.fit(noisy, y).predict(noisy).shape == (30,)


def test_plain_pipeline_of_mne_goes_there_and_back():
    X = signals(40)[0]
    info = mne.create_info(NAMES, SFREQ, "eeg")
    pipeline = make_pipeline(
        mne.decoding.Scaler(info),
        mne.decoding.Vectorizer(),
        small_sae(n_components=60, k=20, transform_algorithm="omp", max_steps=50),
    )
    codes = pipeline.fit_transform(X)
    assert codes.shape == (40, 60)
    X_hat = pipeline.inverse_transform(codes)
    assert X_hat.shape == X.shape
    assert np.mean((X_hat - X) ** 2) < 0.5 * X.var()


def test_tags_say_three_dimensions(supervised):
    tags = get_tags(supervised)
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array


def test_groups_decide_which_epochs_are_left_out_together(monkeypatch):
    seen = []
    solve = _supervised.solve_filters
    monkeypatch.setattr(
        _supervised, "solve_filters", lambda *a: seen.append(a[-1]) or solve(*a)
    )
    noisy, clean = signals(20)
    denoiser = EEGDenoiser(**SHORT, sae=small_sae(max_steps=5))
    denoiser.fit(noisy, clean, groups=["a"] * 15 + ["b"] * 5)
    share = np.bincount(seen[0]) / len(seen[0])
    np.testing.assert_allclose(share, [0.75, 0.25], atol=0.02)


def test_groups_are_those_of_the_epochs_that_were_drawn():
    pieces = [slice(1, 2), slice(4, 5), slice(5, 6)]
    folds = folds_of_epochs(["a", "a", "b", "b", "b", "a"], 6, pieces, False)
    np.testing.assert_array_equal(folds, [[0], [1], [0]])


def test_weights_are_one_over_the_power_of_epochs():
    rng = np.random.default_rng(0)
    power = np.r_[np.ones(10), 4 * np.ones(90), 0.0]
    clean = np.sqrt(power)[:, None, None] * np.sign(rng.standard_normal((101, 2, 50)))
    (weight,) = relative_weights([clean])
    assert weight.mean() == pytest.approx(1)
    np.testing.assert_allclose(weight[:10] / weight[50], 4, rtol=1e-6)
    # An epoch of nothing does not get all the weight.
    assert weight[100] == pytest.approx(weight[0])


def test_mixtures_have_the_noise_of_others_at_strengths_that_occur(monkeypatch):
    monkeypatch.setattr(_supervised, "FIT_ROWS", 3 * 20)
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 20, 3, 50))
    noise *= rng.uniform(0.5, 5, (20, 1, 1))
    noisy, folds = clean + noise, np.arange(20) // 10
    all_noisy, all_clean, all_folds = remixed(
        [noisy], [clean], [folds], len, np.random.default_rng(0)
    )
    assert len(all_noisy) == 3
    rms = lambda X: np.sqrt(np.square(X).mean((1, 2)))  # noqa: E731
    for mixed, target, fold in zip(
        all_noisy[1:], all_clean[1:], all_folds[1:], strict=True
    ):
        np.testing.assert_array_equal(fold, folds)
        np.testing.assert_allclose(rms(mixed), rms(noisy), rtol=1e-10)
        ratio = rms(mixed - target) / rms(target)
        for part in (0, 1):
            np.testing.assert_allclose(
                np.sort(ratio[folds == part]),
                np.sort((rms(noise) / rms(clean))[folds == part]),
                rtol=1e-8,
            )
        # Each is some noise of the same fold, up to its size.
        cosine = np.corrcoef((mixed - target).reshape(20, -1), noise.reshape(20, -1))
        donors = cosine[:20, 20:].argmax(1)
        np.testing.assert_allclose(cosine[:20, 20:].max(1), 1, atol=1e-8)
        np.testing.assert_array_equal(folds[donors], folds)
        assert len(set(donors)) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((3, 200))}, "X must be an mne.io.Raw"),
        ({"X": np.zeros((0, 4, 200))}, "X is empty"),
        ({"X": np.full((3, 4, 200), "a")}, "X must be an mne.io.Raw"),
        ({"X": signals(3)[0][..., :50]}, "shorter than a window of 100 samples"),
        ({"y": np.zeros(3)}, "FrozenEstimator"),
        ({"y": signals(4)[1]}, "y must have the shape of X"),
        ({"y": "raw"}, "y must be of the same type as X"),
        ({"window": 0.001}, "A window must have 2 samples"),
        ({"window": 2.5}, "shorter than a window"),
        ({"window": 1.0, "sfreq": None}, "needs sfreq"),
        ({"overlap": 0.3}, "'overlap' parameter"),
        ({"groups": [1, 2], "y": signals(3)[1]}, "groups must have an entry"),
        ({"groups": ["a"] * 3, "y": signals(3)[1]}, r"two values, got only \['a'\]"),
        (
            {"exclude": [16], "y": signals(3)[1]},
            "exclude must be atom indices from 0 to 15",
        ),
        (
            {"exclude": [0.5], "y": signals(3)[1]},
            "exclude must be atom indices or a mask",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    data = {"X": signals(3)[0], "y": None, "groups": None}
    parameters = {"sfreq": SFREQ, "sae": small_sae(max_steps=2)}
    for name, value in change.items():
        (data if name in data else parameters)[name] = value
    if data["y"] is not None and isinstance(data["y"], str):
        data["y"] = a_raw(signals(3)[1])
    with pytest.raises(ValueError, match=message):
        EEGDenoiser(**parameters).fit(**data)


def test_flat_channels_are_named():
    data = signals(3)[0]
    data[:, 1] = 3.0
    with pytest.raises(ValueError, match=r"flat: \['Fp2'\]"):
        EEGDenoiser(sae=small_sae()).fit(a_raw(data))
    with pytest.raises(ValueError, match=r"flat: \[1\]"):
        EEGDenoiser(sfreq=SFREQ, sae=small_sae()).fit(data)


def test_a_channel_that_a_filter_left_flat_is_named():
    raw = a_raw(signals(10)[0])
    raw._data[1] = 2e-5
    raw.filter(1.0, None, verbose="error")
    assert 0 < raw.get_data("Fp2").std() < 1e-15
    with pytest.raises(ValueError, match=r"flat: \['Fp2'\]. .* Mark them as bad"):
        EEGDenoiser(sae=small_sae()).fit(raw)


def test_channels_of_another_size_than_in_the_fit_are_named(unsupervised, supervised):
    noisy = signals(3)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unsupervised.transform(a_raw(noisy))
        unsupervised.transform(a_raw(3 * noisy))
    dead = noisy.copy()
    dead[:, 2] = 1e-3  # whatever the offset of an electrode that came off
    with pytest.warns(UserWarning, match=r"1 of 4 channels .* fit: 'Cz' .*e-14 times"):
        unsupervised.apply(a_raw(dead), [0])
    with pytest.warns(UserWarning, match=r"4 of 4 .* 'Fp1' \d(\.\d)?e\+0[56] times"):
        unsupervised.score(a_raw(1e6 * noisy))
    with pytest.warns(
        UserWarning, match=r"4 of 4 channels .*: 0 .* times .*, 1 .* times"
    ):
        supervised.transform(1e-3 * noisy)


@pytest.mark.parametrize("with_clean", [False, True])
def test_one_pop_of_an_electrode_leaves_other_windows_as_good(with_clean):
    """Ten millivolts for a fifth of a second, where signals have ten microvolts."""
    noisy, clean = signals(30 if with_clean else 150)
    popped = noisy.copy()
    popped[1, 0, 60:80] += 1e-2
    sae = small_sae(n_saes=1, transform_algorithm="omp")
    parameters = {"sfreq": SFREQ, "window": 0.25 if with_clean else 0.5, "sae": sae}
    new, wanted = signals(20, seed=1)
    errors = []
    for X in (noisy, popped):
        fitted = EEGDenoiser(**parameters, random_state=0)
        fitted.fit(X, clean if with_clean else None)
        target = wanted if with_clean else new
        errors.append(rrmse_t(target, fitted.transform(new)).mean())
    assert errors[1] < 1.1 * errors[0]


def test_a_fit_that_failed_is_none():
    denoiser = EEGDenoiser(sfreq=SFREQ, sae=small_sae())
    with pytest.raises(ValueError, match="flat"):
        denoiser.fit(np.zeros((3, 4, 200)))
    with pytest.raises(NotFittedError):
        denoiser.transform(signals(3)[0])


class FailingSAE(MFRSparseAutoencoder):
    """Raises when it is fitted."""

    error = ValueError("no atoms")

    def fit(self, X, y=None):
        raise self.error


@pytest.mark.parametrize("clean_first", [True, False])
def test_a_refit_leaves_nothing_of_the_other_way(clean_first):
    raw, clean = (a_raw(part) for part in signals(5))
    denoiser = EEGDenoiser(window=0.25, sae=small_sae(max_steps=5), random_state=0)
    first, second = (raw, clean), (raw,)
    if not clean_first:
        first, second = second, first
    fresh = clone(denoiser).fit(*second)
    refitted = clone(denoiser).fit(*first).fit(*second)
    assert vars(refitted).keys() == vars(fresh).keys()
    np.testing.assert_array_equal(
        refitted.transform(raw).get_data(), fresh.transform(raw).get_data()
    )


@pytest.mark.parametrize("fitted", ["supervised", "unsupervised"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("with_clean", [False, True])
def test_a_refit_that_fails_leaves_the_denoiser_as_it_was(
    fitted, error, with_clean, request, monkeypatch
):
    monkeypatch.setattr(FailingSAE, "error", error("no atoms"))
    denoiser = copy(request.getfixturevalue(fitted))
    denoiser.set_params(sae=FailingSAE())
    before = dict(vars(denoiser))
    noisy, clean = signals(20, n_channels=3)
    with pytest.raises(error, match="no atoms"):
        denoiser.fit(noisy, clean if with_clean else None)
    assert vars(denoiser).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(denoiser).items())


def test_parameters_that_changed_are_checked_where_they_count(unsupervised):
    denoiser = copy(unsupervised).set_params(trusted_only="no")
    for method in (denoiser.transform, denoiser.apply, denoiser.score):
        with pytest.raises(InvalidParameterError, match="'trusted_only' parameter"):
            method(a_raw(signals(2)[0]))


def test_values_that_are_not_finite_are_located(unsupervised):
    data = signals(3)[0]
    data[2, 1, 50] = np.nan
    with pytest.raises(ValueError, match=r"channel 'Fp2' at 4\.500 s"):
        EEGDenoiser(sae=small_sae()).fit(a_raw(data))
    with pytest.raises(ValueError, match=r"channel 'Fp2' at 4\.500 s"):
        unsupervised.transform(a_raw(data))
    with pytest.raises(ValueError, match=r"channel 1 at epoch 2, sample 50"):
        EEGDenoiser(sfreq=SFREQ, sae=small_sae()).fit(data)


def test_other_recordings_are_refused(unsupervised, supervised):
    data = signals(3)[0]
    with pytest.raises(ValueError, match=r"missing here: \['O1'\]"):
        unsupervised.transform(a_raw(data[:, :3], NAMES[:3]))
    bad = a_raw(data)
    bad.info["bads"] = ["Cz"]
    with pytest.raises(ValueError, match=r"bad here: \['Cz'\]"):
        unsupervised.transform(bad)
    with pytest.raises(ValueError, match=r"is 50 Hz here but was 100 Hz"):
        unsupervised.transform(a_raw(data).resample(50, verbose="error"))
    with pytest.raises(ValueError, match="shorter than a window"):
        unsupervised.transform(a_raw(data[:1, :, :50]))
    with pytest.raises(ValueError, match="fitted on an array"):
        supervised.transform(a_raw(data))
    with pytest.raises(ValueError, match="X has 2 channels"):
        supervised.transform(data[:, :2])
    for atoms in ({"exclude": [0]}, {"include": [0]}):
        with pytest.raises(ValueError, match="fitted without y"):
            supervised.apply(data, **atoms)
    with pytest.raises(ValueError, match=r"picks=\['Oz'\] does not select"):
        EEGDenoiser(picks=["Oz"]).fit(a_raw(data))
    no_eeg = a_raw(data).set_channel_types(dict.fromkeys(NAMES, "misc"))
    with pytest.raises(ValueError, match="picks=None does not select"):
        EEGDenoiser().fit(no_eeg)
    everything = a_raw(data)
    everything.set_annotations(mne.Annotations([0.0], [6.0], ["BAD_all"]))
    with pytest.raises(ValueError, match="no span of 100 samples"):
        EEGDenoiser().fit(everything)


def test_recording_cut_off_in_the_file_is_read_as_far_as_it_goes(
    tmp_path, unsupervised
):
    """EDF, whose header promises more records than there are."""
    pytest.importorskip("edfio")
    raw = a_raw(1e-5 * np.tanh(1e5 * signals(10)[0])).pick(NAMES)
    path = tmp_path / "whole.edf"
    mne.export.export_raw(path, raw, verbose="error")
    whole = mne.io.read_raw_edf(path, verbose="error")
    content = path.read_bytes()
    cut = tmp_path / "cut.edf"
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.warns(RuntimeWarning, match="records"):
        shorter = mne.io.read_raw_edf(cut)
    denoised = unsupervised.transform(shorter)
    assert denoised.n_times == shorter.n_times < whole.n_times
    n = shorter.n_times - 100
    np.testing.assert_allclose(
        denoised.get_data()[:, :n],
        unsupervised.transform(whole).get_data()[:, :n],
        atol=1e-5 * raw.get_data().std(),
    )


def test_an_array_has_the_channels_of_the_fit_in_their_order():
    noisy, _ = signals()
    epochs = some_epochs(noisy)
    denoiser = EEGDenoiser(0.5, sae=small_sae()).fit(epochs)
    expected = denoiser.transform(epochs).get_data()
    np.testing.assert_array_equal(denoiser.transform(noisy), expected)
