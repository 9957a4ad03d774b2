"""One fit in several processes, on one machine or many, started by ``torchrun``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

# Its functions take the present group for their default when they are imported, and
# keep it: imported after a group was made, they would have Python find its threads
# still running in the end, and abort.
import torch.distributed.nn.functional  # noqa: F401
from torch import distributed

from ._utils.workers import Workers, present_workers

__all__ = ["data_parallel"]


@contextmanager
def data_parallel(backend=None, timeout=600.0) -> Iterator[int]:
    """Share each fit inside among the processes of this job.

    Every process runs the same script and ends with the same estimator. Of each batch,
    a process reads and codes its part; gradients are added up, so that the result is
    that of one process with the same `batch_size`, up to rounding. All processes need
    the same data, parameters (``device="auto"``) and integer `random_state`, and a
    `checkpoint_dir` that all of them see, to which the first one writes.

    Parameters
    ----------
    backend : {"gloo", "nccl"}, default=None
        What joins the processes. None means "nccl" for what is on CUDA GPUs, of which
        each process takes the one of its ``LOCAL_RANK``, and "gloo" elsewhere.
    timeout : float, default=600.0
        Seconds after which waiting for another process is an error. Processes that read
        at different speed wait for the slowest, so this should be longer than reading
        all of the data.

    Yields
    ------
    rank : int
        Number of this process; what is to be done once, such as saving the result, is
        for process 0.

    Raises
    ------
    RuntimeError
        If the script was not started by ``torchrun``, or if another process is lost.

    Notes
    -----
    Read more in the user guide: :doc:`one fit in many processes </user_guide/scaling>`.

    If a process is lost, ``torchrun`` ends the others, and the job fails; with a
    `checkpoint_dir` the same job started again goes on from the last checkpoint. It has
    to have as many processes as before.

    `callback` is called in every process. Where the processes find other parameters,
    data or checkpoints, or cannot share a batch evenly, `fit` raises ValueError.

    If a process group has been made before, it is used, and left as it is.

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
            # A process may see only its own.
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
            # Before torch 2.8, the end of a group waits for Gloo's threads and keeps
            # the GIL, for which they may wait; the end of Gloo lets go of it.
            del gloo


def _gloo():
    """What the group of this job computes with, which has threads of its own."""
    assert distributed.group.WORLD is not None
    return distributed.group.WORLD._get_backend(torch.device("cpu"))
