"""Objects of MNE: which one X is, and one as another."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_raw(X: Any) -> bool:
    """Whether X is a recording of MNE.  Who has one has imported MNE."""
    mne = sys.modules.get("mne")
    return mne is not None and isinstance(X, mne.io.BaseRaw)


def is_epochs(X: Any) -> bool:
    """Whether X are epochs of MNE."""
    mne = sys.modules.get("mne")
    return mne is not None and isinstance(X, mne.BaseEpochs)


def is_evoked(X: Any) -> bool:
    """Whether X is an average of MNE."""
    mne = sys.modules.get("mne")
    return mne is not None and isinstance(X, mne.Evoked)


def as_recording(X: Any) -> Any:
    """Epochs one after the other as a recording, which no window crosses."""
    if not is_epochs(X):
        return X
    import mne

    epochs = X if X.preload else X.copy().drop_bad(verbose="error")
    signals = epochs.get_data(copy=False, verbose="error")
    if len(signals) == 0:
        raise ValueError("X has no epochs.")
    raw = mne.io.RawArray(
        np.concatenate(list(signals), 1), epochs.info, verbose="error"
    )
    joints = np.arange(1, len(signals)) * signals.shape[2] / raw.info["sfreq"]
    return raw.set_annotations(mne.Annotations(joints, 0, "EDGE boundary"))


def as_epochs(evoked: Any) -> Any:
    """An average as one epoch, without a baseline, which would be subtracted again."""
    import mne

    return mne.EpochsArray(
        evoked.data[None].copy(),
        evoked.info,
        tmin=evoked.times[0],
        baseline=None,
        proj=False,
        verbose="error",
    )
