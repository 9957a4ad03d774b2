"""What can be watched during a fit: a progress bar, callbacks, scikit-learn's own."""

from collections.abc import Callable
from math import ceil

import numpy as np

from .._sae.pairing import largest_cosines
from .settings import Settings
from .state import TrainingState

# Steps between two computations of the agreement, which costs more than a step.
AGREEMENT_INTERVAL = 50
# Steps in which atoms that a callback is told are dead were not active.
DEAD_WINDOW = 100


class Watch:
    """Reports the state of training; called after each step.

    Parameters
    ----------
    settings : Settings
    verbose : int
        Whether to show a bar.
    callback : callable(step, info) or None
    """

    def __init__(self, settings: Settings, verbose: int, callback: Callable | None):
        self.settings = settings
        self.callback = callback
        self.agreement = float("nan")
        self.history: list[dict] = []
        """what the callback returned"""
        self.bar = None
        if verbose:
            from tqdm.auto import tqdm

            self.bar = tqdm(unit="step", desc="MFR")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()

    def __call__(self, state: TrainingState) -> None:
        if self.bar is None and self.callback is None:
            return
        info = self.info(state)
        if self.bar is not None:
            self.bar.total = state.schedule.n_steps
            self.bar.set_postfix(
                {
                    "FVU": f"{info['fvu']:.4f}",
                    "agreement": f"{info['agreement']:.3f}",
                },
                refresh=False,
            )
            self.bar.update(state.step - self.bar.n)
        if self.callback is not None:
            record = self.callback(state.step, info)
            if isinstance(record, dict):
                self.history.append(record)

    def info(self, state: TrainingState) -> dict[str, float]:
        """What a callback gets to know."""
        if state.step % AGREEMENT_INTERVAL == 0 or np.isnan(self.agreement):
            self.agreement = self.current_agreement(state)
        settings, done = self.settings, state.step - 1
        dead = state.activity.dead_in(DEAD_WINDOW)[: settings.n_saes]
        stage = state.schedule.stage(done, settings)
        return {
            "n_steps": state.schedule.n_steps,
            "fvu": float(state.losses[state.n_steps - 1, : settings.n_saes].mean()),
            "agreement": self.agreement,
            "dead": float(dead.double().mean()),
            "k": stage.k,
            "alpha": stage.alpha,
            "learning_rate": stage.learning_rate,
            "n_reinits": int(state.n_reinits.sum()),
        }

    def current_agreement(self, state: TrainingState) -> float:
        """Mean best cosine of the first SAE's atoms in a witness, or another SAE."""
        if len(state.ensemble) == 1:
            return float("nan")
        cosine, _ = largest_cosines(
            state.ensemble.decoder[0], state.ensemble.decoder[-1]
        )
        return float(cosine.mean())


class EpochCallbacks:
    """scikit-learn's callbacks (1.9 on): one task per epoch.

    Parameters
    ----------
    estimator : estimator
        What callbacks are told that they watch.
    begin_context : callable(max_subtasks) -> context
        Begins the task of a fit.
    X : ndarray or Source
    steps_per_epoch : float
    state : TrainingState
        With which training begins.
    fitted_attributes : callable(state) -> dict
        Attributes of an estimator fitted so far.
    """

    def __init__(
        self, estimator, begin_context, X, steps_per_epoch, state, fitted_attributes
    ):
        # What the user gave.
        X = getattr(X, "X", X)
        self.arguments = {"estimator": estimator, "X": X, "y": None}
        self.steps_per_epoch = steps_per_epoch
        self.fitted_attributes = fitted_attributes
        self.n_epochs = int(state.step / steps_per_epoch)
        self.context = begin_context(
            max_subtasks=ceil(state.schedule.n_steps / steps_per_epoch)
        )
        self.context.call_on_fit_task_begin(**self.arguments)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.arguments)

    def __call__(self, state: TrainingState) -> bool:
        """Whether a callback asks to stop."""
        last = state.step == state.schedule.n_steps
        if not last and state.step < (self.n_epochs + 1) * self.steps_per_epoch:
            return False
        self.n_epochs += 1
        stop = self.epoch.call_on_fit_task_end(
            **self.arguments,
            reconstruction_attributes=lambda: self.fitted_attributes(state),
        )
        if not (last or stop):
            self.begin_epoch()
        return bool(stop)

    def close(self, state: TrainingState) -> None:
        self.context.call_on_fit_task_end(
            **self.arguments,
            reconstruction_attributes=lambda: self.fitted_attributes(state),
        )
