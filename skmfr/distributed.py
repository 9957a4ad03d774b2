"""One fit in several processes on one or more machines, started with ``torchrun``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

# On import, its functions store the current group as their default and keep it alive.
# If it is imported after a group was made, the group's threads still run at exit, and
# Python aborts.
import torch.distributed.nn.functional  # noqa: F401
from torch import distributed

from ._utils.workers import Workers, present_workers

__all__ = ["data_parallel"]


@contextmanager
def data_parallel(backend=None, timeout=600.0) -> Iterator[int]:
    """Share each fit inside this context among the processes of this job.

    Every process runs the same script and ends with the same estimator. Each process
    reads and codes its part of each batch, and gradients are summed. The result equals
    that of one process with the same `batch_size`, up to rounding; with
    ``activation="batchtopk"``, processes share active atoms in their parts only. All
    processes need the same data, parameters (``device="auto"``) and integer
    `random_state`. A `checkpoint_dir` must be visible to all of them; the first process
    writes to it.

    Parameters
    ----------
    backend : {"gloo", "nccl"}, default=None
        Communication backend. None means "nccl" for tensors on CUDA GPUs, where each
        process uses the GPU of its ``LOCAL_RANK``, and "gloo" otherwise.
    timeout : float, default=600.0
        Seconds after which waiting for another process is an error. Processes that read
        at different speeds wait for the slowest, so choose a time longer than reading
        all of the data takes.

    Yields
    ------
    rank : int
        Index of this process. Work that is done once, such as saving the result,
        belongs in process 0.

    Raises
    ------
    RuntimeError
        If the script was not started with ``torchrun``, or if another process dies.

    Notes
    -----
    Read more in the user guide: :doc:`one fit in many processes </user_guide/scaling>`.

    If a process dies, ``torchrun`` ends the others, and the job fails. With a
    `checkpoint_dir`, the same job resumes from the last checkpoint when it is started
    again with as many processes.

    `callback` is called in every process. If the processes have different parameters,
    data or checkpoints, or cannot share a batch evenly, `fit` raises ValueError.

    An existing process group is used, and left unchanged.

    Examples
    --------
    Started by ``torchrun --nproc-per-node 2 script.py``, this fits in two processes:

    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.distributed import data_parallel
    >>> torch.distributed.init_process_group(  # not needed under torchrun
    ...     "gloo", rank=0, world_size=1, store=torch.distributed.HashStore()
    ... )
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(64, alpha=0, max_steps=10, random_state=0)
    >>> with data_parallel() as rank:
    ...     sae = sae.fit(X)
    >>> torch.distributed.destroy_process_group()
    >>> sae.n_steps_
    10
    """
    ours = not distributed.is_initialized()
    if ours:
        if "RANK" not in os.environ:
            raise RuntimeError(
                "data_parallel needs the environment variables that torchrun sets, "
                "such as RANK: start the script with "
                "'torchrun --nproc-per-node N_PROCESSES script.py'."
            )
        on_gpus = torch.cuda.is_available()
        if backend is None:
            backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        if on_gpus:
            # A process may see only its own GPU.
            place = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
            torch.cuda.set_device(place)
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    rank = distributed.get_rank()
    token = present_workers.set(Workers(rank, distributed.get_world_size()))
    try:
        yield rank
    finally:
        present_workers.reset(token)
        if ours:
            gloo = "gloo" in backend and _gloo()
            distributed.destroy_process_group()
            # Before torch 2.8, the destructor of a group waits for Gloo's threads while
            # it holds the GIL, and the threads may wait for the GIL. Gloo's own
            # destructor releases it.
            del gloo


def _gloo():
    """The communication backend of the current group, which has its own threads."""
    assert distributed.group.WORLD is not None
    return distributed.group.WORLD._get_backend(torch.device("cpu"))
