"""What a fit is asked to do, and everything that it changes."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ._batches import Batches, Standardiser
from ._ensemble import Ensemble
from ._matching import Matches
from ._optimiser import SphericalAdam
from ._random import INITIAL_ATOMS, random_numbers
from ._schedule import Plateau, Schedule
from .agreement import ALIKE, _agreement_level, random_agreement

# Length of the noise that is added to the samples that atoms start from.
INITIAL_NOISE = 0.1


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


@dataclass
class TrainingState:
    """Everything that training changes."""

    ensemble: Ensemble
    optimiser: SphericalAdam
    matches: Matches
    rates: Tensor
    """(n_members, n_components), running share of samples in which an atom is active"""
    idle: Tensor
    """(n_members, n_components), steps since an atom was active"""
    unmoved: Tensor
    """(n_members, n_components), steps since samples or the auxiliary loss gave an atom
    a gradient"""
    dead: list[Tensor]
    """(n_dead,), the atoms of each member in its auxiliary loss"""
    n_reinits: np.ndarray
    """(n_members,)"""
    losses: Tensor
    """(at least n_steps, n_members), FVU on the batch of each step"""
    n_steps: int = 0
    """steps done in the life of the model"""
    schedule: Schedule = Schedule.constant(0)
    """of the present fit"""
    plateau: Plateau = field(default_factory=Plateau)
    step: int = 0
    """steps done in the present fit"""

    def begin(self, schedule: Schedule, plateau: Plateau) -> None:
        """Begin a fit that goes on from here."""
        self.schedule, self.plateau, self.step = schedule, plateau, 0
        room = self.losses.new_full((schedule.n_steps, self.losses.shape[1]), torch.nan)
        self.losses = torch.cat([self.losses[: self.n_steps], room])

    def parameters(self, i: int) -> list[Tensor]:
        """Parameters of one member as the optimiser knows them."""
        return self.optimiser.param_groups[i]["params"]


def initial_atoms(
    batches: Batches,
    standardiser: Standardiser,
    settings: Settings,
    i: int,
    attempt: int = 0,
) -> Tensor:
    """Atoms that one member starts from: samples of its own, and a little noise.

    Unlike random directions, samples lie where the data are: what an atom has outside
    their span is never trained away.

    Returns
    -------
    Tensor of shape (n_components, n_features)
        Rows of unit norm.
    """
    draw = random_numbers(
        settings.seed, INITIAL_ATOMS, *settings.member_key(i), attempt
    )
    n_components, n_features = settings.n_components, batches.X.shape[1]
    donors = batches.donors(n_components, i >= settings.n_saes, draw)
    samples = normalize(standardiser(donors, "cpu", torch.float64)).numpy()
    n_more = n_components - len(samples)
    if len(samples) and n_more:
        # Too few samples: random combinations of two.
        one, other = draw.integers(len(samples), size=(2, n_more))
        weights = draw.standard_normal((2, n_more, 1))
        more = weights[0] * samples[one] + weights[1] * samples[other]
        samples = np.concatenate([samples, more])
    spread = standardiser.deviation if standardiser.deviation.any() else 1.0
    noise = draw.standard_normal((n_components, n_features)) * spread
    atoms = normalize(torch.from_numpy(noise)) * INITIAL_NOISE
    if len(samples):
        atoms += normalize(torch.from_numpy(samples))
    return normalize(atoms).to(settings.device, settings.dtype)


def untrained(
    batches: Batches, standardiser: Standardiser, settings: Settings
) -> Ensemble:
    """SAEs as they are before the first step."""
    atoms = [
        initial_atoms(batches, standardiser, settings, i)
        for i in range(settings.n_members)
    ]
    return Ensemble.starting_from(torch.stack(atoms), settings.tied)


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
            least_cosine=_agreement_level(null, ALIKE),
        ),
        rates=decoder.new_full(decoder.shape[:2], settings.k / settings.n_components),
        idle=decoder.new_zeros(decoder.shape[:2], dtype=torch.int64),
        unmoved=decoder.new_zeros(decoder.shape[:2], dtype=torch.int64),
        dead=[decoder.new_empty(0, dtype=torch.int64)] * len(ensemble),
        n_reinits=np.zeros(len(ensemble), dtype=int),
        losses=decoder.new_empty(0, len(ensemble)),
    )


def atoms_where(mask: Tensor) -> list[Tensor]:
    """Atoms of each member for which a mask (n_members, n_components) is true."""
    return list(mask.nonzero()[:, 1].split(mask.sum(1).tolist()))


def restart_member(
    state: TrainingState, settings: Settings, i: int, atoms: Tensor
) -> None:
    """Give one member new atoms (n_components, n_features) and no past, in place."""
    state.n_reinits[i] += 1
    ensemble = state.ensemble
    # With tied weights the two are one tensor.
    ensemble.encoder[i] = atoms
    ensemble.decoder[i] = atoms
    ensemble.encoder_bias[i] = 0.0
    ensemble.decoder_bias[i] = 0.0
    for parameter in state.parameters(i):
        for moment in state.optimiser.state.get(parameter, {}).values():
            moment.zero_()
    state.rates[i] = settings.k / settings.n_components
    state.idle[i] = 0
    state.unmoved[i] = 0
    state.dead[i] = state.dead[i][:0]
    state.matches.forget(i, np.arange(settings.n_components))


def restart_atoms(
    state: TrainingState, i: int, atoms: Tensor, directions: Tensor
) -> None:
    """Give some atoms of one member new directions and no past, in place.

    Parameters
    ----------
    state : TrainingState
    i : int
    atoms : Tensor of shape (n_replaced,), int64
    directions : Tensor of shape (n_replaced, n_features)
        Rows of unit norm.
    """
    ensemble = state.ensemble
    ensemble.encoder[i, atoms] = directions
    ensemble.decoder[i, atoms] = directions
    ensemble.encoder_bias[i, atoms] = 0.0
    # All parameters but the last, the decoder bias, have a row per atom.
    for parameter in state.parameters(i)[:-1]:
        moments = state.optimiser.state.get(parameter)
        if moments:
            moments["exp_avg"][atoms] = 0.0
            # Not zero: late in training Adam no longer corrects for an empty second
            # moment, and the first steps would be huge.
            moments["exp_avg_sq"][atoms] = moments["exp_avg_sq"].mean(0)
    state.idle[i, atoms] = 0
    state.unmoved[i, atoms] = 0
    state.dead[i] = state.dead[i][~torch.isin(state.dead[i], atoms)]
    state.matches.forget(i, atoms.cpu().numpy())


def resolve_device(device: str, fall_back: bool = False) -> str:
    """The device to compute on.

    Parameters
    ----------
    device : str
        "auto" means a CUDA GPU where there is one.
    fall_back : bool
        Whether to use the CPU, with a warning, where the hardware is missing: so that
        a model that was fitted on a GPU works anywhere.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Back again: "meta" takes tensors and forgets what they hold.
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if fall_back:
            warnings.warn(
                f"device={device!r} is not available: using the CPU.", stacklevel=5
            )
            return "cpu"
        raise ValueError(
            f"device={device!r} is not available here: {str(error).splitlines()[0]} "
            "Use device='auto' or 'cpu'."
        ) from error
    return device
