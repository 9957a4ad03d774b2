"""What a fit is asked to do, and everything that it changes."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .._sae.ensemble import Ensemble
from .._sae.levels import ALIKE, agreement_level, random_agreement
from .matches import Matches
from .optimiser import SphericalAdam
from .schedule import Plateau, Schedule
from .settings import Settings


@dataclass
class TrainingState:
    """Everything that training changes."""

    ensemble: Ensemble
    optimiser: SphericalAdam
    matches: Matches
    rates: Tensor
    """(n_members, n_components), running share of samples in which an atom is active"""
    idle: Tensor
    """(n_members, n_components), steps since an atom was active"""
    unmoved: Tensor
    """(n_members, n_components), steps since samples or the auxiliary loss gave an atom
    a gradient"""
    dead: list[Tensor]
    """(n_dead,), the atoms of each member in its auxiliary loss"""
    n_reinits: np.ndarray
    """(n_members,)"""
    losses: Tensor
    """(at least n_steps, n_members), FVU on the batch of each step"""
    n_steps: int = 0
    """steps done in the life of the model"""
    schedule: Schedule = Schedule.constant(0)
    """of the present fit"""
    plateau: Plateau = field(default_factory=Plateau)
    step: int = 0
    """steps done in the present fit"""

    def begin(self, schedule: Schedule, plateau: Plateau) -> None:
        """Begin a fit that goes on from here."""
        self.schedule, self.plateau, self.step = schedule, plateau, 0
        room = self.losses.new_full((schedule.n_steps, self.losses.shape[1]), torch.nan)
        self.losses = torch.cat([self.losses[: self.n_steps], room])

    def parameters(self, i: int) -> list[Tensor]:
        """Parameters of one member as the optimiser knows them."""
        return self.optimiser.param_groups[i]["params"]


def new_state(ensemble: Ensemble, settings: Settings) -> TrainingState:
    """State before the first step of training an ensemble."""
    decoder = ensemble.decoder
    null = random_agreement(decoder.shape[2], settings.n_components)
    return TrainingState(
        ensemble=ensemble,
        optimiser=SphericalAdam(ensemble, settings.learning_rate),
        matches=Matches(
            settings.matching,
            settings.n_saes,
            settings.n_components,
            least_cosine=agreement_level(null, ALIKE),
        ),
        rates=decoder.new_full(decoder.shape[:2], settings.k / settings.n_components),
        idle=decoder.new_zeros(decoder.shape[:2], dtype=torch.int64),
        unmoved=decoder.new_zeros(decoder.shape[:2], dtype=torch.int64),
        dead=[decoder.new_empty(0, dtype=torch.int64)] * len(ensemble),
        n_reinits=np.zeros(len(ensemble), dtype=int),
        losses=decoder.new_empty(0, len(ensemble)),
    )


def atoms_where(mask: Tensor) -> list[Tensor]:
    """Atoms of each member for which a mask (n_members, n_components) is true."""
    return list(mask.nonzero()[:, 1].split(mask.sum(1).tolist()))
