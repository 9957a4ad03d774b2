"""Signs that a fit goes wrong, or went wrong, in words."""

import numpy as np
import torch

from .settings import Settings
from .state import TrainingState

# Levels at which a sign is given.
POOR_FVU = 0.5
HIGH_AGREEMENT = 0.9
DUPLICATE_COSINE = 0.99
DUPLICATE_SHARE = 0.1
FVU_COST = 0.1
SMALLEST_FVU_COST = 0.01


def check_convergence(state: TrainingState, settings: Settings) -> None:
    """Look at loss and atoms before something is made of them.

    Raises
    ------
    ValueError
        If they are not what they should be: finite, and of unit norm.
    """
    last = state.losses[max(0, state.n_steps - 1) : state.n_steps]
    norms = torch.linalg.vector_norm(state.ensemble.decoder, dim=-1)
    if not (last.isfinite().all() and ((norms - 1).abs() < 0.1).all()):
        raise ValueError(
            f"Training diverged with learning_rate={settings.learning_rate:g} and "
            f"alpha={settings.alpha:g}: lower them. If this fit continues an earlier "
            "one, X must have the same scale as the earlier data."
        )


def failure_signs(
    *,
    alpha: float,
    group_fvu: float,
    witness_fvu: float,
    mutual_agreement: float,
    duplicate_share: float,
    null_agreement: float,
    n_reinits: int,
    max_reinits: int,
) -> list[str]:
    """Signs of a failed fit, each with a remedy.

    Parameters
    ----------
    alpha : float
        Weight of the penalty.
    group_fvu, witness_fvu : float
        FVU at the end of training, mean over the group and over the witnesses, which
        the penalty does not touch; NaN without witnesses.
    mutual_agreement : float
        Mean agreement inside the group; NaN for a single SAE.
    duplicate_share : float
        Share of the reference SAE's atoms with a near copy in the same dictionary.
    null_agreement : float
        Agreement of random dictionaries.
    n_reinits, max_reinits : int
        Most reinitialisations of one SAE, and how many are allowed.

    Returns
    -------
    list of str
        A sentence or two for each sign; empty if all is well.
    """
    signs = []
    lower_alpha = f"Lower alpha={alpha:g}, or" if alpha > 0 else "You can"
    # Where chance alone gives high cosines, in few dimensions, they tell nothing.
    telling = null_agreement < HIGH_AGREEMENT
    if group_fvu > POOR_FVU and mutual_agreement > HIGH_AGREEMENT and telling:
        signs.append(
            f"The SAEs agree (mutual agreement {mutual_agreement:.2f}) but reconstruct "
            f"poorly (FVU {group_fvu:.2f}): agreement without reconstruction says "
            f"nothing about the data. {lower_alpha} raise k or max_steps."
        )
    if duplicate_share > DUPLICATE_SHARE and telling:
        signs.append(
            f"{duplicate_share:.0%} of the atoms have a near copy in the same "
            "dictionary: the SAEs are collapsing to identical atoms. "
            f"{lower_alpha} lower n_components or use matching='hungarian'."
        )
    cost = group_fvu - witness_fvu
    if alpha > 0 and cost > max(FVU_COST * witness_fvu, SMALLEST_FVU_COST):
        signs.append(
            f"The penalty costs reconstruction: FVU is {group_fvu:.3g} with "
            f"alpha={alpha:g}, but {witness_fvu:.3g} for the witnesses, which train "
            "without it. Lower alpha."
        )
    if n_reinits >= max_reinits:
        signs.append(
            f"Reinitialisation is unstable: an SAE was reinitialised {n_reinits} "
            "times, the maximum, and had less time to train. Raise reinit_threshold, "
            "or set it to None if some features of the data are simply more frequent "
            "than others."
        )
    return signs


def share_of_duplicates(atoms: np.ndarray) -> float:
    """Share of atoms whose nearest other atom in the same dictionary is a near copy.

    Parameters
    ----------
    atoms : ndarray of shape (n_components, n_features)
        Rows of unit norm.
    """
    n_duplicates = 0
    for block in np.array_split(atoms, max(1, len(atoms) ** 2 >> 24)):
        # Each atom is its own nearest.
        n_near = np.sum(block @ atoms.T > DUPLICATE_COSINE, axis=1)
        n_duplicates += int(np.sum(n_near > 1))
    return n_duplicates / len(atoms)
