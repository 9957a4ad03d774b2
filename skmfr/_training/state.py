"""Everything that training changes, as tensors in training and arrays elsewhere."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .._sae.ensemble import Ensemble
from .._sae.levels import ALIKE, agreement_level, random_agreement
from .activity import Activity, atoms_where, mask_of
from .matches import Matches
from .optimiser import SphericalAdam
from .schedule import Plateau, Schedule
from .settings import Settings

# The only table of the arrays to keep: checkpoints, pickles and skmfr.io write and read
# them.  For n SAEs and witnesses with m atoms of d features, after t steps.
FIELDS = {
    "encoder": "float n m d",  # not with tied weights
    "encoder_bias": "float n m",
    "decoder": "float n m d",
    "decoder_bias": "float n d",
    "rates": "float n m",
    "idle": "int n m",
    "dead": "bool n m",
    "losses": "float t n",
    "n_reinits": "int n",
    "schedule": "int 4",
    "plateau": "float 4",
    "step": "int",
}
# In addition, the matches of each pair of SAEs, and Adam's state of each parameter.
MATCHES = re.compile(r"matches (\d+) (\d+)")
MOMENTS = re.compile(r"adam (\d+) (step|exp_avg|exp_avg_sq)")
ENSEMBLE_FIELDS = ("encoder", "encoder_bias", "decoder", "decoder_bias")
# Losses are allocated for this many steps at once.
MORE_LOSSES = 1024


@dataclass
class TrainingState:
    """Everything that training changes."""

    ensemble: Ensemble
    optimiser: SphericalAdam
    matches: Matches
    activity: Activity
    n_reinits: np.ndarray
    """(n_members,)"""
    losses: Tensor
    """(at least n_steps, n_members), FVU on the batch of each step"""
    n_steps: int = 0
    """number of steps in the life of the model"""
    schedule: Schedule = Schedule.constant(0)
    """schedule of the current fit"""
    plateau: Plateau = field(default_factory=Plateau)
    step: int = 0
    """number of steps in the current fit"""
    lent: bool = False
    """whether the large arrays belong to another object and must not be changed"""

    def begin(self, schedule: Schedule, plateau: Plateau) -> None:
        """Begin a fit that continues from here."""
        self.schedule, self.plateau, self.step = schedule, plateau, 0

    def note_losses(self, fvu: Tensor) -> None:
        """Record the FVU of a step, (n_members,)."""
        if self.n_steps == len(self.losses):
            # Training may end before the schedule does.
            n_more = min(max(1, self._left), max(MORE_LOSSES, self.n_steps))
            room = self.losses.new_full((n_more, self.losses.shape[1]), torch.nan)
            self.losses = torch.cat([self.losses, room])
        self.losses[self.n_steps] = fvu
        self.n_steps += 1

    @property
    def _left(self) -> int:
        return self.schedule.n_steps - self.step

    def own(self) -> None:
        """Allocate arrays for what is lent, before a step reads and writes them."""
        if not self.lent:
            return
        former, ensemble = self.optimiser, self.ensemble
        decoder = torch.empty_like(ensemble.decoder)
        encoder = decoder if ensemble.tied else torch.empty_like(ensemble.encoder)
        self.ensemble = replace(ensemble, encoder=encoder, decoder=decoder)
        self.optimiser = SphericalAdam(self.ensemble, former.learning_rate)
        self.optimiser.on_copies_of(former)
        self.lent = False

    def parameters(self, i: int) -> list[Tensor]:
        """Parameters of one member, as the optimiser lists them."""
        return self.optimiser.param_groups[i]["params"]

    def all_parameters(self) -> list[Tensor]:
        """Parameters of all members, member by member."""
        return [each for i in range(len(self.ensemble)) for each in self.parameters(i)]


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
        activity=Activity.at_start(
            ensemble.encoder_bias, settings.k / settings.n_components
        ),
        n_reinits=np.zeros(len(ensemble), dtype=int),
        losses=decoder.new_empty(0, len(ensemble)),
    )


def to_arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Everything needed to train further: the arrays of `FIELDS`, and the others."""
    ensemble, activity = state.ensemble, state.activity
    n_components = ensemble.n_components
    arrays = {
        name: getattr(ensemble, name).cpu().numpy()
        for name in ENSEMBLE_FIELDS
        if not (name == "encoder" and ensemble.tied)
    } | {
        "rates": activity.rates.cpu().numpy(),
        "idle": activity.idle.cpu().numpy(),
        "dead": mask_of(activity.dead, n_components).numpy(),
        "losses": state.losses[: state.n_steps].cpu().numpy(),
        "n_reinits": state.n_reinits,
        "schedule": np.array(astuple(state.schedule)),
        "plateau": np.array(astuple(state.plateau)),
        "step": np.array(state.step),
    }
    for index, parameter in enumerate(state.all_parameters()):
        for name, moment in state.optimiser.state.get(parameter, {}).items():
            arrays[f"adam {index} {name}"] = moment.cpu().numpy()
    for (i, j), edges in state.matches.edges.items():
        arrays[f"matches {i} {j}"] = edges
    return arrays


def from_arrays(
    arrays: Mapping[str, np.ndarray], settings: Settings, lent: bool = False
) -> TrainingState:
    """Inverse of :func:`to_arrays`, on the device of the settings.

    Parameters
    ----------
    arrays : mapping
    settings : Settings
    lent : bool
        Whether the state may hold the large arrays that it receives, until a step
        changes them.  All others are copied.
    """

    def tensor(name: str) -> Tensor:
        array = arrays[name]
        # PyTorch warns about read-only arrays.
        if lent and _is_large(name) and array.flags.writeable:
            return torch.from_numpy(array).to(settings.device)
        return torch.tensor(array, device=settings.device)

    decoder = tensor("decoder")
    ensemble = Ensemble(
        encoder=decoder if settings.tied else tensor("encoder"),
        encoder_bias=tensor("encoder_bias"),
        decoder=decoder,
        decoder_bias=tensor("decoder_bias"),
    )
    state = new_state(ensemble, settings)
    state.activity = Activity(
        tensor("rates"), tensor("idle"), atoms_where(tensor("dead"))
    )
    state.losses = tensor("losses")
    state.n_steps = len(state.losses)
    tol, patience, best, n_without_gain = arrays["plateau"].tolist()
    state.begin(
        Schedule(*arrays["schedule"].tolist()),
        Plateau(tol, int(patience), best, int(n_without_gain)),
    )
    state.step, state.lent = int(arrays["step"]), lent
    state.n_reinits = arrays["n_reinits"].copy()
    for index, parameter in enumerate(state.all_parameters()):
        names = [name for name in arrays if name.startswith(f"adam {index} ")]
        if names:
            state.optimiser.state[parameter] = {
                name.rsplit(" ", 1)[1]: tensor(name) for name in names
            }
    # In the order in which training matches them, whatever the order of the arrays.
    for i, j in state.matches.pairs:
        if f"matches {i} {j}" in arrays:
            state.matches.edges[i, j] = arrays[f"matches {i} {j}"]
    return state


def _is_large(name: str) -> bool:
    """Whether an array is as large as the weights; only `own` needs to handle these."""
    return name in ("encoder", "decoder") or MOMENTS.fullmatch(name) is not None


def layouts(names: Iterable[str]) -> dict[str, str]:
    """Required layout of the arrays in a state that has some of these names."""
    names = set(names)
    tied = "encoder" not in names
    expected = {n: layout for n, layout in FIELDS.items() if n != "encoder" or not tied}
    # Parameters of an SAE as the optimiser lists them, without the axis of SAEs.
    parameters = [FIELDS[name].replace(" n", "") for name in ENSEMBLE_FIELDS[tied:]]
    for name in names:
        if MATCHES.fullmatch(name):
            expected[name] = "int 2 *"
        elif match := MOMENTS.fullmatch(name):
            prefix, parameter = f"adam {match[1]}", int(match[1]) % len(parameters)
            expected |= {
                f"{prefix} step": "float",
                f"{prefix} exp_avg": parameters[parameter],
                f"{prefix} exp_avg_sq": parameters[parameter],
            }
    return expected
