"""Where to compute."""

import warnings

import numpy as np
import torch
from torch import Tensor


def on_device(array: np.ndarray, device: str) -> Tensor:
    """The array itself on the CPU, elsewhere a copy."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # From memory that is not pinned, the copy would wait for all that the GPU still has
    # to do, and all that follows for the copy.
    return tensor.pin_memory().to(device, non_blocking=True)


def resolve_device(device: str | torch.device, fall_back: bool = False) -> str:
    """The device to compute on.

    Parameters
    ----------
    device : str or torch.device
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
                f"device={str(device)!r} is not available: using the CPU.", stacklevel=6
            )
            return "cpu"
        raise ValueError(
            f"device={str(device)!r} is not available here: "
            f"{str(error).splitlines()[0]} Use device='auto' or 'cpu'."
        ) from error
    return str(device)
