"""Load models and tokenizers by name, again whenever their files change."""

from __future__ import annotations

import os
from functools import lru_cache
from os import PathLike, fspath

import torch
from torch import nn

from .._utils.extras import needed_by
from ._compiled import uncompiled
from ._models import check_hookable


def files_of(name: str) -> tuple[tuple, ...]:
    """Names, sizes, inodes and times of a model folder's files; () for a hub model.

    Hashing weights takes seconds, and each call needs this. The inode change time,
    which programs cannot set, reveals files that were copied with their other times.
    Subfolders are not read, because they hold other stages of a training run.

    Parameters
    ----------
    name : str
        Name on a model hub, or a local folder.
    """
    if not os.path.isdir(name):
        return ()
    with os.scandir(name) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.is_file()}
    return tuple(
        (file, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns)
        for file, s in sorted(stats.items())
    )


def load_model(name: str) -> nn.Module:
    """A pretrained model, with the class that it was saved from, on the CPU.

    The last model is kept, so that the clones of a grid search share it. It is loaded
    again when files in its folder change.

    Parameters
    ----------
    name : str
        Name on a model hub, or a local folder.
    """
    return _load_model(name, files_of(name))


@lru_cache(maxsize=1)
def _load_model(name: str, files: tuple) -> nn.Module:
    transformers = _transformers("model", name)
    config = transformers.AutoConfig.from_pretrained(name)
    architectures = config.architectures or ["AutoModel"]
    loader = getattr(transformers, architectures[0], transformers.AutoModel)
    return loader.from_pretrained(name).eval()


def load_tokenizer(name: str):
    """The tokenizer of a pretrained model, from its current files."""
    return _load_tokenizer(name, files_of(name))


@lru_cache(maxsize=1)
def _load_tokenizer(name: str, files: tuple):
    return _transformers("tokenizer", name).AutoTokenizer.from_pretrained(name)


def _transformers(parameter: str, name: str):
    with needed_by(f"{parameter}={name!r}", "activations"):
        import transformers
    return transformers


def as_model(model, device: str | None = None) -> tuple[nn.Module, str | None]:
    """The module itself, or the module with that name, and where to run it.

    For the result of :func:`torch.compile`, the original module. A named model runs on
    a GPU if there is one; a module runs where it is (None).

    Raises
    ------
    TypeError
        If it is not a module or a name, or is a module of TorchScript.
    """
    if isinstance(model, nn.Module):
        check_hookable(model, "model")
        return uncompiled(model), device
    if isinstance(model, (str, PathLike)):
        if device is None and torch.cuda.is_available():
            device = "cuda"
        return load_model(fspath(model)), device
    raise TypeError(
        "model must be a torch.nn.Module, or the name or folder of a pretrained "
        f"model, got {type(model).__name__}."
    )
