"""What atoms do: how often they are active, since when not, and which are dead.

An atom is *dead* in a window of steps if no sample of these steps activated it.  That
is the one definition; who asks for dead atoms says which window:

- the auxiliary loss: `DEAD_AFTER_STEPS` steps, or as many more as it takes for an
  average atom to be active in `DEAD_AFTER_SAMPLES` samples,
- callbacks: 100 steps (`.progress.DEAD_WINDOW`),
- :func:`skmfr.metrics.dead_fraction`: the samples that it is given.

*Unmoved* is an atom that neither samples nor the auxiliary loss gave a gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

# Steps over which running activity rates forget.
RATE_MEMORY = 50
# Steps between two looks for dead atoms; on a GPU each waits for what is under way.
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
    unmoved: Tensor
    """(n_members, n_components) int64, steps since an atom had a gradient"""
    dead: list[Tensor]
    """(n_dead,) int64, the atoms of each member in its auxiliary loss"""

    @classmethod
    def at_start(cls, like: Tensor, rate: float) -> "Activity":
        """Before the first step, of atoms like these (n_members, n_components)."""
        never = torch.zeros_like(like, dtype=torch.int64)
        return cls(
            rates=torch.full_like(like, rate),
            idle=never,
            unmoved=never.clone(),
            dead=[never[i, :0] for i in range(len(like))],
        )

    def renew(self, rates: Tensor, gradient: Tensor) -> None:
        """Take note of a step.

        Parameters
        ----------
        rates : Tensor of shape (n_members, n_components)
            Share of its samples in which each atom was active.
        gradient : Tensor of shape (n_members, n_components)
            Of the encoder biases: not 0 where an atom was active in a loss.
        """
        self.rates.lerp_(rates, 1 / RATE_MEMORY)
        active = rates > 0
        moved = active | (gradient != 0)
        self.idle = torch.where(active, 0, self.idle + 1)
        self.unmoved = torch.where(moved, 0, self.unmoved + 1)

    def dead_in(self, window: int | Tensor) -> Tensor:
        """Atoms that were active in none of so many steps, a mask.

        The window may be of each member, (n_members, 1).
        """
        return self.idle >= window

    def unmoved_in(self, window: int) -> list[Tensor]:
        """Atoms of each member that had no gradient in so many steps."""
        return atoms_where(self.unmoved >= window)

    def look_for_dead(self, samples_of_average: Sequence[float]) -> None:
        """Choose the atoms for the auxiliary loss.

        Parameters
        ----------
        samples_of_average : sequence of n_members float
            In how many samples of a step an average atom of each member is active.
        """
        windows = [
            max(DEAD_AFTER_STEPS, ceil(DEAD_AFTER_SAMPLES / n_samples))
            for n_samples in samples_of_average
        ]
        window = torch.tensor(windows, device=self.idle.device).unsqueeze(1)
        self.dead = atoms_where(self.dead_in(window))

    def forget_member(self, i: int, rate: float) -> None:
        """Forget all of a member that was started anew."""
        self.rates[i] = rate
        self.idle[i] = 0
        self.unmoved[i] = 0
        self.dead[i] = self.dead[i][:0]

    def forget_atoms(self, i: int, atoms: Tensor) -> None:
        """Forget how long some atoms of a member, now replaced, were idle."""
        self.idle[i, atoms] = 0
        self.unmoved[i, atoms] = 0
        self.dead[i] = self.dead[i][~torch.isin(self.dead[i], atoms)]


def atoms_where(mask: Tensor) -> list[Tensor]:
    """Atoms of each member for which a mask (n_members, n_components) is true."""
    return list(mask.nonzero()[:, 1].split(mask.sum(1).tolist()))


def mask_of(atoms: list[Tensor], n_components: int) -> Tensor:
    """Mask (n_members, n_components) that is true for these atoms of each member."""
    mask = torch.zeros(len(atoms), n_components, dtype=torch.bool)
    for i, chosen in enumerate(atoms):
        mask[i, chosen.cpu()] = True
    return mask
