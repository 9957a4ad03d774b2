"""Find layers of models, run the models, and record outputs."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ._compiled import eager, uncompiled, without_wrappers
from ._fast_path import without_fast_path

# Number of similar names that an error suggests.
N_SUGGESTIONS = 5


class Reached(BaseException):
    """The layer has run, so the rest of the forward pass is not needed.

    It does not derive from Exception, which a forward pass might catch.
    """


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The submodule with a dotted name.

    Raises
    ------
    ValueError
        If there is none. The error lists the most similar names.
    """
    # A module may have several names.
    named = model.named_modules(remove_duplicate=False)
    modules = {without_wrappers(name): module for name, module in named}
    if isinstance(layer, str) and without_wrappers(layer) in modules:
        found = modules[without_wrappers(layer)]
        check_hookable(found, layer)
        return found
    names = [name for name in modules if name]
    close = difflib.get_close_matches(str(layer), names, N_SUGGESTIONS, cutoff=0.4)
    raise ValueError(
        f"layer={layer!r} is not a module of {type(model).__name__}; its {len(names)} "
        f"modules include {', '.join(close or names[:N_SUGGESTIONS])}."
    )


def check_hookable(module: nn.Module, name: str) -> None:
    """Check that a module runs hooks.

    Raises
    ------
    TypeError
        If it is of TorchScript.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"{name} is a {type(module).__name__} of TorchScript, which runs no hooks "
            "of Python: pass the module from which it was made."
        )


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer that is loaded.

    If accelerate loads all of them for each pass, the device to which it does.
    """
    for tensor in _tensors(model):
        if tensor.device.type != "meta":
            return tensor.device
    for module in model.modules():
        hook: Any = getattr(module, "_hf_hook", None)
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
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


def untuned(module: nn.Module) -> nn.Module:
    """The layer inside one with which PEFT tunes it; any other layer unchanged."""
    for name in ("base_layer", "original_module"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return untuned(inner)
    return module


def n_embeddings(model: nn.Module) -> int | None:
    """Size of the vocabulary; None for a model that does not embed its inputs.

    For a model that is not from transformers, the size of the largest embedding,
    because only the forward pass knows which embedding takes the ids; without any, that
    in a configuration of TransformerLens, whose embeddings are other modules.
    """
    of_transformers: Any = getattr(model, "get_input_embeddings", None)
    if of_transformers is not None:
        # Some models have no input embedding.
        try:
            return getattr(untuned(of_transformers()), "num_embeddings", None)
        except NotImplementedError:
            return None
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    config: Any = getattr(model, "cfg", None)
    return max(sizes, default=getattr(config, "d_vocab", None))


def context_length(model: nn.Module) -> int | None:
    """Number of tokens that a transformers model accepts; None if unknown."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):  # models of texts and images
        try:
            config = config.get_text_config()
        except ValueError:  # it has several
            return None
    length = getattr(config, "max_position_embeddings", None)
    # XLNet has -1, because it has no limit.
    return length if isinstance(length, int) and length > 0 else None


def accepts(model: nn.Module, argument: str) -> bool:
    """Whether the forward pass has an argument with that name."""
    return argument in inspect.signature(model.forward).parameters


def ids_argument(model: nn.Module) -> str:
    """Name of the argument that takes token ids."""
    names = inspect.signature(model.forward).parameters
    return "input_ids" if "input_ids" in names else next(iter(names))


# Arguments that are tokens, and arguments of models, and of parts of them, that see
# images or hear sounds.
OF_TOKENS = ("input_ids", "inputs_embeds")
OF_MEDIA = re.compile(
    r"^(pixel_values|grid_thw|input_(features|values)"
    r"|(image|vision|audio)_(features|outputs))$"
)
# Keys and values of a decoder's attention to the encoder, and their projection.
OF_ENCODER = re.compile(
    r"(EncDec|encoder_attn|cross_?attn|cross_?attention).*\.(k|v|key|value)(_proj)?$"
    r"|(^|\.)enc_to_dec_proj$",
    re.IGNORECASE,
)


def encoder_decoder_of(model: nn.Module) -> nn.Module | None:
    """The encoder-decoder of transformers that a model is, or the only one inside it.

    None for any other model, also one of transformers that has one among its parts.
    """
    found: list[nn.Module] = []
    parts: set[nn.Module] = set()
    for module in model.modules():
        if module not in parts and hasattr(module, "get_input_embeddings"):
            found.append(module)
            parts.update(module.modules())
    if len(found) != 1 or not hasattr(found[0], "get_encoder"):
        return None
    config: Any = getattr(found[0], "config", None)
    return found[0] if getattr(config, "is_encoder_decoder", False) else None


def encoder_of(model: nn.Module) -> nn.Module | None:
    """Encoder of :func:`encoder_decoder_of`; None for any other model."""
    whole: Any = encoder_decoder_of(model)
    encoder = None if whole is None else whole.get_encoder()
    return None if encoder is whole else encoder


def virtual_tokens(model: nn.Module) -> tuple[int, set[nn.Module]]:
    """Number of tokens that prompt tuning by PEFT puts before each input.

    And the modules that receive them.
    """
    for module in model.modules():
        config: Any = getattr(module, "active_peft_config", None)
        n_virtual = getattr(config, "num_virtual_tokens", None)
        if n_virtual and not getattr(module, "_adapters_disabled", False):
            return n_virtual, set(module.modules()) - {module}
    return 0, set()


def in_decoder(model: nn.Module, layer: str) -> bool:
    """Whether the positions of a layer are tokens of an encoder-decoder's decoder."""
    encoder = encoder_of(model)
    if encoder is None or OF_ENCODER.search(layer):
        return False
    module = find_layer(model, layer)
    return all(module is not part for part in encoder.modules())


# One lock for each module that has run here.
_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()


@contextmanager
def evaluating(model: nn.Module, device: str | None = None) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule's mode is restored.

    Only one thread at a time, because hooks and modes belong to the module.

    Parameters
    ----------
    model : nn.Module
    device : str, optional
        Device to run on; the model is moved there, and back.

    Raises
    ------
    ValueError
        If a model that is split over several devices is to run on another device.
    """
    with _locks.setdefault(model, RLock()):
        home = model_device(model)
        moves = device is not None and torch.device(device) != home
        if moves and len(places := {str(t.device) for t in _tensors(model)}) > 1:
            raise ValueError(
                f"device={device!r}, but the model is split over "
                f"{', '.join(sorted(places))}, and the split could not be restored "
                "afterwards: leave device=None to run it where it is."
            )
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            if moves:
                model.to(device)
            with torch.no_grad(), eager(model), without_fast_path():
                yield
        finally:
            for module, mode in modes:
                # Some merge weights when they change to evaluation, as in loralib.
                overridden = type(module).train is not nn.Module.train
                if overridden and module.training != mode:
                    module.train(mode)
            for module, mode in modes:
                module.training = mode
            if moves:
                model.to(home)


def call(model: nn.Module, arguments: Tensor | Mapping[str, Tensor]) -> Any:
    """Run a forward pass without the cache that generation needs.

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
            "inputs have token ids outside the model's vocabulary, or exceed its "
            "context: an embedding has no such row."
        ) from error


def outputs_of_layers(
    model: nn.Module,
    layers: Sequence[str],
    arguments: Tensor | Mapping[str, Tensor],
) -> list[Tensor]:
    """Outputs of layers, the first time that they run; the rest is skipped.

    Raises
    ------
    ValueError
        If a layer does not exist, does not run, or does not output a tensor.
    """
    caught: dict[str, Tensor] = {}

    def catching(layer: str):
        def catch(module, inputs, output):
            if layer in caught:
                return
            caught[layer] = first_tensor(output, layer)
            if len(caught) == len(handles):
                raise Reached
            # Later layers may change it in place.
            caught[layer] = caught[layer].clone()

        return catch

    handles: dict[str, Any] = {}
    try:
        for layer in layers:
            module = find_layer(model, layer)
            handles[layer] = module.register_forward_hook(catching(layer))
        call(model, arguments)
    except Reached:
        return [caught[layer] for layer in layers]
    finally:
        for handle in handles.values():
            handle.remove()
    raise never_ran(next(layer for layer in layers if layer not in caught))


def never_ran(layer: str) -> ValueError:
    """Error for a layer that exists but does not run."""
    return ValueError(
        f"layer={layer!r} never runs in a forward pass of the model: name one that "
        "does. (A container such as nn.ModuleList does not run itself.)"
    )


def axis_of(module: nn.Module) -> int | None:
    """Axis of the features in the output of a layer; None if its type does not tell."""
    module = untuned(uncompiled(module))
    if isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm)):
        return 1
    # Quantised ones do not derive from nn.Linear.
    linear = hasattr(module, "in_features") and hasattr(module, "out_features")
    if linear or isinstance(module, nn.Embedding):
        return -1
    # Classes derived from these may have the features elsewhere.
    if type(module) in (nn.LayerNorm, getattr(nn, "RMSNorm", None)):
        axes: Any = module.normalized_shape
        return -1 if len(axes) == 1 else None
    # transformers has one for each model.
    weight = getattr(module, "weight", None)
    if "RMSNorm" in type(module).__name__ and getattr(weight, "ndim", 0) == 1:
        return -1
    return None


def feature_axis_of(model: nn.Module, layer: str) -> int | None:
    """Axis of the features in the output of a layer; None for :func:`features_last`.

    Layers that see tokens have them last, also behind an axis of attention heads.
    """
    axis = axis_of(find_layer(model, layer))
    if axis is not None:
        return axis
    tokens = sees_tokens(model, layer)
    if tokens is None:
        # Networks of images may embed classes.
        convolutions = [m for m in model.modules() if isinstance(m, _ConvNd)]
        images = any(len(m.kernel_size) > 1 for m in convolutions)
        tokens = n_embeddings(model) is not None and not images
    return -1 if tokens else None


def sees_tokens(model: nn.Module, layer: str) -> bool | None:
    """Whether a layer sees tokens; False if it sees images or sounds instead.

    The innermost module around it whose arguments tell decides; None if none does.
    """
    names = without_wrappers(layer).split(".")
    for n in range(len(names), -1, -1):
        module: Any = uncompiled(find_layer(model, ".".join(names[:n])))
        arguments = inspect.signature(module.forward).parameters
        # Encoders of images may have inputs_embeds, too.
        if "input_ids" in arguments or "decoder_input_ids" in arguments:
            return True
        # Of a model of transformers; those that do not set it have input_ids.
        main = getattr(module, "main_input_name", "")
        if any(OF_MEDIA.search(name) for name in (main, *arguments)):
            return False
    return None


def without_window_padding(
    activations: Tensor, model: nn.Module, n_tokens: int | None
) -> Tensor:
    """Activations without the padding that a model with windows adds at the end.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, ..., width)
    model : nn.Module
    n_tokens : int or None
        Length of the inputs of the model; None if they are not tokens.
    """
    config: Any = getattr(model, "config", None)
    # Longformer has a window for each layer, BigBird has one size of blocks.
    windows = getattr(config, "attention_window", None)
    if windows is None and getattr(config, "attention_type", "") == "block_sparse":
        windows = getattr(config, "block_size", None)
    if windows is None or n_tokens is None:
        return activations
    window = windows if isinstance(windows, int) else max(windows)
    n_padded = -(-n_tokens // window) * window
    return (
        activations if activations.shape[1] != n_padded else activations[:, :n_tokens]
    )


def features_last(
    tensor: Tensor, feature_axis: int | None, layer: str
) -> tuple[Tensor, int]:
    """Output of a layer as (n_inputs, ..., width), and the axis where it had features.

    Parameters
    ----------
    tensor : Tensor
        (n_inputs, width), (n_inputs, n_tokens, width), (n_inputs, width, height,
        breadth), ...
    feature_axis : int or None
        Axis of the features, from the user or :func:`feature_axis_of`. None means 1 for
        four axes, as in networks of convolutions, and the last axis otherwise. The
        remaining axes after the first are positions.
    layer : str
        Name for the message.
    """
    if feature_axis is None:
        feature_axis = 1 if tensor.ndim == 4 else tensor.ndim - 1
    axis = feature_axis + tensor.ndim if feature_axis < 0 else feature_axis
    if not 0 < axis < tensor.ndim:
        raise ValueError(
            f"feature_axis={feature_axis}, but layer={layer!r} gives "
            f"{tuple(tensor.shape)}: the first axis must be the inputs, and another "
            "axis the features."
        )
    return tensor.movedim(axis, -1), axis


def check_width(sae, width: int, layer: str) -> None:
    """Check that a layer has the width to which an SAE was fitted.

    Raises
    ------
    ValueError
        If it does not.
    """
    expected = getattr(sae, "n_features_in_", width)
    if expected != width:
        raise ValueError(
            f"layer={layer!r} gives {width} features, but sae was fitted to "
            f"{expected}: it belongs to another layer."
        )


def first_tensor(output, layer: str) -> Tensor:
    """Activations in the output of a layer: a tensor, or the first of several."""
    if isinstance(output, Mapping):  # from transformers
        output = next(iter(output.values()), None)
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise ValueError(
            f"layer={layer!r} gives a {type(output).__name__}, but a tensor of "
            "activations, or a tuple that begins with one, is expected."
        )
    return output
