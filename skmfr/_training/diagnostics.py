"""Detect failed fits, and describe them."""

import numpy as np
import torch

from .progress import DEAD_WINDOW
from .settings import Settings
from .state import TrainingState

# Thresholds of the signs.
POOR_FVU = 0.5
HIGH_AGREEMENT = 0.9
DUPLICATE_COSINE = 0.99
DUPLICATE_SHARE = 0.1
FVU_COST = 0.1
SMALLEST_FVU_COST = 0.01


def check_convergence(state: TrainingState, settings: Settings) -> None:
    """Check loss and atoms before results are computed.

    Raises
    ------
    ValueError
        If the loss is not finite, or atoms do not have unit norm.
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
        FVU at the end of training, averaged over the group and over the witnesses,
        which train without the penalty; NaN without witnesses on the same rows.
    mutual_agreement : float
        Mean agreement inside the group; NaN for a single SAE.
    duplicate_share : float
        Share of the reference SAE's atoms with a near copy in the same dictionary.
    null_agreement : float
        Agreement of random dictionaries.
    n_reinits, max_reinits : int
        Largest number of reinitialisations of one SAE, and the maximum allowed.

    Returns
    -------
    list of str
        One or two sentences for each sign; empty if there is none.
    """
    signs = []
    lower_alpha = f"Lower alpha={alpha:g}, or" if alpha > 0 else "You can"
    # In few dimensions chance alone gives high cosines, which then mean nothing.
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
        # The nearest atom of each atom is the atom itself.
        n_near = np.sum(block @ atoms.T > DUPLICATE_COSINE, axis=1)
        n_duplicates += int(np.sum(n_near > 1))
    return n_duplicates / len(atoms)


def fit_summary(estimator) -> str:
    """A fitted estimator in one sentence: steps, FVU, dead and trusted atoms."""
    n_atoms, trusted = len(estimator.trusted_), int(estimator.trusted_.sum())
    window = min(DEAD_WINDOW, estimator.n_steps_)
    facts = []
    if len(estimator.loss_curve_):
        facts.append(f"FVU {np.mean(estimator.loss_curve_[-window:]):.3g} in training")
    # An estimator that was saved without its training state lacks this.
    idle = (estimator._training or {}).get("idle")
    if idle is not None:
        dead = int((idle[estimator.reference_sae_] >= window).sum())
        facts.append(f"{dead:,} of {n_atoms:,} atoms dead")
    if np.isnan(estimator.feature_agreement_).all():
        facts.append("agreement unknown without a witness")
    else:
        facts.append(f"{trusted:,} of {n_atoms:,} atoms trusted")
    return f"Fitted in {estimator.n_steps_:,} steps: {', '.join(facts)}."
