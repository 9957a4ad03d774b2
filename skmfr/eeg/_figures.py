"""Pictures of atoms and of what they take away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from .._utils.extras import needed_by
from ._artifacts import (
    atom_waveforms,
    code_windows,
    comparable_units,
    fitted_reader,
    leading_vectors,
)
from ._channels import check_channels, indices_of, picked
from ._containers import as_recording, is_epochs, is_raw
from ._fitted import checked_atoms
from ._scales import as_scaled, centre_of, without_common
from ._spans import Span, window_starts
from ._windows import overlap_add

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Unit in which channels of a type are shown, and its number in one of MNE.  All that
# is not of the brain's fields is in volts.
FIELDS = {"mag": ("femtoteslas", 1e15), "grad": ("femtoteslas per centimetre", 1e13)}
MICROVOLTS = ("microvolts", 1e6)
# Spectra are shown down to this many decibels below their peak.
RANGE_DB = 40
# Channels in the bars that replace a topographic map.
N_BARS = 10
# Channels in an overlay.
N_TRACES = 4
# Maps side by side in a grid.
N_COLUMNS = 5
BEFORE, AFTER = "tab:red", "black"


def plot_atom(denoiser, atom: int, X, *, n_windows: int = 3) -> Figure:
    """Show an atom: where, what and when it is.

    The topography and the time course that together come nearest to the atom, the power
    spectrum of that time course, and the windows in which the atom is strongest, in the
    reference of the atoms (`reference_weights_`).

    Parameters
    ----------
    denoiser : EEGDenoiser
        Fitted without clean signals, on a recording or epochs of MNE.
    atom : int
        Number of the atom.
    X : mne.io.Raw or mne.Epochs
        Recording in which the atom is active.
    n_windows : int, default=3
        How many windows to show, of those that do not overlap.

    Returns
    -------
    matplotlib.figure.Figure
        Unless X has a position for each electrode, and channels of one type, bars
        replace the map.

    Raises
    ------
    ValueError
        If there is no such atom, or as in :func:`score_atoms`.

    See Also
    --------
    mne.preprocessing.ICA.plot_properties : The same for independent components.

    Examples
    --------
    >>> import mne
    >>> import numpy as np
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.eeg import EEGDenoiser, plot_atom
    >>> data = 1e-5 * np.random.default_rng(0).standard_normal((3, 2000))
    >>> info = mne.create_info(["Fp1", "Cz", "Oz"], 100, "eeg")
    >>> raw = mne.io.RawArray(data, info, verbose="error")
    >>> raw = raw.set_montage("easycap-M1")
    >>> sae = MFRSparseAutoencoder(n_components=8, max_steps=20, random_state=0)
    >>> figure = plot_atom(EEGDenoiser(sae=sae).fit(raw), 5, raw)
    """
    check_is_fitted(denoiser)
    checked_atoms(denoiser, [atom], "atom")
    if n_windows < 1:
        raise ValueError(f"n_windows must be at least 1, got {n_windows!r}.")
    (figure,) = draw_atoms(denoiser, X, [atom], n_windows)
    return figure


def draw_atoms(denoiser, X, atoms, n_windows: int = 3) -> list[Figure]:
    """Draw several atoms as `plot_atom` draws one."""
    reader = fitted_reader(denoiser, X)
    spans = reader.spans()
    codes = code_windows(denoiser, reader, spans)
    n_times = len(X.times) if is_epochs(X) else None
    centre = centre_of(denoiser, reader)
    return [
        _draw_atom(denoiser, atom, reader.X, spans, codes, centre, n_windows, n_times)
        for atom in atoms
    ]


def _draw_atom(
    denoiser,
    atom: int,
    X,
    spans: list[Span],
    codes: sparse.csr_array,
    centre: np.ndarray,
    n_windows: int = 3,
    n_times: int | None = None,
) -> Figure:
    """Draw an atom in a recording, or in epochs of n_times one after the other."""
    with needed_by("plot_atom", "eeg"):
        import matplotlib.pyplot as plt

    waveform, unit = atom_waveforms(denoiser)[atom], comparable_units(denoiser, X)
    spatial, temporal = (part[0] for part in leading_vectors((waveform / unit)[None]))
    code = codes[:, [atom]].toarray()[:, 0]
    times = 1e3 * np.arange(denoiser.n_times_) / denoiser.sfreq_

    figure = plt.figure(figsize=(3.2 * max(3, n_windows), 6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    where, course, spectrum = upper.subplots(1, 3)
    _draw_topography(where, spatial, X, denoiser)
    course.plot(times, temporal / np.abs(temporal).max(), color=AFTER)
    course.axhline(0, color="0.8", zorder=0)
    course.set(
        title="Time course", xlabel="Time in window (ms)", ylabel="Share of the peak"
    )
    _draw_spectrum(spectrum, temporal, denoiser.sfreq_)

    channel = int(np.abs(waveform / unit).max(1).argmax())
    name = denoiser.ch_names_[channel]
    ((unit_name, factor),) = units_of(X, [name])
    rows = indices_of(X, denoiser.ch_names_)
    starts = window_starts(denoiser, spans)
    strongest = top_windows(denoiser, code, starts, n_windows)
    lower.suptitle(
        f"{name} in the windows where the atom is strongest"
        if len(strongest)
        else "Nowhere active in this recording"
    )
    axes = lower.subplots(1, max(1, len(strongest)), sharey=True, squeeze=False)[0]
    axes[0].set_axis_off()
    for axis, window in zip(axes, strongest, strict=False):
        part = contribution(denoiser, code, window, waveform[channel])
        start = starts[window]
        data = X.get_data(rows, start, start + denoiser.n_times_)
        # In the reference of the atom.
        own = without_common(denoiser, as_scaled(denoiser, data, centre))[channel]
        own = factor * denoiser.scale_[channel] * own
        axis.set_axis_on()
        axis.plot(times, own, color=BEFORE, label="recorded")
        axis.plot(times, factor * part, color=AFTER, label="this atom")
        epoch, start = (None, start) if n_times is None else divmod(start, n_times)
        place = "from" if epoch is None else f"epoch {epoch}, from"
        axis.set(title=f"{place} {X.times[start]:.1f} s", xlabel="Time (ms)")
    if len(strongest):
        axes[0].set_ylabel(unit_name.capitalize())
        axes[0].legend(loc="best", fontsize="small")
    trusted = "trusted" if denoiser.sae_.trusted_[atom] else "not trusted"
    figure.suptitle(
        f"Atom {atom}: active in {np.mean(code != 0):.1%} of the windows, "
        f"agreement {denoiser.sae_.feature_agreement_[atom]:.2f} ({trusted})"
    )
    return figure


def draw_components(denoiser, X, atoms: np.ndarray | None, n_most: int) -> Figure:
    """Topographies of atoms, or of so many that contribute most to X, in a grid."""
    with needed_by("plot_components", "eeg"):
        import matplotlib.pyplot as plt

    reader = fitted_reader(denoiser, X)
    codes = code_windows(denoiser, reader, reader.spans())
    waveforms = atom_waveforms(denoiser) / comparable_units(denoiser, reader.X)
    power = np.asarray(codes.power(2).sum(0)) * np.square(waveforms).sum((1, 2))
    if atoms is None:
        atoms = np.argsort(-power, kind="stable")[:n_most]
    excluded = checked_atoms(denoiser, denoiser.exclude)
    spatial, _ = leading_vectors(waveforms[atoms])
    n_columns = max(1, min(N_COLUMNS, len(atoms)))
    n_rows = max(1, -(-len(atoms) // n_columns))
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(1.8 * n_columns, 2 * n_rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(atoms) :]:
        axis.set_axis_off()
    for axis, atom, topography in zip(axes.flat, atoms, spatial, strict=False):
        _draw_topography(axis, topography, reader.X, denoiser)
        axis.set_title(
            f"atom{atom:03d}, {power[atom] / (power.sum() or 1):.0%}",
            fontsize="small",
            color=BEFORE if atom in excluded else AFTER,
        )
    return figure


def _draw_topography(axis: Axes, spatial: np.ndarray, X, denoiser) -> None:
    """A map, or, where there can be none, bars of the strongest channels."""
    import mne

    axis.set_title("Topography")
    ch_names = denoiser.ch_names_
    info = mne.pick_info(X.info, indices_of(X, ch_names))
    if len(set(info.get_channel_types())) > 1:
        label = "Weight / usual scale (no map: several types)"
    elif has_positions(info):
        mne.viz.plot_topomap(spatial, info, axes=axis, show=False)
        return
    else:
        label = "Weight (no map: places are not known)"
    strongest = np.argsort(-np.abs(spatial))[:N_BARS][::-1]
    axis.barh([ch_names[i] for i in strongest], spatial[strongest], color="0.4")
    axis.axvline(0, color="0.8", zorder=0)
    axis.set_xlabel(label)


def units_of(X, names: list[str]) -> list[tuple[str, float]]:
    """Name of the unit in which each channel is shown, and its number in MNE's."""
    types = X.get_channel_types(indices_of(X, names))
    return [FIELDS.get(kind, MICROVOLTS) for kind in types]


def has_positions(info) -> bool:
    """Whether all channels of an mne.Info have places of their own on the head."""
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])
    known = np.isfinite(positions).all() and positions.any(axis=1).all()
    return bool(known and 1 < len(positions) == len(np.unique(positions, axis=0)))


def _draw_spectrum(axis: Axes, temporal: np.ndarray, sfreq: float) -> None:
    power = np.abs(np.fft.rfft(temporal)) ** 2
    decibels = 10 * np.log10(power / power.max() + np.finfo(float).tiny)
    axis.plot(np.fft.rfftfreq(len(temporal), 1 / sfreq), decibels, color=AFTER)
    axis.set(
        title="Power spectrum",
        xlabel="Frequency (Hz)",
        ylabel="dB below the peak",
        ylim=(-RANGE_DB, 2),
    )


def top_windows(
    denoiser, code: np.ndarray, starts: np.ndarray, n_most: int
) -> list[int]:
    """Windows with the largest codes, strongest first, that do not overlap.

    Those that reach beyond their span of the recording are left out.
    """
    n_overlapping = -(-denoiser.n_times_ // denoiser.hop_)
    size = np.where(starts < 0, 0, np.abs(code))
    chosen: list[int] = []
    while len(chosen) < n_most and size.any():
        window = int(size.argmax())
        chosen.append(window)
        size[max(0, window - n_overlapping + 1) : window + n_overlapping] = 0
    return chosen


def contribution(
    denoiser, code: np.ndarray, window: int, waveform: np.ndarray
) -> np.ndarray:
    """Contribution of an atom to a channel in a window.

    Parameters
    ----------
    denoiser : EEGDenoiser
    code : ndarray of shape (n_windows,)
        Codes of the atom.
    window : int
        Number of a window inside a span of the recording.
    waveform : ndarray of shape (n_times_,)
        The atom in that channel.

    Returns
    -------
    ndarray of shape (n_times_,)
        Sum over the windows that overlap this one.
    """
    hop, length = denoiser.hop_, denoiser.n_times_
    n_overlapping = -(-length // hop)
    near = code[window - n_overlapping + 1 : window + n_overlapping]
    return overlap_add(near[:, None] * waveform, n_overlapping * hop, hop)[-length:]


def plot_overlay(
    before,
    after,
    *,
    picks: str | int | slice | list | None = None,
    start: float | None = None,
    duration: float = 10.0,
) -> Figure:
    """Show a recording before and after, one over the other.

    Parameters
    ----------
    before : mne.io.Raw or mne.Epochs
        Recording, or epochs, which are shown one after the other.
    after : mne.io.Raw or mne.Epochs
        The same, denoised.
    picks : str, int, slice, list of str or list of int, default=None
        Channels to compare, as everywhere in MNE. None means all EEG channels that are
        not marked as bad.
    start : float, default=None
        First second to show. None means where most was changed.
    duration : float, default=10.0
        Seconds to show.

    Returns
    -------
    matplotlib.figure.Figure
        The standard deviation over channels (global field power), and the channels that
        changed most.

    Raises
    ------
    ValueError
        If these are not recordings of the same length with these channels, or if
        `start` is outside.

    See Also
    --------
    mne.preprocessing.ICA.plot_overlay : The same for independent components.

    Examples
    --------
    >>> import mne
    >>> import numpy as np
    >>> from skmfr.eeg import plot_overlay
    >>> data = 1e-5 * np.random.default_rng(0).standard_normal((3, 2000))
    >>> info = mne.create_info(["Fp1", "Cz", "Oz"], 100, "eeg")
    >>> before = mne.io.RawArray(data, info, verbose="error")
    >>> after = before.copy().filter(None, 20, verbose="error")
    >>> figure = plot_overlay(before, after, duration=5)
    """
    with needed_by("plot_overlay", "eeg"):
        import matplotlib.pyplot  # noqa: F401 (what draws imports it again)

    alike = is_raw(before) and is_raw(after), is_epochs(before) and is_epochs(after)
    if not any(alike):
        raise ValueError(
            "before and after must be two mne.io.Raw or two mne.Epochs, got "
            f"{type(before).__name__} and {type(after).__name__}."
        )
    before, after = as_recording(before), as_recording(after)
    if before.n_times != after.n_times:
        raise ValueError(
            f"after has {after.n_times} samples, but before has {before.n_times}."
        )
    names = picked(before, picks)
    check_channels(after, names, "after lacks channels of before")
    rows, others = (indices_of(raw, names) for raw in (before, after))
    units, factors = zip(*units_of(before, names), strict=True)
    factor = np.array(factors)[:, None]
    sfreq = before.info["sfreq"]
    n_shown = min(max(2, round(duration * sfreq)), before.n_times)
    starts = np.arange(0, before.n_times - n_shown + 1, n_shown)
    change = np.array(
        [
            # Values that are not finite, in spans marked as bad, did not change.
            np.nansum(
                np.square(
                    factor * before.get_data(rows, first, first + n_shown)
                    - factor * after.get_data(others, first, first + n_shown)
                ),
                axis=1,
            )
            for first in starts.tolist()
        ]
    )
    if start is None:
        first = int(starts[change.sum(1).argmax()])
    else:
        first = round(start * sfreq)
        if not 0 <= first <= before.n_times - 2:
            raise ValueError(
                f"start={start} is outside the recording of {before.times[-1]:.1f} s."
            )
    times = before.times[first : first + n_shown]
    strongest = np.argsort(-change.sum(0), kind="stable")[:N_TRACES]
    one = factor * before.get_data(rows, first, first + n_shown)
    other = factor * after.get_data(others, first, first + n_shown)
    unit = " and ".join(dict.fromkeys(units))
    shown = [names[i] for i in strongest]
    return _draw_overlay(times, one, other, strongest, shown, unit)


def _draw_overlay(
    times: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    strongest: np.ndarray,
    names: list[str],
    unit: str,
) -> Figure:
    """Draw two spans (n_channels, n_times): all channels together, and some of them."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1 + len(strongest),
        figsize=(10, 2 + 1.2 * len(strongest)),
        sharex=True,
        layout="constrained",
    )
    for signals, label, color in (before, "before", BEFORE), (after, "after", AFTER):
        axes[0].plot(times, signals.std(0), color=color, label=label, linewidth=1)
        for axis, channel in zip(axes[1:], strongest, strict=True):
            axis.plot(times, signals[channel], color=color, linewidth=1)
    for axis, name in zip(axes, ["all", *names], strict=True):
        axis.set_ylabel(name)
    axes[0].set_title(
        f"Global field power and the {len(strongest)} channels that changed most, "
        f"{unit}",
        loc="left",
    )
    above = {"loc": "lower right", "bbox_to_anchor": (1, 1)}
    axes[0].legend(**above, ncols=2, frameon=False)
    axes[-1].set(xlabel="Time (s)", xlim=(times[0], times[-1]))
    return figure
