"""What a denoiser offers as ICA of MNE does, against brute force and other fits."""

import json
import pickle
import warnings
from copy import copy
from zipfile import ZipFile

import numpy as np
import pytest

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import (
    EEGDenoiser,
    find_artifacts,
    plot_atom,
    plot_overlay,
    read_eeg_denoiser,
    score_atoms,
)
from skmfr.eeg._scales import as_scaled
from skmfr.eeg._unsupervised import codes_of_windows
from skmfr.eeg._windows import taper

matplotlib = pytest.importorskip("matplotlib")
mne = pytest.importorskip("mne")
pd = pytest.importorskip("pandas")
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:None of .* atoms is trusted"),
]

SFREQ = 100.0
NAMES = ["Fp1", "Fp2", "C3", "C4", "Pz", "Oz"]


def small_sae(**changes) -> MFRSparseAutoencoder:
    usual = {"n_components": 12, "k": 3, "n_saes": 1, "n_witnesses": 1, "max_steps": 40}
    usual |= {"transform_algorithm": "omp", "random_state": 0, "batch_size": 64}
    return MFRSparseAutoencoder(**(usual | changes))


@pytest.fixture(scope="module")
def raw():
    """Alpha, blinks, heartbeats and noise; an EOG and an ECG."""
    rng = np.random.default_rng(0)
    n_times = 3000
    time = np.arange(n_times) / SFREQ
    blinks, beats = np.zeros((2, n_times))
    blinks[150::370] = beats[40::83] = 1
    blinks = np.convolve(blinks, np.hanning(35), "same")
    beats = np.convolve(beats, np.hanning(16), "same")
    eeg = np.outer([0.1, 0.1, 0.3, 0.3, 0.8, 1], 10 * np.sin(2 * np.pi * 10 * time))
    eeg += 120 * np.outer([1, 0.9, 0.2, 0.2, 0.05, 0.02], blinks)
    eeg += 60 * np.outer([0.1, 0.3, 0.3, 0.8, 0.9, 1], beats)
    eeg += 2 * rng.standard_normal(eeg.shape)
    kinds = ["eeg"] * 6 + ["eog", "ecg"]
    info = mne.create_info([*NAMES, "EOG", "ECG"], SFREQ, kinds)
    data = 1e-6 * np.vstack([eeg, 100 * blinks, 900 * beats])
    raw = mne.io.RawArray(data, info, first_samp=50, verbose="error")
    raw.filter(1, None, verbose="error").set_montage("easycap-M1")
    return raw.set_annotations(mne.Annotations([3, 12], [0.5, 0], ["cue", "EDGE"]))


@pytest.fixture(scope="module")
def denoiser(raw):
    return EEGDenoiser(0.5, sae=small_sae(), exclude=[5]).fit(raw)


@pytest.fixture(scope="module")
def epochs(raw):
    events = np.column_stack([np.arange(100, 2700, 200), np.zeros(13), np.ones(13)])
    events[:, 0] += raw.first_samp
    return mne.Epochs(
        raw.copy().set_annotations(None),
        events.astype(int),
        tmin=-0.5,
        tmax=1,
        baseline=None,
        preload=True,
        verbose="error",
    )


@pytest.fixture
def no_window():
    plt = pytest.importorskip("matplotlib.pyplot")
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def codes_of(denoiser, signal) -> np.ndarray:
    """Codes of the windows of a signal (n_channels, n_times) by itself."""
    return codes_of_windows(denoiser, as_scaled(denoiser, signal[None]))


def mean_codes(denoiser, signal) -> np.ndarray:
    """Of each sample the weighted mean of codes, by loops, (n_atoms, n_times)."""
    codes, n_times = codes_of(denoiser, signal), signal.shape[1]
    total, weights = np.zeros((codes.shape[1], n_times)), np.zeros(n_times)
    square = taper(denoiser.n_times_) ** 2
    for window, code in enumerate(codes):
        first = (window + 1) * denoiser.hop_ - denoiser.n_times_
        for i, weight in enumerate(square):
            if 0 <= first + i < n_times:
                total[:, first + i] += weight * code
                weights[first + i] += weight
    return total / weights


def test_sources_are_codes_over_time(denoiser, raw):
    sources = denoiser.get_sources(raw)
    # Nothing crosses the edge at 12 s.
    parts = raw.get_data(NAMES)[:, :1200], raw.get_data(NAMES)[:, 1200:]
    expected = np.hstack([mean_codes(denoiser, part) for part in parts])
    np.testing.assert_allclose(sources.get_data(), expected, atol=1e-5)
    assert sources.ch_names[:2] == ["atom000", "atom001"]
    assert sources.get_channel_types(unique=True) == ["misc"]
    assert sources.info["bads"] == ["atom005"]
    assert (sources.first_samp, sources.n_times) == (raw.first_samp, raw.n_times)
    np.testing.assert_array_equal(sources.annotations.onset, raw.annotations.onset)


def test_sources_of_epochs_are_of_each_alone(denoiser, epochs):
    sources = denoiser.get_sources(epochs)
    assert sources.get_data().shape == (13, 12, 151)
    expected = mean_codes(denoiser, epochs.get_data(NAMES)[4])
    np.testing.assert_allclose(sources.get_data()[4], expected, atol=1e-5)
    np.testing.assert_array_equal(sources.events, epochs.events)
    np.testing.assert_array_equal(sources.times, epochs.times)


def test_sources_have_the_events_of_the_epochs_whatever_these_are(denoiser, epochs):
    """All epochs of a kind rejected, and two events at one sample."""
    odd = epochs.copy()
    odd.events[3:, 2] = 2
    odd.event_id = {"a": 1, "b": 2}
    odd = odd["a"]
    odd.event_id = {"a": 1, "b": 2}
    odd.events[1, 0] = odd.events[0, 0]
    sources = denoiser.get_sources(odd)
    assert sources.event_id == odd.event_id
    np.testing.assert_array_equal(sources.events, odd.events)
    expected = denoiser.get_sources(epochs).get_data()[:3]
    np.testing.assert_allclose(sources.get_data(), expected)
    assert len(sources["a"]) == 3


def test_atoms_are_scored_on_epochs_as_in_each_alone(denoiser, epochs):
    scores = score_atoms(denoiser, epochs)
    each = np.concatenate([codes_of(denoiser, one) for one in epochs.get_data(NAMES)])
    np.testing.assert_allclose(scores["activation_rate"], (each != 0).mean(0))
    assert {"EOG: correlation", "ECG: cardiac correlation"} <= set(scores)


@pytest.mark.parametrize(
    ("method", "kind", "column"),
    [
        ("find_bads_eog", "ocular", "EOG: correlation"),
        ("find_bads_ecg", "cardiac", "ECG: cardiac correlation"),
        ("find_bads_muscle", "muscular", "fast"),
    ],
)
def test_finders_give_what_find_artifacts_gives(denoiser, raw, method, kind, column):
    table = score_atoms(denoiser, raw)
    indices, scores = getattr(denoiser, method)(raw)
    np.testing.assert_allclose(scores, table[column])
    columns = [column, "peak", "breadth", "slow", "activation_rate", "variance"]
    found = find_artifacts(table[columns])
    assert indices == found.index[found["kind"] == kind].tolist()
    assert bool(indices) == (kind != "muscular")


# With seeds 1 and 3, filters subtract a quarter only of one of the muscles' atoms.
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_muscles_are_found_and_taken_out_of_fast_signals(seed):
    """Where they are; elsewhere the brain stays."""
    rng = np.random.default_rng(0)
    brain = rng.standard_normal((6, 6000)).cumsum(1)
    there = np.repeat(np.tile([False, True], 15), 200)
    emg = np.outer([0, 0.1, 1, 0.3, 0.1, 0], 9 * there * rng.standard_normal(6000))
    info = mne.create_info(NAMES, 200, "eeg")
    raw = mne.io.RawArray(1e-6 * (brain + emg), info, verbose="error")
    fast = raw.copy().filter(10, None, verbose="error")
    sae = small_sae(random_state=seed)
    denoiser = EEGDenoiser(window=0.2, sae=sae).fit(fast)
    muscles, _ = denoiser.find_bads_muscle(fast)
    assert muscles
    artefacts = fast.get_data() - denoiser.apply(fast, exclude=muscles).get_data()
    # What is slower than 10 of 100 Hz stays, a tenth of the power of white noise.
    left = 1e6 * artefacts - emg
    assert np.linalg.norm(left[:, there]) < 0.5 * np.linalg.norm(emg)
    slow = 1e6 * (raw.get_data() - fast.get_data())
    rest = np.linalg.norm((brain - slow)[:, ~there])
    # Windows that reach into a stretch with the muscle count as loud.
    assert np.linalg.norm(1e6 * artefacts[:, ~there]) < 0.4 * rest


@pytest.mark.usefixtures("no_window")
def test_channels_may_be_called_as_types_are(denoiser, raw):
    names = {"Fp1": "eeg", "EOG": "eog", "ECG": "ecg"}
    renamed = raw.copy().rename_channels(names, verbose="error")
    same = EEGDenoiser(0.5, sae=small_sae(), exclude=[5]).fit(renamed)
    assert same.ch_names_ == ["eeg", *NAMES[1:]]
    for method in ("find_bads_eog", "find_bads_ecg"):
        there, expected = (
            getattr(one, method)(recording)
            for one, recording in ((same, renamed), (denoiser, raw))
        )
        assert there[0] == expected[0]
        np.testing.assert_allclose(there[1], expected[1], atol=1e-6)
    after = same.apply(renamed)
    np.testing.assert_allclose(
        after.get_data(), denoiser.apply(raw).get_data(), atol=1e-12
    )
    same.plot_overlay(renamed, show=False)
    same.plot_properties(renamed, [1], show=False)


def test_finders_take_channels_by_name_and_thresholds(denoiser, raw):
    indices, scores = denoiser.find_bads_eog(raw, ["Fp1", "Fp2"])
    assert [len(each) for each in scores] == [12, 12]
    assert indices
    assert denoiser.find_bads_eog(raw, threshold=0.999)[0] == []
    as_misc = raw.copy().set_channel_types({"ECG": "misc"}, verbose="error")
    by_name = denoiser.find_bads_ecg(as_misc, "ECG")
    by_type = denoiser.find_bads_ecg(raw)
    assert by_name[0] == by_type[0]
    with pytest.raises(ValueError, match=r"no channel of type ecg, only \['eeg', "):
        denoiser.find_bads_ecg(as_misc)


def test_include_is_what_is_kept(denoiser, raw):
    kept = denoiser.apply(raw, exclude=[7], include=[0, 1, 7]).get_data()
    others = np.setdiff1d(np.arange(12), [0, 1])
    np.testing.assert_array_equal(kept, denoiser.apply(raw, others).get_data())
    with pytest.raises(ValueError, match="include must be atom indices from 0 to 11"):
        denoiser.apply(raw, include=[12])


def test_of_averages_the_artefact_is_the_average_of_what_is_in_epochs(denoiser, epochs):
    blinks = denoiser.find_bads_eog(epochs)[0]
    average = epochs.average(picks="all")
    cleaned = denoiser.apply(average, blinks, learn_from=epochs)
    each = [
        denoiser.apply(epochs[i].average(picks="all"), blinks, learn_from=epochs)
        for i in range(len(epochs))
    ]
    mean = np.mean([one.data for one in each], axis=0)
    np.testing.assert_allclose(cleaned.data, mean, atol=1e-10)
    assert np.ptp(cleaned.copy().pick("Fp1").data) < 0.5 * np.ptp(
        average.copy().pick("Fp1").data
    )
    assert (cleaned.nave, cleaned.comment) == (average.nave, average.comment)
    np.testing.assert_array_equal(cleaned.data[-2:], average.data[-2:])
    with pytest.raises(ValueError, match="X is an average"):
        denoiser.apply(average, blinks)


def test_a_piece_is_cleaned_as_in_the_recording_it_learns_from(denoiser, raw):
    hop = denoiser.hop_ / SFREQ
    piece = raw.copy().crop(50 * hop, 100 * hop)
    # Gains are averages with the window before and the one after.
    edge = denoiser.n_times_ + denoiser.hop_
    inside = slice(edge, -edge)
    blinks = denoiser.find_bads_eog(raw)[0]
    whole = denoiser.apply(raw, blinks).get_data(NAMES)[:, 50 * denoiser.hop_ :]
    cleaned = denoiser.apply(piece, blinks, learn_from=raw).get_data(NAMES)
    expected = whole[:, : piece.n_times][:, inside]
    np.testing.assert_allclose(cleaned[:, inside], expected, atol=1e-10)


@pytest.mark.parametrize("factor", [0.0, 0.01])
def test_spans_without_a_signal_do_not_count_as_brain(denoiser, raw, factor):
    blinks = denoiser.find_bads_eog(raw)[0]
    lost = raw.copy()
    lost._data[:, :300] *= factor
    expected, found = (
        each.get_data(NAMES)[:, 400:] - denoiser.apply(each, blinks)[NAMES][0][:, 400:]
        for each in (raw, lost)
    )
    # Blinks of a tenth of the recording are not learned from.
    assert np.std(found - expected) < 0.1 * np.std(expected)
    with pytest.raises(ValueError, match="X is constant"):
        denoiser.apply(np.zeros((3, 6, 100)), blinks)


def test_what_is_learned_from_is_compared_with_the_fit(denoiser, raw):
    blinks = denoiser.find_bads_eog(raw)[0]
    piece = raw.copy().crop(0, 3)
    scaled = raw.copy().apply_function(lambda x: 1e6 * x, picks="eeg")
    with pytest.warns(UserWarning, match="6 of 6 channels of learn_from have a very"):
        denoiser.apply(piece, blinks, learn_from=scaled)
    referenced = raw.copy().set_eeg_reference("average", verbose="error")
    with pytest.warns(UserWarning, match="learn_from was recorded .* differently"):
        denoiser.apply(piece, blinks, learn_from=referenced)


def test_averages_are_not_changed_and_may_be_cropped(denoiser, epochs):
    average = epochs.average(picks="all").apply_baseline((-0.2, 0.0))
    before = average.copy()
    cleaned = denoiser.apply(average, [0, 1], learn_from=epochs)
    np.testing.assert_array_equal(average.data, before.data)
    np.testing.assert_array_equal(cleaned.data[-2:], before.data[-2:])
    there = (average.times >= -0.2) & (average.times <= 0)
    np.testing.assert_allclose(cleaned.data[:6, there].mean(1), 0, atol=1e-18)
    # A high-pass moves the baseline, and nothing else is to.
    moved = average.copy().filter(2.0, None, verbose="error")
    before = moved.copy()
    denoiser.apply(moved, [], learn_from=epochs)
    np.testing.assert_array_equal(moved.data, before.data)
    for tmin in (-0.1, 0.05):
        part = average.copy().crop(tmin, 1)
        same = denoiser.apply(part, [], learn_from=epochs)
        np.testing.assert_array_equal(same.data, part.data)
        cut = epochs.copy().apply_baseline((-0.2, 0.0)).crop(tmin, 1)
        same = denoiser.apply(cut, [])
        np.testing.assert_array_equal(same.get_data(), cut.get_data())


def test_spans_marked_as_bad_decide_nothing(denoiser, raw):
    junk = raw.copy()
    junk._data[:, 2000:2400] = 1e-3 * np.random.default_rng(0).standard_normal(400)
    marked = mne.Annotations([20], [4], ["BAD_junk"])
    expected, found = (
        score_atoms(denoiser, each.set_annotations(marked))
        for each in (raw.copy(), junk)
    )
    pd.testing.assert_frame_equal(found, expected)


def test_channels_marked_as_bad_are_no_references(denoiser, raw):
    without = raw.copy()
    without.info["bads"] = ["EOG"]
    with pytest.raises(ValueError, match="no channel of type eog, .* apart from"):
        denoiser.find_bads_eog(without)
    assert not any("EOG" in name for name in score_atoms(denoiser, without))


def test_one_channel_has_no_topographies():
    X = np.random.default_rng(0).standard_normal((20, 1, 100))
    denoiser = EEGDenoiser(0.5, sfreq=np.int64(100), sae=small_sae(max_steps=3)).fit(X)
    with pytest.raises(ValueError, match="apply needs several channels"):
        denoiser.apply(X, [0])


def test_numbers_of_numpy_are_saved(tmp_path):
    X = np.random.default_rng(0).standard_normal((20, 2, 100))
    sfreq = np.float32(100)
    denoiser = EEGDenoiser(0.5, sfreq=sfreq, sae=small_sae(max_steps=3)).fit(X)
    denoiser.save(tmp_path / "denoiser.skmfr")
    assert read_eeg_denoiser(tmp_path / "denoiser.skmfr").sfreq_ == 100


def fitted(raw, **arguments):
    sae = small_sae(max_steps=3)
    return EEGDenoiser(0.5, sae=sae, random_state=0).fit(raw, **arguments)


def assert_same_fit(one, other):
    for name in ("mean_", "scale_", "atoms_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_loud_pieces_are_rejected_as_if_they_were_annotated(raw):
    popped = raw.copy().set_annotations(None)
    popped._data[1, 900:910] += 1e-3
    marked = popped.copy().set_annotations(mne.Annotations([8], [2], ["BAD pop"]))
    assert_same_fit(fitted(popped, reject={"eeg": 5e-4}), fitted(marked))
    assert_same_fit(fitted(marked, reject_by_annotation=False), fitted(popped))
    with pytest.raises(ValueError, match=r"no span of 50 samples .* reject="):
        fitted(raw, reject={"eeg": 1e-6})


def test_each_so_manyth_window_is_learned_from(raw):
    n_windows = fitted(raw).pca_.n_samples_
    assert fitted(raw, decim=3).pca_.n_samples_ == -(-n_windows // 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decim": 0}, "decim must be an integer of at least 1, got 0"),
        ({"decim": 2.0}, "decim must be an integer of at least 1, got 2.0"),
        ({"reject": 1e-4}, "reject must be a dict of peak-to-peak"),
        ({"reject": {"eog": 1e-4}}, r"thresholds for \['eog'\]; .* \['eeg'\]"),
        ({"reject": {"eeg": -1}}, r"reject\['eeg'\] must be .* above 0"),
        ({"reject_by_annotation": "omit"}, "must be True or False, got 'omit'"),
        ({"reject": {"eeg": 1}, "y": "X"}, "reject=.* counts without clean signals"),
    ],
)
def test_what_cannot_be_left_out_is_named(raw, arguments, message):
    with pytest.raises(ValueError, match=message):
        EEGDenoiser(sae=small_sae()).fit(raw, **arguments)


def test_epochs_are_not_rejected_by_a_fit(epochs):
    with pytest.raises(ValueError, match="reject leaves out spans of an mne.io.Raw"):
        fitted(epochs, reject={"eeg": 1})


def test_a_fit_without_high_pass_is_warned_of(raw, recwarn):
    fitted(raw)
    assert not [each for each in recwarn if "high-pass" in str(each.message)]
    drifting = mne.io.RawArray(
        raw.get_data(NAMES), mne.create_info(NAMES, SFREQ, "eeg"), verbose="error"
    )
    with pytest.warns(UserWarning, match=r"not been high-pass .* raw.filter\(1.0"):
        fitted(drifting)


@pytest.fixture(scope="module")
def of_arrays(raw):
    noisy = raw.get_data(NAMES).reshape(6, 10, 300).swapaxes(0, 1)
    return EEGDenoiser(
        0.5,
        sfreq=SFREQ,
        ch_names=NAMES,
        sae=small_sae(transform_algorithm="encoder"),
        random_state=0,
    ).fit(noisy, 0.5 * noisy)


def test_fitted_on_arrays_with_names_it_takes_recordings(of_arrays, raw):
    expected = of_arrays.transform(raw.get_data(NAMES)[None, :, :1200])
    turned = raw.copy().crop(0, 11.99).reorder_channels([*NAMES[::-1], "EOG", "ECG"])
    got = of_arrays.transform(turned).get_data(NAMES)
    np.testing.assert_allclose(got, expected[0], atol=1e-9)
    with pytest.raises(ValueError, match="a name of its own for each of 3 channels"):
        EEGDenoiser(sfreq=SFREQ, ch_names=NAMES).fit(raw.get_data()[None, :3])
    timeless = copy(of_arrays)
    timeless.sfreq_ = None
    with pytest.raises(ValueError, match="sfreq=None, but this RawArray has 100 Hz"):
        timeless.transform(raw)


@pytest.mark.parametrize("way", ["denoiser", "of_arrays"])
def test_files_bring_back_what_was_saved(way, request, raw, tmp_path):
    saved = request.getfixturevalue(way)
    saved.save(tmp_path / "file")
    again = read_eeg_denoiser(tmp_path / "file")
    assert list(again.exclude) == list(saved.exclude)
    got, expected = (str(each.set_params(exclude=())) for each in (again, copy(saved)))
    assert got == expected
    again.exclude = saved.exclude
    assert {name for name in vars(again) if name.endswith("_")} == {
        name for name in vars(saved) if name.endswith("_")
    }
    assert again.recording_ == saved.recording_
    np.testing.assert_array_equal(
        again.transform(raw).get_data(), saved.transform(raw).get_data()
    )
    if way == "of_arrays":
        np.testing.assert_array_equal(
            again.apply(raw).get_data(), saved.apply(raw).get_data()
        )
    if way == "denoiser":
        np.testing.assert_array_equal(again.atoms_, saved.atoms_)
        np.testing.assert_array_equal(
            again.apply(raw).get_data(), saved.apply(raw).get_data()
        )
    with ZipFile(tmp_path / "file") as archive:
        assert archive.namelist() == ["denoiser.safetensors", "sae.safetensors"]


def test_files_of_earlier_builds_correct_all_windows(of_arrays, tmp_path, monkeypatch):
    path = tmp_path / "file"
    with monkeypatch.context() as patch:
        patch.setattr("skmfr.eeg._files.NUMBERS", ("penalty_",))
        of_arrays.save(path)
    again = read_eeg_denoiser(path)
    assert again.least_correction_ == 0
    assert again.penalty_ == of_arrays.penalty_


def test_atoms_of_earlier_builds_contain_the_reference(raw, denoiser, tmp_path):
    """Files and pickles without weights of the channels in it."""
    fitted = copy(denoiser)
    del fitted.reference_weights_, fitted.own_scale_
    fitted.save(tmp_path / "file")
    read = read_eeg_denoiser(tmp_path / "file")
    for again in (read, pickle.loads(pickle.dumps(fitted))):
        assert not again.reference_weights_.any()
        np.testing.assert_array_equal(again.own_scale_, denoiser.scale_)
        np.testing.assert_array_equal(
            again.apply(raw, exclude=[1]).get_data(),
            denoiser.apply(raw, exclude=[1]).get_data(),
        )


@pytest.mark.parametrize("name", ["hop_", "penalty_", "exclude"])
def test_files_that_lack_something_say_what(name, of_arrays, tmp_path, monkeypatch):
    path = tmp_path / "file"

    def without(value):
        if not isinstance(value, dict):
            return value
        return {key: without(value[key]) for key in value if key != name}

    with monkeypatch.context() as patch:
        dumps = json.dumps
        patch.setattr("json.dumps", lambda value, **more: dumps(without(value), **more))
        of_arrays.save(path)
    with pytest.raises(ValueError, match=f"file cannot be loaded: it lacks .*{name}"):
        read_eeg_denoiser(path)


def test_files_that_are_not_as_written_are_refused(denoiser, tmp_path):
    path = tmp_path / "file"
    denoiser.save(path)
    content = path.read_bytes()
    for place in range(1000, len(content), len(content) // 20):
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
        )
        with pytest.raises(ValueError, match=r"file cannot be loaded: "):
            read_eeg_denoiser(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"is not a file of EEGDenoiser\.save"):
        read_eeg_denoiser(path)
    with pytest.raises(FileNotFoundError):
        read_eeg_denoiser(tmp_path / "none")


@pytest.mark.usefixtures("no_window")
def test_components_are_those_that_contribute_most(denoiser, raw):
    figure = denoiser.plot_components(raw, show=False)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(titles) == 12
    shares = [int(title.split(", ")[1].rstrip("%")) for title in titles]
    assert shares == sorted(shares, reverse=True)
    red = [axis.title.get_text() for axis in figure.axes if "red" in axis.title._color]
    assert [title[:7] for title in red] == ["atom005"]
    (only,) = denoiser.plot_components(raw, [3], show=False).axes
    assert only.get_title().startswith("atom003")


@pytest.mark.usefixtures("no_window")
def test_properties_are_plot_atom_of_those_excluded(denoiser, raw, epochs):
    (figure,) = denoiser.plot_properties(raw, show=False)
    expected = plot_atom(denoiser, 5, raw)
    assert figure.get_suptitle() == expected.get_suptitle()
    (of_epochs,) = denoiser.plot_properties(epochs, [0], show=False)
    assert of_epochs.axes[3].get_title().startswith("epoch ")


@pytest.mark.usefixtures("no_window")
@pytest.mark.parametrize("nothing", [(), np.zeros(12, dtype=bool)])
def test_properties_are_of_the_first_atoms_if_none_is_excluded(denoiser, raw, nothing):
    of_none = copy(denoiser).set_params(exclude=nothing)
    figures = of_none.plot_properties(raw, show=False)
    titles = [figure.get_suptitle().split()[1] for figure in figures]
    assert titles == ["0:", "1:", "2:", "3:", "4:"]
    mask = np.arange(12) == 5
    (figure,) = copy(denoiser).set_params(exclude=mask).plot_properties(raw, show=False)
    assert figure.get_suptitle() == plot_atom(denoiser, 5, raw).get_suptitle()


@pytest.mark.usefixtures("no_window")
def test_overlay_is_of_what_apply_gives(denoiser, raw, epochs):
    figure = denoiser.plot_overlay(raw, [0], start=1, duration=4, show=False)
    expected = plot_overlay(
        raw, denoiser.apply(raw, [0]), picks=NAMES, start=1, duration=4
    )
    for one, other in zip(figure.axes, expected.axes, strict=True):
        for line, same in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), same.get_ydata())
    figure = denoiser.plot_overlay(epochs, [0], start=0, duration=1.51, show=False)
    expected = 1e6 * epochs.get_data(NAMES)[0].std(0)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), expected)


@pytest.mark.usefixtures("no_window")
def test_sources_are_browsed_with_mne(denoiser, raw, epochs):
    with mne.viz.use_browser_backend("matplotlib"):
        figure = denoiser.plot_sources(raw, [2, 4], show=False)
        names = [text.get_text() for text in figure.mne.ax_main.get_yticklabels()]
        assert names == ["atom002", "atom004"]
        assert denoiser.plot_sources(epochs, [2], n_epochs=2, show=False)
    with pytest.raises(ValueError, match="picks must be atom indices from 0 to 11"):
        denoiser.plot_sources(raw, [12], show=False)


def test_eyes_that_no_atom_goes_with_are_told(raw, denoiser):
    """Something stands out in the EOG, and what it is is nowhere else."""
    spikes = raw.copy().load_data()
    course = np.random.default_rng(0).standard_normal(raw.n_times)
    course[100::500] += 100
    spikes._data[spikes.ch_names.index("EOG")] = 1e-5 * course
    with pytest.warns(UserWarning, match="stands out in EOG.* a correlation of 0.1"):
        assert denoiser.find_bads_eog(spikes)[0] == []
    spikes._data[spikes.ch_names.index("EOG")] = 1e-5 * np.roll(course, 3) % 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert denoiser.find_bads_eog(spikes)[0] == []
