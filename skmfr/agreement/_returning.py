"""Which atoms of a fit an independent one finds again."""

import warnings
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import validate_params
from sklearn.utils.validation import check_is_fitted

from .._sae.reappearance import (
    FDR,
    TAU,
    reappearance_in_fit,
    trusted,
    warn_of_too_few,
)
from .._training.attributes import along_of, is_saved_alone, rows_of_witnesses
from .._utils.checks import Interval

SAVED_ALONE = (
    "This model was saved without the other SAEs of its fit, so the probability that "
    "an atom returns cannot be computed again. Save it with training_state=True, or "
    "use reappearance_ and trusted_."
)


@validate_params(
    {"tau": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def reappearance(sae, tau=TAU) -> tuple[np.ndarray, np.ndarray]:
    r"""Probability that an independent fit finds each atom again.

    .. math:: P(\max_l \cos(d_j, d'_l) \ge \tau)

    for the reference :math:`D'` of a fit with another seed. It is calibrated inside one
    fit: atoms of a witness have a cosine with another witness, and return in the group
    or not. Monotone regression over all such pairs says what a cosine is worth, and is
    applied to the cosines of the reference's atoms with the witnesses.

    Parameters
    ----------
    sae : MFRSparseAutoencoder
        Fitted with a witness or more, and with three SAEs or more, witnesses included.
    tau : float, default=0.8
        Cosine from which on an atom counts as found, between 0 and 1.

    Returns
    -------
    probability : ndarray of shape (n_components,)
        NaN if there are too few SAEs.
    deviation : ndarray of shape (n_components,)
        Standard deviation of the probability, by a jackknife over the SAEs in which
        atoms may return.

    Raises
    ------
    NotFittedError
        If `sae` is not fitted.
    TypeError
        If `sae` is not an MFRSparseAutoencoder.
    ValueError
        If tau is not between 0 and 1.

    Warns
    -----
    UserWarning
        If there is no witness, or no third SAE; also if `sae` was saved without them.

    See Also
    --------
    trusted_atoms : The largest set with a given share of atoms that do not return.

    Notes
    -----
    The probability is for fits on as many other rows. With few rows for each atom, SAEs
    that see the same rows share what is peculiar to them, and it would be too high. By
    default, witnesses then see disjoint rows (`witness_rows`). The group still sees the
    rows of both, so the ranks of cosines among the atoms of a dictionary take the place
    of cosines.

    Calibration needs three independent SAEs: the witness, one that resembles it, and
    one in which its atoms return. With one witness and ``alpha > 0``, the last two are
    members of the group, which the penalty makes alike. On activations of a language
    model, high probabilities are then too high (:doc:`/user_guide/agreement`). With the
    default of two witnesses, or ``alpha=0``, they are not.

    References
    ----------
    B. Zadrozny, C. Elkan, "Transforming classifier scores into accurate multiclass
    probability estimates", KDD 2002, for calibration by monotone regression.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.agreement import reappearance
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=100, random_state=0)
    >>> probability, deviation = reappearance(sae.fit(X))
    >>> probability.shape
    (64,)
    """
    check_is_fitted(sae)
    if not hasattr(sae, "n_witnesses"):
        raise TypeError(
            f"sae must be an MFRSparseAutoencoder, got {type(sae).__name__}."
        )
    witnesses, group = sae.witness_dictionaries_, sae.dictionaries_
    if is_saved_alone(sae):
        warnings.warn(SAVED_ALONE, UserWarning, stacklevel=3)
    else:
        warn_of_too_few(len(group), len(witnesses), stacklevel=3)
    disjoint = rows_of_witnesses(getattr(sae, "_training", {})) == "disjoint"
    return reappearance_in_fit(sae.reference_sae_, group, witnesses, tau, disjoint)


@validate_params(
    {
        "fdr": [Interval(Real, 0, 1, closed="both")],
        "tau": [Interval(Real, 0, 1, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def trusted_atoms(sae, fdr=FDR, tau=TAU) -> np.ndarray:
    r"""The largest set of atoms in which all but a given share return.

    .. math:: \max |S| \quad \text{with} \quad
              \frac{1}{|S|} \sum_{j \in S} (1 - p_j + s_j) \le \mathrm{fdr}

    with the probability :math:`p_j` of :func:`reappearance` and its deviation
    :math:`s_j`, among atoms that agree with the witnesses more than 99 % of random
    dictionaries would that carry the covariance of the data, and nothing else.
    `trusted_` of an estimator is this set with the defaults.

    Parameters
    ----------
    sae : MFRSparseAutoencoder
        As for :func:`reappearance`.
    fdr : float, default=0.05
        False discovery rate: the share of atoms in the set that an independent fit is
        expected not to find.
    tau : float, default=0.8
        Cosine from which on an atom counts as found.

    Returns
    -------
    ndarray of shape (n_components,), bool
        False everywhere if there are too few SAEs.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As :func:`reappearance`.

    Warns
    -----
    UserWarning
        As :func:`reappearance`.

    Notes
    -----
    Models of earlier builds know only the variance of each feature: random atoms vary
    as the features do then. Files that were saved without the state of training have
    no other SAEs: no atom is trusted then, though `trusted_` is that of the fit.

    References
    ----------
    B. Efron, R. Tibshirani, J. Storey, V. Tusher, "Empirical Bayes analysis of a
    microarray experiment", Journal of the American Statistical Association 96, 2001,
    for the mean local false discovery rate of a set.

    Examples
    --------
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.agreement import trusted_atoms
    >>> from skmfr.datasets import make_superposition
    >>> X, _, _ = make_superposition(5000, 16, 24, n_active=2, random_state=0)
    >>> sae = MFRSparseAutoencoder(24, k=2, max_steps=500, random_state=0).fit(X)
    >>> int(trusted_atoms(sae).sum()) > 12
    True
    """
    probability, deviation = reappearance(sae, tau)
    atoms, training = sae.components_, getattr(sae, "_training", {})
    along = along_of(training, sae.reference_sae_, atoms)
    agreement = sae.feature_agreement_
    return trusted(probability, deviation, agreement, along, atoms.shape[1], fdr)
