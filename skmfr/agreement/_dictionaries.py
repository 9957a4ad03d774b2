"""Measures of dictionaries against one another."""

from itertools import combinations
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import validate_params

from .._sae import levels
from .._sae.cosines import (
    matched_cosines,
    mean_nearest_cosine,
    nearest_cosines,
    share_of_at_least,
)
from .._utils.checks import Interval, unit_atoms, unit_dictionaries, unit_pair


def feature_agreement(atoms, dictionaries) -> np.ndarray:
    r"""Agreement of each atom with other dictionaries.

    .. math:: a_j = \frac1n \sum_{i=1}^n \max_l \cos(d_j, d^{(i)}_l)

    Parameters
    ----------
    atoms : array-like of shape (n_components, n_features)
        Atoms to score.
    dictionaries : sequence of array-like of shape (n_atoms, n_features)
        The n dictionaries to find them in.  For an honest score they were trained
        without knowledge of ``atoms``.

    Returns
    -------
    ndarray of shape (n_components,)
        Mean over the dictionaries of the largest cosine, between -1 and 1; NaN if there
        is no dictionary.

    Raises
    ------
    ValueError
        If an array is not a matrix with rows and columns, the numbers of features
        differ, or a value is not finite.

    See Also
    --------
    mmcs : The mean over the atoms.
    random_agreement : What random dictionaries give.

    References
    ----------
    The largest cosine of an atom is that of Sharkey, Braun, Millidge, "Taking features
    out of superposition with sparse autoencoders", 2022.

    Examples
    --------
    >>> from skmfr.agreement import feature_agreement
    >>> feature_agreement([[1.0, 0.0], [0.0, 2.0]], [[[3.0, 0.0], [3.0, 4.0]]])
    array([1. , 0.8])
    """
    atoms = unit_atoms(atoms, "atoms")
    return mean_nearest_cosine(
        atoms,
        [
            unit_atoms(others, f"dictionaries[{i}]", n_features=atoms.shape[1])
            for i, others in enumerate(dictionaries)
        ],
    )


def mmcs(atoms, others) -> float:
    r"""Mean max cosine similarity of a dictionary with another.

    .. math:: \mathrm{MMCS}(D, D') = \frac1m \sum_j \max_l \cos(d_j, d'_l)

    Parameters
    ----------
    atoms : array-like of shape (n_atoms, n_features)
        The dictionary to find.
    others : array-like of shape (n_others, n_features)
        The dictionary to find it in.

    Returns
    -------
    float
        Between -1 and 1; not symmetric.

    Raises
    ------
    ValueError
        As :func:`feature_agreement`.

    References
    ----------
    Sharkey, Braun, Millidge, "Taking features out of superposition with sparse
    autoencoders", 2022.

    Examples
    --------
    >>> from skmfr.agreement import mmcs
    >>> mmcs([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [3.0, 4.0]])
    0.9
    """
    atoms = unit_atoms(atoms, "atoms")
    others = unit_atoms(others, "others", n_features=atoms.shape[1])
    return float(np.mean(nearest_cosines(atoms, others)[0]))


def nearest_atoms(atoms, others) -> tuple[np.ndarray, np.ndarray]:
    r"""Where each atom comes nearest to being in another dictionary.

    .. math:: \max_l \cos(d_j, d'_l) \quad \text{and} \quad
              \arg\max_l \cos(d_j, d'_l)

    Parameters
    ----------
    atoms : array-like of shape (n_atoms, n_features)
        The atoms to find.
    others : array-like of shape (n_others, n_features)
        The dictionary to find them in.

    Returns
    -------
    cosine : ndarray of shape (n_atoms,)
        Between -1 and 1.
    index : ndarray of shape (n_atoms,), int
        Row of `others`.

    Raises
    ------
    ValueError
        As :func:`feature_agreement`.

    See Also
    --------
    feature_agreement : The cosines, averaged over several dictionaries.

    References
    ----------
    Sharkey, Braun, Millidge, "Taking features out of superposition with sparse
    autoencoders", 2022.

    Examples
    --------
    >>> from skmfr.agreement import nearest_atoms
    >>> nearest_atoms([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [3.0, 4.0]])
    (array([1. , 0.8]), array([0, 1]))
    """
    atoms = unit_atoms(atoms, "atoms")
    others = unit_atoms(others, "others", n_features=atoms.shape[1])
    return nearest_cosines(atoms, others)


def matched_cosine(atoms, others) -> float:
    r"""Mean cosine of two dictionaries under the best one-to-one matching.

    .. math:: \max_\pi \frac1m \sum_j \cos(d_j, d'_{\pi(j)})

    Parameters
    ----------
    atoms, others : array-like of shape (n_components, n_features)
        Dictionaries of the same size.  The matching is exact (Hungarian algorithm) up
        to 8192 atoms; above that, it is the best among the nearest atoms of each.

    Returns
    -------
    float
        Between -1 and 1; symmetric.

    Raises
    ------
    ValueError
        If an array is not a matrix with rows and columns, the shapes differ, or a value
        is not finite.

    References
    ----------
    H. W. Kuhn, "The Hungarian method for the assignment problem", Naval Research
    Logistics Quarterly 2, 1955.  L. Marks, A. Paren, D. Krueger, F. Barez, "Enhancing
    Neural Network Interpretability with Feature-Aligned Sparse Autoencoders",
    arXiv:2411.01220, 2024, whose code takes MMCS in this sense.

    Examples
    --------
    >>> from skmfr.agreement import matched_cosine
    >>> matched_cosine([[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [3.0, 0.0]])
    1.0
    """
    return float(np.mean(matched_cosines(*unit_pair(atoms, others))[0]))


def pw_mcc(dictionaries) -> float:
    r"""Pairwise mean correlation coefficient of several dictionaries.

    .. math:: \binom{n}{2}^{-1} \sum_{i < j} \max_\pi
              \frac1m \sum_a \cos(d^{(i)}_a, d^{(j)}_{\pi(a)})

    Parameters
    ----------
    dictionaries : sequence of array-like of shape (n_components, n_features)
        The n dictionaries, 2 or more, of the same size.

    Returns
    -------
    float
        Mean over all pairs of their :func:`matched_cosine`, between -1 and 1; the order
        of the dictionaries does not matter.

    Raises
    ------
    ValueError
        If there are fewer than 2 dictionaries, or as :func:`matched_cosine`.

    Notes
    -----
    The paper writes the absolute value of the cosine; its code takes the cosine itself,
    as this does.  With codes that are not negative, an atom does not match its
    negative.

    References
    ----------
    X. Song et al., "Position: Mechanistic Interpretability Should Prioritize Feature
    Consistency in SAEs", arXiv:2505.20254, 2025.

    Examples
    --------
    >>> from skmfr.agreement import pw_mcc
    >>> D = [[1.0, 0.0], [0.0, 2.0]]
    >>> round(pw_mcc([D, D[::-1], [[3.0, 4.0], [4.0, 3.0]]]), 3)
    0.867
    """
    pairs = combinations(unit_dictionaries(dictionaries), 2)
    return float(np.mean([np.mean(matched_cosines(*pair)[0]) for pair in pairs]))


@validate_params(
    {"tau": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def shared_fraction(atoms, others, tau=0.7) -> float:
    r"""Share of atoms that another dictionary has as well, under a one-to-one matching.

    .. math:: \frac1m \, \bigl| \{ j : \cos(d_j, d'_{\pi(j)}) \ge \tau \} \bigr|

    with the matching :math:`\pi` of the largest total cosine, as in
    :func:`matched_cosine`.

    Parameters
    ----------
    atoms, others : array-like of shape (n_components, n_features)
        Dictionaries of the same size.
    tau : float, default=0.7
        Cosine from which on two atoms count as the same, between 0 and 1.

    Returns
    -------
    float
        Between 0 and 1; symmetric.

    Raises
    ------
    ValueError
        If tau is not between 0 and 1, or as :func:`matched_cosine`.

    Notes
    -----
    The paper matches the encoders' weights as well, and counts an atom as shared if
    both matchings give it the same partner with a cosine of at least 0.7.  This looks
    at atoms alone, and so gives as much or more.

    References
    ----------
    G. Paulo, N. Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different
    Features", arXiv:2501.16615, 2025.

    Examples
    --------
    >>> from skmfr.agreement import shared_fraction
    >>> shared_fraction([[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [3.0, 4.0]])
    0.5
    """
    return share_of_at_least(tau, matched_cosines(*unit_pair(atoms, others))[0])


@validate_params(
    {
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def random_agreement(n_features: int, n_components: int) -> float:
    r"""Mean max cosine similarity that random dictionaries have: the null level.

    The cosine t of two independent uniform directions in d dimensions has

    .. math:: P(\cos \le t) = \tfrac12 + \tfrac12 \mathrm{sign}(t)\,
              I_{t^2}(\tfrac12, \tfrac{d-1}2) = F(t),

    so the largest of m has mean :math:`\int_0^1 F^{-1}(u^{1/m}) du`.

    Parameters
    ----------
    n_features : int
        Dimension d, at least 1.
    n_components : int
        Number m of atoms to choose the nearest from, at least 1.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If a number is not an integer of at least 1.

    References
    ----------
    S. Li, "Concise formulas for the area and volume of a hyperspherical cap", Asian
    Journal of Mathematics and Statistics 4, 2011, for the distribution of the cosine.

    Examples
    --------
    >>> from skmfr.agreement import random_agreement
    >>> round(random_agreement(64, 256), 3)
    0.346
    """
    return levels.random_agreement(n_features, n_components)
