"""What the parameters amount to."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """What the parameters of the estimator amount to."""

    n_components: int
    n_saes: int
    n_witnesses: int
    k: int
    alpha: float
    matching: str
    tied: bool
    learning_rate: float
    reinit_threshold: float | None
    reinit_every: int | None
    resample_every: int | None
    seed: int
    device: str
    dtype: torch.dtype
    low_precision: bool
    for_pursuit: bool
    """whether dictionaries are finished for codes of matching pursuit"""

    @property
    def n_members(self) -> int:
        return self.n_saes + self.n_witnesses

    def member_key(self, i: int) -> tuple[int, int]:
        """Key of a member's random numbers, whatever the size of the group."""
        return (0, i) if i < self.n_saes else (1, i - self.n_saes)
