"""Which channels of MNE's objects are meant."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_channels(X: Any, names: list[str], complaint: str) -> None:
    """Raise, with a complaint, if X lacks channels of these names."""
    absent = [name for name in names if name not in X.ch_names]
    if absent:
        raise ValueError(f"{complaint}: {absent}; there are {X.ch_names}.")


def indices_of(X: Any, names: list[str]) -> list[int]:
    """Numbers of channels, since MNE would take a name such as "eog" for a type."""
    return [X.ch_names.index(name) for name in names]


def picked(X: Any, picks: Any, name: str = "picks") -> list[str]:
    """Names of channels that MNE picks, each once.

    Parameters
    ----------
    X : Raw or Epochs
    picks : str, int, slice, list of str or of int, or None
        As everywhere in MNE: names, types, or indices.  Channels that are marked as bad
        are picked by name or index only.  None are the EEG channels.  Where a channel
        is called as a type is, a list names channels, and a single word types.
    name : str
        Name of X in messages.
    """
    names = np.array(X.ch_names)
    wanted = np.atleast_1d("eeg" if picks is None else picks)
    try:
        if isinstance(picks, slice):
            wanted = names[picks]
        elif wanted.dtype.kind in "biu":
            # Indices may repeat a channel, as 0 and -n_channels do.
            wanted = names[wanted]
        each = list(dict.fromkeys(wanted.tolist()))
        is_type = picks is None or (
            isinstance(picks, str) and picks in X.get_channel_types()
        )
        if each and not is_type and set(each) <= set(X.ch_names):
            return each
        return [X.ch_names[i] for i in _of_kinds(X, each)]
    except (ValueError, TypeError, IndexError) as error:
        types = sorted(set(X.get_channel_types()))
        raise ValueError(
            f"{name}={picks!r} does not select available channels. There are "
            f"{X.ch_names}, with types {types} and {X.info['bads']} marked as bad "
            f"({error})."
        ) from error


def _of_kinds(X: Any, kinds: list[str]) -> list[int]:
    """Numbers of the channels that MNE picks by "eeg", "data" and so on."""
    import mne

    # MNE picks from these channels without data as from any others.
    numbered = mne.io.RawArray(np.zeros((len(X.ch_names), 1)), X.info, verbose="error")
    # Names that nobody would ask for.
    numbers = {f"\0{i}": i for i in range(len(X.ch_names))}
    names = dict(zip(X.ch_names, numbers, strict=True))
    numbered.rename_channels(names, verbose="error")
    return [numbers[name] for name in numbered.pick(kinds, "bads").ch_names]


def of_types(X: Any, *kinds: str) -> list[str]:
    """Names of the channels of some types that are not marked as bad."""
    types = zip(X.ch_names, X.get_channel_types(), strict=True)
    return [n for n, kind in types if kind in kinds and n not in X.info["bads"]]


def check_parameters(X: Any, fitted: list[str], ch_names: Any, sfreq: Any) -> None:
    """Raise if parameters that describe arrays contradict a recording."""
    if ch_names is not None and {str(name) for name in ch_names} != set(fitted):
        raise ValueError(
            f"ch_names={list(ch_names)!r} names the channels of arrays, but picks "
            f"selects {fitted} of X. Leave ch_names at None, or name the same."
        )
    if sfreq is not None and not np.isclose(sfreq, X.info["sfreq"]):
        raise ValueError(
            f"sfreq={sfreq:g} is the sampling rate of arrays, but X has "
            f"{X.info['sfreq']:g} Hz. Leave sfreq at None, or resample X."
        )


def checked_names(names: Any, X: Any) -> list[str]:
    """Names of the channels of an array, one for each."""
    checked = [str(name) for name in names]
    n_channels = np.shape(X)[1] if np.ndim(X) == 3 else None
    if len(set(checked)) != len(checked) or n_channels not in (None, len(checked)):
        raise ValueError(
            f"ch_names must be a name of its own for each of {n_channels} channels, "
            f"got {len(checked)}: {checked}."
        )
    return checked
