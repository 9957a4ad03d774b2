"""Which positions of activations count, and which are left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

# Parameters of tools, as scikit-learn checks them.
LEAVING_OUT: dict = {
    "skip_first": [Interval(Integral, 0, None, closed="left")],
    "max_norm_ratio": [Interval(Real, 0, None, closed="neither"), None],
}


def position_norms(activations: Tensor) -> Tensor:
    """Euclidean norms, (n_inputs, n_positions), in float32 at least."""
    dtype = torch.promote_types(activations.dtype, torch.float32)
    return torch.linalg.vector_norm(activations, dim=-1, dtype=dtype)


def numbers_of(tokens: Tensor) -> Tensor:
    """Number of each position in its input, from 1; 0 for padding.

    Parameters
    ----------
    tokens : Tensor of shape (n_inputs, n_positions), bool
        Which positions are no padding.
    """
    return tokens.cumsum(1) * tokens


def every_position(activations: Tensor) -> Tensor:
    """Numbers of positions that are not those of tokens, from 1.

    One vector for an input is at none of its positions: it is as if after all of them.
    """
    n_inputs, n_positions, _ = activations.shape
    numbers = torch.arange(1, n_positions + 1, device=activations.device)
    if n_positions == 1:
        numbers.fill_(torch.iinfo(numbers.dtype).max)
    return numbers.expand(n_inputs, -1)


def left_in(
    activations: Tensor, numbers: Tensor, skip_first: int, max_norm: float | None
) -> Tensor:
    """Which positions count, (n_inputs, n_positions), bool.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, width)
    numbers : Tensor of shape (n_inputs, n_positions), int
        Of each position in its input, from 1; 0 for padding.
    skip_first : int
        So many first positions do not count.
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
    """Activations with other rows at the positions that count.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, n_positions, width)
    counting : Tensor of shape (n_inputs, n_positions), bool
    of_rows : callable
        From rows (n_counting, width) to others.
    """
    rows = activations[counting]
    if not len(rows):
        return activations
    changed = activations.clone()
    changed[counting] = of_rows(rows).to(activations)
    return changed


@contextmanager
def numbering(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Context that tells how positions are numbered in whatever pass is under way.

    It looks at what the model is called with: the mask, where there is padding, and the
    cache of :meth:`generate`, whose passes begin in the middle of their inputs.

    Yields
    ------
    callable
        From activations (n_inputs, n_positions, width) of one of the model's layers to
        numbers as in :func:`left_in`.
    """
    names = list(inspect.signature(model.forward).parameters)
    passes: list[Pass] = []

    def begin(module, arguments, named):
        given = dict(zip(names, arguments, strict=False)) | named
        # A pass that was stopped at its layer has not ended.
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
    """What a forward pass is called with, as far as it numbers positions."""

    n_tokens: int | None
    """tokens of each input; None if it has no tokens"""
    mask: Tensor | None
    """(n_inputs, n_past + n_tokens), which tokens are no padding"""
    n_past: int
    """tokens of each input that passes before had"""


def _pass(given: dict[str, Any]) -> Pass:
    mask = given.get("attention_mask")
    if not (isinstance(mask, Tensor) and mask.ndim == 2):
        mask = None
    return Pass(_n_tokens(given), mask, _n_past(given))


def _numbers(activations: Tensor, passes: list[Pass]) -> Tensor:
    n_inputs, n_positions, _ = activations.shape
    if not passes or passes[-1].n_tokens != n_positions:
        return every_position(activations)
    _, mask, n_past = passes[-1]
    if mask is not None and len(mask) == n_inputs:
        tokens = mask.to(activations.device, torch.bool)
        return numbers_of(tokens)[:, -n_positions:]
    begin = n_past + 1
    numbers = torch.arange(begin, begin + n_positions, device=activations.device)
    return numbers.expand(n_inputs, -1)


def _n_tokens(given: dict[str, Any]) -> int | None:
    embedded = given.get("inputs_embeds")
    if isinstance(embedded, Tensor):
        return embedded.shape[1]
    for value in given.values():
        if isinstance(value, Tensor) and value.ndim == 2:
            return None if value.is_floating_point() else value.shape[1]
    return None


def _n_past(given: dict[str, Any]) -> int:
    # What a cache is called depends on the version of transformers.
    for value in given.values():
        if hasattr(value, "get_seq_length"):
            return int(value.get_seq_length())
    past = given.get("past_key_values")
    if not past:
        return 0
    return past[0][0].shape[-2]  # of each layer keys and values, tokens but one last
