"""Identify models in caches and pickles by what they compute."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from itertools import chain
from os import PathLike, fspath
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle
import joblib
import torch
from torch import Tensor, nn

from ._loading import files_of

# Errors of pickling an object that cannot be pickled.
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
# Distinguishes objects of this process from equal ones in others.
PROCESS = uuid4().hex


# Identifiers of modules whose weights cannot be read.
_single: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def model_digest(model: nn.Module) -> str:
    """Hash of a model's classes, settings, hooks, and weights."""
    digest = hashlib.sha256(repr(model).encode())
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        digest.update(config.to_json_string().encode())
    for name, module in model.named_modules():
        kind = type(module)
        of_module = name, kind.__module__, kind.__qualname__, _settings(module)
        digest.update(repr((*of_module, _hooks(module))).encode())
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.is_meta:
            # Its data are elsewhere, perhaps on disk, so it counts as unique.
            digest.update(_single.setdefault(model, uuid4().hex).encode())
            continue
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return tensor.flatten().view(torch.uint8).numpy().data


# Attributes of every module: its parameters, hooks, mode.
OF_MODULES = vars(nn.Module()).keys()


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """Numbers, texts and tensors that a module stores, alone or in containers."""
    settings = []
    for name, value in sorted(vars(module).items()):
        if name in OF_MODULES or value is None:
            continue
        # Nested tensors have no bytes, and containers may contain themselves.
        with suppress(_NoSettingError, RuntimeError):
            settings.append((name, _setting(value)))
    return settings


class _NoSettingError(Exception):
    """An object is something else than a setting, and has no stable form."""


def _setting(value) -> Any:
    """A setting in a form with the same repr in all processes.

    Raises
    ------
    _NoSettingError
        If it is, or contains, another object.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided:
            raise _NoSettingError
        data = hashlib.sha256(_bytes(value)).hexdigest()
        return str(value.dtype), tuple(value.shape), data
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return kind, [(_setting(key), _setting(value[key])) for key in value]
    if isinstance(value, (list, tuple)):
        return kind, [_setting(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted((_setting(part) for part in value), key=repr)
    raise _NoSettingError


def _hooks(module: nn.Module) -> list[str]:
    """Identifiers of forward hooks, which may change anything."""
    hooks = *module._forward_pre_hooks.items(), *module._forward_hooks.items()
    return [_hook_digest(number, hook) for number, hook in hooks]


def _hook_digest(number: int, hook: Callable) -> str:
    try:
        return joblib.hash(hook)
    except UNPICKLABLE:
        # torch never gives two hooks of a process the same number.
        return f"{PROCESS} {number}"


# Modules of this process that have been pickled, by digest.
_living: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()


class SharedModule:
    """A module in the form that is pickled and hashed by joblib: what it computes.

    If the original module still exists, unpickling returns it instead of a copy. So
    joblib's cache does not multiply models, and a module that cannot be pickled, for
    example because it holds a lock, can be cached within a process.

    Parameters
    ----------
    module : nn.Module
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __reduce__(self):
        digest = model_digest(self.module)
        _living[digest] = self.module
        try:
            pickled, fault = _pickled(self.module), ""
        except UNPICKLABLE as error:
            pickled, fault = None, str(error)
        return _unpickled, (digest, pickled, fault)


class _Pickler(cloudpickle.CloudPickler):
    """Pickles tensors as copies on the CPU, and classes defined in a script.

    The pickle then loads without a GPU, and without the script or notebook, and the
    pickled module stays where it is.
    """

    def reducer_override(self, obj):
        # A parameter is reduced to its data, which arrive here next.
        if type(obj) is Tensor and obj.device.type not in ("cpu", "meta"):
            copied = obj.detach().cpu().requires_grad_(obj.requires_grad)
            return copied.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return super().reducer_override(obj)


def _pickled(module: nn.Module) -> bytes:
    file = BytesIO()
    _Pickler(file).dump(module)
    return file.getvalue()


def _unpickled(digest: str, pickled: bytes | None, fault: str) -> SharedModule:
    module = _living.get(digest)
    if module is None or model_digest(module) != digest:
        if pickled is None:
            raise pickle.UnpicklingError(
                "model was pickled without its weights, so only this process can load "
                f"it: pickle cannot store the model itself ({fault})"
            )
        module = pickle.loads(pickled)
    return SharedModule(module)


class NamedModel:
    """A model's name in the form that is pickled and hashed by joblib: with its files.

    Parameters
    ----------
    name : str or path-like
    """

    def __init__(self, name: str | PathLike):
        self.name = name


def _hash_module(hasher, shared: SharedModule) -> None:
    hasher.save(("skmfr SharedModule", model_digest(shared.module)))


def _hash_name(hasher, named: NamedModel) -> None:
    hasher.save(("skmfr NamedModel", fspath(named.name), files_of(fspath(named.name))))


# joblib's hasher pickles what it hashes; its table of types precedes __reduce__.
joblib.hashing.Hasher.dispatch[SharedModule] = _hash_module
joblib.hashing.Hasher.dispatch[NamedModel] = _hash_name
