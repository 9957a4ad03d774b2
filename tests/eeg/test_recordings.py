"""Which channels and spans of MNE's objects are read, beside MNE's own answers."""

import numpy as np
import pytest

from skmfr.eeg import _spans
from skmfr.eeg._channels import picked
from skmfr.eeg._recordings import Reader, check_alike, pieces_to_fit
from skmfr.eeg._spans import first_windows, unmarked, windows_of_spans
from skmfr.eeg._windows import count_windows

mne = pytest.importorskip("mne")

SFREQ = 100.0
NAMES = ["Fp1", "Fp2", "Cz", "O1"]


@pytest.fixture
def raw():
    """Ten seconds, four channels of EEG, the second marked as bad, and a stimulus."""
    data = 1e-5 * np.random.default_rng(0).standard_normal((5, 1000))
    info = mne.create_info([*NAMES, "STI"], SFREQ, ["eeg"] * 4 + ["stim"])
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.info["bads"] = ["Fp2"]
    return raw


def annotate(raw, *spans):
    onset, duration, text = zip(*spans, strict=True)
    # Of recordings that do not begin at 0, as those that were cropped.
    raw.set_annotations(mne.Annotations(onset, duration, text, orig_time=None))
    return raw


@pytest.mark.parametrize(
    "picks",
    [
        "eeg",
        "data",
        "Cz",
        ["eeg"],
        ["O1", "Fp1"],
        ("Fp1", "Fp2"),
        np.array(["Fp1"]),
        slice(1, 3),
        slice(None, None, 2),
        [3, 0],
        np.array([-2, 1]),
        2,
        np.int64(1),
    ],
)
def test_picks_are_those_of_mne(raw, picks):
    expected = raw.copy().pick(picks, exclude="bads").ch_names
    assert picked(raw, picks) == expected


def test_channels_may_be_called_as_types_are(raw):
    """A list names channels, a word of a type all of that type, as None all of EEG."""
    raw.rename_channels({"Cz": "eeg", "STI": "stim"}, verbose="error")
    assert picked(raw, ["eeg"]) == ["eeg"]
    assert picked(raw, ["eeg", "Fp2"]) == ["eeg", "Fp2"]
    assert picked(raw, None) == picked(raw, "eeg") == ["Fp1", "eeg", "O1"]
    assert picked(raw, ["eeg", "stim"]) == ["eeg", "stim"]
    reader = Reader(raw, ["stim", "eeg"], "X")
    assert reader.ch_types == ["stim", "eeg"]
    np.testing.assert_array_equal(reader.read(slice(5, 9))[0], raw._data[[4, 2], 5:9])
    epochs = mne.make_fixed_length_epochs(raw, 1, preload=True, verbose="error")
    part = Reader(epochs, ["stim", "eeg"], "X").read(slice(1, 2))
    np.testing.assert_array_equal(part[0], raw._data[[4, 2], 100:200])


def test_channels_that_are_picked_twice_are_picked_once(raw):
    assert picked(raw, ["O1", "Fp1", "O1"]) == ["O1", "Fp1"]
    assert picked(raw, [0, 3, -5]) == ["Fp1", "O1"]
    assert picked(raw, None) == ["Fp1", "Cz", "O1"]


@pytest.mark.parametrize(
    "picks",
    [[], (), slice(4, 4), ["Oz"], "meg", 9, [0.5], [True], ["eeg", "Oz"], ["1"]],
)
def test_picks_of_nothing_are_named(raw, picks):
    with pytest.raises(ValueError, match=r"channels=.* does not select .*'Cz'.*'stim'"):
        picked(raw, picks, "channels")


@pytest.mark.parametrize("date", [None, 1e9])
def test_good_spans_are_those_that_mne_keeps(raw, date):
    raw.set_meas_date(date)
    annotate(raw, (2, 1, "BAD_a"), (2.5, 1, "bad b"), (5, 0.5, "blink"), (9, 1, "BAD"))
    raw.crop(1.0)  # samples are now counted from 1 s
    reader = Reader(raw, ["Cz"], "X")
    kept = raw.get_data(["Cz"], reject_by_annotation="omit")
    good = reader.good_spans()
    assert [(span.start, span.stop) for span in good] == [(0, 100), (250, 800)]
    np.testing.assert_array_equal(reader.read_spans(good)[0], kept)


@pytest.mark.parametrize("text", ["BAD boundary", "EDGE boundary"])
def test_no_span_crosses_where_recordings_were_joined(raw, text):
    annotate(raw, (4, 0, text), (0, 0, text), (4, 0, "blink"))
    reader = Reader(raw, ["Cz"], "X")
    assert reader.spans() == [(0, 400), (400, 1000)]
    assert [(s.start, s.stop) for s in reader.good_spans()] == reader.spans()
    pieces = pieces_to_fit(reader, 100, 10**6, np.random.default_rng(0))
    assert [(piece.start, piece.stop) for piece in pieces] == reader.spans()


def test_joined_recordings_are_cut_where_they_were(raw):
    parts = [raw.copy().crop(0, last) for last in (1.99, 5.99)]
    joined = mne.concatenate_raws(parts, verbose="error")
    assert Reader(joined, ["Cz"], "X").spans() == [(0, 200), (200, 800)]


@pytest.mark.parametrize("channel", NAMES)
def test_values_that_are_not_finite_in_bad_spans_are_passed_over(raw, channel):
    annotate(raw, (2, 1, "BAD_a"), (6, 1, "BAD_b"))
    raw._data[NAMES.index(channel), 250] = np.nan
    reader = Reader(raw, NAMES, "X")
    assert reader.spans() == [(0, 200), (300, 1000)]
    good = [(span.start, span.stop) for span in reader.good_spans()]
    assert good == [(0, 200), (300, 600), (700, 1000)]
    # Another channel's are no concern.
    assert Reader(raw, ["STI"], "X").spans() == [(0, 1000)]
    annotate(raw, (0, 10, "BAD_all"))
    with pytest.raises(ValueError, match="bad from beginning to end"):
        reader.spans()


def test_spans_that_filters_skip_are_skipped(raw):
    annotate(raw, (3, 2, "BAD_ACQ_SKIP"))
    assert Reader(raw, NAMES, "X").spans() == [(0, 300), (500, 1000)]


def test_unmarked_is_what_a_mask_says():
    rng = np.random.default_rng(0)
    for _ in range(50):
        marked = [tuple(sorted(rng.integers(0, 31, 2).tolist())) for _ in range(3)]
        free = np.ones(30, dtype=bool)
        for start, stop in marked:
            free[start:stop] = False
        spans = unmarked(30, marked)
        covered = np.zeros(30, dtype=int)
        for start, stop in spans:
            assert start < stop
            covered[start:stop] += 1
            assert not any(i == j and start < i < stop for i, j in marked)
        np.testing.assert_array_equal(covered, free)


def test_each_window_of_each_span_is_read_once(monkeypatch):
    monkeypatch.setattr(_spans, "CHUNK", 2.0)

    class Windows:
        hop_, n_times_, sfreq_ = 25, 100, SFREQ

    spans = [(0, 730), (730, 790), (900, 1500)]
    counts = [count_windows(stop - start, 100, 25) for start, stop in spans]
    assert first_windows(Windows, spans) == [0, counts[0], sum(counts[:2])]
    read = [0]
    for piece, own, windows in windows_of_spans(Windows, spans):
        assert any(a <= piece.start < piece.stop <= b for a, b in spans)
        assert own.stop - own.start == windows.stop - windows.start
        assert windows.start == read[-1]
        read.append(windows.stop)
    assert read[-1] == sum(counts)


def test_epochs_that_are_not_loaded_are_read_as_loaded_ones(raw):
    raw._data[2, 420] = 1.0
    events = np.c_[np.arange(100, 900, 100), np.zeros(8), np.ones(8)].astype(int)
    make = {"tmin": 0, "tmax": 0.5, "baseline": None, "reject": {"eeg": 0.1}}
    lazy = mne.Epochs(raw, events, **make, preload=False, verbose="error")
    loaded = mne.Epochs(raw, events, **make, preload=True, verbose="error")
    reader = Reader(lazy, ["Fp1", "Cz"], "X")
    assert reader.shape == (7, 2, 51)
    read = reader.read_spans([slice(0, 3), slice(3, 7)])
    np.testing.assert_array_equal(read, loaded.get_data(["Fp1", "Cz"]))
    assert not lazy.preload


def test_what_is_no_recording_is_named(raw):
    evoked = mne.EvokedArray(raw.get_data(), raw.info, verbose="error")
    with pytest.raises(ValueError, match=r"EvokedArray; pass get_data\(\)\[None\]"):
        Reader(evoked, None, "X")
    with pytest.raises(ValueError, match="list of RawArray; join .*concatenate_raws"):
        Reader([raw, raw], None, "X")
    with pytest.raises(ValueError, match=r"^y must be .*EvokedArray; pass get_data"):
        check_alike(raw, evoked)
    with pytest.raises(ValueError, match=r"^y must be .*list of RawArray; join"):
        check_alike(raw, [raw, raw])
