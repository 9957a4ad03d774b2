"""Models and their layers: found, loaded, hashed, run, listened to."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from os import PathLike, fspath
from threading import RLock
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary

import joblib
import torch
from torch import Tensor, nn

from .._utils.extras import needed_by

# Names that an error offers for one that is not there.
N_SUGGESTIONS = 5
# What pickling raises for things that it cannot take.
UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
# Tells what is of this process alone from the like in any other.
PROCESS = uuid4().hex


class Reached(BaseException):
    """The layer has run: nothing after it is needed.

    No Exception, which a forward pass might catch.
    """


@lru_cache(maxsize=1)
def load_model(name: str) -> nn.Module:
    """A pretrained model as the class that it was saved from, on the CPU.

    The last one is kept, so that the clones of a grid search share it.

    Parameters
    ----------
    name : str
        Of a model hub, or a local folder.
    """
    transformers = _transformers("model", name)
    config = transformers.AutoConfig.from_pretrained(name)
    architectures = config.architectures or ["AutoModel"]
    loader = getattr(transformers, architectures[0], transformers.AutoModel)
    return loader.from_pretrained(name).eval()


@lru_cache(maxsize=1)
def load_tokenizer(name: str):
    """The tokenizer that belongs to a pretrained model."""
    return _transformers("tokenizer", name).AutoTokenizer.from_pretrained(name)


def _transformers(parameter: str, name: str):
    with needed_by(f"{parameter}={name!r}", "activations"):
        import transformers
    return transformers


def as_model(model, device: str | None = None) -> tuple[nn.Module, str | None]:
    """The module itself, or the one of that name, and where to run it.

    A named model runs on a GPU if there is one, a module where it is (None).

    Raises
    ------
    TypeError
        If it is neither a module nor a name.
    """
    if isinstance(model, nn.Module):
        return model, device
    if isinstance(model, (str, PathLike)):
        if device is None and torch.cuda.is_available():
            device = "cuda"
        return load_model(fspath(model)), device
    raise TypeError(
        "model must be a torch.nn.Module, or the name or folder of a pretrained "
        f"model, got {type(model).__name__}."
    )


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The submodule of a dotted name.

    Raises
    ------
    ValueError
        If there is none; with the names that are most like it.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, str) and layer in modules:
        return modules[layer]
    names = [name for name in modules if name]
    close = difflib.get_close_matches(str(layer), names, N_SUGGESTIONS, cutoff=0.4)
    raise ValueError(
        f"layer={layer!r} is no module of {type(model).__name__}; it has, among "
        f"{len(names)}: {', '.join(close or names[:N_SUGGESTIONS])}."
    )


def model_device(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer is."""
    for tensor in _tensors(model):
        return tensor.device
    return torch.device("cpu")


def model_dtype(model: nn.Module) -> torch.dtype:
    """Precision of the first floating-point parameter or buffer."""
    for tensor in _tensors(model):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def n_embeddings(model: nn.Module) -> int | None:
    """Size of the vocabulary; None for a model without embedding of its inputs.

    Of a model that is not of transformers, the size of the largest embedding: which of
    them takes the ids, only the forward pass knows.
    """
    of_transformers: Any = getattr(model, "get_input_embeddings", None)
    if of_transformers is not None:
        # Not all of them have one.
        try:
            return getattr(of_transformers(), "num_embeddings", None)
        except NotImplementedError:
            return None
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return max(sizes, default=None)


def context_length(model: nn.Module) -> int | None:
    """How many tokens a model of transformers takes; None if it does not say."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):  # of models of texts and images
        config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether a forward pass takes an argument of that name."""
    return argument in inspect.signature(model.forward).parameters


def ids_argument(model: nn.Module) -> str:
    """The argument of a forward pass that takes token ids."""
    names = inspect.signature(model.forward).parameters
    return "input_ids" if "input_ids" in names else next(iter(names))


# Of modules that have run here.
_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()


@contextmanager
def evaluating(model: nn.Module, device: str | None = None) -> Iterator[None]:
    """Evaluation mode and no gradients; each submodule's own mode comes back.

    One thread at a time: hooks and modes belong to the module, whoever set them.

    Parameters
    ----------
    model : nn.Module
    device : str, optional
        Where to run; the model is moved there, and back.
    """
    with _locks.setdefault(model, RLock()):
        home = model_device(model)
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            if device is not None and torch.device(device) != home:
                model.to(device)
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            if model_device(model) != home:
                model.to(home)


def call(model: nn.Module, arguments: Tensor | Mapping[str, Tensor]) -> Any:
    """A forward pass, without the cache that generation needs.

    Raises
    ------
    ValueError
        If an embedding has no row for an id or a position.
    """
    extra = {"use_cache": False} if accepts(model, "use_cache") else {}
    try:
        if isinstance(arguments, Mapping):
            return model(**arguments, **extra)
        return model(arguments, **extra)
    except IndexError as error:
        if "out of range in self" not in str(error):
            raise
        raise ValueError(
            "inputs have token ids out of the model's vocabulary, or are longer than "
            "its context: one of its embeddings has no such row."
        ) from error


def output_of_layer(
    model: nn.Module, layer: str, arguments: Tensor | Mapping[str, Tensor]
) -> Tensor:
    """What a layer gives the first time it runs; what comes after it does not run.

    Raises
    ------
    ValueError
        If there is no such layer, it does not run, or it gives no tensor.
    """
    caught: list[Tensor] = []

    def catch(module, inputs, output):
        caught.append(first_tensor(output, layer))
        raise Reached

    handle = find_layer(model, layer).register_forward_hook(catch)
    try:
        call(model, arguments)
    except Reached:
        return caught[0]
    finally:
        handle.remove()
    raise never_ran(layer)


def never_ran(layer: str) -> ValueError:
    """What to raise for a layer that is there and does not run."""
    return ValueError(
        f"layer={layer!r} never runs in a forward pass of the model: name one that "
        "does. (A container such as nn.ModuleList does not run itself.)"
    )


@contextmanager
def replacing_output(
    model: nn.Module,
    layer: str,
    change: Callable[[Tensor], Tensor],
    feature_axis: int | None = None,
) -> Iterator[list[int]]:
    """Change what a layer gives, each time it runs.

    Parameters
    ----------
    model : nn.Module
    layer : str
    change : callable
        From activations (n_inputs, n_positions, width) to others of that shape.
    feature_axis : int, optional
        See :func:`as_positions`.

    Yields
    ------
    list of one int
        How often the layer has run.
    """
    n_runs = [0]

    def hook(module, inputs, output):
        n_runs[0] += 1
        tensor = first_tensor(output, layer)
        moved, axis = _features_last(tensor, feature_axis, layer)
        changed = change(moved.reshape(len(moved), -1, moved.shape[-1]))
        return _with_first(output, changed.view(moved.shape).movedim(-1, axis))

    handle = find_layer(model, layer).register_forward_hook(hook)
    try:
        yield n_runs
    finally:
        handle.remove()


def as_positions(tensor: Tensor, feature_axis: int | None, layer: str) -> Tensor:
    """What a layer gives as (n_inputs, n_positions, width).

    Parameters
    ----------
    tensor : Tensor
        (n_inputs, width), (n_inputs, n_tokens, width), (n_inputs, width, height,
        breadth), ...
    feature_axis : int or None
        Axis of the features. None means 1 for four axes, as convolutions have them,
        otherwise the last. What is left after the first is positions.
    layer : str
        For the message.
    """
    moved, _ = _features_last(tensor, feature_axis, layer)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def _features_last(
    tensor: Tensor, feature_axis: int | None, layer: str
) -> tuple[Tensor, int]:
    if feature_axis is None:
        feature_axis = 1 if tensor.ndim == 4 else tensor.ndim - 1
    axis = feature_axis + tensor.ndim if feature_axis < 0 else feature_axis
    if not 0 < axis < tensor.ndim:
        raise ValueError(
            f"feature_axis={feature_axis}, but layer={layer!r} gives "
            f"{tuple(tensor.shape)}: inputs first, and features on another axis."
        )
    return tensor.movedim(axis, -1), axis


def check_width(sae, width: int, layer: str) -> None:
    """Whether a layer is as wide as those that an SAE was fitted to.

    Raises
    ------
    ValueError
        If not.
    """
    expected = getattr(sae, "n_features_in_", width)
    if expected != width:
        raise ValueError(
            f"layer={layer!r} gives {width} features, but sae was fitted to "
            f"{expected}: it belongs to another layer."
        )


def first_tensor(output, layer: str) -> Tensor:
    """The activations in what a layer gives: a tensor, or the first of several."""
    if isinstance(output, Mapping):  # of transformers
        output = next(iter(output.values()), None)
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise ValueError(
            f"layer={layer!r} gives {type(output).__name__}, not a tensor of "
            "activations or a tuple that begins with one."
        )
    return output


def _with_first(output: Any, tensor: Tensor) -> Any:
    """What a layer gave, with other activations."""
    kind: Any = type(output)
    if isinstance(output, Mapping):
        return kind({**output, next(iter(output)): tensor})
    if hasattr(output, "_fields"):  # a named tuple
        return kind(tensor, *output[1:])
    if isinstance(output, (tuple, list)):
        return kind([tensor, *output[1:]])
    return tensor


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
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """Numbers and texts that a module keeps, but for its mode."""
    return [
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str)) and name != "training"
    ]


def _hooks(module: nn.Module) -> list[str]:
    """What tells the hooks of forward passes from others, which may change anything."""
    hooks = *module._forward_pre_hooks.items(), *module._forward_hooks.items()
    return [_hook_digest(number, hook) for number, hook in hooks]


def _hook_digest(number: int, hook: Callable) -> str:
    try:
        return joblib.hash(hook)
    except UNPICKLABLE:
        # torch gives no two hooks of a process the same number.
        return f"{PROCESS} {number}"


# Modules of this process that have been pickled, by their digest.
_living: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()


class SharedModule:
    """A module as it is pickled, and as joblib hashes it: by what it computes.

    Unpickled where the module still lives, it is that module and no copy, so that what
    joblib caches does not multiply models, and a module that pickle cannot take (one
    that holds a lock, say) can be cached within a process.

    Parameters
    ----------
    module : nn.Module
    """

    def __init__(self, module: nn.Module):
        self.module = module

    def __reduce__(self):
        digest = model_digest(self.module)
        _living[digest] = self.module
        home = model_device(self.module)
        try:
            # So that it can be loaded where there is no GPU, and where the script or
            # notebook that its class stands in does not run.
            module = joblib.wrap_non_picklable_objects(self.module.cpu(), False)
            pickled, fault = pickle.dumps(module), ""
        except UNPICKLABLE as error:
            pickled, fault = None, str(error)
        finally:
            self.module.to(home)
        return _unpickled, (digest, pickled, fault)


def _unpickled(digest: str, pickled: bytes | None, fault: str) -> SharedModule:
    module = _living.get(digest)
    if module is None or model_digest(module) != digest:
        if pickled is None:
            raise pickle.UnpicklingError(
                "model was pickled without its weights, to be shared inside one "
                f"process, because pickle cannot take it: {fault}"
            )
        module = pickle.loads(pickled)
    return SharedModule(module)


def _hash_by_digest(hasher, shared: SharedModule) -> None:
    hasher.save(("skmfr SharedModule", model_digest(shared.module)))


# A hasher of joblib pickles what it hashes; its table of types comes before __reduce__.
joblib.hashing.Hasher.dispatch[SharedModule] = _hash_by_digest
