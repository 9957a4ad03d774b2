"""Real data for the benchmarks, from folders that the caller names."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from skmfr.activations import ActivationExtractor

# Number of tokens of an input, and id of the token that begins a story.
WINDOW = 256
STORY_BEGINS = 1


def digits() -> np.ndarray:
    """The 1,797 images of ``sklearn.datasets.load_digits``, (n_samples, 64)."""
    return load_digits().data.astype(np.float32)


def eegmat(path: Path):
    """A recording of EEG During Mental Arithmetic Tasks, loaded.

    Returns
    -------
    mne.io.Raw
        The 19 EEG channels, by their names of today: Fp1, ..., T7 (once T3), ...
    """
    import mne

    raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
    raw.pick([name for name in raw.ch_names if name.startswith("EEG ")])
    raw.drop_channels([name for name in raw.ch_names if "A2-A1" in name])
    today = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    names = [name.removeprefix("EEG ") for name in raw.ch_names]
    new = [today.get(name, name) for name in names]
    return raw.rename_channels(dict(zip(raw.ch_names, new, strict=True)))


def eegmmidb(paths: list[Path]):
    """Runs of EEG Motor Movement/Imagery, loaded, one after the other.

    Returns
    -------
    mne.io.Raw
        64 EEG channels at 160 Hz, with their positions.
    """
    import mne

    runs = [mne.io.read_raw_edf(path, preload=True, verbose="error") for path in paths]
    raw = mne.concatenate_raws(runs, verbose="error")
    mne.datasets.eegbci.standardize(raw)
    return raw.set_montage(template_positions(), verbose="error")


def template_positions():
    """MNE's positions of the 10-05 system: MNE 1.13 renamed them."""
    import mne

    names = mne.channels.get_builtin_montages()
    name = "colin27_1005" if "colin27_1005" in names else "standard_1005"
    return mne.channels.make_standard_montage(name)


def cut(signals: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Windows (n_windows, n_channels, length) of signals (n_channels, n_times)."""
    starts = range(0, signals.shape[1] - length + 1, hop)
    return np.stack([signals[:, start : start + length] for start in starts])


def standardised(signals: np.ndarray) -> np.ndarray:
    """Each channel (..., n_times) with mean 0 and standard deviation 1."""
    centred = signals - signals.mean(-1, keepdims=True)
    return centred / centred.std(-1, keepdims=True)


def gaussian(covariance: np.ndarray, n_rows: int, seed: int) -> np.ndarray:
    """Samples (n_rows, n_features) of mean 0, float64."""
    values, axes = np.linalg.eigh(covariance)
    draw = np.random.default_rng(seed).standard_normal((n_rows, len(axes)))
    return draw * np.sqrt(values.clip(0)) @ axes.T


def eeg_windows(folder: Path, sfreq: float = 100.0, hop: float = 0.05) -> np.ndarray:
    """Windows of 1 s of all EEG channels, flattened, in units of each channel's std.

    Parameters
    ----------
    folder : Path
        Of EDF files (PhysioNet EEG During Mental Arithmetic Tasks).
    sfreq : float
        Sampling frequency in Hz to resample to; the recordings end at 45 Hz.
    hop : float
        Seconds from one window to the next.

    Returns
    -------
    ndarray of shape (n_windows, n_channels * n_times), float32
        Windows of all recordings.
    """
    windows = []
    for path in sorted(Path(folder).glob("*.edf")):
        raw = eegmat(path).filter(0.5, 45.0, verbose="error")
        data = standardised(raw.resample(sfreq, verbose="error").get_data())
        windows.append(cut(data, int(sfreq), round(hop * sfreq)))
    if not windows:
        raise FileNotFoundError(f"no EDF files in {folder}")
    windows = np.concatenate(windows)
    return windows.reshape(len(windows), -1).astype(np.float32)


def story_windows(tokens: Path, n_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of stories in windows, and those of the last stories of the file.

    Parameters
    ----------
    tokens : Path
        ``.npy`` file of token ids; each story begins with the id ``STORY_BEGINS``.
    n_held_out : int
        Windows of stories that are in no other window.

    Returns
    -------
    windows : ndarray of shape (n_windows, WINDOW)
    held_out : ndarray of shape (n_held_out, WINDOW)
    """
    ids = np.load(tokens, mmap_mode="r")
    begins = np.flatnonzero(ids == STORY_BEGINS)
    split = begins[begins <= len(ids) - n_held_out * WINDOW][-1]
    windows = ids[: split // WINDOW * WINDOW].reshape(-1, WINDOW)
    held_out = ids[split : split + n_held_out * WINDOW].reshape(-1, WINDOW)
    return windows, held_out


def activations(model, layer: str, windows: np.ndarray) -> np.ndarray:
    """Output of a layer at every token, (n_tokens, width), float32."""
    extractor = ActivationExtractor(model, layer, positions="all", batch_size=64)
    return extractor.fit_transform(windows)


def image_activations(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Second layer of a small convolutional network that reads digits.

    The network is trained here, on the same 1,500 images that the first result is of.

    Returns
    -------
    ndarray of shape (1500 * 64, 64), float32
        Channels at each place of each image.
    ndarray of shape (297 * 64, 64), float32
        The same of images that the network has not seen.
    """
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    images = (X[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels, n_train = torch.from_numpy(y[order]), 1500
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 16, 10),
        )
        adam = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(30):
            for batch in torch.randperm(n_train).split(100):
                logits = model(torch.from_numpy(images[batch]))
                nn.functional.cross_entropy(logits, labels[batch]).backward()
                adam.step()
                adam.zero_grad()
    return (
        activations(model, "3", images[:n_train]),
        activations(model, "3", images[n_train:]),
    )
