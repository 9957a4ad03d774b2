"""Real data for the benchmarks, from a folder that the caller names."""

from pathlib import Path

import numpy as np


def digits() -> np.ndarray:
    """The 1,797 images of ``sklearn.datasets.load_digits``, (n_samples, 64)."""
    from sklearn.datasets import load_digits

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
    return raw.set_montage("standard_1005", verbose="error")


def cut(signals: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Windows (n_windows, n_channels, length) of signals (n_channels, n_times)."""
    starts = range(0, signals.shape[1] - length + 1, hop)
    return np.stack([signals[:, start : start + length] for start in starts])


def standardised(signals: np.ndarray) -> np.ndarray:
    """Each channel (..., n_times) with mean 0 and standard deviation 1."""
    centred = signals - signals.mean(-1, keepdims=True)
    return centred / centred.std(-1, keepdims=True)


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


def activations(
    folder: Path, tokens: Path, layer: int = 2, n_tokens: int = 1_000_000
) -> np.ndarray:
    """MLP outputs of a small transformer on text.

    Parameters
    ----------
    folder : Path
        Of a causal language model that ``transformers`` loads.
    tokens : Path
        ``.npy`` file of token ids, read in windows of 256.
    layer : int
    n_tokens : int

    Returns
    -------
    ndarray of shape (n_tokens, width), float32
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = np.load(tokens, mmap_mode="r")[: n_tokens // 256 * 256].reshape(-1, 256)
    outputs = []
    hook = model.model.layers[layer].mlp.register_forward_hook(
        lambda module, inputs, output: outputs.append(output.flatten(0, 1).numpy())
    )
    with torch.no_grad():
        for batch in np.array_split(ids, max(1, len(ids) // 64)):
            model(torch.from_numpy(batch.astype(np.int64)))
    hook.remove()
    return np.concatenate(outputs)
