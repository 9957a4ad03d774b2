"""Blinks of a known topography, found and removed; scores against brute force."""

from copy import copy

import numpy as np
import pytest
from scipy.stats import kurtosis

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import (
    EEGDenoiser,
    _spans,
    atom_waveforms,
    find_artifacts,
    score_atoms,
)
from skmfr.eeg._artifacts import code_windows, leading_vectors
from skmfr.eeg._recordings import Reader
from skmfr.eeg._references import kurtosis as kurtosis_in_stretches
from skmfr.eeg._windows import cut_windows, overlap_add

mne = pytest.importorskip("mne")
pd = pytest.importorskip("pandas")

SFREQ = 100.0
NAMES = ["Fp1", "Fp2", "F7", "F8", "Cz", "Pz", "O1", "O2"]
BLINK = np.array([1, 0.95, 0.5, 0.45, 0.15, 0.05, 0.02, 0.02])
ALPHA = np.array([0, 0, 0.1, 0.1, 0.4, 0.9, 1.2, 1.1])


def small_sae(**more) -> MFRSparseAutoencoder:
    usual = {"n_components": 24, "n_saes": 1, "n_witnesses": 1}
    usual |= {"transform_algorithm": "omp", "random_state": 0}
    return MFRSparseAutoencoder(**usual, **more)


def blinks(n_times):
    onset = np.random.default_rng(1).uniform(1.5, 4, n_times // 100).cumsum() * SFREQ
    train = np.zeros(n_times)
    train[onset[onset < n_times - 50].astype(int)] = 1
    return np.convolve(train, np.hanning(35), "same")


@pytest.fixture(scope="module")
def raw():
    """A minute of alpha, blinks and noise, in volts."""
    rng = np.random.default_rng(0)
    n_times = 6000
    time = np.arange(n_times) / SFREQ
    alpha = np.sin(2 * np.pi * 10 * time) * np.sin(2 * np.pi * 0.1 * time)
    eeg = 1e-5 * np.outer(ALPHA, alpha) + 1e-4 * np.outer(BLINK, blinks(n_times))
    eeg += 3e-6 * rng.standard_normal(eeg.shape)
    eog = 1e-4 * blinks(n_times) + 5e-6 * rng.standard_normal(n_times)
    info = mne.create_info([*NAMES, "EOG 061"], SFREQ, ["eeg"] * 8 + ["eog"])
    raw = mne.io.RawArray(np.vstack([eeg, eog]), info, verbose="error")
    return raw.set_montage("easycap-M1")


@pytest.fixture(scope="module")
def denoiser(raw):
    sae = small_sae(k=5, max_steps=200, batch_size=256)
    return EEGDenoiser(sae=sae, random_state=0).fit(raw)


@pytest.fixture(scope="module")
def scores(denoiser, raw):
    return score_atoms(denoiser, raw, topographies={"blink": BLINK})


def codes_of(denoiser, raw) -> np.ndarray:
    reader = Reader(raw, NAMES, "X")
    return code_windows(denoiser, reader, reader.spans()).toarray()


def without_drift(raw, name="EOG 061"):
    """A channel after MNE's own Butterworth filter, there and back, (n_times,)."""
    parameters = {"order": 2, "ftype": "butter", "output": "sos"}
    slow = raw.copy().filter(
        0.5, None, picks=[name], method="iir", iir_params=parameters, verbose="error"
    )
    return slow.get_data(name)[0]


def contributed(denoiser, raw, atoms):
    """What atoms are to a reconstruction, (n_channels, n_times)."""
    without = copy(denoiser).set_params(exclude=atoms)
    whole, rest = (each.transform(raw).get_data(NAMES) for each in (denoiser, without))
    return whole - rest


def test_waveforms_times_codes_are_what_atoms_contribute(denoiser, raw):
    windows = np.tensordot(codes_of(denoiser, raw), atom_waveforms(denoiser), 1)
    expected = overlap_add(windows.swapaxes(0, 1), raw.n_times, denoiser.hop_)
    got = contributed(denoiser, raw, np.arange(24))
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_atoms_of_blinks_have_the_highest_scores(denoiser, raw, scores):
    codes = codes_of(denoiser, raw)
    cut = cut_windows(blinks(raw.n_times), denoiser.n_times_, denoiser.hop_)
    size = cut.max(1)
    in_blinks = (codes**2)[size > 0.2].sum(0) / (codes**2).sum(0)
    best = scores["EOG 061: correlation"].nlargest(3).index
    assert (in_blinks[best] > 0.95).all()
    assert (scores.loc[best, "blink: topography"] > 0.99).all()
    assert scores["EOG 061: correlation"].max() > 0.6
    # What is active when eyes are still is not like a blink.
    elsewhere = np.flatnonzero(in_blinks < 0.5)
    assert len(elsewhere)
    assert scores["EOG 061: correlation"][elsewhere].median() < 0.2


def test_without_artifacts_eeg_and_eog_are_unrelated(denoiser, raw, scores):
    artifacts = find_artifacts(scores.filter(regex="EOG|rate|variance"))
    clean = denoiser.apply(raw, exclude=artifacts.index)
    (eog,) = raw.get_data("EOG 061")

    def with_eog(recording):
        return np.corrcoef(recording.get_data("Fp1")[0], eog)[0, 1]

    assert with_eog(raw) > 0.95
    assert with_eog(clean) < 0.6
    # Alpha stays.
    before, after = (part.get_data("O1")[0] for part in (raw, clean))
    assert np.corrcoef(before, after)[0, 1] > 0.97


@pytest.mark.parametrize(("n_times", "tolerance"), [(6000, 1e-6), (5990, 2e-3)])
def test_variance_is_what_goes_with_an_atom(denoiser, raw, scores, n_times, tolerance):
    part = raw.copy().crop(tmax=(n_times - 1) / SFREQ)
    variance = score_atoms(denoiser, part)["variance"]
    before = part.get_data("eeg").var(axis=1).sum()
    for atom in (variance.idxmax(), variance.idxmin(), 7):
        after = part.get_data("eeg") - contributed(denoiser, part, [atom])
        after = after.var(axis=1).sum()
        assert variance[atom] == pytest.approx(1 - after / before, abs=tolerance)
    assert variance.max() > 0.05


def test_correlation_is_that_of_active_windows_one_after_the_other(
    denoiser, raw, scores
):
    eog = raw.get_data("EOG 061")[0]
    eog = cut_windows(eog - eog.mean(), denoiser.n_times_, denoiser.hop_)
    codes = codes_of(denoiser, raw)
    _, temporal = leading_vectors(atom_waveforms(denoiser))
    for atom, code in enumerate(codes.T):
        active = code != 0
        part = code[active, None] * temporal[atom]
        expected = np.corrcoef(eog[active].ravel(), part.ravel())[0, 1]
        score = scores.loc[atom, "EOG 061: correlation"]
        assert score == pytest.approx(abs(expected), abs=2e-3)
        assert scores.loc[atom, "activation_rate"] == pytest.approx(active.mean())


def test_scores_do_not_depend_on_how_the_recording_is_read(
    denoiser, raw, scores, monkeypatch
):
    monkeypatch.setattr(_spans, "CHUNK", 3.0)
    in_pieces = score_atoms(denoiser, raw, topographies={"blink": BLINK})
    pd.testing.assert_frame_equal(in_pieces, scores, atol=1e-5)


def test_scores_are_of_what_is_finite_in_each_span(denoiser, raw):
    spoiled = raw.copy()
    spoiled.set_annotations(
        mne.Annotations([20.0, 40.0], [3.0, 0.0], ["BAD_movement", "BAD boundary"])
    )
    spoiled._data[3, 2100] = spoiled._data[8, 2200] = np.nan
    got = score_atoms(denoiser, spoiled)
    spans = [slice(0, 2000), slice(2300, 4000), slice(4000, 6000)]
    sides = [raw.copy().crop(s.start / SFREQ, (s.stop - 1) / SFREQ) for s in spans]
    codes = np.vstack([codes_of(denoiser, side) for side in sides])
    np.testing.assert_allclose(got["activation_rate"], (codes != 0).mean(0))

    kept = np.r_[tuple(spans)]
    atom = got["variance"].idxmax()
    before = spoiled.get_data("eeg")
    after = before - contributed(denoiser, spoiled, [atom])
    before, after = (part[:, kept].var(axis=1).sum() for part in (before, after))
    assert got["variance"][atom] == pytest.approx(1 - after / before, abs=1e-6)

    active = codes[:, atom] != 0
    _, temporal = leading_vectors(atom_waveforms(denoiser))
    part = codes[active, atom, None] * temporal[atom]
    eogs = [side.get_data("EOG 061")[0] for side in sides]
    mean = np.concatenate(eogs).mean()
    eog = np.vstack([cut_windows(eog - mean, 100, denoiser.hop_) for eog in eogs])
    expected = np.corrcoef(eog[active].ravel(), part.ravel())[0, 1]
    score = got["EOG 061: correlation"][atom]
    assert score == pytest.approx(abs(expected), abs=2e-3)


@pytest.fixture(scope="module")
def filtered(raw):
    """As data usually are."""
    return raw.copy().filter(1, None, picks=["eeg", "eog"], verbose="error")


@pytest.fixture(scope="module")
def without_slow(filtered):
    """Fitted to filtered data."""
    sae = small_sae(k=5, max_steps=200, batch_size=256)
    return EEGDenoiser(sae=sae, random_state=0).fit(filtered)


def test_a_drift_of_the_eog_hides_no_blinks(filtered, without_slow):
    """MNE's filters leave EOG channels as they are; atoms are those without a drift."""
    scores = score_atoms(without_slow, filtered)
    drifting = filtered.copy()
    drifting._data[-1] += 3e-4 * np.sin(2 * np.pi * 0.05 * drifting.times) + 1e-3
    here = score_atoms(without_slow, drifting)
    expected = find_artifacts(scores)
    assert set(expected["kind"]) == {"ocular"}
    assert set(find_artifacts(here).index) == set(expected.index)
    name = "EOG 061: correlation"
    np.testing.assert_allclose(here[name], scores[name], atol=0.02)


def test_drifts_of_data_that_were_not_filtered_are_found():
    """Epochs one after the other, at levels that the eyes give to EOG and EEG."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.standard_normal(60), 200)
    eyes = 1e-4 * level + 1e-5 * rng.standard_normal(12_000)
    eeg = np.outer(BLINK, eyes) + 1e-5 * rng.standard_normal((8, 12_000))
    info = mne.create_info([*NAMES, "EOG"], SFREQ, ["eeg"] * 8 + ["eog"])
    raw = mne.io.RawArray(np.vstack([eeg, eyes]), info, verbose="error")
    sae = small_sae(k=3, max_steps=100)
    with pytest.warns(UserWarning, match="high-pass"):
        denoiser = EEGDenoiser(sae=sae, random_state=0).fit(raw)
    scores = score_atoms(denoiser, raw)
    largest = scores["variance"].idxmax()
    assert scores.loc[largest, "variance"] > 0.2
    assert scores.loc[largest, "EOG: correlation"] > 0.85


def test_epochs_have_no_drifts_either(filtered, without_slow):
    """One as long as a second, about, whose EOG is at another level in each."""
    epochs = mne.make_fixed_length_epochs(filtered, 1.5, preload=True, verbose="error")
    expected = score_atoms(without_slow, epochs)
    n_epochs = len(epochs)
    level = 1e-3 * np.random.default_rng(4).standard_normal((n_epochs, 1))
    epochs._data[:, -1] += level + level[::-1] * epochs.times
    here = score_atoms(without_slow, epochs)
    for name in ("EOG 061: correlation", "EOG 061: kurtosis"):
        np.testing.assert_allclose(here[name], expected[name], rtol=0.02, atol=0.02)


@pytest.mark.filterwarnings("ignore:None of .* atoms is trusted")
def test_bands_are_those_that_are_documented():
    """Of atoms that are sinusoids, from 1 to 99 Hz."""
    hz = np.arange(1, 100)
    info = mne.create_info(NAMES, 200, "eeg")
    noise = 1e-5 * np.random.default_rng(0).standard_normal((8, 14_000))
    raw = mne.io.RawArray(noise, info, verbose="error")
    raw.filter(1, None, verbose="error")
    sae = small_sae(k=3, max_steps=1).set_params(n_components=99)
    denoiser = EEGDenoiser(window=1, sae=sae, random_state=0).fit(raw)
    courses = np.sin(2 * np.pi * np.outer(hz, np.arange(200) / 200))
    denoiser.atoms_ = BLINK[:, None] * courses[:, None]
    scores = score_atoms(denoiser, raw, channels=[])
    mains = np.isin(hz, [49, 50, 51, 59, 60, 61])
    expected = {"slow": hz < 8, "fast": (hz > 30) & ~mains, "line": mains}
    for name, inside in expected.items():
        np.testing.assert_allclose(scores[name], inside, atol=1e-12)


def test_leading_vectors_are_those_of_an_atom_of_one_source():
    rng = np.random.default_rng(0)
    spatial, temporal = rng.standard_normal((5, 8)), rng.standard_normal((5, 20))
    left, right = leading_vectors(spatial[:, :, None] * temporal[:, None])
    cosine = (left * spatial).sum(1) / np.linalg.norm(spatial, axis=1)
    np.testing.assert_allclose(abs(cosine), 1)
    np.testing.assert_allclose(
        left[:, :, None] * right[:, None], spatial[:, :, None] * temporal[:, None]
    )
    assert (left[np.arange(5), abs(left).argmax(1)] > 0).all()


def test_topographies_can_be_named_and_of_another_reference(denoiser, raw, scores):
    by_name = dict(zip([*NAMES, "Oz"], [*(BLINK - 0.3), 5], strict=True))
    again = score_atoms(denoiser, raw, channels=[], topographies={"blink": by_name})
    column = "blink: topography"
    np.testing.assert_allclose(again[column], scores[column], atol=1e-6)


def test_eeg_channels_can_stand_in_for_an_eog(denoiser, raw, scores):
    stand_in = score_atoms(denoiser, raw, channels=["Fp1"])
    assert list(stand_in)[0] == "Fp1: correlation"
    by_type = score_atoms(denoiser, raw, channels="eog")
    assert list(by_type)[:2] == ["EOG 061: correlation", "EOG 061: kurtosis"]
    similar = np.corrcoef(stand_in["Fp1: correlation"], scores["EOG 061: correlation"])
    assert similar[0, 1] > 0.9


def test_the_reason_is_what_exceeds_its_threshold_most():
    scores = pd.DataFrame(
        {
            "EOG 061: correlation": [0.83, 0.1, 0.34, 0.4],
            "vEOG: topography": [0.91, 0.94, 0.89, 0.99],
            "activation_rate": 0.25,
            "variance": [0.1, 0.2, 0.3, 0.4],
        }
    )
    table = find_artifacts(scores)
    assert table["reason"].to_dict() == {
        0: "EOG 061: correlation 0.83",
        3: "EOG 061: correlation 0.40",
        1: "vEOG: topography 0.94",
    }
    assert list(table.index) == [0, 3, 1]
    assert set(table["kind"]) == {"ocular"}
    # Twice the threshold is 16 to 1.
    odds = table["probability"] / (1 - table["probability"])
    assert odds[0] == pytest.approx((0.83 / 0.35) ** 4)
    assert list(table["variance_removed"]) == [0.1, 0.4, 0.2]
    assert find_artifacts(scores, correlation=0.9, topography=0.999).empty
    with pytest.raises(ValueError, match="scores has no correlation"):
        find_artifacts(scores[["variance", "activation_rate"]])


def test_kinds_need_more_than_a_correlation():
    """An atom of each kind, and one that lacks one of the signs."""
    ocular = {"EOG: correlation": 0.7, "slow": 1, "peak": 8, "breadth": 0.3}
    muscular = {"fast": 0.9, "peak": 8, "breadth": 0.3}
    atoms = {
        "ocular": ocular,
        "cardiac": {"ECG: cardiac correlation": 0.7, "breadth": 1},
        "muscular": muscular,
        "line": {"line": 0.9, "breadth": 1},
        "alpha": ocular | {"slow": 0.1},
        "quiet": ocular | {"peak": 2},
        "broad": ocular | {"breadth": 0.9},
        "weak": ocular | {"EOG: correlation": 0.2},
        "gamma": muscular | {"peak": 2},
        "broad noise": muscular | {"breadth": 0.9},
    }
    scores = pd.DataFrame.from_dict(atoms, orient="index").fillna(0.0)
    scores = scores.assign(activation_rate=0.1, variance=0.1)
    table = find_artifacts(scores)
    kinds = ["ocular", "cardiac", "muscular", "line"]
    assert table["kind"].to_dict() == dict(zip(kinds, kinds, strict=True))
    assert table["probability"].between(0.5, 1).all()


BLINKS = {"EOG: correlation": 0.7, "slow": 0.95, "peak": 8, "breadth": 0.3}
BLINKS |= {"EOG: kurtosis": 5}
MUSCLES = {"fast": 0.9, "peak": 8, "breadth": 0.3}


@pytest.mark.parametrize(
    ("atom", "inside", "outside"),
    [
        (BLINKS, {"EOG: correlation": 0.36}, {"EOG: correlation": 0.34}),
        (BLINKS, {"slow": 0.91}, {"slow": 0.89}),
        (BLINKS, {"peak": 4.1}, {"peak": 3.9}),
        (BLINKS, {"breadth": 0.59}, {"breadth": 0.61}),
        (BLINKS, {"EOG: kurtosis": 2.1}, {"EOG: kurtosis": 1.9}),
        (BLINKS | {"EOG: kurtosis": 0}, {"peak": 12.1}, {"peak": 11.9}),
        (MUSCLES, {"fast": 0.51}, {"fast": 0.49}),
        (MUSCLES, {"peak": 4.1}, {"peak": 3.9}),
        (MUSCLES, {"breadth": 0.59}, {"breadth": 0.61}),
        ({"line": 0.9}, {"line": 0.51}, {"line": 0.49}),
        ({"EOG: topography": 1}, {"EOG: topography": 0.91}, {"EOG: topography": 0.89}),
    ],
)
def test_kinds_have_the_thresholds_that_are_documented(atom, inside, outside):
    scores = pd.DataFrame([atom | inside, atom | outside])
    table = find_artifacts(scores.assign(activation_rate=0.1, variance=0.1))
    assert table.index.tolist() == [0]


def test_few_channels_may_all_be_near_the_eyes(raw):
    """The median of three is frontal, and blinks are no wave of the whole head."""
    few = raw.copy().pick(["Fp1", "Fp2", "Cz", "EOG 061"])
    denoiser = EEGDenoiser(sae=small_sae(k=3, max_steps=60), random_state=0).fit(few)
    scores = score_atoms(denoiser, few)
    assert scores["breadth"].isna().all()
    clean = denoiser.apply(few, exclude=find_artifacts(scores).index)
    known = 1e-4 * np.outer(BLINK[[0, 1, 4]], blinks(few.n_times))
    removed = few.get_data("eeg") - clean.get_data("eeg")
    assert np.square(removed - known).sum() < 0.05 * np.square(known).sum()


def test_eyes_are_events_in_their_channel_or_loud():
    """What is slow and frontal is the brain's, too, where nothing stands out."""
    ocular = {"EOG: correlation": 0.9, "slow": 0.99, "breadth": 0.2}
    atoms = {
        "blinks": ocular | {"peak": 5, "EOG: kurtosis": 3},
        "saccades": ocular | {"peak": 14, "EOG: kurtosis": -1},
        "brain": ocular | {"peak": 8, "EOG: kurtosis": 1},
    }
    scores = pd.DataFrame.from_dict(atoms, orient="index")
    scores = scores.assign(activation_rate=0.1, variance=0.1)
    assert set(find_artifacts(scores).index) == {"blinks", "saccades"}


def test_something_may_stand_out_in_any_channel_of_the_eyes():
    """Blinks in one EOG channel, and atoms that go with another one."""
    scores = {"1: correlation": 0.1, "2: correlation": 0.5, "slow": 0.99}
    scores |= {"breadth": 0.2, "peak": 5, "1: kurtosis": 15, "2: kurtosis": 1}
    scores |= {"activation_rate": 0.1, "variance": 0.1}
    assert list(find_artifacts(pd.DataFrame([scores]))["reason"]) == [
        "2: correlation 0.50"
    ]
    # Heartbeats stand out in every ECG.
    heart = {"ECG: cardiac correlation": 0.1, "ECG: kurtosis": 20}
    assert find_artifacts(pd.DataFrame([scores | heart | {"1: kurtosis": 1}])).empty


@pytest.mark.filterwarnings("ignore:None of .* atoms is trusted")
def test_a_noisy_reference_electrode_hides_no_blinks():
    rng = np.random.default_rng(0)
    n_times, topography = 6000, np.linspace(1, 0, 16) ** 3
    brain = (
        1.5e-6
        * np.cumsum(rng.standard_normal((16, 16)), axis=0)
        @ (rng.standard_normal((16, n_times)))
    )
    blink = 1e-4 * blinks(n_times)
    slow = np.convolve(rng.standard_normal(n_times), np.hanning(50), "same")
    info = mne.create_info(
        [f"E{i}" for i in range(16)] + ["EOG"], SFREQ, ["eeg"] * 16 + ["eog"]
    )
    removed = []
    for noise in (0, 2e-5 * slow):
        eeg = brain + np.outer(topography, blink) - noise
        raw = mne.io.RawArray(np.vstack([eeg, blink]), info, verbose="error")
        raw.filter(1, None, verbose="error")
        sae = small_sae(k=3, max_steps=150, batch_size=128)
        denoiser = EEGDenoiser(sae=sae, random_state=0).fit(raw)
        found, _ = denoiser.find_bads_eog(raw)
        clean = denoiser.apply(raw, exclude=found)
        difference = raw.get_data("eeg") - clean.get_data("eeg")
        removed.append(difference - difference.mean(0))
        # The mean over channels is in no atom.
        assert denoiser.reference_weights_.all()
        with pytest.warns(UserWarning, match="not their part of the mean"):
            rest = copy(denoiser).set_params(exclude=found).transform(raw)
        np.testing.assert_allclose(
            rest.get_data("eeg").mean(0), raw.get_data("eeg").mean(0), atol=1e-9
        )
    truth = np.outer(topography, blink)
    truth -= truth.mean(0)
    for each in removed:
        assert np.square(each - truth).sum() < 0.3 * np.square(truth).sum()


def test_kurtosis_is_that_of_the_channel(denoiser, without_slow, raw, filtered):
    flat = raw.copy().apply_function(lambda x: 0 * x, picks=["EOG 061"])
    for fitted, recording in (
        (denoiser, raw),
        (denoiser, flat),
        (without_slow, filtered),
    ):
        scores = score_atoms(fitted, recording, channels=["EOG 061", "Fp1"])
        for name in ("EOG 061", "Fp1"):
            samples = recording.get_data(name)[0]
            if recording is filtered:
                samples = without_drift(recording, name)
            stretches = np.array_split(samples, len(samples) // (20 * fitted.n_times_))
            expected = np.mean([kurtosis(part) for part in stretches])
            expected = expected if samples.any() else 0.0
            np.testing.assert_allclose(scores[f"{name}: kurtosis"], expected, rtol=0.01)


def test_a_louder_part_does_not_stand_out():
    """Of two recordings in one; a blink in each stretch does."""
    rng = np.random.default_rng(0)
    joined = rng.standard_normal((2, 60_000))
    joined[:, 40_000:] *= 3
    joined[1, 1000::2000] += 30
    quiet, blinking = kurtosis_in_stretches(joined, 2000)
    assert kurtosis(joined[0]) > 2
    assert abs(quiet) < 0.2
    assert blinking > 20


def test_slow_activity_of_the_front_stays():
    """Loud, slow and narrow, but there all the time: nothing is removed."""
    rng = np.random.default_rng(4)
    n_times = 9000
    slow = np.convolve(rng.standard_normal(n_times), np.hanning(60), "same")
    front = np.where([name.startswith("Fp") for name in NAMES], 1.0, 0.05)
    data = rng.standard_normal((8, n_times)) + np.outer(front, 0.9 * slow)
    info = mne.create_info(NAMES, SFREQ, "eeg")
    raw = mne.io.RawArray(1e-5 * data, info, verbose="error")
    raw.filter(1, None, verbose="error")
    sae = small_sae(k=3, max_steps=50)
    denoiser = EEGDenoiser(sae=sae, overlap=0.5, random_state=0).fit(raw)
    scores = score_atoms(denoiser, raw, channels=["Fp1"])
    tails = scores.columns[scores.columns.str.endswith("kurtosis")]
    assert not find_artifacts(scores.drop(columns=tails)).empty
    assert find_artifacts(scores).empty


def test_nothing_is_marked_where_there_are_no_artefacts():
    """Alpha and slow waves of the brain, with each channel named as an EOG."""
    rng = np.random.default_rng(2)
    n_times = 9000
    slow = np.cumsum(rng.standard_normal((8, n_times)), axis=1)
    slow -= slow.mean(1, keepdims=True)
    sources = 0.02 * slow + rng.standard_normal((8, n_times))
    sources[0] += np.sin(2 * np.pi * 10 * np.arange(n_times) / SFREQ)
    mixing = 0.7 + 0.3 * rng.random((8, 8))
    info = mne.create_info(NAMES, SFREQ, "eeg")
    raw = mne.io.RawArray(1e-5 * mixing @ sources, info, verbose="error")
    raw.filter(1, None, verbose="error")
    denoiser = EEGDenoiser(random_state=0).fit(raw)
    scores = score_atoms(denoiser, raw, channels=NAMES)
    assert scores.filter(like="correlation").max().max() > 0.3
    assert find_artifacts(scores, correlation=0.2).empty


def test_what_does_not_fit_is_named(denoiser, raw):
    with pytest.raises(
        ValueError, match="X must be an mne.io.Raw or mne.Epochs, got ndarray"
    ):
        score_atoms(denoiser, raw.get_data())
    with pytest.raises(ValueError, match=r"channels=\['EOG 062'\] does not select"):
        score_atoms(denoiser, raw, channels=["EOG 062"])
    with pytest.raises(ValueError, match=r"topographies\['a'\] .* got shape \(7,\)"):
        score_atoms(denoiser, raw, topographies={"a": BLINK[1:]})
    with pytest.raises(ValueError, match=r"topographies\['a'\] lacks .*'Fp2'"):
        score_atoms(denoiser, raw, topographies={"a": {"Fp1": 1}})
    with pytest.raises(ValueError, match="sampling rate is 50 Hz"):
        score_atoms(denoiser, raw.copy().resample(50, verbose="error"))
    supervised = copy(denoiser)
    supervised.filters_ = np.zeros(1)
    with pytest.raises(ValueError, match="fitted without y"):
        atom_waveforms(supervised)
    with pytest.raises(ValueError, match="fitted without y"):
        score_atoms(supervised, raw)
