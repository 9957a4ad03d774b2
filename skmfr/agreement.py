"""How far dictionaries agree, atom by atom, and what chance would give.

All cosines are signed: codes are non-negative, so an atom and its negative are two
different features.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad
from scipy.special import betaincinv
from sklearn.preprocessing import normalize
from sklearn.utils import check_array

__all__ = ["feature_agreement", "matched_cosine", "mmcs", "random_agreement"]


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
        If the numbers of features differ, an array has no rows, or a value is not
        finite.

    Examples
    --------
    >>> from skmfr.agreement import feature_agreement
    >>> feature_agreement([[1.0, 0.0], [0.0, 2.0]], [[[3.0, 0.0], [3.0, 4.0]]])
    array([1. , 0.8])
    """
    atoms = _unit_atoms(atoms, "atoms")
    if len(dictionaries) == 0:
        return np.full(len(atoms), np.nan, dtype=atoms.dtype)
    cosines = [
        _nearest_cosine(atoms, _unit_atoms(others, "dictionaries"))
        for others in dictionaries
    ]
    return np.mean(cosines, axis=0)


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
    return float(np.mean(feature_agreement(atoms, [others])))


def matched_cosine(atoms, others) -> float:
    r"""Mean cosine of two dictionaries under the best one-to-one matching.

    .. math:: \max_\pi \frac1m \sum_j \cos(d_j, d'_{\pi(j)})

    Parameters
    ----------
    atoms, others : array-like of shape (n_components, n_features)
        Dictionaries of the same size.  The matching is exact (Hungarian algorithm) up
        to 8192 atoms; above that, mutual nearest atoms are paired first.

    Returns
    -------
    float
        Between -1 and 1; symmetric.

    Raises
    ------
    ValueError
        If the shapes differ, an array has no rows, or a value is not finite.

    Examples
    --------
    >>> from skmfr.agreement import matched_cosine
    >>> matched_cosine([[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [3.0, 0.0]])
    1.0
    """
    import torch

    from ._matching import assign_atoms

    atoms, others = _same_dtype(
        _unit_atoms(atoms, "atoms"), _unit_atoms(others, "others")
    )
    if atoms.shape != others.shape:
        raise ValueError(
            f"others has shape {others.shape}, but atoms has shape {atoms.shape}: a "
            "one-to-one matching takes dictionaries of the same shape."
        )
    partner = assign_atoms(
        torch.from_numpy(atoms), torch.from_numpy(others), exact_limit=8192
    )
    return float(np.mean(np.sum(atoms * others[partner.numpy()], axis=1)))


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
        If a number is less than 1.

    Examples
    --------
    >>> from skmfr.agreement import random_agreement
    >>> round(random_agreement(64, 256), 3)
    0.346
    """
    for name, number in [("n_features", n_features), ("n_components", n_components)]:
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if n_features == 1:
        return 1.0 - 2.0 ** (1 - n_components)

    def quantile_of_maximum(share: float) -> float:
        # The largest of m is below t with probability F(t)^m.
        log_below = np.log(share) / n_components
        below, above = np.exp(log_below), -np.expm1(log_below)
        tail = 2 * min(below, above)
        size = np.sqrt(1 - betaincinv((n_features - 1) / 2, 0.5, tail))
        return float(size if below > above else -size)

    return quad(quantile_of_maximum, 0.0, 1.0, limit=200)[0]


def _nearest_cosine(atoms: np.ndarray, others: np.ndarray) -> np.ndarray:
    import torch

    from ._matching import nearest_atoms

    if atoms.shape[1] != others.shape[1]:
        raise ValueError(
            f"dictionaries have {others.shape[1]} features, but atoms have "
            f"{atoms.shape[1]}."
        )
    cosine, _ = nearest_atoms(*map(torch.from_numpy, _same_dtype(atoms, others)))
    return np.clip(cosine.numpy(), -1.0, 1.0)


def _same_dtype(atoms: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    dtype = np.result_type(atoms, others)
    return [array.astype(dtype, copy=False) for array in (atoms, others)]


def _unit_atoms(atoms, name: str) -> np.ndarray:
    atoms = check_array(
        atoms, dtype=[np.float64, np.float32], ensure_min_samples=0, input_name=name
    )
    if len(atoms) == 0:
        raise ValueError(f"{name} has no rows, but a dictionary has at least one atom.")
    return normalize(atoms)
