"""Real data for the benchmarks, from a folder that the caller names."""

from pathlib import Path

import numpy as np


def digits() -> np.ndarray:
    """The 1,797 images of ``sklearn.datasets.load_digits``, (n_samples, 64)."""
    from sklearn.datasets import load_digits

    return load_digits().data.astype(np.float32)


def eeg_windows(folder: Path, sfreq: float = 100.0) -> np.ndarray:
    """Windows of 1 s of all EEG channels, flattened, in units of each channel's std.

    Parameters
    ----------
    folder : Path
        Of EDF files (PhysioNet EEG During Mental Arithmetic Tasks).
    sfreq : float
        Sampling frequency in Hz to resample to; the recordings end at 45 Hz.

    Returns
    -------
    ndarray of shape (n_windows, n_channels * n_times), float32
        Windows of all recordings, half a window apart.
    """
    import mne

    windows = []
    for path in sorted(Path(folder).glob("*.edf")):
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
        raw.pick([name for name in raw.ch_names if name.startswith("EEG ")])
        raw.drop_channels([name for name in raw.ch_names if "A2-A1" in name])
        raw.filter(0.5, 45.0, verbose="error").resample(sfreq, verbose="error")
        data = raw.get_data()
        data = (data - data.mean(1, keepdims=True)) / data.std(1, keepdims=True)
        length = int(sfreq)
        starts = np.arange(0, data.shape[1] - length + 1, length // 2)
        windows += [data[:, start : start + length].ravel() for start in starts]
    if not windows:
        raise FileNotFoundError(f"no EDF files in {folder}")
    return np.array(windows, dtype=np.float32)


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
