"""The processes that share one fit.

All processes hold all parameters, draw the same random numbers and take the same steps.
Each reads and codes a part of every batch only, and what the parts sum to is added up.
"""

from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from torch import Tensor, distributed


@dataclass(frozen=True)
class Workers:
    """This process among those that share a fit; a process alone shares nothing."""

    rank: int = 0
    size: int = 1

    def part(self, rows: np.ndarray) -> np.ndarray:
        """What this process does of some rows, (n_rows,)."""
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
        """Compare what must be the same in all processes.

        Raises
        ------
        ValueError
            If it is not, naming the values of this process and of the first that has
            others.
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
        """An object of each process, in their order."""
        if self.size == 1:
            return [own]
        gathered = [None] * self.size
        distributed.all_gather_object(gathered, own)
        return gathered


ALONE = Workers()
# Of the fits that begin now.
present_workers: ContextVar[Workers] = ContextVar("present_workers", default=ALONE)
