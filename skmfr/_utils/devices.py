"""Select the device, and move arrays to it."""

import warnings

import numpy as np
import torch
from torch import Tensor


def on_device(array: np.ndarray, device: str) -> Tensor:
    """The array itself on the CPU; a copy on other devices."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # Copying from pageable memory would wait for all pending work of the GPU, and later
    # work would wait for the copy.
    return tensor.pin_memory().to(device, non_blocking=True)


def resolve_device(device: str | torch.device, fall_back: bool = False) -> str:
    """The device to compute on.

    Parameters
    ----------
    device : str or torch.device
        "auto" selects a CUDA GPU if there is one.
    fall_back : bool
        Whether to use the CPU, with a warning, if the device is missing, so that a
        model that was fitted on a GPU works anywhere.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Copy back, because "meta" accepts tensors without storing their values.
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if fall_back:
            warnings.warn(
                f"device={str(device)!r} is not available: using the CPU.", stacklevel=6
            )
            return "cpu"
        raise ValueError(
            f"device={str(device)!r} is not available here: "
            f"{str(error).splitlines()[0]} Use device='auto' or 'cpu'."
        ) from error
    return str(device)
