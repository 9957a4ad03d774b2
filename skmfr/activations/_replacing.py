"""Replace the output of a layer whenever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ._models import feature_axis_of, features_last, find_layer, first_tensor


@contextmanager
def replacing_output(
    model: nn.Module,
    layer: str,
    change: Callable[[Tensor], Tensor],
) -> Iterator[list[int]]:
    """Replace the output of a layer each time that it runs.

    Parameters
    ----------
    model : nn.Module
    layer : str
    change : callable
        From activations (n_inputs, ..., width) to others with that shape.

    Yields
    ------
    list of one int
        How often the layer has run.
    """
    n_runs = [0]
    replaced = find_layer(model, layer)
    feature_axis = feature_axis_of(model, layer)

    def hook(module, inputs, output):
        n_runs[0] += 1
        tensor = first_tensor(output, layer)
        moved, axis = features_last(tensor, feature_axis, layer)
        return _with_first(output, change(moved).movedim(-1, axis))

    handle = replaced.register_forward_hook(hook)
    _capture_last(replaced)
    try:
        yield n_runs
    finally:
        handle.remove()


def captures(hook: Callable) -> bool:
    """Whether a hook records hidden states for transformers.

    It is made when the first pass asks for hidden states, and then stays.
    """
    return getattr(hook, "__module__", "") == "transformers.utils.output_capturing"


def _capture_last(module: nn.Module) -> None:
    """Move hooks that record hidden states behind those that replace outputs."""
    hooks: Any = module._forward_hooks
    for key, hook in list(hooks.items()):
        if captures(hook):
            hooks.move_to_end(key)


def _with_first(output: Any, tensor: Tensor) -> Any:
    """Output of a layer with other activations."""
    kind: Any = type(output)
    if isinstance(output, Mapping):
        return kind({**output, next(iter(output)): tensor})
    if hasattr(output, "_fields"):  # a named tuple
        return kind(tensor, *output[1:])
    if isinstance(output, (tuple, list)):
        return kind([tensor, *output[1:]])
    return tensor
