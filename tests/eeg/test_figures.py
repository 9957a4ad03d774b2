"""What figures and reports show, against the numbers they are made from."""

from copy import copy

import numpy as np
import pytest
from sklearn.base import clone

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import (
    EEGDenoiser,
    add_to_report,
    find_artifacts,
    plot_atom,
    plot_overlay,
    score_atoms,
)
from skmfr.eeg._artifacts import atom_waveforms, code_windows
from skmfr.eeg._figures import (
    _draw_atom,
    contribution,
    top_windows,
    window_starts,
)
from skmfr.eeg._recordings import Reader

matplotlib = pytest.importorskip("matplotlib")
mne = pytest.importorskip("mne")
pytest.importorskip("pandas")

NAMES = ["Fp1", "Fp2", "Cz", "Oz"]


@pytest.fixture(autouse=True)
def no_window():
    plt = pytest.importorskip("matplotlib.pyplot")
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def raw():
    data = 1e-5 * np.random.default_rng(0).standard_normal((5, 2017))
    info = mne.create_info([*NAMES, "EOG"], 100, ["eeg"] * 4 + ["eog"])
    raw = mne.io.RawArray(data, info, verbose="error")
    return raw.set_montage("easycap-M1")


@pytest.fixture(scope="module")
def denoiser(raw):
    sae = MFRSparseAutoencoder(
        8, k=2, n_witnesses=1, transform_algorithm="omp", max_steps=20, random_state=0
    )
    return EEGDenoiser(window=0.5, overlap=0.7, sae=sae, exclude=[5]).fit(raw)


def codes_of(denoiser, raw):
    """Spans of a recording, and codes of their windows."""
    reader = Reader(raw, NAMES, "X")
    return reader.spans(), code_windows(denoiser, reader, reader.spans())


def titles(figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def lines(axis) -> dict:
    return {line.get_label(): line.get_ydata() for line in axis.lines}


def test_an_atom_is_shown_with_where_what_and_when(denoiser, raw):
    figure = plot_atom(denoiser, 5, raw, n_windows=2)
    assert titles(figure)[:3] == ["Topography", "Time course", "Power spectrum"]
    assert len(figure.axes) == 5
    _, codes = codes_of(denoiser, raw)
    rate = np.mean(codes[:, [5]].toarray() != 0)
    agreement = denoiser.sae_.feature_agreement_[5]
    title = figure.get_suptitle()
    assert title.startswith(f"Atom 5: active in {rate:.1%} of the windows")
    assert f"agreement {agreement:.2f}" in title


@pytest.mark.parametrize("whole", [True, False])
def test_top_windows_show_the_recording_and_what_the_atom_adds(denoiser, raw, whole):
    if not whole:
        spans = mne.Annotations([5.0, 9.0], [3.0, 0.0], ["BAD", "BAD boundary"])
        raw = raw.copy().set_annotations(spans)
        raw._data[1, 600] = np.nan
    figure = plot_atom(denoiser, 5, raw)
    channel = int(abs(atom_waveforms(denoiser)[5]).max(1).argmax())
    (before,) = raw.get_data(NAMES[channel])
    with_it = copy(denoiser).set_params(exclude=[])
    contributed, rest = (
        each.transform(raw).get_data(NAMES[channel])[0] for each in (with_it, denoiser)
    )
    spans, codes = codes_of(denoiser, raw)
    starts = window_starts(denoiser, spans)
    code = codes[:, [5]].toarray()[:, 0]
    for axis, window in zip(
        figure.axes[3:], top_windows(denoiser, code, starts, 3), strict=True
    ):
        span = slice(starts[window], starts[window] + 50)
        shown = lines(axis)
        mean = denoiser.mean_[channel]
        np.testing.assert_allclose(shown["recorded"], 1e6 * (before[span] - mean))
        removed = 1e6 * (contributed - rest)[span]
        np.testing.assert_allclose(shown["this atom"], removed, atol=1e-4)


def test_top_windows_are_the_largest_inside_that_do_not_overlap(denoiser):
    # Windows of 50 samples every 15: four overlap.
    code = np.array([9, 8, 7, 0, 1, -5, 4, 3, 2, 2, 3, 6, 9, 9.0])
    starts = window_starts(denoiser, [(0, 12 * 15)])[:14]
    assert top_windows(denoiser, code, starts, 5) == [11, 5]
    assert top_windows(denoiser, np.zeros(14), starts, 5) == []


def test_contribution_of_one_window_is_tapered_twice(denoiser):
    code = np.zeros(30)
    code[10] = 2.0
    part = contribution(denoiser, code, 10, np.ones(50))
    assert part[25] > part[5] > part[0] > 0


def test_without_positions_bars_say_so(denoiser, raw):
    figure = plot_atom(denoiser, 5, raw.copy().set_montage(None))
    axis = figure.axes[0]
    assert "places are not known" in axis.get_xlabel()
    assert {label.get_text() for label in axis.get_yticklabels()} == set(NAMES)


@pytest.mark.parametrize("place", [np.full(3, np.nan), np.zeros(3), "that of Fp1"])
def test_without_a_place_for_each_channel_there_is_no_map(denoiser, raw, place):
    positions = raw.get_montage().get_positions()["ch_pos"]
    positions["Cz"] = positions["Fp1"] if isinstance(place, str) else place
    montage = mne.channels.make_dig_montage(positions, coord_frame="head")
    odd = raw.copy().set_montage(montage, verbose="error")
    np.testing.assert_array_equal(odd.info["chs"][2]["loc"][:3], positions["Cz"])
    label = plot_atom(denoiser, 5, odd, n_windows=1).axes[0].get_xlabel()
    assert "places are not known" in label


def test_channels_of_several_types_are_bars_in_their_own_units(denoiser, raw):
    """One blink in volts and in teslas, which are 1e7 times as small."""
    both = raw.copy()
    field = both.copy().pick(NAMES)
    field.rename_channels({name: f"MEG {name}" for name in NAMES}, verbose="error")
    field.set_channel_types(
        dict.fromkeys(field.ch_names, "mag"), on_unit_change="ignore", verbose="error"
    )
    field._data *= 1e-7
    for channel in field.info["chs"]:
        channel["loc"][:3] *= 1.1  # each at a place of its own
    both.add_channels([field], force_update_info=True)
    sae = clone(denoiser.sae)
    fitted = EEGDenoiser(picks=["eeg", "mag"], sae=sae, random_state=0).fit(both)
    axis = fitted.plot_components(both, [0], show=False).axes[0]
    assert "several types" in axis.get_xlabel()
    width = {
        label.get_text(): bar.get_width()
        for label, bar in zip(axis.get_yticklabels(), axis.patches, strict=True)
    }
    pairs = [name for name in NAMES if {name, f"MEG {name}"} <= set(width)]
    assert pairs
    for name in pairs:
        assert width[f"MEG {name}"] == pytest.approx(width[name], rel=1e-3)


def test_an_atom_that_is_nowhere_active_is_said_to_be(denoiser, raw):
    spans, codes = codes_of(denoiser, raw)
    codes.data[:] = 0
    figure = _draw_atom(denoiser, 5, raw, spans, codes, denoiser.mean_)
    assert figure.subfigs[1].get_suptitle() == "Nowhere active in this recording"


def test_overlay_is_of_where_and_what_changed_most(raw):
    after = raw.copy()
    after[2, 1000:1200] = 0
    figure = plot_overlay(raw, after, duration=2)
    power, first = figure.axes[:2]
    assert first.get_ylabel() == "Cz"
    np.testing.assert_allclose(first.get_xlim(), [10, 11.99])
    np.testing.assert_allclose(
        first.lines[0].get_ydata(), 1e6 * raw[2, 1000:1200][0][0]
    )
    np.testing.assert_allclose(first.lines[1].get_ydata(), 0)
    expected = 1e6 * raw.get_data("eeg", 1000, 1200).std(0)
    np.testing.assert_allclose(lines(power)["before"], expected)


def test_overlay_looks_for_change_where_values_are_finite(raw):
    before, after = raw.copy(), raw.copy()
    before._data[0, 200:300] = after._data[0, 200:300] = np.nan
    after[2, 1000:1200] = 0
    figure = plot_overlay(before, after, duration=2)
    np.testing.assert_allclose(figure.axes[0].get_xlim(), [10, 11.99])
    assert figure.axes[1].get_ylabel() == "Cz"


def test_overlay_of_chosen_channels_and_time(raw):
    figure = plot_overlay(raw, raw, picks=["Oz", "Fp1"], start=3, duration=100)
    assert [axis.get_ylabel() for axis in figure.axes[1:]] == ["Oz", "Fp1"]
    assert figure.axes[0].get_xlim() == (3, raw.times[-1])
    figure = plot_overlay(raw, raw, picks=slice(2, 4))
    assert [axis.get_ylabel() for axis in figure.axes[1:]] == ["Cz", "Oz"]


def test_what_cannot_be_laid_over_is_named(raw):
    with pytest.raises(ValueError, match="before and after must be .* ndarray"):
        plot_overlay(raw, raw.get_data())
    with pytest.raises(ValueError, match="after has 101 samples"):
        plot_overlay(raw, raw.copy().crop(tmax=1))
    with pytest.raises(ValueError, match=r"after lacks .*: \['Oz'\]"):
        plot_overlay(raw, raw.copy().drop_channels(["Oz"]))
    with pytest.raises(ValueError, match="start=30 is outside"):
        plot_overlay(raw, raw, start=30)


def test_no_such_atom(denoiser, raw):
    for atom in (8, -1):
        with pytest.raises(ValueError, match=rf"^atom must be .* 0 to 7.*\[{atom}\]"):
            plot_atom(denoiser, atom, raw)
    with pytest.raises(ValueError, match="atom must be atom indices or a mask"):
        plot_atom(denoiser, True, raw)


def test_report_has_table_atoms_and_overlay(denoiser, raw, tmp_path):
    scores = score_atoms(denoiser, raw)
    artifacts = find_artifacts(
        scores.filter(regex="EOG|rate|variance"),
        correlation=scores.iloc[:, 0].nlargest(2).min(),
    )
    report = mne.Report(verbose="error")
    assert add_to_report(report, denoiser, raw, artifacts=artifacts) is report
    assert len(report) == 4
    html = "".join(report.html)
    first, second = artifacts.index
    for title in ("Atoms removed: 2", f"Atom {first}", f"Atom {second}", "Before and"):
        assert title in html
    for reason in artifacts["reason"]:
        assert reason in html


def test_report_is_of_the_excluded_atoms_by_default(denoiser, raw):
    report = add_to_report(mne.Report(verbose="error"), denoiser, raw)
    html = "".join(report.html)
    assert "Atom 5" in html
    assert "Atoms removed: 1" in html


def test_report_shows_an_atom_once(denoiser, raw):
    twice = copy(denoiser).set_params(exclude=[5, 5])
    assert len(add_to_report(mne.Report(verbose="error"), twice, raw)) == 3


def test_report_names_are_escaped(denoiser, raw):
    odd = raw.copy().rename_channels({"EOG": "<i>EOG"}, verbose="error")
    report = add_to_report(mne.Report(verbose="error"), denoiser, odd)
    assert "&lt;i&gt;EOG: correlation" in "".join(report.html)
