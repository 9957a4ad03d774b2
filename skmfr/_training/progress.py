"""Progress of a fit: a progress bar, callbacks, and scikit-learn's callbacks."""

import multiprocessing
import sys
import threading
from collections.abc import Callable, Mapping
from math import ceil
from time import monotonic
from typing import Any

from .._sae.pairing import largest_cosines
from .settings import Settings
from .state import TrainingState

# Number of steps between computations of the agreement, which costs more than a step.
AGREEMENT_INTERVAL = 50
# Number of steps without activity after which callbacks count an atom as dead.
DEAD_WINDOW = 100
# Seconds between two lines in a log, except for the last.
SHORTEST_SILENCE, LONGEST_SILENCE = 1, 300


class Watch:
    """Reports the state of training; called after each step.

    Parameters
    ----------
    settings : Settings
    verbose : int
        Whether to show the progress.
    callback : callable(step, info) or None
    """

    def __init__(self, settings: Settings, verbose: int, callback: Callable | None):
        self.settings = settings
        self.callback = callback
        self.agreement, self.agreement_is_of = float("nan"), -1
        self.history: list[dict] = []
        """values that the callback returned"""
        self.report: Bar | Lines | None = None
        if verbose:
            self.report = (Bar if _redraws() else Lines)(_label(settings))
        self.last: TrainingState | None = None

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if self.report is None:
            return
        # Training may have ended before its last step.
        if error is None and self.last and self.report.shown != self.last.step:
            self.report.show(self.last, self.info(self.last))
        self.report.close()

    def __call__(self, state: TrainingState) -> None:
        self.last = state
        if self.report is not None and self.report.due(state):
            self.report.show(state, self.info(state))
        if self.callback is not None:
            record = self.callback(state.step, self.info(state))
            if isinstance(record, dict):
                self.history.append(record)

    def info(self, state: TrainingState) -> dict[str, float]:
        """The info that a callback receives."""
        if state.step // AGREEMENT_INTERVAL != self.agreement_is_of:
            self.agreement = self.current_agreement(state)
            self.agreement_is_of = state.step // AGREEMENT_INTERVAL
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


class Bar:
    """A bar that is redrawn in place."""

    def __init__(self, label: str):
        self.label = label
        self.shown = 0
        self.bar: Any = None

    def due(self, state: TrainingState) -> bool:
        return True

    def show(self, state: TrainingState, info: Mapping[str, float]) -> None:
        if self.bar is None:
            from tqdm.auto import tqdm

            # Only when its length is known, because a checkpoint may have begun it.
            self.bar = tqdm(
                desc=self.label,
                unit="step",
                total=state.schedule.n_steps,
                initial=state.step - 1,
            )
        self.bar.total = state.schedule.n_steps
        self.bar.set_postfix_str(_told(info), refresh=False)
        self.bar.update(state.step - self.bar.n)
        self.shown = state.step

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Lines:
    """Lines for a log: one for each tenth of the steps, and one for the last step."""

    def __init__(self, label: str):
        self.label = label
        self.shown = 0
        self.begun = self.written = monotonic()

    def due(self, state: TrainingState) -> bool:
        n_steps, since = state.schedule.n_steps, monotonic() - self.written
        tenth = state.step * 10 // n_steps > self.shown * 10 // n_steps
        return (tenth and since >= SHORTEST_SILENCE) or since >= LONGEST_SILENCE

    def show(self, state: TrainingState, info: Mapping[str, float]) -> None:
        self.shown, self.written = state.step, monotonic()
        # In one call, because several processes may write to one log.
        line = (
            f"{self.label}: step {state.step} of {state.schedule.n_steps}, "
            f"{self.written - self.begun:.0f} s, {_told(info)}\n"
        )
        print(line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Do nothing, because nothing is open."""


def _told(info: Mapping[str, float]) -> str:
    return f"FVU={info['fvu']:.4f}, agreement={info['agreement']:.3f}"


def _label(settings: Settings) -> str:
    """Label that distinguishes a fit from others."""
    fit = f"MFR {settings.n_components} atoms, k={settings.k}, alpha={settings.alpha:g}"
    return f"{fit} [{_worker()}]" if _worker() else fit


def _redraws() -> bool:
    """Whether output on stderr can be redrawn in place."""
    is_terminal = getattr(sys.stderr, "isatty", lambda: False)()
    # Parallel processes and threads would draw into each other's bars.
    return (is_terminal or "ipykernel" in sys.modules) and not _worker()


def _worker() -> str:
    """The names of this process and thread, unless they are the main ones."""
    names = []
    if multiprocessing.parent_process() is not None:
        names.append(multiprocessing.current_process().name)
    if threading.current_thread() is not threading.main_thread():
        names.append(threading.current_thread().name)
    return " ".join(names)


class EpochCallbacks:
    """scikit-learn's callbacks (from 1.9 on): one task per epoch.

    Parameters
    ----------
    estimator : estimator
        The estimator that callbacks receive.
    begin_context : callable(max_subtasks) -> context
        Begins the task of a fit.
    X : ndarray or Source
    steps_per_epoch : float
    state : TrainingState
        The state with which training begins.
    fitted_attributes : callable(state) -> dict
        Returns the attributes of an estimator that is fitted so far.
    y : array-like, optional
        As passed to `fit`.
    """

    def __init__(
        self,
        estimator,
        begin_context,
        X,
        steps_per_epoch,
        state,
        fitted_attributes,
        y=None,
    ):
        # The data as the user passed them.
        X = getattr(X, "X", X)
        self.arguments = {"estimator": estimator, "X": X, "y": y}
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
