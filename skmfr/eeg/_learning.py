"""A fit of either way, from readers of the signals on."""

from __future__ import annotations

from math import ceil

import numpy as np
from sklearn.utils import check_random_state

from ._containers import is_raw
from ._recordings import Reader, pieces_to_fit
from ._rejection import LeftOut
from ._scales import (
    as_scaled,
    centre_and_scale,
    check_none_flat,
    moments_of_windows,
    own_scale,
    reference_weights,
    warn_of_offsets_of_epochs,
    warn_of_other_sizes,
)
from ._supervised import checked_groups, cut_in_folds, fit_filters, folds_of_epochs
from ._unsupervised import fit_windows

# Numbers in the windows of a fit, 512 MB in float32; of more data some are drawn.
FIT_NUMBERS = 2**27


def learn(
    denoiser, noisy: Reader, clean: Reader | None, groups, left_out: LeftOut
) -> None:
    """Learn centre and scale, and atoms or, with clean signals, filters.

    Parameters
    ----------
    denoiser : EEGDenoiser
        Knows its windows, and gets what it learns.
    noisy, clean : Reader
    groups : array-like of shape (n_epochs,), or None
    left_out : LeftOut
    """
    if clean is None and groups is not None:
        checked_groups(groups, None if is_raw(noisy.X) else noisy.shape[0])
    rng = np.random.default_rng(
        check_random_state(denoiser.random_state).randint(2**31)
    )
    n_overlapping = ceil(denoiser.n_times_ / denoiser.hop_)
    n_times_most = FIT_NUMBERS // (n_overlapping * denoiser.n_channels_)
    pieces = pieces_to_fit(noisy, denoiser.n_times_, n_times_most, rng, left_out)
    signals = [noisy.read(piece) for piece in pieces]
    moments = [moments_of_windows(part, denoiser.n_times_) for part in signals]
    denoiser.mean_, denoiser.scale_ = centre_and_scale(moments)
    denoiser.clean_mean_ = denoiser.mean_
    check_none_flat(denoiser.mean_, denoiser.scale_, noisy.ch_names, noisy.ch_types)
    if noisy.shape[0] > 1:
        warn_of_offsets_of_epochs(moments)
    denoiser.reference_weights_ = np.zeros(denoiser.n_channels_)
    if clean is None:
        denoiser.reference_weights_ = reference_weights(
            signals, denoiser.scale_, noisy.ch_types
        )
    signals = [as_scaled(denoiser, signal) for signal in signals]
    denoiser.own_scale_ = own_scale(denoiser, signals)
    if clean is None:
        fit_windows(denoiser, signals, left_out.decim)
    else:
        targets = [clean.read(piece) for piece in pieces]
        moments = [moments_of_windows(part, denoiser.n_times_) for part in targets]
        mean, variance = zip(*moments, strict=True)
        together = np.concatenate(mean), np.concatenate(variance)
        warn_of_other_sizes(denoiser, together, "y", stacklevel=5)
        denoiser.clean_mean_, _ = centre_and_scale(moments)
        targets = [
            as_scaled(denoiser, target, denoiser.clean_mean_) for target in targets
        ]
        folds = folds_of_epochs(groups, noisy.shape[0], pieces, is_raw(noisy.X))
        if len(signals) == len(signals[0]) == 1:
            folds, signals, targets = cut_in_folds(
                signals[0], targets[0], denoiser.n_times_
            )
        fit_filters(denoiser, signals, targets, folds, rng)
