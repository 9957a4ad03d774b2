"""Sparse sums of known features, to test what a dictionary recovers."""

from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np
from scipy import sparse
from scipy.special import ndtr, ndtri
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch, check_random_state, gen_batches
from sklearn.utils._param_validation import Options, StrOptions, validate_params

from .._utils.checks import Interval

_BLOCK_ENTRIES = 2**18  # 2 MB of float64: one draw fits into the cache

_POSITIVE_INT = [Interval(Integral, 1, None, closed="left")]
_COMMON_CONSTRAINTS = {
    "n_samples": _POSITIVE_INT,
    "n_features": _POSITIVE_INT,
    "n_components": _POSITIVE_INT,
    "decay": [Interval(Real, 0, 1, closed="right")],
    "as_bunch": ["boolean"],
    "dtype": [
        StrOptions({"float32", "float64"}),
        Options(type, {np.float32, np.float64}),
        Options(np.dtype, {np.dtype(np.float32), np.dtype(np.float64)}),
    ],
    "random_state": ["random_state"],
}


@validate_params(
    _COMMON_CONSTRAINTS
    | {
        "n_active": [Interval(Real, 0, None, closed="neither")],
        "noise": [Interval(Real, 0, np.inf, closed="left")],
        "correlation": [Interval(Real, 0, 1, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def make_superposition(
    n_samples=10_000,
    n_features=64,
    n_components=128,
    *,
    n_active=5.0,
    decay=0.99,
    noise=0.0,
    correlation=0.0,
    as_bunch=False,
    dtype=np.float64,
    random_state=None,
):
    r"""Generate sparse sums of more features than there are dimensions.

    Each sample is :math:`x = \sum_j z_j f_j`, plus noise.  The features :math:`f_j` are
    uniform on the unit sphere.  Feature j is active with probability
    :math:`p_j \propto \mathrm{decay}^j`; an active one has a coefficient :math:`z_j`
    uniform between 0 and 1.  After the toy data of [1]_.

    Parameters
    ----------
    n_samples : int, default=10_000
        Number of samples.
    n_features : int, default=64
        Number of dimensions.
    n_components : int, default=128
        Number of true features.
    n_active : float, default=5.0
        Mean number of features active in a sample, above 0 and at most
        `n_components`.  If this would require some :math:`p_j` above 1, those features
        are always active, and the others share the rest.
    decay : float, default=0.99
        Ratio of the frequency of each feature to that of the one before it, in (0, 1];
        1 makes all features equally frequent.
    noise : float, default=0.0
        Standard deviation of the normal noise added to each dimension.
    correlation : float, default=0.0
        How strongly the activities of features depend on each other, in [0, 1).
        Feature j is active where :math:`s_j \sqrt\rho\, u + \sqrt{1 - \rho}\, e_j` is
        below the normal quantile of :math:`p_j`.  The factor u is standard normal and
        common to all features of a sample, :math:`e_j` is standard normal, and
        :math:`s_j = \pm 1` is drawn once per feature.  Features with the same sign
        occur together, features with opposite signs avoid each other, and each is as
        frequent as without correlation.  In [1]_, the covariance is a random matrix.
    as_bunch : bool, default=False
        Whether to return a :class:`~sklearn.utils.Bunch` instead of a tuple.
    dtype : {"float32", "float64"} or the type, default=float64
        Type of all returned arrays.  The same `random_state` gives the same data in
        both, up to rounding.
    random_state : int, RandomState instance or None, default=None
        Source of the random numbers.  An int gives the same data each time.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Data, ``codes @ features`` plus noise.
    codes : csr_array of shape (n_samples, n_components)
        True coefficients, above 0 where a feature is active.
    features : ndarray of shape (n_components, n_features)
        True features, of unit norm.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    See Also
    --------
    make_mfr_synthetic : Data whose features come in groups that never mix.

    References
    ----------
    .. [1] L. Sharkey, D. Braun, B. Millidge, "Taking features out of superposition with
       sparse autoencoders", 2022.

    Examples
    --------
    >>> from skmfr.datasets import make_superposition
    >>> X, codes, features = make_superposition(1000, random_state=0)
    >>> X.shape, codes.shape, features.shape
    ((1000, 64), (1000, 128), (128, 64))
    >>> bool(abs(X - codes @ features).max() < 1e-12)
    True
    """
    if n_active > n_components:
        raise ValueError(
            f"n_active must be at most n_components={n_components}, got {n_active}: no "
            "more features can be active than there are."
        )
    rng = _generator(random_state)
    features = _random_features(rng, n_components, n_features, dtype)
    quantiles = ndtri(_activity_probabilities(n_components, n_active, decay))
    signs = rng.choice([-1.0, 1.0], size=n_components)
    common = rng.standard_normal(n_samples)
    by_common = np.argsort(common)  # alike within a block, for fast _draw_activity
    blocks = []
    for block in _row_blocks(n_samples, n_components):
        given = common[by_common[block]]
        active = _draw_activity(rng, quantiles, given, correlation, signs)
        blocks.append(
            _draw_codes(rng, active, (len(given), n_components), features.dtype)
        )
    codes = sparse.vstack(blocks, format="csr")[np.argsort(by_common)]
    X = np.empty((n_samples, n_features), dtype=features.dtype)
    for block in _row_blocks(n_samples, n_features):
        X[block] = codes[block] @ features
        if noise:
            X[block] += noise * rng.standard_normal(X[block].shape)
    return _packed(X, codes, features, as_bunch)


@validate_params(
    _COMMON_CONSTRAINTS | {"n_groups": _POSITIVE_INT, "n_active": _POSITIVE_INT},
    prefer_skip_nested_validation=True,
)
def make_mfr_synthetic(
    n_samples=10_000,
    n_features=256,
    n_components=512,
    *,
    n_groups=12,
    n_active=32,
    decay=0.99,
    as_bunch=False,
    dtype=np.float64,
    random_state=None,
):
    r"""Generate the synthetic data of Mutual Feature Regularization.

    Features come in groups of ``n_components // n_groups`` consecutive ones.  Each
    sample draws a group uniformly.  From its features it draws `n_active` distinct
    ones, one after the other: the feature at position j of its group, from 0, has a
    probability proportional to :math:`\mathrm{decay}^j` among those not drawn yet.  The
    sample is their sum with coefficients uniform between 0 and 1.  This follows [1]_,
    whose code differs in two points: all samples of a group in one batch have the same
    active features, and features are normal vectors that are not scaled to unit norm.

    Parameters
    ----------
    n_samples : int, default=10_000
        Number of samples.
    n_features : int, default=256
        Number of dimensions.
    n_components : int, default=512
        Number of true features.  The remainder of its division by `n_groups` is never
        active: by default the last 8 features.
    n_groups : int, default=12
        Number of groups, at most `n_components`.
    n_active : int, default=32
        Number of features active in each sample, at most ``n_components // n_groups``.
    decay : float, default=0.99
        Ratio of the weight of each feature to that of the one before it in its group,
        in (0, 1]; 1 gives equal weights.
    as_bunch : bool, default=False
        Whether to return a :class:`~sklearn.utils.Bunch` instead of a tuple.
    dtype : {"float32", "float64"} or the type, default=float64
        Type of all returned arrays.  The same `random_state` gives the same data in
        both, up to rounding.
    random_state : int, RandomState instance or None, default=None
        Source of the random numbers.  An int gives the same data each time.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Data, ``codes @ features``.
    codes : csr_array of shape (n_samples, n_components)
        True coefficients, above 0 where a feature is active.
    features : ndarray of shape (n_components, n_features)
        True features, uniform on the unit sphere.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    See Also
    --------
    make_superposition : Data whose features mix freely.

    References
    ----------
    .. [1] L. Marks, A. Paren, D. Krueger, F. Barez, "Enhancing Neural Network
       Interpretability with Feature-Aligned Sparse Autoencoders", arXiv:2411.01220,
       2024.

    Examples
    --------
    >>> from skmfr.datasets import make_mfr_synthetic
    >>> X, codes, features = make_mfr_synthetic(1000, random_state=0)
    >>> X.shape, codes.shape, features.shape
    ((1000, 256), (1000, 512), (512, 256))
    >>> groups = codes.indices.reshape(1000, 32) // 42
    >>> bool((groups == groups[:, :1]).all())
    True
    """
    if n_groups > n_components:
        raise ValueError(
            f"n_groups must be at most n_components={n_components}, got {n_groups}: "
            "each group has at least one feature."
        )
    group_size = n_components // n_groups
    if n_active > group_size:
        raise ValueError(
            f"n_active must be at most n_components // n_groups = {group_size}, got "
            f"{n_active}: all active features of a sample come from one group."
        )
    rng = _generator(random_state)
    features = _random_features(rng, n_components, n_features, dtype)
    log_weights = np.arange(group_size) * np.log(decay)
    X = np.empty((n_samples, n_features), dtype=features.dtype)
    blocks = []
    for block in _row_blocks(n_samples, max(group_size, n_features)):
        groups = rng.integers(n_groups, size=block.stop - block.start)
        active = _draw_distinct(rng, len(groups), log_weights, n_active)
        shape = (len(groups), group_size)
        in_group = _draw_codes(rng, active, shape, features.dtype)
        _add_up_groups(in_group, groups, features, out=X[block])
        blocks.append(_placed(in_group, groups, n_components))
    return _packed(X, sparse.vstack(blocks, format="csr"), features, as_bunch)


def _generator(random_state) -> np.random.Generator:
    """Fast generator, seeded with one draw from what scikit-learn accepts."""
    return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))


def _row_blocks(n_samples: int, width: int) -> Iterator[slice]:
    """Slices of samples, chosen so that blocks of that width stay small."""
    return gen_batches(n_samples, max(1, _BLOCK_ENTRIES // width))


def _random_features(
    rng: np.random.Generator, n_components: int, n_features: int, dtype
) -> np.ndarray:
    """Features uniform on the unit sphere."""
    # Draws are float64 for every dtype, here and below, so that precision does not
    # change the data.
    return normalize(rng.standard_normal((n_components, n_features))).astype(dtype)


def _activity_probabilities(
    n_components: int, n_active: float, decay: float
) -> np.ndarray:
    """Probabilities min(1, c decay^j), where c makes their sum n_active."""
    weights = decay ** np.arange(n_components)
    # If all features before it are always active, feature j must have this probability
    # for the sum to be right.  Weights relative to its own weight avoid underflow.
    n_left = n_active - np.arange(n_components)
    first = n_left / np.cumsum(weights)[::-1]
    n_certain = int(np.argmax(first <= 1))
    rest = first[n_certain] * weights[: n_components - n_certain]
    return np.concatenate([np.ones(n_certain), rest])


def _draw_activity(
    rng: np.random.Generator,
    quantiles: np.ndarray,
    common: np.ndarray,
    correlation: float,
    signs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples and features that are active together, in the order of the samples."""

    def conditional(common, feature=slice(None)):
        """Probability that a feature is active, given the common factor."""
        pull = np.sqrt(correlation) * signs[feature] * common
        return ndtr((quantiles[feature] - pull) / np.sqrt(1 - correlation))

    n_components = len(quantiles)
    levels = rng.random((len(common), n_components))
    # The probability is monotone in the common factor, so it is largest at one end.  It
    # must be known exactly only for the few levels below that maximum.
    bound = np.maximum(conditional(common.min()), conditional(common.max()))
    sample, feature = np.divmod(np.flatnonzero(levels < bound), n_components)
    active = levels[sample, feature] < conditional(common[sample], feature)
    return sample[active], feature[active]


def _draw_distinct(
    rng: np.random.Generator, n_samples: int, log_weights: np.ndarray, n_active: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same, with n_active distinct features per sample drawn by weight."""
    # Successive draws have the same distribution as the features with the largest log
    # weight plus Gumbel noise.
    keys = log_weights + rng.gumbel(size=(n_samples, len(log_weights)))
    drawn = np.argpartition(keys, -n_active, axis=1)[:, -n_active:]
    active = np.zeros(keys.shape, dtype=bool)
    np.put_along_axis(active, drawn, True, axis=1)
    sample, feature = np.nonzero(active)
    return sample, feature


def _draw_codes(
    rng: np.random.Generator,
    active: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    dtype: np.dtype,
) -> sparse.csr_array:
    """Codes with uniform coefficients at these samples and features."""
    sample, feature = active
    indptr = np.zeros(shape[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(sample, minlength=shape[0]), out=indptr[1:])
    # In (0, 1] instead of [0, 1), so that active features are nonzero.
    coefficients = (1 - rng.random(len(feature))).astype(dtype)
    return sparse.csr_array(
        (coefficients, feature.astype(np.int32), indptr), shape=shape
    )


def _add_up_groups(
    in_group: sparse.csr_array,
    groups: np.ndarray,
    features: np.ndarray,
    out: np.ndarray,
) -> None:
    """Sums of the features of each sample's group."""
    # Within their group, codes are almost dense, and dense products are faster.
    dense = in_group.toarray()
    size = dense.shape[1]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        out[members] = dense[members] @ features[group * size : (group + 1) * size]


def _placed(
    in_group: sparse.csr_array, groups: np.ndarray, n_components: int
) -> sparse.csr_array:
    """Codes over all features from those over the sample's group."""
    n_samples, size = in_group.shape
    offsets = np.repeat(groups * size, np.diff(in_group.indptr)).astype(np.int32)
    return sparse.csr_array(
        (in_group.data, in_group.indices + offsets, in_group.indptr),
        shape=(n_samples, n_components),
    )


def _packed(X, codes, features, as_bunch: bool):
    if as_bunch:
        return Bunch(X=X, codes=codes, features=features)
    return X, codes, features
