"""Which atoms are artefacts, and of what kind, by their scores."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ._artifacts import score_atoms
from ._channels import of_types, picked
from ._containers import is_epochs, is_raw

if TYPE_CHECKING:
    import pandas as pd

# Share of power below 8 Hz from which atoms are slow.
SLOW = 0.9
# Largest contribution to a channel, relative to the usual scale, from which an atom is
# loud; size in the median channel, relative to the largest, up to which it is narrow.
PEAK, BREADTH = 4.0, 0.6
# Excess kurtosis of a channel from which something in it stands out; without that, the
# peak from which an atom does.  Clean frontal channels had up to 1, and atoms up to 8.
KURTOSIS, PEAK_ALONE = 2.0, 12.0


def find_artifacts(
    scores: pd.DataFrame,
    *,
    correlation: float = 0.35,
    topography: float = 0.9,
    share: float = 0.5,
) -> pd.DataFrame:
    """Choose the atoms that are artefacts, and say why.

    Parameters
    ----------
    scores : DataFrame
        As :func:`score_atoms` gives it.
    correlation : float, default=0.35
        Correlation with a channel from which an atom may be an artefact. One blink is
        the sum of several atoms, so each is less correlated than an independent
        component would be.
    topography : float, default=0.9
        Cosine with a topography from which an atom counts as an artefact.
    share : float, default=0.5
        Share of the power of an atom above 30 Hz, or at the frequency of the mains,
        from which it may be an artefact.

    Returns
    -------
    DataFrame
        One row for each artefact, the most probable first. Its index can be given to
        :meth:`EEGDenoiser.apply` as `exclude`. "kind": ocular, cardiac, muscular or
        line. "reason": what speaks most for it, "EOG 061: correlation 0.83" for
        instance. "probability": see Notes. "score": the number of the reason.
        "activation_rate" and "variance_removed": see :func:`score_atoms`.

    Raises
    ------
    ValueError
        If there are no columns to choose by.

    See Also
    --------
    score_atoms : Make the scores.

    Notes
    -----
    The brain is in EOG channels too, so a correlation is not enough. An atom is

    - *ocular* if it is like one of the topographies, or correlated with a channel that
      is not an ECG, and has the signs of eye movements: slow (0.9 of its power below
      8 Hz), not broad (the median of 6 channels or more has at most 0.6 of the
      largest), and loud (a peak of 4 times the usual scale of a channel), where
      something stands out in one of these channels (an excess kurtosis of 2), or louder
      yet (a peak of 12);
    - *cardiac* if it is correlated with an ECG;
    - *muscular* if at least `share` of its power is above 30 Hz, and it is as narrow
      and as loud as an ocular atom;
    - *line* if at least `share` of its power is at the frequency of the mains.

    The probability is a logistic function of the weakest of these signs: 0.5 at its
    threshold, 0.94 at twice the threshold. It ranks atoms; it was not calibrated on
    recordings that experts have rated.

    Examples
    --------
    >>> import pandas as pd
    >>> from skmfr.eeg import find_artifacts
    >>> scores = pd.DataFrame(
    ...     {
    ...         "EOG: correlation": [0.1, 0.8],
    ...         "activation_rate": [0.5, 0.2],
    ...         "variance": [0.3, 0.1],
    ...     }
    ... )
    >>> find_artifacts(scores)["reason"].to_dict()
    {1: 'EOG: correlation 0.80'}
    """
    evidence = _evidence(scores, correlation, topography, share)
    if not evidence:
        raise ValueError(
            "scores has no correlation with a channel, no topography and no spectrum; "
            "pass what score_atoms returns."
        )
    # A reason is as strong as its weakest criterion, and an atom has its strongest one.
    weakest = np.column_stack([excess for *_, excess in evidence])
    best = weakest.argmax(1)
    marked = np.flatnonzero(weakest.max(1) >= 1)
    reasons = [evidence[best[row]] for row in marked]
    score = [
        float(scores[name].iloc[row])
        for row, (_, name, _) in zip(marked, reasons, strict=True)
    ]
    table = scores.iloc[marked].assign(
        kind=[kind for kind, *_ in reasons],
        reason=[
            f"{name} {value:.2f}"
            for (_, name, _), value in zip(reasons, score, strict=True)
        ],
        probability=[_logistic(weakest[row, best[row]]) for row in marked],
        score=score,
    )
    table = table.rename(columns={"variance": "variance_removed"})
    columns = ["kind", "reason", "probability", "score"]
    columns += ["activation_rate", "variance_removed"]
    return table[columns].sort_values(
        ["probability", "score"], ascending=False, kind="stable"
    )


def found_by_channels(
    denoiser, X, kind: str, ch_name: str | list[str] | None, threshold: float
) -> tuple[list[int], Any]:
    """Atoms that go with channels which record eyes ("eog") or the heart ("ecg").

    Returns
    -------
    indices : list of int
        The most probable first.
    scores : ndarray of shape (n_atoms,), or list of such
        Absolute correlations; a list if there are several channels.
    """
    if ch_name is None and (is_raw(X) or is_epochs(X)):
        ch_name = of_types(X, kind)
        if not ch_name:
            raise ValueError(
                f"X has no channel of type {kind}, only "
                f"{sorted(set(X.get_channel_types()))}, apart from those marked as "
                "bad; name one that records the artefact, such as ch_name='Fp1' for "
                "blinks."
            )
    scores = score_atoms(denoiser, X, channels=ch_name)
    wanted = "correlation" if kind == "eog" else "cardiac correlation"
    channels = picked(X, ch_name, "ch_name")
    for name in channels:  # of whatever type, they are said to record this
        scores = scores.rename(
            columns=dict.fromkeys(
                (f"{name}: correlation", f"{name}: cardiac correlation"),
                f"{name}: {wanted}",
            )
        )
    found = find_artifacts(scores.drop(columns=["fast", "line"]), correlation=threshold)
    if kind == "eog" and found.empty:
        _warn_of_what_stands_out(scores, threshold)
    by_channel = [scores[f"{name}: {wanted}"].to_numpy() for name in channels]
    return (
        found.index.tolist(),
        by_channel[0] if len(by_channel) == 1 else by_channel,
    )


def _warn_of_what_stands_out(scores: pd.DataFrame, correlation: float) -> None:
    """Warn if no atom is ocular although something stands out in a channel of eyes."""
    tails = scores.filter(like=": kurtosis").iloc[0]
    names = [name.removesuffix(": kurtosis") for name in tails.index[tails >= KURTOSIS]]
    if not names:
        return
    of_channels = scores.filter(like=": correlation").max(axis=1)
    atom = of_channels.idxmax()
    row = scores.loc[atom]
    signs = [
        ("correlation", of_channels[atom], correlation),
        ("share of power below 8 Hz", row["slow"], SLOW),
        ("peak", row["peak"], PEAK),
    ]
    lacks = [
        f"a {name} of {value:.3g} (at least {least:g} is ocular)"
        for name, value, least in signs
        if value < least
    ]
    if row["breadth"] > BREADTH:
        lacks.append(
            f"a breadth of {row['breadth']:.3g} (at most {BREADTH:g} is ocular)"
        )
    warnings.warn(
        f"No atom is ocular, although something stands out in {', '.join(names)}. Atom "
        f"{atom}, the most correlated one, has {' and '.join(lacks)}. Look at it, or "
        "fit a longer recording.",
        stacklevel=4,
    )


def found_by_power(denoiser, X, threshold: float) -> tuple[list[int], np.ndarray]:
    """Atoms of muscles, and the share of power of all atoms above 30 Hz."""
    scores = score_atoms(denoiser, X, channels=[])
    found = find_artifacts(scores.drop(columns="line"), share=threshold)
    return found.index.tolist(), scores["fast"].to_numpy()


def _evidence(
    scores: pd.DataFrame, correlation: float, topography: float, share: float
) -> list[tuple[str, str, np.ndarray]]:
    """Kind, the column that is the reason, and by how much an atom exceeds thresholds.

    Of several criteria the weakest counts: the smallest ratio of a score and its
    threshold, (n_atoms,).  Criteria that `scores` has no columns of do not count.
    """

    def at_least(name: str, threshold: float) -> np.ndarray:
        if name not in scores:
            return np.full(len(scores), np.inf)
        return scores[name].to_numpy(float) / threshold

    def at_most(value, threshold: float) -> np.ndarray:
        return threshold / np.maximum(value, np.finfo(float).tiny)

    narrow = at_least("peak", PEAK)
    if "breadth" in scores:
        breadth = at_most(scores["breadth"].to_numpy(float), BREADTH)
        narrow = np.fmin(narrow, breadth)  # of few channels it is not known
    # The share that is not slow counts, because a share cannot be twice 0.9.
    eyes = narrow
    if "slow" in scores:
        eyes = np.minimum(narrow, at_most(1 - scores["slow"].to_numpy(), 1 - SLOW))
    eye_channels = [
        name.removesuffix(": correlation")
        for name in scores
        if name.endswith(": correlation")
    ]
    loudest = at_least("peak", PEAK_ALONE)
    tails = [at_least(f"{name}: kurtosis", KURTOSIS) for name in eye_channels]
    stands_out = np.max([loudest, *tails], axis=0)
    found = []
    for name in scores:
        if name.endswith(": topography"):
            found.append(("ocular", name, at_least(name, topography)))
        elif name.endswith(": cardiac correlation"):
            found.append(("cardiac", name, at_least(name, correlation)))
        elif name.endswith(": correlation"):
            excess = np.minimum(at_least(name, correlation), eyes)
            excess = np.minimum(excess, stands_out)
            found.append(("ocular", name, excess))
        elif name == "fast":
            found.append(("muscular", name, np.minimum(at_least(name, share), narrow)))
        elif name == "line":
            found.append(("line", name, at_least(name, share)))
    return found


def _logistic(excess: float) -> float:
    """Probability for a ratio of a score and its threshold."""
    return float(1 / (1 + excess**-4))
