"""Activity of atoms: how often they are active, how long they were not, which are dead.

An atom is *dead* in a window of steps if no sample of these steps activated it.  This
is the only definition. The window depends on the use:

- the auxiliary loss uses `DEAD_AFTER_STEPS` steps, or more if an average atom needs
  more to be active in `DEAD_AFTER_SAMPLES` samples,
- callbacks use 100 steps (`.progress.DEAD_WINDOW`),
- :func:`skmfr.metrics.dead_fraction` uses the given samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

# Number of steps over which running activity rates average.
RATE_MEMORY = 50
# Number of steps between checks for dead atoms; on a GPU each check waits for pending
# work.
DEAD_INTERVAL = 5
DEAD_AFTER_STEPS = 5
DEAD_AFTER_SAMPLES = 40


@dataclass
class Activity:
    """Activity of the atoms of all SAEs, changed in place."""

    rates: Tensor
    """(n_members, n_components), running share of samples in which an atom is active"""
    idle: Tensor
    """(n_members, n_components) int64, steps since an atom was active"""
    dead: list[Tensor]
    """(n_dead,) int64 for each member, the atoms in its auxiliary loss"""

    @classmethod
    def at_start(cls, like: Tensor, rate: float) -> "Activity":
        """Activity before the first step, for atoms (n_members, n_components)."""
        idle = torch.zeros_like(like, dtype=torch.int64)
        return cls(
            rates=torch.full_like(like, rate),
            idle=idle,
            dead=[idle[i, :0] for i in range(len(like))],
        )

    def renew(self, rates: Tensor) -> None:
        """Record a step.

        Parameters
        ----------
        rates : Tensor of shape (n_members, n_components)
            Share of the step's samples in which each atom was active.
        """
        self.rates.lerp_(rates, 1 / RATE_MEMORY)
        self.idle = torch.where(rates > 0, 0, self.idle + 1)

    def dead_in(self, window: int | Tensor) -> Tensor:
        """Mask of the atoms that were active in none of the last `window` steps.

        The window may differ between members, (n_members, 1).
        """
        return self.idle >= window

    def look_for_dead(self, samples_of_average: Sequence[float]) -> None:
        """Select the atoms for the auxiliary loss.

        Parameters
        ----------
        samples_of_average : sequence of n_members float
            Number of samples of a step in which an average atom of each member is
            active.
        """
        windows = [
            max(DEAD_AFTER_STEPS, ceil(DEAD_AFTER_SAMPLES / n_samples))
            for n_samples in samples_of_average
        ]
        window = torch.tensor(windows, device=self.idle.device).unsqueeze(1)
        self.dead = atoms_where(self.dead_in(window))

    def forget_member(self, i: int, rate: float) -> None:
        """Reset everything about a member that was reinitialised."""
        self.rates[i] = rate
        self.idle[i] = 0
        self.dead[i] = self.dead[i][:0]

    def forget_atoms(self, i: int, atoms: Tensor) -> None:
        """Reset the idle times of atoms of a member, because they were replaced."""
        self.idle[i, atoms] = 0
        self.dead[i] = self.dead[i][~torch.isin(self.dead[i], atoms)]


def atoms_where(mask: Tensor) -> list[Tensor]:
    """Atoms of each member where a mask (n_members, n_components) is true."""
    return list(mask.nonzero()[:, 1].split(mask.sum(1).tolist()))


def mask_of(atoms: list[Tensor], n_components: int) -> Tensor:
    """Mask (n_members, n_components) that is true for these atoms of each member."""
    mask = torch.zeros(len(atoms), n_components, dtype=torch.bool)
    for i, chosen in enumerate(atoms):
        mask[i, chosen.cpu()] = True
    return mask
