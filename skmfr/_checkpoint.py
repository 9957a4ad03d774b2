"""Training state as plain arrays, and on disk."""

from dataclasses import astuple
from pathlib import Path

import joblib
import numpy as np
import torch

from ._ensemble import Ensemble
from ._files import replacing
from ._schedule import Plateau, Schedule
from ._state import Settings, TrainingState, new_state

STACKED = ("encoder", "encoder_bias", "decoder", "decoder_bias")
TRACKED = ("rates", "idle")


def to_arrays(state: TrainingState) -> dict[str, np.ndarray]:
    """Everything that it takes to train on, as NumPy arrays."""
    arrays = {
        name: getattr(state.ensemble, name).cpu().numpy()
        for name in STACKED
        if not (name == "encoder" and state.ensemble.tied)
    }
    arrays |= {name: getattr(state, name).cpu().numpy() for name in TRACKED}
    parameters = state.optimiser.param_groups[0]["params"]
    for index, parameter in enumerate(parameters):
        for name, moment in state.optimiser.state.get(parameter, {}).items():
            arrays[f"adam {index} {name}"] = moment.cpu().numpy()
    for (i, j), edges in state.matches.edges.items():
        arrays[f"matches {i} {j}"] = edges
    arrays["losses"] = state.losses[: state.n_steps].cpu().numpy()
    arrays["n_reinits"] = state.n_reinits
    arrays["schedule"] = np.array(astuple(state.schedule))
    arrays["plateau"] = np.array(astuple(state.plateau))
    arrays["step"] = np.array(state.step)
    return arrays


def from_arrays(arrays: dict[str, np.ndarray], settings: Settings) -> TrainingState:
    """Inverse of :func:`to_arrays`, on the device of the settings."""

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(arrays[name], device=settings.device)

    decoder = tensor("decoder")
    ensemble = Ensemble(
        encoder=decoder if settings.tied else tensor("encoder"),
        encoder_bias=tensor("encoder_bias"),
        decoder=decoder,
        decoder_bias=tensor("decoder_bias"),
    )
    tol, patience, best, n_without_gain = arrays["plateau"].tolist()
    state = new_state(ensemble, settings)
    state.losses = tensor("losses")
    state.n_steps = len(state.losses)
    state.begin(
        Schedule(*arrays["schedule"].tolist()),
        Plateau(tol, int(patience), best, int(n_without_gain)),
    )
    for index, parameter in enumerate(state.optimiser.param_groups[0]["params"]):
        names = [name for name in arrays if name.startswith(f"adam {index} ")]
        if names:
            state.optimiser.state[parameter] = {
                name.rsplit(" ", 1)[1]: tensor(name) for name in names
            }
    # In the order that training matches them in, whatever that of the arrays.
    for i, j in state.matches.pairs:
        if f"matches {i} {j}" in arrays:
            state.matches.edges[i, j] = arrays[f"matches {i} {j}"]
    for name in TRACKED:
        setattr(state, name, tensor(name))
    state.n_reinits = arrays["n_reinits"].copy()
    state.step = int(arrays["step"])
    return state


def checkpoint_path(folder, *content) -> Path:
    """File for a fit that is told apart from others by hashing its content."""
    return Path(folder) / f"skmfr-{joblib.hash(content)}.npz"


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write a checkpoint; the file that was there stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = to_arrays(state)
    with replacing(path) as fresh, open(fresh, "wb") as file:
        np.savez(file, names=list(arrays), **arrays)  # type: ignore[arg-type]


def load_checkpoint(path: Path, settings: Settings) -> TrainingState | None:
    """The state in a checkpoint, or None if there is none.

    Raises
    ------
    ValueError
        If the file is not a checkpoint that can be read.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        # The checksums of a zip file do not cover the names of its members.
        if set(arrays.pop("names")) != set(arrays):
            raise ValueError("arrays are missing or have other names")
        return from_arrays(arrays, settings)
    # What a broken file makes zipfile and NumPy raise has no common base.
    except Exception as error:
        raise ValueError(
            f"The checkpoint {path} in checkpoint_dir cannot be read; remove it to "
            "train from the start."
        ) from error
