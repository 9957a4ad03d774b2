"""How far dictionaries agree, atom by atom, and what chance would give.

All cosines are signed: codes are non-negative, so an atom and its negative are two
different features.  Atoms may have any length; an atom of zeros, which has no
direction, has cosine 0 with all.

Nearest atoms are found in blocks, so that 32,768 atoms against as many take less than
1 GB.  One-to-one matchings are exact (Hungarian algorithm) up to 8192 atoms.  Above,
they are the best among candidates, the 16 nearest atoms in both directions, and again
among those atoms that are left without a partner.
"""

from __future__ import annotations

import warnings
from itertools import combinations
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils._param_validation import validate_params
from sklearn.utils.validation import check_is_fitted

from ._comparing import named_saes, nearest_of_each_pair
from ._sae import levels
from ._sae.cosines import (
    matched_cosines,
    mean_nearest_cosine,
    nearest_cosines,
    share_of_at_least,
)
from ._sae.reappearance import largest_set
from ._sae.reappearance import reappearance as reappearance_of
from ._utils.checks import Device, Interval, unit_atoms, unit_pair
from ._utils.extras import needed_by

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "compare",
    "feature_agreement",
    "matched_cosine",
    "mmcs",
    "nearest_atoms",
    "pw_mcc",
    "random_agreement",
    "reappearance",
    "shared_fraction",
    "trusted_atoms",
]


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
    as this does.  With codes that are not negative, an atom and its negative are no
    match.

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
    units: list[np.ndarray] = []
    for i, atoms in enumerate(dictionaries):
        n_atoms, n_features = units[0].shape if units else (None, None)
        units.append(unit_atoms(atoms, f"dictionaries[{i}]", n_atoms, n_features))
    if len(units) < 2:
        raise ValueError(
            f"dictionaries must hold at least 2 to make pairs of, got {len(units)}."
        )
    pairs = [np.mean(matched_cosines(*pair)[0]) for pair in combinations(units, 2)]
    return float(np.mean(pairs))


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


@validate_params(
    {"tau": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def reappearance(sae, tau=0.8) -> tuple[np.ndarray, np.ndarray]:
    r"""Probability that an independent fit finds each atom again.

    .. math:: P(\max_l \cos(d_j, d'_l) \ge \tau)

    for the reference :math:`D'` of a fit with another seed. It is calibrated inside one
    fit: atoms of the witnesses have a cosine with one other dictionary, and return in a
    further one or not. Monotone regression over all such pairs says what a cosine is
    worth, and is applied to the cosines of the reference's atoms with the witnesses.

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
    ValueError
        If tau is not between 0 and 1.

    Warns
    -----
    UserWarning
        If there is no witness, or no third SAE.

    See Also
    --------
    trusted_atoms : The largest set with a given share of atoms that do not return.

    Notes
    -----
    Witnesses see the rows of the group. The probability is for fits on so many other
    rows if there are many rows for each atom; with few, all SAEs of a fit share what is
    peculiar to them, and it is too high.

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
    witnesses, group = sae.witness_dictionaries_, sae.dictionaries_
    if not len(witnesses) or len(group) + len(witnesses) < 3:
        warnings.warn(
            f"There are {len(group)} SAEs and {len(witnesses)} witnesses, which do not "
            "tell how often atoms return: it takes a witness, and three SAEs with it. "
            "Set n_witnesses=1 or more and n_saes=2 or more.",
            stacklevel=2,
        )
    return reappearance_of(sae.components_, group, witnesses, tau)


@validate_params(
    {
        "fdr": [Interval(Real, 0, 1, closed="both")],
        "tau": [Interval(Real, 0, 1, closed="both")],
    },
    prefer_skip_nested_validation=True,
)
def trusted_atoms(sae, fdr=0.05, tau=0.8) -> np.ndarray:
    r"""The largest set of atoms of which only a given share does not return.

    .. math:: \max |S| \quad \text{with} \quad
              \frac{1}{|S|} \sum_{j \in S} (1 - p_j + s_j) \le \mathrm{fdr}

    with the probability :math:`p_j` of :func:`reappearance` and its deviation
    :math:`s_j`, among atoms that agree with the witnesses more than 99 % of random
    atoms would.

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
    NotFittedError, ValueError
        As :func:`reappearance`.

    Warns
    -----
    UserWarning
        As :func:`reappearance`.

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
    n_components, n_features = sae.components_.shape
    level = levels.random_quantile(n_features, n_components, levels.BELOW)
    agreement = sae.feature_agreement_
    above = np.where(agreement > level, probability - deviation, np.nan)
    return largest_set(above, agreement, fdr)


@validate_params(
    {"device": [Device()], "verbose": ["verbose"]}, prefer_skip_nested_validation=True
)
def compare(saes, *, device="auto", verbose=1) -> pd.DataFrame:
    r"""Find the atoms of several SAEs of one site in one another.

    For atom j of SAE i, and the n other SAEs, with :math:`\tau_l` the level of trust
    against SAE l (three quarters of the way from :func:`random_agreement` to 1),

    .. math:: a_j = \frac1n \sum_{l \ne i} \max_m \cos(d^{(i)}_j, d^{(l)}_m),
              \quad r_j = \frac1n \bigl| \{ l \ne i :
              \max_m \cos(d^{(i)}_j, d^{(l)}_m) > \tau_l \} \bigr|.

    If the SAEs were trained independently, such as with other seeds, the *reappearance*
    :math:`r_j` estimates how likely an independent run is to find the atom again.

    Parameters
    ----------
    saes : sequence or mapping from str
        2 or more of: fitted estimators; arrays of atoms (n_atoms, n_features); folders
        and files that :mod:`skmfr.io` reads, of which two are in memory at a time. The
        numbers of atoms may differ. Without a mapping they are called "0", "1", ...
    device : str or torch.device, default="auto"
        Where to compute, as in :class:`~skmfr.MFRSparseAutoencoder`.
    verbose : int, default=1
        1 says on stderr how long it will take, from a product that it measures, and
        shows a bar; 0 is silent.

    Returns
    -------
    DataFrame
        A row for each atom, index "sae" and "atom"; columns "agreement",
        "reappearance", "trusted" (whether the agreement is above the mean of the levels
        of trust); for each SAE of some name "cosine NAME" and "atom NAME", where it
        comes nearest to having the atom (NaN and -1 for itself). ``attrs`` has the
        means of the null levels and of the levels of trust by SAE, "null" and "level".

    Raises
    ------
    ValueError
        If there are fewer than 2 SAEs, their numbers of features differ, or one is not
        as described.
    ImportError
        If pandas is not installed.

    See Also
    --------
    feature_agreement : Of one dictionary, in memory.
    skmfr.inspection.ComparisonDisplay : Draws it.

    Notes
    -----
    Cosines are made in blocks, once for both directions, in float32 unless dictionaries
    are float64. Two dictionaries of 131,072 atoms and 2,304 features take 8 GB of
    memory, with what it takes to read them.

    Examples
    --------
    >>> from skmfr.agreement import compare
    >>> D = [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    >>> frame = compare({"first": D, "second": D[:2]}, verbose=0)
    >>> frame.loc["first", "agreement"].tolist()
    [1.0, 1.0, 0.0]
    >>> frame.loc["first", "atom second"].tolist()
    [0, 1, 0]
    """
    with needed_by("compare", "activations"):
        import pandas as pd
    named = named_saes(saes)
    shapes, nearest = nearest_of_each_pair(named, device, verbose)
    n_features = next(iter(shapes.values()))[1]
    nulls = {
        name: levels.random_agreement(n_features, n_atoms)
        for name, (n_atoms, _) in shapes.items()
    }
    frames = {}
    attrs: dict[str, dict[str, float]] = {"null": {}, "level": {}}
    for name, (n_atoms, _) in shapes.items():
        others = [other for other in named if other != name]
        cosines = np.stack([nearest[name, other][0] for other in others])
        null = np.mean([nulls[other] for other in others])
        level = np.array(
            [levels.agreement_level(nulls[other], levels.TRUSTED) for other in others]
        )
        attrs["null"][name], attrs["level"][name] = float(null), float(level.mean())
        agreement = cosines.mean(0)
        columns = {
            "agreement": agreement,
            "reappearance": (cosines > level[:, None]).mean(0),
            "trusted": agreement > level.mean(),
        }
        itself = np.full(n_atoms, np.nan, cosines.dtype), np.full(n_atoms, -1)
        for other in named:
            cosine, index = nearest.get((name, other), itself)
            columns |= {f"cosine {other}": cosine, f"atom {other}": index}
        frames[name] = pd.DataFrame(columns).rename_axis("atom")
    frame = pd.concat(frames, names=["sae"])
    frame.attrs.update(attrs)
    return frame
