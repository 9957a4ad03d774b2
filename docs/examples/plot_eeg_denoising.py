"""
EEG: taking blinks and muscles out of single channels
=====================================================

:class:`~skmfr.eeg.EEGDenoiser` learns from noisy epochs and the clean ones that belong
to them, and denoises epochs of people that it has not seen. The signals here are
simulated, so that nothing has to be downloaded; what the method is worth on real ones
is in the :doc:`benchmark </eeg_benchmark>`.
"""

# %%
# Clean epochs, and artefacts
# ---------------------------
# Each simulated person has a background whose power falls with frequency, and
# another rhythm between 8 and 12 Hz. Artefacts are slow waves with blinks, and muscles:
# noise above 20 Hz that comes in bursts.

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import butter, sosfiltfilt

from skmfr.datasets import make_noisy_eeg
from skmfr.eeg import EEGDenoiser, rrmse_t

SFREQ, N_TIMES = 128, 256
rng = np.random.default_rng(0)
times = np.arange(N_TIMES) / SFREQ


def filtered_noise(n_epochs, band, btype):
    """Normal noise of unit variance in a band of frequencies, in Hz."""
    sos = butter(2, band, btype, fs=SFREQ, output="sos")
    noise = sosfiltfilt(sos, rng.standard_normal((n_epochs, N_TIMES)))
    return noise / noise.std()


def clean_epochs(n_epochs):
    """Epochs of one person."""
    rhythm = rng.uniform(8, 12)
    phase = rng.uniform(0, 2 * np.pi, (n_epochs, 1))
    centre, size = rng.uniform(0, 2, (2, n_epochs, 1))
    bursts = size * np.exp(-(((times - centre) / 0.5) ** 2))
    return (
        filtered_noise(n_epochs, [1, 8], "bandpass")
        + 0.4 * filtered_noise(n_epochs, [8, 40], "bandpass")
        + bursts * np.sin(2 * np.pi * rhythm * times + phase)
    )


def blinks(n_epochs):
    """Slow waves, and one pulse of a third of a second."""
    pulse = np.exp(-(((times - rng.uniform(0, 2, (n_epochs, 1))) / 0.1) ** 2))
    return 0.5 * filtered_noise(n_epochs, 2, "lowpass") + 3 * pulse


def muscles(n_epochs):
    """Fast noise in a burst."""
    envelope = np.exp(-(((times - rng.uniform(0, 2, (n_epochs, 1))) / 0.5) ** 2))
    return envelope * filtered_noise(n_epochs, 20, "highpass")


people = [clean_epochs(40) for _ in range(12)]
person = np.repeat(np.arange(12), 40)
artefacts = np.concatenate([blinks(150), muscles(150)])
rng.shuffle(artefacts)

# %%
# Mixtures
# --------
# Nine people and two thirds of the artefacts are for training, the others for the test.
# Signal and artefact are equally strong, on average.

train = person < 9
clean = np.concatenate(people)
noisy_train, clean_train, _, index, _ = make_noisy_eeg(
    clean[train], artefacts[:200], snr_db=[-3, 0, 3], random_state=0
)
noisy_test, clean_test, _, _, noise_index = make_noisy_eeg(
    clean[~train], artefacts[200:], snr_db=[-3, 0, 3], random_state=1
)

# %%
# Fit
# ---
# Epochs have one channel: their shape is (n_epochs, 1, n_times). Folds of the
# cross-validation inside leave out people, because ``groups`` says who is who.

denoiser = EEGDenoiser(sfreq=SFREQ, random_state=0)
denoiser.fit(noisy_train[:, None], clean_train[:, None], groups=person[train][index])
denoised = denoiser.transform(noisy_test[:, None])[:, 0]

# %%
# What is left
# ------------
# The error is relative to the clean signal: 1 is what zeros would have. A band-pass
# filter takes away what is outside of its band, but blinks and muscles reach into it.

band = butter(4, [4, 30], "bandpass", fs=SFREQ, output="sos")
estimates = {
    "noisy": noisy_test,
    "band-pass, 4 to 30 Hz": sosfiltfilt(band, noisy_test),
    "denoised": denoised,
}
errors = {name: rrmse_t(clean_test, signals) for name, signals in estimates.items()}
for name, error in errors.items():
    print(f"relative error, {name}: {error.mean():.2f}")

# %%
# One epoch with a blink, one with muscles; of each kind, the one whose error after
# denoising is in the middle.

is_blink = np.abs(np.fft.rfft(artefacts[200:][noise_index])).argmax(axis=1) < 20
fig, axes = plt.subplots(2, 1, figsize=(9, 5.2), sharex=True, layout="constrained")
for ax, kind, name in [(axes[0], is_blink, "blink"), (axes[1], ~is_blink, "muscles")]:
    members = np.flatnonzero(kind)
    epoch = members[np.argsort(errors["denoised"][members])[len(members) // 2]]
    ax.plot(times, noisy_test[epoch], color="tab:orange", linewidth=1, label="noisy")
    ax.plot(times, clean_test[epoch], color="0.6", linewidth=3, label="clean")
    ax.plot(times, denoised[epoch], color="black", linewidth=1.2, label="denoised")
    ax.set(
        title=f"With {name}: error {errors['noisy'][epoch]:.2f} before, "
        f"{errors['denoised'][epoch]:.2f} after",
        ylabel="Standard deviations",
    )
axes[0].legend(ncols=3, loc="upper right")
axes[1].set(xlabel="Time (s)", xlim=(0, 2))
plt.show()
