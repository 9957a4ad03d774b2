"""The processes that share one fit.

All processes hold all parameters, draw the same random numbers and take the same steps.
Each process reads and codes only its part of every batch, and their sums are added.
"""

from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from torch import Tensor, distributed


@dataclass(frozen=True)
class Workers:
    """This process among those that share a fit; a single process shares nothing."""

    rank: int = 0
    size: int = 1

    def part(self, rows: np.ndarray) -> np.ndarray:
        """The part of some rows that belongs to this process, (n_rows,)."""
        return np.array_split(rows, self.size)[self.rank]

    def add_up_(self, *parts: Tensor) -> None:
        """Replace each tensor, in place, by its sum over the processes."""
        if self.size > 1:
            for part in parts:
                distributed.all_reduce(part)

    def total(self, number: float) -> float:
        """The sum of a number over the processes."""
        return sum(self._gathered(number))

    def check_same(self, values: dict[str, object]) -> None:
        """Check that values are the same in all processes.

        Raises
        ------
        ValueError
            If they differ. The error names the values of this process and of the first
            process with other values.
        """
        for rank, other in enumerate(self._gathered(values)):
            for name, value in values.items():
                if other[name] != value:
                    raise ValueError(
                        "All processes must call fit with the same parameters, but "
                        f"process {self.rank} has {name}={value} and process {rank} "
                        f"has {name}={other[name]}."
                    )

    def _gathered(self, own) -> list:
        """One object from each process, in order of rank."""
        if self.size == 1:
            return [own]
        gathered = [None] * self.size
        distributed.all_gather_object(gathered, own)
        return gathered


ALONE = Workers()
# The workers of fits that begin in the current context.
present_workers: ContextVar[Workers] = ContextVar("present_workers", default=ALONE)
