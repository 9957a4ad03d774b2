"""Identify models in caches and pickles by what they compute."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from itertools import chain
from os import PathLike, fspath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle
import joblib
import torch
from torch import Tensor, nn

from ._loading import files_of
from ._replacing import captures

# Errors of pickling an object that cannot be pickled.
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
# Distinguishes objects of this process from equal ones in others.
PROCESS = uuid4().hex


# Identifiers of modules whose weights cannot be read.
_single: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
# Names of the modules of a model, and of its configuration, by their id.
Names = Mapping[int, str]


def model_digest(model: nn.Module, known: Names = MappingProxyType({})) -> str:
    """Hash of a model's classes, settings, hooks, and weights.

    Parameters
    ----------
    model : nn.Module
    known : mapping from int to str
        Modules around the model, which it may refer to.
    """
    digest = hashlib.sha256(repr(model).encode())
    config: Any = getattr(model, "config", None)
    known = {**known, **{id(module): name for name, module in model.named_modules()}}
    if hasattr(config, "to_json_string"):
        digest.update(config.to_json_string().encode())
        known[id(config)] = "config"  # most modules have it, too
    for name, module in model.named_modules():
        kind = type(module)
        of_module = name, kind.__module__, kind.__qualname__, _settings(module, known)
        digest.update(repr((*of_module, _hooks(module))).encode())
        digest.update(repr(_setting(_other_weights(module), known)).encode())
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


def _other_weights(module: nn.Module) -> dict[str, Any]:
    """State of a module beside its parameters and buffers.

    Quantised weights may be no tensors for Python, and may have scales elsewhere.
    """
    if not (_saves_itself(module) or _overrides(module, "get_extra_state")):
        return {}
    saved: dict[str, Any] = {}
    module._save_to_state_dict(saved, "", keep_vars=False)
    own = module._parameters.keys() | module._buffers.keys()
    return {name: value for name, value in saved.items() if name not in own}


def _saves_itself(module: nn.Module) -> bool:
    return _overrides(module, "_save_to_state_dict")


def _overrides(module: nn.Module, method: str) -> bool:
    return getattr(type(module), method) is not getattr(nn.Module, method)


# Attributes of every module: its parameters, hooks, mode.
OF_MODULES = vars(nn.Module()).keys()
# Attributes that change without consequence when a model runs or generates, of
# torch.compile, transformers, accelerate, and bitsandbytes.
NO_SETTINGS = OF_MODULES | {
    "_compiled_call_impl",
    "_output_capturing_hooks_installed",
    "_previous_max_cache_length",
    "generation_config",
    "_hf_hook",
    "compute_type_is_set",
}
FUNCTIONS = FunctionType, BuiltinFunctionType, MethodType, partial
PLAIN = bool, int, float, str, Tensor, Mapping, list, tuple, set, frozenset, *FUNCTIONS


def _settings(module: nn.Module, known: Names) -> list[tuple[str, Any]]:
    """All that a module stores beside its parameters and buffers."""
    settings: list[tuple[str, Any]] = []
    # State that a module saves by itself is in other objects, also as a copy.
    saves_itself = _saves_itself(module)
    for name, value in sorted(vars(module).items()):
        if name in NO_SETTINGS or value is None:
            continue
        if saves_itself and not isinstance(value, PLAIN):
            continue
        try:
            settings.append((name, _setting(value, known)))
        except RecursionError:  # containers may contain themselves
            settings.append((name, _identity(value)))
    return settings


def _setting(value, known: Names) -> Any:
    """A setting in a form with the same repr in all processes, if it has one."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = type(value).__name__
    if isinstance(value, Tensor):
        if value.is_meta or value.is_nested or value.layout != torch.strided:
            return _identity(value)  # it has no bytes
        plain = value.dequantize() if value.is_quantized else value
        data = hashlib.sha256(_bytes(plain)).hexdigest()
        return str(value.dtype), tuple(value.shape), data
    if isinstance(value, Mapping):
        return kind, [
            (_setting(key, known), _setting(value[key], known)) for key in value
        ]
    if isinstance(value, (list, tuple)):
        return kind, [_setting(part, known) for part in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted((_setting(part, known) for part in value), key=repr)
    if id(value) in known:
        return kind, known[id(value)]
    if isinstance(value, nn.Module):
        return kind, model_digest(value, known)
    if isinstance(value, FUNCTIONS):
        return kind, _function(value, known)
    if hasattr(value, "to_json_string"):  # a configuration of transformers
        return kind, value.to_json_string()
    try:
        return kind, _Hasher(known).hash(value)
    except Exception:  # whatever an object may raise when it is pickled
        return _identity(value)


def _identity(value) -> str:
    """Identifies an object within this process."""
    return f"{PROCESS} {id(value)}"


def _function(function, known: Names) -> Any:
    """Parts that identify a function, without the contents of global variables."""
    if isinstance(function, partial):
        parts = function.func, function.args, function.keywords
        return _setting(parts, known)
    if isinstance(function, MethodType):
        return _setting((function.__func__, function.__self__), known)
    name = function.__module__, function.__qualname__
    owner = getattr(function, "__self__", None)
    if isinstance(function, BuiltinFunctionType):
        of_object = not (owner is None or isinstance(owner, (type, ModuleType)))
        return (*name, _identity(owner) if of_object else None)
    if "<" not in function.__qualname__ and function.__module__ != "__main__":
        return name
    # A closure may be a state, which changes with every call.
    if function.__closure__:
        return (*name, _identity(function))
    defaults = function.__defaults__, function.__kwdefaults__
    return (*name, _code(function.__code__), _setting(defaults, known))


def _code(code: CodeType) -> Any:
    constants = [
        _code(each) if isinstance(each, CodeType) else repr(each)
        for each in code.co_consts
    ]
    return code.co_code, code.co_names, constants


class _Hasher(joblib.hashing.NumpyHasher):
    """joblib's hash of an object with modules, tensors and functions in it."""

    def __init__(self, known: Names):
        super().__init__()
        self.known = known

    def save(self, obj):
        if isinstance(obj, (Tensor, nn.Module, *FUNCTIONS)):
            obj = _setting(obj, self.known)
        super().save(obj)


def _hooks(module: nn.Module) -> list[str]:
    """Identifiers of forward hooks, which may change anything."""
    hooks = *module._forward_pre_hooks.items(), *module._forward_hooks.items()
    return [_hook_digest(number, hook) for number, hook in hooks if not captures(hook)]


def _hook_digest(number: int, hook: Callable) -> str:
    try:
        return joblib.hash(hook)
    except UNPICKLABLE:
        # torch never gives two hooks of a process the same number.
        return f"{PROCESS} {number}"


# Modules of this process that have been pickled, by token, and the tokens of modules.
_living: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
_tokens: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


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
        token = _tokens.setdefault(self.module, uuid4().hex)
        _living[token] = self.module
        try:
            pickled, fault = _pickled(self.module), ""
        except UNPICKLABLE as error:
            pickled, fault = None, str(error)
        return _unpickled, (token, digest, pickled, fault)


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


def _unpickled(
    token: str, digest: str, pickled: bytes | None, fault: str
) -> SharedModule:
    original = module = _living.get(token)
    if module is None or model_digest(module) != digest:
        if pickled is None:
            raise pickle.UnpicklingError(
                "model was pickled without its weights, so only this process can load "
                f"it: pickle cannot store the model itself ({fault})"
            )
        module = pickle.loads(pickled)
        if original is None:  # so that it is known where it came from
            _tokens[module] = token
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
