"""Select the positions of activations that count."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

# Constraints of these parameters, for scikit-learn's validation.
LEAVING_OUT: dict = {
    "skip_first": [Interval(Integral, 0, None, closed="left")],
    "max_norm_ratio": [Interval(Real, 0, None, closed="neither"), None],
}


def position_norms(activations: Tensor) -> Tensor:
    """Euclidean norms, (n_inputs, n_positions), in at least float32."""
    dtype = torch.promote_types(activations.dtype, torch.float32)
    return torch.linalg.vector_norm(activations, dim=-1, dtype=dtype)


def numbers_of(tokens: Tensor) -> Tensor:
    """Index of each position in its input, from 1; 0 for padding.

    Parameters
    ----------
    tokens : Tensor of shape (n_inputs, n_positions), bool
        Positions that are not padding.
    """
    return tokens.cumsum(1) * tokens


def every_position(activations: Tensor) -> Tensor:
    """Indices, from 1, of positions that are not tokens.

    A single vector for an input is not at any of its positions; its index is larger
    than all of them.
    """
    n_inputs, n_positions, _ = activations.shape
    numbers = torch.arange(1, n_positions + 1, device=activations.device)
    if n_positions == 1:
        numbers.fill_(torch.iinfo(numbers.dtype).max)
    return numbers.expand(n_inputs, -1)


def left_in(
    activations: Tensor, numbers: Tensor, skip_first: int, max_norm: float | None
) -> Tensor:
    """Positions that count, (n_inputs, n_positions), bool.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, width)
    numbers : Tensor of shape (n_inputs, n_positions), int
        Index of each position in its input, from 1; 0 for padding.
    skip_first : int
        Number of first positions that do not count.
    max_norm : float or None
        Positions with a larger norm do not count.
    """
    counting = numbers > skip_first
    if max_norm is not None:
        counting = counting & (position_norms(activations) <= max_norm)
    return counting


def with_rows(
    activations: Tensor, counting: Tensor, of_rows: Callable[[Tensor], Tensor]
) -> Tensor:
    """Activations with replaced rows at the positions that count.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, width)
    counting : Tensor of shape (n_inputs, n_positions), bool
    of_rows : callable
        From rows (n_counting, width) to other rows.
    """
    rows = activations[counting]
    if not len(rows):
        return activations
    changed = activations.clone()
    changed[counting] = of_rows(rows).to(activations)
    return changed


@contextmanager
def numbering(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Number the positions of the current forward pass, inside this context.

    It reads the arguments of the model: the mask, if there is padding, and the cache of
    :meth:`generate`, whose passes begin in the middle of their inputs.

    Yields
    ------
    callable
        From activations (n_inputs, n_positions, width) of one of the model's layers to
        indices as in :func:`left_in`.
    """
    names = list(inspect.signature(model.forward).parameters)
    passes: list[Pass] = []

    def begin(module, arguments, named):
        given = dict(zip(names, arguments, strict=False)) | named
        # A pass that was stopped at its layer did not remove its entry.
        passes[:] = [_pass(given)]

    def end(*_):
        passes.clear()

    handles = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end, always_call=True),
    ]
    try:
        yield lambda activations: _numbers(activations, passes)
    finally:
        for handle in handles:
            handle.remove()


class Pass(NamedTuple):
    """Arguments of a forward pass that determine the numbering of positions."""

    shape: tuple[int, int] | None
    """(n_inputs, n_tokens); None if there are no tokens"""
    mask: Tensor | None
    """(n_inputs, at least n_past + n_tokens), bool, tokens that are not padding"""
    n_past: int
    """number of tokens of each input in previous passes"""


def _pass(given: dict[str, Any]) -> Pass:
    n_past = _n_past(given)
    return Pass(_shape(given), _mask(given, n_past), n_past)


def _numbers(activations: Tensor, passes: list[Pass]) -> Tensor:
    shape, mask, n_past = passes[-1] if passes else Pass(None, None, 0)
    if shape is None:
        return every_position(activations)
    n_inputs, n_tokens = shape
    if activations.shape[:2] == (1, n_tokens):  # perhaps one row for all inputs
        n_inputs = 1
    if mask is not None and len(mask) == n_inputs:
        end = min(n_past + n_tokens, mask.shape[1])
        numbers = numbers_of(mask.to(activations.device))[:, end - n_tokens : end]
    else:
        begin = n_past + 1
        numbers = torch.arange(begin, begin + n_tokens, device=activations.device)
        numbers = numbers.expand(n_inputs, -1)
    return in_shape(numbers, activations)


def in_shape(numbers: Tensor, activations: Tensor) -> Tensor:
    """Numbers of tokens, (n_inputs, n_tokens), for the positions of a layer.

    They are those of the tokens; some layers have one row of tokens for all inputs.
    """
    shape = activations.shape[:2]
    if shape == numbers.shape or shape == (numbers.numel(), 1):
        return numbers.reshape(shape)
    return every_position(activations)


def _shape(given: dict[str, Any]) -> tuple[int, int] | None:
    embedded = given.get("inputs_embeds")
    if isinstance(embedded, Tensor):
        return len(embedded), embedded.shape[1]
    for value in given.values():
        if isinstance(value, Tensor) and value.ndim == 2:
            return None if value.is_floating_point() else (len(value), value.shape[1])
    return None


def _mask(given: dict[str, Any], n_past: int) -> Tensor | None:
    """Tokens that are not padding, (n_inputs, at least n_past + n_tokens), bool."""
    mask = given.get("attention_mask")
    if isinstance(mask, Mapping):  # by kind of attention; one of them sees all tokens
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor):
        return None
    if mask.ndim == 4:
        # Which of the keys each query attends to: some query to every token. Queries
        # that see what comes after them are padding.
        seen = mask[:, 0] == 0 if mask.is_floating_point() else mask[:, 0].bool()
        later = torch.ones(seen.shape[1:], dtype=torch.bool).triu(n_past + 1)
        padding = (seen & later.to(seen.device)).any(2, keepdim=True)
        return (seen & ~padding).any(1)
    return mask.bool() if mask.ndim == 2 else None


def _n_past(given: dict[str, Any]) -> int:
    # The name of the cache depends on the version of transformers.
    for value in given.values():
        if hasattr(value, "get_seq_length"):
            return int(value.get_seq_length())
    past = given.get("past_key_values")
    if not past:
        return 0
    return past[0][0].shape[-2]  # keys and values per layer, tokens second to last
