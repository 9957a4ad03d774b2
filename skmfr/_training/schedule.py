"""Learning rate, penalty and sparsity over a fit, and its end."""

from dataclasses import dataclass, replace
from math import ceil, cos, inf, pi
from typing import NamedTuple

from .settings import Settings

# Shares of the planned steps: rise of the learning rate and the penalty, fall of k from
# K_START * k, and final fall of the learning rate.
WARM_UP = 0.05
K_ANNEALING = 0.2
K_START = 2
COOL_DOWN = 0.5
# Shares of that fall: start and end of the penalty's release; after the end,
# models are finished for the codes that they will have.
RELEASE = 0.4, 0.6
FINISH = 0.4
# Weight of the penalty on encoders while the learning rate is constant, for atoms that
# are all active in all samples.  It is in proportion to an atom's part of the loss: a
# constant weight would leave atoms dead where there are many.
ENCODER_PENALTY = 0.01
# Factor of the learning rate when a model that a fit has finished is trained further,
# without penalty and new atoms, as in the last steps of the fit.  It decreases with the
# square root of smaller batches, whose gradients are noisier.
SETTLED = 0.05
SETTLED_ROWS = 256


class Stage(NamedTuple):
    """The settings of one step."""

    k: int
    """number of active atoms per sample"""
    activation: str
    """how the encoder chooses them: "topk" or "batchtopk" """
    alpha: float
    """weight of the mutual penalty"""
    learning_rate: float
    pursue: bool
    """whether dictionaries follow codes of matching pursuit, whose FVU is the loss;
    encoders still follow their own codes; tied weights follow both"""
    positive: bool = False
    """whether those codes are non-negative"""
    encoder_penalty: float = 0.0
    """weight of the penalty on encoders, relative to FVU"""


@dataclass(frozen=True)
class Schedule:
    """Learning rate, penalty and sparsity of each step of a fit.

    The learning rate rises, is constant for the first half, and falls to zero in the
    second. k falls from a multiple to its value once in the life of a model.  The
    penalty begins in the second half, because SAEs that are coupled while they search
    miss the same features. It rises as a cosine and ends before the last steps, so that
    each SAE settles where it reconstructs best.  These steps also finish it for its
    codes: if samples share their active atoms, they do so from here, because atoms
    return less often when they are learned like this.  A model that was fitted before
    is coupled, and shares, from the first step.
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
            annealing=max(1, int(K_ANNEALING * n_steps)) if anneal_k else 0,
        )

    @classmethod
    def constant(cls, n_steps: int) -> "Schedule":
        return cls(n_steps, cool_down_from=n_steps, rising=1, annealing=0)

    def stage(self, step: int, settings: Settings) -> Stage:
        """The stage of a step with these settings."""
        coupled = settings.n_saes > 1
        rate = self.learning_rate(step)
        share = settings.k / settings.n_components
        return Stage(
            k=self.k(step, settings.k, settings.n_components),
            activation=settings.activation if self.sharing(step) else "topk",
            alpha=settings.alpha * self.alpha(step) if coupled else 0.0,
            learning_rate=settings.learning_rate * rate,
            pursue=settings.for_pursuit and self.finishing(step),
            positive=settings.positive_code,
            encoder_penalty=0.0 if settings.tied else ENCODER_PENALTY * share * rate,
        )

    @classmethod
    def settled(cls, n_steps: int, batch_size: int) -> "Schedule":
        """The end of a final fall: a low learning rate, lower for small batches."""
        level = SETTLED * min(1.0, batch_size / SETTLED_ROWS) ** 0.5
        fall = ceil(n_steps / level)
        return cls(n_steps, cool_down_from=n_steps - fall, rising=1, annealing=0)

    @property
    def coupled_from(self) -> int:
        """Number of steps before the penalty begins."""
        return self.cool_down_from if self.annealing else 0

    def falls_at(self, step: int) -> bool:
        """Whether the final fall has begun; it is never undone."""
        return step > self.cool_down_from

    def fall_from(self, step: int) -> "Schedule":
        """The schedule whose final fall begins now, as if it had been planned."""
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

    def finishing(self, step: int) -> bool:
        """Whether this is one of the last steps, which finish a model for its codes."""
        return self._left(step) <= FINISH

    def sharing(self, step: int) -> bool:
        """Whether samples share their active atoms at this step, if requested."""
        return self.finishing(step) or not self.annealing

    def _left(self, step: int) -> float:
        """Remaining share of the final fall; 1 or more before it begins."""
        return (self.n_steps - step) / max(1, self.n_steps - self.cool_down_from)

    def k(self, step: int, k: int, n_components: int) -> int:
        """Number of active atoms per sample."""
        if step >= self.annealing:
            return k
        start = min(K_START * k, n_components)
        return round(start + (k - start) * step / self.annealing)


@dataclass
class Plateau:
    """Detects that a loss has stopped falling."""

    tol: float = 0.0
    patience: int = 1
    best: float = inf
    n_without_gain: int = 0

    def ends_with(self, loss: float) -> bool:
        """Whether this is the last of ``patience`` losses without a gain of ``tol``.

        The count then starts again.
        """
        gained = loss < self.best - self.tol
        self.n_without_gain = 0 if gained else self.n_without_gain + 1
        self.best = min(self.best, loss)
        if self.n_without_gain < self.patience:
            return False
        self.n_without_gain = 0
        return True


def due(step: int, every: int | None) -> bool:
    """Whether an action is due that happens every `every` steps; never if None."""
    return every is not None and step % every == 0
