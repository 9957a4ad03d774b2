"""
Atoms of EEG as maps of the head
================================

An atom of :class:`~skmfr.eeg.EEGDenoiser` is a piece of signal in all channels: it has
a topography and a time course. Here the recording is simulated, so that the sources are
known: two rhythms, and blinks, each from its own place in the head.
"""

# %%
# A recording of 32 channels
# --------------------------
# Three dipoles in a spherical head: a rhythm of 10 Hz at the back, one of 20 Hz on the
# left, both in bursts, and blinks between the eyes. Sixty more dipoles at random places
# make the background. An EOG channel sees the blinks too.

import matplotlib.pyplot as plt
import mne
import numpy as np
from scipy.signal import lfilter
from sklearn.metrics.pairwise import cosine_similarity

from skmfr import MFRSparseAutoencoder
from skmfr.eeg import EEGDenoiser, atom_waveforms, find_artifacts, score_atoms

mne.set_log_level("ERROR")
rng = np.random.default_rng(0)
SFREQ, N_SECONDS = 128, 180
times = np.arange(SFREQ * N_SECONDS) / SFREQ


def bursts(frequency):
    """A rhythm that comes and goes."""
    envelope = np.zeros_like(times)
    for start in rng.uniform(0, N_SECONDS, N_SECONDS // 4):
        envelope += np.exp(-(((times - start) / 0.25) ** 2))
    return envelope * np.sin(2 * np.pi * frequency * times)


def blinks():
    """Pulses of a third of a second."""
    course = np.zeros_like(times)
    for start in rng.uniform(0, N_SECONDS, N_SECONDS // 4):
        course += np.exp(-(((times - start) / 0.09) ** 2))
    return course


montage = mne.channels.make_standard_montage("biosemi32")
info = mne.create_info(montage.ch_names, SFREQ, "eeg").set_montage(montage)
head = mne.make_sphere_model("auto", "auto", info)


def topographies(positions, directions):
    """Volts at the electrodes for each dipole of one ampere metre."""
    n = len(positions)
    dipoles = mne.Dipole(np.arange(n), positions, np.ones(n), directions, np.ones(n))
    forward, _ = mne.make_forward_dipole(dipoles, head, info)
    return forward["sol"]["data"].T


sources = {
    "10 Hz, back": ([0, -0.07, 0.05], [0, -1, 0.3], bursts(10), 50e-6),
    "20 Hz, left": ([-0.05, 0, 0.07], [-0.7, 0, 0.7], bursts(20), 40e-6),
    "blinks": ([0, 0.075, 0.02], [0, 1, 0.2], blinks(), 80e-6),
}
positions, directions, courses, sizes = zip(*sources.values(), strict=True)
maps = topographies(np.array(positions), np.array(directions))
maps /= np.abs(maps).max(axis=1, keepdims=True)

random_directions = rng.standard_normal((2, 60, 3))
random_directions /= np.linalg.norm(random_directions, axis=2, keepdims=True)
background_maps = topographies(
    head["r0"] + 0.06 * random_directions[0], random_directions[1]
)
background = lfilter([1], [1, -0.9], rng.standard_normal((60, len(times))))
background = background_maps.T @ background
background *= 6e-6 / background.std()

eeg = background + maps.T @ (np.array(sizes)[:, None] * np.array(courses))
eog = 300e-6 * courses[-1] + 10e-6 * rng.standard_normal(len(times))
eog_info = mne.create_info(["EOG"], SFREQ, "eog")
raw = mne.io.RawArray(eeg, info).add_channels([mne.io.RawArray(eog[None], eog_info)])
# Slow drifts would take most of the atoms.
raw.filter(1.0, None)

# %%
# Fit
# ---
# Windows of a second are coded with four of 48 atoms each.

sae = MFRSparseAutoencoder(
    n_components=48, k=4, transform_algorithm="omp", max_steps=600, random_state=0
)
denoiser = EEGDenoiser(sae=sae, random_state=0).fit(raw)
scores = score_atoms(denoiser, raw)
print(scores.sort_values("variance", ascending=False).head(8).round(2).to_string())

# %%
# The atoms
# ---------
# A singular value decomposition gives the topography and the time course that together
# come nearest to an atom. Below each source are the two atoms that explain most of the
# recording, of those whose topography is like it. Blinks and rhythms come at any time
# in a window, so there are several atoms of each. Atoms of 12 channels or more do not
# contain the mean over channels, and sources are shown without it, too. Time courses
# are relative to their peak.

waveforms = atom_waveforms(denoiser)
spatial, _, temporal = np.linalg.svd(waveforms, full_matrices=False)
spatial, temporal = spatial[:, :, 0], temporal[:, 0]
sign = np.sign(np.take_along_axis(spatial, np.abs(spatial).argmax(1)[:, None], axis=1))
spatial, temporal = sign * spatial, sign * temporal
own = maps - maps.mean(1, keepdims=True)
nearest_source = cosine_similarity(spatial, own).argmax(axis=1)

eeg_info = raw.copy().pick("eeg").info
fig = plt.figure(figsize=(11, 6.6), layout="constrained")
columns = fig.subfigures(1, len(sources), wspace=0.04)
for i, (column, name) in enumerate(zip(columns, sources, strict=True)):
    column.set_facecolor("0.96")
    source, atoms = column.subfigures(2, 1, height_ratios=[1, 1.7])
    source.set_facecolor("none")
    atoms.set_facecolor("none")
    mne.viz.plot_topomap(own[i], eeg_info, axes=source.subplots(), show=False)
    source.suptitle(f"Source: {name}")
    chosen = scores[nearest_source == i].nlargest(2, "variance").index
    axes = atoms.subplots(2, 2, height_ratios=[1.5, 1], sharey="row")
    for (where, when), atom in zip(axes.T, chosen, strict=True):
        mne.viz.plot_topomap(spatial[atom], eeg_info, axes=where, show=False)
        where.set_title(
            f"Atom {atom}\nagreement {scores['agreement'][atom]:.2f}", fontsize=10
        )
        course = temporal[atom] / np.abs(temporal[atom]).max()
        seconds = np.arange(len(course)) / SFREQ
        when.plot(seconds, course, color="black", linewidth=1)
        when.set(xlabel="Time in window (s)", yticks=[], ylim=(-1.1, 1.1))

# %%
# Which atoms are blinks
# ----------------------
# Where an atom is active, it is compared with the EOG channel. The chosen atoms say
# what blinks look like and when they come. ``apply`` learns from the recording how to
# take them out, and leaves windows without a blink as they are.

artifacts = find_artifacts(scores)
print(artifacts.round(2).to_string())
cleaned = denoiser.apply(raw, exclude=artifacts.index)

truth = background + maps[:2].T @ (np.array(sizes[:2])[:, None] * np.array(courses[:2]))
truth = mne.filter.filter_data(truth, SFREQ, 1.0, None)
for name, signals in [("before", raw), ("after", cleaned)]:
    error = signals.get_data("eeg") - truth
    print(f"error {name}: {1e6 * error.std():.1f} microvolts")

start = 40
span = slice(start * SFREQ, (start + 10) * SFREQ)
channel = raw.ch_names.index("Fp1")
fig, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
for label, signal, color in [
    ("recorded", raw.get_data()[channel], "tab:orange"),
    ("blink atoms removed", cleaned.get_data()[channel], "black"),
]:
    ax.plot(times[span], 1e6 * signal[span], color=color, label=label, linewidth=1)
ax.set(xlabel="Time (s)", ylabel="Fp1 (microvolts)", xlim=(start, start + 10))
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
plt.show()
