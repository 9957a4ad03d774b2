"""How learning rate, penalty and sparsity change over a fit, and when it ends."""

from dataclasses import dataclass, replace
from math import ceil, cos, inf, pi
from typing import NamedTuple

from .settings import Settings

# Shares of the planned steps: over which the learning rate and the penalty rise, over
# which k falls from K_START * k, over which the learning rate falls at the end.
WARM_UP = 0.05
K_ANNEALING = 0.2
K_START = 2
COOL_DOWN = 0.5
# Shares of that fall: from where to where the penalty goes; at the end of which
# dictionaries are finished for matching pursuit, if they are meant for it.
RELEASE = 0.4, 0.6
PURSUIT = 0.4
# What is left of the learning rate where a model that a fit has brought to its end is
# trained on: without the penalty, without new atoms, as in the last steps of the fit.
# It falls with the root of batches that have fewer rows, whose gradients are noisier.
SETTLED = 0.05
SETTLED_ROWS = 256


class Stage(NamedTuple):
    """What a step does."""

    k: int
    """active atoms per sample"""
    alpha: float
    """weight of the penalty"""
    learning_rate: float
    pursue: bool
    """whether dictionaries follow codes of matching pursuit, whose FVU is the loss,
    while encoders follow their own; tied weights follow both"""
    positive: bool = False
    """whether those codes are not negative"""


@dataclass(frozen=True)
class Schedule:
    """Learning rate, penalty and sparsity of each step of a fit.

    The learning rate rises, stays for the first half, and falls to zero in the second;
    k falls from a multiple to its value, once in the life of a model.  The penalty
    waits for the second half, since SAEs that are coupled while they search miss
    features together; it rises as a cosine, and is gone before the end, so that each
    SAE settles where it reconstructs best.  A model that has been fitted before is
    coupled from its first step.
    """

    n_steps: int
    cool_down_from: int
    rising: int
    annealing: int

    @classmethod
    def over(cls, n_steps: int, anneal_k: bool) -> "Schedule":
        return cls(
            n_steps=n_steps,
            cool_down_from=n_steps - int(COOL_DOWN * n_steps),
            rising=max(1, int(WARM_UP * n_steps)),
            annealing=int(K_ANNEALING * n_steps) if anneal_k else 0,
        )

    @classmethod
    def constant(cls, n_steps: int) -> "Schedule":
        return cls(n_steps, cool_down_from=n_steps, rising=1, annealing=0)

    def stage(self, step: int, settings: Settings) -> Stage:
        """What a step does with these settings."""
        coupled = settings.n_saes > 1
        return Stage(
            k=self.k(step, settings.k, settings.n_components),
            alpha=settings.alpha * self.alpha(step) if coupled else 0.0,
            learning_rate=settings.learning_rate * self.learning_rate(step),
            pursue=settings.for_pursuit and self.pursuing(step),
            positive=settings.positive_code,
        )

    @classmethod
    def settled(cls, n_steps: int, batch_size: int) -> "Schedule":
        """The last of a final fall: a low learning rate, lower for small batches."""
        level = SETTLED * min(1.0, batch_size / SETTLED_ROWS) ** 0.5
        fall = ceil(n_steps / level)
        return cls(n_steps, cool_down_from=n_steps - fall, rising=1, annealing=0)

    @property
    def coupled_from(self) -> int:
        """Steps before the penalty."""
        return self.cool_down_from if self.annealing else 0

    def falls_at(self, step: int) -> bool:
        """Whether the final fall has begun, from which a model does not come back."""
        return step > self.cool_down_from

    def fall_from(self, step: int) -> "Schedule":
        """The schedule whose final fall begins now, as if it had been planned so."""
        fall = ceil(step * COOL_DOWN / (1 - COOL_DOWN))
        return replace(
            Schedule.over(step + fall, anneal_k=False),
            n_steps=min(step + fall, self.n_steps),
            cool_down_from=step,
            annealing=min(self.annealing, step),
        )

    def learning_rate(self, step: int) -> float:
        """Factor of the learning rate."""
        return min(1.0, (step + 1) / self.rising, self._left(step))

    def alpha(self, step: int) -> float:
        """Factor of the penalty."""
        risen = min(max(0.0, (step + 1 - self.coupled_from) / self.rising), 1.0)
        begin, end = RELEASE
        fallen = 1 - self._left(step)
        released = min(max(0.0, (end - fallen) / (end - begin)), 1.0)
        return (1 - cos(pi * risen)) / 2 * released

    def pursuing(self, step: int) -> bool:
        """Whether dictionaries that are meant for it follow matching pursuit by now."""
        return self._left(step) <= PURSUIT

    def _left(self, step: int) -> float:
        """What is left of the final fall, as a share of it; 1 or more before it."""
        return (self.n_steps - step) / max(1, self.n_steps - self.cool_down_from)

    def k(self, step: int, k: int, n_components: int) -> int:
        """Active atoms per sample."""
        if step >= self.annealing:
            return k
        start = min(K_START * k, n_components)
        return round(start + (k - start) * step / self.annealing)


@dataclass
class Plateau:
    """Tells when a loss has stopped falling."""

    tol: float = 0.0
    patience: int = 1
    best: float = inf
    n_without_gain: int = 0

    def ends_with(self, loss: float) -> bool:
        """Whether this is the last of ``patience`` losses without a gain of ``tol``.

        Then the count begins anew.
        """
        gained = loss < self.best - self.tol
        self.n_without_gain = 0 if gained else self.n_without_gain + 1
        self.best = min(self.best, loss)
        if self.n_without_gain < self.patience:
            return False
        self.n_without_gain = 0
        return True


def due(step: int, every: int | None) -> bool:
    """Whether what is done every so many steps is done now; with None never."""
    return every is not None and step % every == 0
