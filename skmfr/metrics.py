"""Metrics of sparse codes and dictionaries, and scorers."""

from collections.abc import Callable
from copy import copy
from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted

from ._data.checked import checked_data
from ._data.moments import fvu_of_blocks
from ._sae.cosines import nearest_cosines, share_of_at_least
from ._sae.reappearance import too_few
from ._training.attributes import is_saved_alone, reappearance_without_warning
from ._utils.checks import Interval, as_matrix, unit_atoms
from ._utils.pipelines import split_pipeline, transformed

__all__ = [
    "agreement_scorer",
    "dead_fraction",
    "estimate_l0",
    "fvu",
    "l0",
    "make_fixed_l0_scorer",
    "reappearance_scorer",
    "recall_precision",
]


def fvu(X, X_hat) -> float:
    r"""Fraction of variance unexplained by a reconstruction.

    .. math:: \mathrm{FVU} = \sum (x - \hat x)^2 / \sum (x - \bar x)^2

    The mean of each feature is taken over the given samples, so FVU equals one minus
    ``r2_score(X, X_hat, multioutput="variance_weighted")``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Data.
    X_hat : array-like of shape (n_samples, n_features)
        Their reconstruction.

    Returns
    -------
    float
        0 for a perfect reconstruction, 1 for the mean of each feature; unbounded above.
        For constant data, 0 if the reconstruction is exact and 1 otherwise.

    Raises
    ------
    ValueError
        If an array is not a matrix with rows and columns, the shapes differ, a value
        is not finite, or squares of X overflow.

    See Also
    --------
    sklearn.metrics.r2_score : The share that is explained.

    Examples
    --------
    >>> from skmfr.metrics import fvu
    >>> fvu([[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [2.0, 2.0]])
    0.25
    """
    X = as_matrix(X, "X")
    X_hat = as_matrix(X_hat, "X_hat")
    check_consistent_length(X, X_hat)
    if X.shape != X_hat.shape:
        raise ValueError(
            f"X_hat has {X_hat.shape[1]} features, but X has {X.shape[1]}: a "
            "reconstruction has the shape of the data."
        )
    return fvu_of_blocks([(X, X_hat)])


def l0(codes) -> float:
    r"""Mean number of active atoms per sample.

    .. math:: L_0 = \frac1n \sum_i | \{ j : z_{ij} \ne 0 \} |

    Parameters
    ----------
    codes : {array-like, sparse matrix} of shape (n_samples, n_components)
        Sparse codes.

    Returns
    -------
    float
        Between 0 and n_components.

    Raises
    ------
    ValueError
        If codes are not a matrix with rows and columns or a value is not finite.

    References
    ----------
    L. Gao et al., "Scaling and evaluating sparse autoencoders", arXiv:2406.04093, 2024.

    Examples
    --------
    >>> from skmfr.metrics import l0
    >>> l0([[0.0, 2.0], [1.0, 3.0]])
    1.5
    """
    codes = as_matrix(codes, "codes", accept_sparse="csr")
    n_active = codes.count_nonzero() if hasattr(codes, "tocsr") else np.sum(codes != 0)
    return float(n_active / codes.shape[0])


def dead_fraction(codes) -> float:
    r"""Share of atoms that are active in no sample.

    .. math:: \frac1m | \{ j : z_{ij} = 0 \text{ for all } i \} |

    Parameters
    ----------
    codes : {array-like, sparse matrix} of shape (n_samples, n_components)
        Sparse codes.

    Returns
    -------
    float
        Between 0 and 1. It falls as the number of samples grows.

    Raises
    ------
    ValueError
        As :func:`l0`.

    References
    ----------
    L. Gao et al., "Scaling and evaluating sparse autoencoders", arXiv:2406.04093, 2024.

    Examples
    --------
    >>> from skmfr.metrics import dead_fraction
    >>> dead_fraction([[0.0, 2.0], [0.0, 3.0]])
    0.5
    """
    codes = as_matrix(codes, "codes", accept_sparse="csr")
    active = np.asarray((codes != 0).sum(axis=0)).ravel()
    return float(np.mean(active == 0))


@validate_params({"random_state": ["random_state"]}, prefer_skip_nested_validation=True)
def estimate_l0(estimator, X, *, random_state=None) -> float:
    r"""Estimate how many atoms are really active per sample.

    Matching pursuit adds atoms to a sample one by one. Step j counts as real in the
    share of samples

    .. math:: s_j = 2 \, P(g_j \ge m_j) - 1, \qquad \hat L_0 = \sum_j s_j

    where :math:`g_j` is the share of the residual's squared norm that the step
    explains, and :math:`m_j` is the median of what the best atom explains of Gaussian
    samples with the covariance of the residuals. Where nothing but chance is left, half
    of the samples exceed it, so that :math:`s_j` is 0 (Storey's estimate, 2002, of the
    share of false null hypotheses). The sum ends at the first step that is no better.

    So atoms count that explain more than the covariance makes likely. On data with
    known features, the estimate is below their number if some of them are weak, and far
    below it if many are active at once under noise. It means nothing if `k` in training
    was several times too large (see :doc:`/user_guide/choosing`).

    Parameters
    ----------
    estimator : MFRSparseAutoencoder, PretrainedSAE or Pipeline
        Fitted. It is not changed. If it codes by "omp" or "lstsq" with
        ``positive_code=False``, pursuit also subtracts atoms.
    X : array-like of shape (n_samples, n_features)
        Samples that fit in memory, best held out. The covariance needs several times
        as many as there are features; more than a few thousand change little.
    random_state : int, RandomState instance or None, default=None
        Determines the Gaussian samples.

    Returns
    -------
    float
        Between 0 and the number of atoms.

    Raises
    ------
    ValueError
        If X is not numeric and finite, or not as wide as the training data.

    See Also
    --------
    l0 : The number of active atoms in given codes.

    Examples
    --------
    Three features of 64 are active on average:

    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.datasets import make_superposition
    >>> from skmfr.metrics import estimate_l0
    >>> X, _, _ = make_superposition(6000, 32, 64, n_active=3, random_state=0)
    >>> sae = MFRSparseAutoencoder(n_components=64, k=6, max_steps=300, random_state=0)
    >>> round(estimate_l0(sae.fit(X[1000:]), X[:1000], random_state=0))
    3
    """
    from ._sae.l0 import estimated_l0

    before, sae = split_pipeline(estimator)
    X = checked_data(sae, transformed(before, X))[:]
    # The encoder never uses an atom in the opposite direction.
    positive = sae.positive_code or sae.transform_algorithm == "encoder"
    sae = copy(sae).set_params(transform_algorithm="omp", positive_code=positive)
    return estimated_l0(sae, X, check_random_state(random_state))


@validate_params(
    {"tau": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def recall_precision(atoms, truth, tau=0.9) -> tuple[float, float]:
    r"""Share of true features that are found, and share of atoms that are true.

    .. math:: \mathrm{recall} = \frac1n | \{ l : \max_j \cos(d_j, t_l) \ge \tau \} |,
              \quad \mathrm{precision} =
              \frac1m | \{ j : \max_l \cos(d_j, t_l) \ge \tau \} |

    Several atoms may match one feature, and one atom may match several features.

    Parameters
    ----------
    atoms : array-like of shape (n_components, n_features)
        The m atoms of a dictionary.
    truth : array-like of shape (n_true, n_features)
        The n features that made the data.
    tau : float, default=0.9
        Cosine at which an atom counts as a feature, between 0 and 1.

    Returns
    -------
    recall : float
        Between 0 and 1.
    precision : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If tau is not between 0 and 1, an array is not a matrix with rows and columns,
        the numbers of features differ, or a value is not finite.

    References
    ----------
    L. Sharkey, D. Braun, B. Millidge, "Taking features out of superposition with sparse
    autoencoders", 2022, for the largest cosine of a feature with the atoms.

    Examples
    --------
    >>> from skmfr.metrics import recall_precision
    >>> recall_precision([[2.0, 0.0], [1.0, 1.0]], [[1.0, 0.0]])
    (1.0, 0.5)
    """
    atoms = unit_atoms(atoms, "atoms")
    truth = unit_atoms(truth, "truth", n_features=atoms.shape[1])
    return (
        share_of_at_least(tau, nearest_cosines(truth, atoms)[0]),
        share_of_at_least(tau, nearest_cosines(atoms, truth)[0]),
    )


def reappearance_scorer(estimator, X, y=None) -> float:
    r"""Score a fitted estimator by the number of its atoms that an independent fit has.

    .. math:: \sum_j p_j

    with the probability :math:`p_j` of `reappearance_`. A grid search with this scorer
    prefers the dictionary with the most atoms that return. It counts atoms without
    regard to their use, so check the reconstruction as well.

    Parameters
    ----------
    estimator : MFRSparseAutoencoder or Pipeline
        Fitted with a witness or more, and with three SAEs or more, witnesses included.
    X : object
        Ignored: the probability was learned from the dictionaries.
    y : Ignored
        Not used, present for API consistency.

    Returns
    -------
    float
        Expected number of atoms, between 0 and n_components.

    Raises
    ------
    ValueError
        If there are too few SAEs to tell.

    See Also
    --------
    agreement_scorer : Agreement, above that of random atoms.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.metrics import reappearance_scorer
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> 0 < reappearance_scorer(sae.fit(X[:500]), X) < 64
    True
    """
    _, sae = split_pipeline(estimator)
    check_is_fitted(sae)
    probability = reappearance_without_warning(sae)
    if np.isnan(probability).any():
        raise ValueError(
            too_few(len(sae.dictionaries_), len(sae.witness_dictionaries_))
        )
    return float(probability.sum())


def agreement_scorer(estimator, X, y=None) -> float:
    r"""Score a fitted estimator by the agreement of its atoms with its witnesses.

    .. math:: (\bar a - a_0) / (1 - a_0)

    Here :math:`\bar a` is the mean of `feature_agreement_`, and :math:`a_0` is its null
    level, `agreement_null_`.  With more atoms, chance alone gives a higher agreement.
    Relative to chance, candidates with different `n_components` are comparable.
    Witnesses that see disjoint rows agree less.  With few rows, the default of
    `witness_rows` depends on `n_components`, so set it in a grid.

    Pass it as ``scoring`` to a grid search, together with :func:`make_fixed_l0_scorer`:
    agreement alone favours a penalty that makes all SAEs equally bad.

    Parameters
    ----------
    estimator : MFRSparseAutoencoder or Pipeline
        Fitted estimator, or pipeline that ends with one.  It needs witnesses if
        ``alpha > 0``, because the penalty optimises the agreement inside the group.
    X : Ignored
        Not used, present for API consistency: dictionaries agree without data.
    y : Ignored
        Not used, present for API consistency.

    Returns
    -------
    float
        0 for the agreement of random atoms, 1 for atoms that all witnesses have.

    Raises
    ------
    ValueError
        If there are no other SAEs, or only SAEs under the penalty, or if the data have
        one feature.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.metrics import agreement_scorer
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> 0 < agreement_scorer(sae.fit(X[:500]), X) < 1
    True
    """
    _, sae = split_pipeline(estimator)
    check_is_fitted(sae)
    agreement, null = np.mean(sae.feature_agreement_), sae.agreement_null_
    if np.isnan(agreement):
        raise ValueError(
            "feature_agreement_ is NaN, because one SAE without a witness has nothing "
            "to agree with. Set n_witnesses=1 or more."
        )
    has_witness = len(sae.witness_dictionaries_) > 0 or is_saved_alone(sae)
    if sae.alpha > 0 and not has_witness:
        raise ValueError(
            f"With alpha={sae.alpha:g} and n_witnesses=0, the penalty optimises "
            "agreement itself. Set n_witnesses=1 or more."
        )
    if sae.components_.shape[1] == 1:
        raise ValueError(
            "The data have one feature: in one dimension, random atoms agree as well "
            "as learned ones, so agreement carries no information."
        )
    return float((agreement - null) / (1 - null))


@validate_params(
    {
        "l0": [Interval(Integral, 1, None, closed="left")],
        "transform_algorithm": [StrOptions({"encoder", "lstsq", "omp"}), None],
    },
    prefer_skip_nested_validation=True,
)
def make_fixed_l0_scorer(l0=8, *, transform_algorithm="omp") -> Callable[..., float]:
    """Make a scorer of variance explained by the same number of atoms for all.

    The scorer codes samples with ``k=l0``, regardless of the `k` in training, and
    returns 1 - FVU.  With the estimator's own ``score``, the largest `k` of a grid
    always wins.  Neither score measures the benefit of `alpha`; use
    :func:`agreement_scorer` for that.

    Parameters
    ----------
    l0 : int, default=8
        Maximum number of active atoms per sample; clipped to `n_components`.
    transform_algorithm : {"encoder", "lstsq", "omp"} or None, default="omp"
        How samples are coded.  Orthogonal matching pursuit judges only the dictionary;
        an encoder codes best with the `k` of its training.  None means the estimator's
        own algorithm.  "omp" and "lstsq" have negative codes, too, and explain more by
        them, unless the estimator has ``positive_code=True``.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None)``, which returns a float of at most 1.  The
        estimator is a fitted MFRSparseAutoencoder, or a Pipeline that ends with one.
        For a pipeline, FVU refers to the transformed data.  The estimator is not
        changed.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.metrics import agreement_scorer, make_fixed_l0_scorer
    >>> X, _ = load_digits(return_X_y=True)
    >>> search = GridSearchCV(
    ...     MFRSparseAutoencoder(n_components=32, max_steps=20, random_state=0),
    ...     {"k": [4, 8], "alpha": [0.0, 0.01]},
    ...     scoring={
    ...         "agreement": agreement_scorer,
    ...         "explained": make_fixed_l0_scorer(8),
    ...     },
    ...     refit="agreement",
    ...     cv=2,
    ... ).fit(X)
    >>> search.cv_results_["mean_test_explained"].shape
    (4,)
    """
    return partial(
        _score_at_fixed_l0, l0=int(l0), transform_algorithm=transform_algorithm
    )


def _score_at_fixed_l0(estimator, X, y=None, *, l0, transform_algorithm) -> float:
    before, sae = split_pipeline(estimator)
    # Coding parameters take effect at once; the copy shares the fitted arrays.
    sae = copy(sae).set_params(k=l0)
    if hasattr(sae, "activation"):
        # A threshold belongs to the k of the fit.
        sae.set_params(activation="topk")
    if transform_algorithm is not None:
        sae.set_params(transform_algorithm=transform_algorithm)
    return sae.score(transformed(before, X))
