"""Select the positions of activations that count."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .._utils.checks import Interval
from ._compiled import uncompiled
from ._models import (
    encoder_decoder_of,
    encoder_of,
    find_layer,
    sees_tokens,
    virtual_tokens,
)
from ._placing import Placing

# Constraints of the parameters that leave out positions.
LEAVING_OUT: dict = {
    "skip_first": [Interval(Integral, 0, None, closed="left")],
    "max_norm_ratio": [Interval(Real, 0, None, closed="neither"), None],
}
# Names, in versions of transformers, of the cache that keeps previous passes.
CACHES = ("past_key_values", "cache", "cache_params", "state")


def position_norms(activations: Tensor) -> Tensor:
    """Euclidean norms of all rows, in at least float32."""
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


def left_in(
    activations: Tensor, numbers: Tensor, skip_first: int, max_norm: float | None
) -> Tensor:
    """Positions that count, (n_inputs, ...), bool.

    Parameters
    ----------
    activations : Tensor of shape (n_inputs, ..., width)
    numbers : Tensor of shape (n_inputs, ...), int
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
    activations : Tensor of shape (n_inputs, ..., width)
    counting : Tensor of shape (n_inputs, ...), bool
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
def numbering(
    model: nn.Module, layer: str, skip_first: int
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Number the positions of the current forward pass, inside this context.

    It reads the arguments of the model, and of models of transformers inside it that
    contain the layer: the mask, if there is padding, and the cache of :meth:`generate`,
    whose passes begin in the middle of their inputs. The encoder and the decoder of a
    model have their own. Images and sounds have none.

    Parameters
    ----------
    model : nn.Module
    layer : str
        The layer whose positions are numbered.
    skip_first : int
        How many first positions are to be told from the others.

    Yields
    ------
    callable
        From activations (n_inputs, ..., width) of the layer to indices as in
        :func:`left_in`.
    """
    passes = _Passes(model, layer, skip_first)
    placing = Placing(model, layer, skip_first)
    of_media = sees_tokens(model, layer) is False

    def numbers(activations: Tensor) -> Tensor:
        current = NO_TOKENS if of_media else passes.current()
        return placing(_numbers(activations.shape[:-1], current), activations)

    handles = []
    for module in passes.modules:
        begin, end = partial(passes.begin, module), partial(passes.end, module)
        handles += [
            module.register_forward_pre_hook(begin, with_kwargs=True),
            module.register_forward_hook(end, with_kwargs=True, always_call=True),
        ]
    try:
        yield numbers
    finally:
        for handle in handles:
            handle.remove()


def in_backward() -> bool:
    """Whether this thread computes gradients, where checkpoints run layers again."""
    return torch._C._current_graph_task_id() != -1


class Pass(NamedTuple):
    """Arguments of a forward pass that determine the numbering of positions."""

    shape: tuple[int, int] | None
    """(n_inputs, n_tokens); None if there are no tokens"""
    mask: Tensor | None
    """(n_inputs, at least n_past + n_tokens), bool, tokens that are not padding; only
    n_tokens if n_past is a tensor"""
    n_past: int | Tensor
    """number of tokens of each input in previous passes; a tensor (n_inputs,) does not
    count padding"""
    is_mask_of_tokens: bool = False
    """whether the mask was given for tokens, not for pairs of them"""
    n_virtual: int = 0
    """number of learned tokens, which do not count, before the first of each input"""


NO_TOKENS = Pass(None, None, 0)


class _OfThread(threading.local):
    """Passes of one thread: threads may share a model."""

    def __init__(self) -> None:
        self.under_way: list[tuple[nn.Module, Pass]] = []
        # The last cache that does not count its tokens, and their number, (n_inputs,).
        self.cache: Any = None
        self.n_cached: Tensor | None = None


class _Passes:
    """Forward passes that are under way, of a model and of models inside it.

    Callers of :meth:`generate` and wrappers may run only a model inside the given one,
    or name its arguments differently.

    Parameters
    ----------
    model : nn.Module
    layer : str
    skip_first : int
    """

    def __init__(self, model: nn.Module, layer: str, skip_first: int):
        self.model, self.skip_first = model, skip_first
        self.modules = [model, *_models_around(find_layer(model, layer), model)]
        encoder, whole = encoder_of(model), cast(Any, encoder_decoder_of(model))
        self.halves: list[nn.Module] = []
        if encoder is not None:
            halves = encoder, whole.get_decoder()
            self.halves = [half for half in halves if half is not whole]
        known = set(self.modules)
        self.modules += [half for half in self.halves if half not in known]
        self.wholes = {m for m in self.modules if encoder_of(m) is not None}
        self.n_virtual, self.with_virtual = virtual_tokens(model)
        # The initial state of other recurrent networks may be an argument, too.
        of_transformers = any(hasattr(module, "config") for module in self.modules)
        self.caches = [name for name in CACHES if name != "state" or of_transformers]
        self.here = _OfThread()
        # For checkpoints, which run the layer again without the model around it, and
        # on a GPU in another thread.
        self.last = NO_TOKENS
        self.warned = not skip_first

    def current(self) -> Pass:
        """The innermost pass that knows the tokens, and its mask or its callers'."""
        if not self.here.under_way:
            if in_backward():
                return self.last
            self._warn()
            return NO_TOKENS
        known: list[Pass] = []
        for module, passed in reversed(self.here.under_way):
            innermost = known[0] if known else passed
            if passed.shape is not None and passed.shape == innermost.shape:
                known.append(passed)
            if module in self.halves:
                break  # its callers may have other tokens
        masked = [passed for passed in known if passed.mask is not None]
        best = [passed for passed in masked if passed.is_mask_of_tokens]
        self.last = next(iter(best or masked or known), NO_TOKENS)
        return self.last

    def _warn(self) -> None:
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"The layer ran outside a forward pass of {type(self.model).__name__}, "
                "whose mask is therefore not known: skip_first counts padding.",
                stacklevel=2,
            )

    def begin(self, module: nn.Module, _, arguments: tuple, named: dict) -> None:
        given = _named(module, arguments, named)
        if module in self.wholes:
            given = _of_decoder(given)
        # A pass that was stopped at its layer did not remove its entry.
        self._leave(module)
        shape, n_past = _shape(given), self._n_past(given)
        mask = _mask(given, n_past if isinstance(n_past, int) else 0)
        of_tokens = getattr(given.get("attention_mask"), "ndim", 0) == 2
        n_virtual = self.n_virtual if module in self.with_virtual else 0
        passed = Pass(shape, mask, n_past, of_tokens, n_virtual)
        self.here.under_way.append((module, passed))

    def end(self, module: nn.Module, _, arguments: tuple, named: dict, output) -> None:
        passed = self._leave(module)
        returned = dict(output) if isinstance(output, Mapping) else {}
        cache = _uncounted(_named(module, arguments, named) | returned, self.caches)
        if cache is not None and passed.shape is not None:
            self.here.cache, self.here.n_cached = cache, _of_tokens(passed).amax(1)

    def _leave(self, module: nn.Module) -> Pass:
        """Remove the pass of a module, and those inside it."""
        under_way = self.here.under_way
        modules = [each for each, _ in under_way]
        if module not in modules:
            if module is self.model:
                under_way.clear()
            return NO_TOKENS
        index = modules.index(module)
        passed = under_way[index][1]
        del under_way[index:]
        return passed

    def _n_past(self, given: dict[str, Any]) -> int | Tensor:
        """Number of tokens in previous passes, see :class:`Pass`."""
        cache = _uncounted(given, self.caches)
        shape, mask = _shape(given), _mask(given, 0)
        if cache is None or shape is None:
            return _n_past(given)
        if mask is not None and mask.shape[1] > shape[1]:
            return mask.shape[1] - shape[1]
        here = self.here
        if cache is here.cache and here.n_cached is not None:
            return here.n_cached
        if hasattr(cache, "has_previous_state") and not cache.has_previous_state():
            return 0
        of_caller = here.under_way[-1][1].n_past if here.under_way else 0
        if isinstance(of_caller, Tensor) or of_caller:
            return of_caller
        if self.skip_first > 1:
            raise ValueError(
                f"skip_first={self.skip_first}, but the cache of "
                f"{type(self.model).__name__} does not tell how many tokens are in it: "
                "pass the attention_mask of all tokens, or fill it inside the context."
            )
        return 1  # or more


def _models_around(layer: nn.Module, model: nn.Module) -> list[nn.Module]:
    """Models of transformers inside a model that contain a layer."""
    return [
        module
        for module in model.modules()
        if module is not model
        and hasattr(module, "get_input_embeddings")
        and uncompiled(module) is module
        and any(part is layer for part in module.modules())
    ]


def _named(module: nn.Module, arguments: tuple, named: dict) -> dict[str, Any]:
    """All arguments of a forward pass by name."""
    names = inspect.signature(module.forward).parameters
    return dict(zip(names, arguments, strict=False)) | named


def _numbers(shape: Sequence[int], current: Pass) -> Tensor | None:
    """Index of each token of a pass, from 1; None if there are no tokens."""
    if current.shape is None:
        return None
    n_inputs, n_tokens = current.shape
    if shape[:2] == (1, n_tokens) and n_inputs > 1:
        # perhaps one row for all inputs
        n_past = current.n_past
        n_past = n_past if isinstance(n_past, int) else int(n_past.max())
        current = current._replace(shape=(1, n_tokens), mask=None, n_past=n_past)
    return _of_tokens(current) - current.n_virtual


def _of_tokens(passed: Pass) -> Tensor:
    """Index of each token of a pass in its input, from 1; 0 for padding.

    (n_inputs, n_tokens)
    """
    shape, mask, n_past, *_ = passed
    assert shape is not None
    n_inputs, n_tokens = shape
    if mask is None or len(mask) != n_inputs:
        mask = torch.ones(shape, dtype=torch.bool)
    elif isinstance(n_past, int):
        end = min(n_past + n_tokens, mask.shape[1])
        return numbers_of(mask)[:, end - n_tokens : end]
    if isinstance(n_past, int):
        return numbers_of(mask) + n_past
    return (numbers_of(mask) + n_past.to(mask.device)[:, None]) * mask


def _of_decoder(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an encoder-decoder that concern its decoder, as this names them."""
    prefix, labels = "decoder_", given.get("labels")
    own = {
        name.removeprefix(prefix): value
        for name, value in given.items()
        if name.startswith(prefix) and value is not None
    }
    if not own.keys() & {"input_ids", "inputs_embeds"}:
        if not isinstance(labels, Tensor) or labels.ndim != 2:
            return given  # the decoder shifts the tokens of the encoder
        own["input_ids"] = labels
    return own | {name: given[name] for name in CACHES if name in given}


def _shape(given: dict[str, Any]) -> tuple[int, int] | None:
    embedded = given.get("inputs_embeds")
    if isinstance(embedded, Tensor):
        return len(embedded), embedded.shape[1]
    # By name, because the mask may come first, and have columns of previous passes.
    for value in (given.get("input_ids"), *given.values()):
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
        # The mask tells which keys each query attends to. Some query attends to every
        # token; queries that see what comes after them are padding.
        seen = mask[:, 0] == 0 if mask.is_floating_point() else mask[:, 0].bool()
        later = torch.ones(seen.shape[1:], dtype=torch.bool).triu(n_past + 1)
        padding = (seen & later.to(seen.device)).any(2, keepdim=True)
        return (seen & ~padding).any(1)
    return mask.bool() if mask.ndim == 2 else None


def _uncounted(given: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The cache that does not count its tokens, as of Mamba and RWKV; None if none."""
    for name in names:
        cache = given.get(name)
        if cache is None or isinstance(cache, Tensor) or name == "past_key_values":
            continue
        if isinstance(cache, (Mapping, Sequence)):
            kept = cache.values() if isinstance(cache, Mapping) else cache
            if all(each is None for each in kept):
                continue  # nothing is in it yet
        if not hasattr(cache, "get_seq_length") or _seq_length(cache) is None:
            return cache
    return None


def _seq_length(cache) -> int | None:
    try:
        return int(cache.get_seq_length())
    except ValueError:  # it has no layers of attention
        return None


def _n_past(given: dict[str, Any]) -> int:
    # The name of the cache depends on the version of transformers.
    for value in given.values():
        if hasattr(value, "get_seq_length"):
            return _seq_length(value) or 0
    past = given.get("past_key_values")
    if not past:
        return 0
    return past[0][0].shape[-2]  # keys and values per layer, tokens second to last
