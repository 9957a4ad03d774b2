"""Clean EEG mixed with artefacts of known strength."""

from numbers import Integral

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import validate_params

from .._utils.checks import Interval, as_floats
from ._synthetic import _generator


@validate_params(
    {
        "clean": ["array-like"],
        "noise": ["array-like"],
        "snr_db": ["array-like"],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "normalise": ["boolean"],
        "as_bunch": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_noisy_eeg(
    clean,
    noise,
    *,
    snr_db=range(-7, 3),
    n_repeats=1,
    normalise=True,
    as_bunch=False,
    random_state=None,
):
    r"""Mix clean EEG with artefacts at known signal-to-noise ratios.

    Each clean epoch x becomes :math:`y = x + \lambda n`.  The artefact n and the
    signal-to-noise ratio SNR are drawn uniformly with replacement, and

    .. math:: \lambda = \frac{\mathrm{rms}(x)}{\mathrm{rms}(n)\, 10^{\mathrm{SNR}/10}}.

    The exponent has 10 instead of 20, because [1]_ and its code define the SNR as a
    ratio of amplitudes.  In the usual definition, as a ratio of powers, the SNR has
    twice as many decibels, and the default of -7 to 2 dB is -14 to 4 dB.

    Parameters
    ----------
    clean : array-like of shape (n_epochs, n_times) or (n_epochs, n_channels, n_times)
        Epochs without artefacts, in any unit.
    noise : array-like of shape (n_noise, n_times) or (n_noise, n_channels, n_times)
        Artefacts, in any unit.  With channels, rms and standard deviation are computed
        over channels and times.
    snr_db : array-like of float, default=range(-7, 3)
        Signal-to-noise ratios to draw from, in dB as defined above.  With the same
        `random_state` and `n_repeats`, the same pairs are mixed for any ratios.  One
        call for each ratio gives test sets like those of [1]_.
    n_repeats : int, default=1
        How often each clean epoch is mixed.
    normalise : bool, default=True
        Whether to divide y and its x by the standard deviation of y, as in [1]_.
    as_bunch : bool, default=False
        Whether to return a :class:`~sklearn.utils.Bunch` instead of a tuple.
    random_state : int, RandomState instance or None, default=None
        Source of the random numbers.  An int gives the same data each time.

    Returns
    -------
    noisy : ndarray of shape (n_epochs * n_repeats, ...)
        Mixtures y, float32 if `clean` is, float64 otherwise.
    clean : ndarray of the shape and type of noisy
        Clean signals x of the mixtures, the target of denoising.
    snr_db : ndarray of shape (n_epochs * n_repeats,)
        Signal-to-noise ratio of each mixture, in dB as defined above.
    clean_index : ndarray of shape (n_epochs * n_repeats,)
        Index of the clean epoch in each mixture.  A split into training and test data
        should keep all mixtures of one subject together.
    noise_index : ndarray of shape (n_epochs * n_repeats,)
        Index of the artefact in each mixture.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, an epoch is zero throughout, or a
        mixture to be normalised is constant.

    See Also
    --------
    fetch_eegdenoisenet : Epochs to mix.

    References
    ----------
    .. [1] H. Zhang, M. Zhao, C. Wei, D. Mantini, Z. Li, Q. Liu, "EEGdenoiseNet: a
       benchmark dataset for deep learning solutions of EEG denoising", Journal of
       Neural Engineering 18(5):056057, 2021, arXiv:2009.11662.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.datasets import make_noisy_eeg
    >>> rng = np.random.default_rng(0)
    >>> eeg, eog = rng.normal(size=(20, 512)), rng.normal(size=(30, 512))
    >>> noisy, clean, snr_db, clean_index, noise_index = make_noisy_eeg(
    ...     eeg, eog, n_repeats=3, random_state=0
    ... )
    >>> noisy.shape, clean.shape, snr_db.shape
    ((60, 512), (60, 512), (60,))
    >>> np.allclose(noisy.std(axis=1), 1)
    True
    """
    clean = _checked_array("clean", clean, n_dims=(2, 3))
    noise = _checked_array("noise", noise, n_dims=(2, 3)).astype(
        clean.dtype, copy=False
    )
    snr_db = _checked_array("snr_db", snr_db, n_dims=(1,))
    if noise.shape[1:] != clean.shape[1:]:
        raise ValueError(
            f"noise must have epochs of shape {clean.shape[1:]}, as clean has, got "
            f"{noise.shape[1:]}."
        )
    rng = _generator(random_state)
    clean_index = np.repeat(np.arange(len(clean)), n_repeats)
    noise_index = rng.integers(len(noise), size=len(clean_index))
    snr_db = rng.choice(snr_db, size=len(clean_index))  # last: same pairs for any SNR
    ratio = _positive_rms("clean", clean)[clean_index] / (
        _positive_rms("noise", noise)[noise_index] * 10 ** (snr_db / 10)
    )
    within = tuple(range(1, clean.ndim))
    clean, noisy = clean[clean_index], noise[noise_index]
    noisy *= np.expand_dims(ratio, within)
    noisy += clean
    if normalise:
        deviation = noisy.std(axis=within, keepdims=True, dtype=np.float64)
        if not deviation.all():
            raise ValueError(
                "normalise must be False here: the sum of clean and noise is constant, "
                "so its standard deviation is 0."
            )
        clean /= deviation
        noisy /= deviation
    if as_bunch:
        return Bunch(
            noisy=noisy,
            clean=clean,
            snr_db=snr_db,
            clean_index=clean_index,
            noise_index=noise_index,
        )
    return noisy, clean, snr_db, clean_index, noise_index


def _checked_array(name: str, values, n_dims: tuple[int, ...]) -> np.ndarray:
    """Check for finite numbers, at least one, with an allowed number of dimensions."""
    array = as_floats(values, name)
    if array.ndim not in n_dims or not array.size:
        allowed = " or ".join(f"{n}-D" for n in n_dims)
        raise ValueError(
            f"{name} must be {allowed} and not empty, got shape {array.shape}."
        )
    return array


def _positive_rms(name: str, epochs: np.ndarray) -> np.ndarray:
    """Root mean square of each epoch."""
    within = tuple(range(1, epochs.ndim))
    rms = np.sqrt(np.mean(np.square(epochs, dtype=np.float64), axis=within))
    if not rms.all():
        raise ValueError(
            f"{name} must not have an epoch that is zero throughout, but epoch "
            f"{np.argmin(rms)} is."
        )
    return rms
