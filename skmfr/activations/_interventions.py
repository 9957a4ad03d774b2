"""Forward passes with steered or ablated activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ContextDecorator,
    contextmanager,
    nullcontext,
)
from functools import cache, partial

import numpy as np
import torch
from scipy import sparse
from sklearn.utils._param_validation import validate_params
from torch import Tensor, nn

from .._base import BaseSparseAutoencoder
from .._data.checked import max_norm_of
from .._sae.arrays import coder_of
from .._sae.codes import SparseCodes, decode
from .._utils.checks import as_array, as_indices
from ._compiled import eager, uncompiled
from ._fast_path import without_fast_path
from ._loading import as_model
from ._models import check_width, find_layer
from ._positions import LEAVING_OUT, in_backward, left_in, numbering, with_rows
from ._replacing import replacing_output


def for_coder(rows: Tensor) -> Tensor:
    """Activations in at least float32, and float64 if available, for coders."""
    rows = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
    return rows.cpu() if rows.device.type == "mps" else rows


@validate_params(LEAVING_OUT, prefer_skip_nested_validation=True)
def steer(
    model, layer, sae, atoms, value, *, how="set", skip_first=0, max_norm_ratio=None
) -> AbstractContextManager[nn.Module]:
    """Set or scale some atoms whenever a layer runs, inside a context.

    Activations x with codes z become ``x + (z' - z) D``, where z' equals z except for
    the chosen atoms. The residual that the codes leave is therefore kept. This applies
    to every forward pass, including those of ``generate``; contexts can be nested.
    Gradients pass as if a constant had been added. With gradient checkpointing, call
    ``backward`` inside the context, because it runs layers again; and before the next
    forward pass, if positions are left out.

    Parameters
    ----------
    model : torch.nn.Module, str or path-like
        The model, or its name or folder.
    layer : str
        Dotted name of a submodule.
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted to activations of this layer.
    atoms : int or array-like of int or bool
        Indices of the atoms, or a mask.
    value : float or array-like of shape (n_atoms,)
        Their codes, in units of the activations, or factors of their codes.
    how : {"set", "scale"}, default="set"
        "set" gives the atoms this code at each position, whether or not they are
        active; "scale" multiplies their codes.
    skip_first : int, default=0
        Number of first positions of each input that are left unchanged. Passes of
        ``generate`` continue the count. Padding counts, unless the model receives an
        attention mask. If a layer has tokens on its first axis and inputs on the
        second, this is known only after a pass in which their numbers differ.
    max_norm_ratio : float, default=None
        Positions whose norm exceeds this multiple of ``sae.median_norm_`` are also left
        unchanged.

    Returns
    -------
    context manager
        It returns the model.

    Raises
    ------
    TypeError
        If `sae` has no atoms.
    ValueError
        If there is no such layer or atom, if the width of the layer differs from that
        of `sae`, or if `sae` has no ``median_norm_``; in a pass, if a cache does not
        tell how many tokens `skip_first` has left out, or if the positions of the layer
        are not those of the tokens.

    Warns
    -----
    UserWarning
        If the layer has not run by the end of the context; if it has run outside a
        forward pass of the model, so that `skip_first` counts padding; or if gradient
        checkpointing would run it again without the context.

    See Also
    --------
    ablate : Remove atoms.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from torch import nn
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.activations import steer
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.Identity())
    >>> X = torch.randn(100, 4)
    >>> activations = model[0](X).detach().numpy()
    >>> sae = MFRSparseAutoencoder(8, k=2, max_steps=20).fit(activations)
    >>> with steer(model, "0", sae, 3, 0.0):
    ...     without = model(X)
    >>> without.shape
    torch.Size([100, 6])
    """
    if not (hasattr(sae, "components_") and hasattr(sae, "transform")):
        raise TypeError(
            f"sae must be fitted and have components_, got {type(sae).__name__}."
        )
    if how not in ("set", "scale"):
        raise ValueError(f"how must be 'set' or 'scale', got {how!r}.")
    n_components = len(sae.components_)
    atoms = np.atleast_1d(as_indices(atoms, n_components))
    if atoms.ndim != 1 or not atoms.size or atoms.dtype.kind not in "iu":
        raise ValueError(f"atoms must be one or more atom indices, got {atoms}.")
    if not (0 <= atoms.min() <= atoms.max() < n_components):
        raise ValueError(
            f"atoms must be from 0 to {n_components - 1}, got {atoms.tolist()}."
        )
    if len(set(atoms.tolist())) < len(atoms):
        raise ValueError(f"atoms must not repeat, got {atoms.tolist()}.")
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in [(), atoms.shape] or not np.isfinite(values).all():
        raise ValueError(
            f"value must be a finite number, or {len(atoms)} of them, one for each "
            f"atom, got {value!r}."
        )
    module, _ = as_model(model)
    find_layer(module, layer)
    # z' is z times factors, plus constants at the chosen atoms.
    factors, constants = np.ones(n_components), np.zeros(len(atoms))
    if how == "set":
        factors[atoms], constants = 0.0, constants + values
    else:
        factors[atoms] = values
    shift = _shift(sae, factors - 1, constants @ sae.components_[atoms])

    max_norm = max_norm_of(sae, max_norm_ratio)

    def steered(rows: Tensor) -> Tensor:
        check_width(sae, rows.shape[1], layer)
        return rows + shift(rows).to(rows)

    given = model if isinstance(model, nn.Module) else module
    return _Reusable(partial(_steering, given, layer, steered, skip_first, max_norm))


def _shift(sae, change: np.ndarray, constant: np.ndarray) -> Callable[[Tensor], Tensor]:
    """The sum ``(z * change) D + constant`` to add to rows with codes z.

    Parameters
    ----------
    sae : BaseSparseAutoencoder, or any object with transform and components_
    change : ndarray of shape (n_components,)
    constant : ndarray of shape (n_features,)
    """
    if not isinstance(sae, BaseSparseAutoencoder):

        def of_arrays(rows: Tensor) -> Tensor:
            codes = sparse.csr_array(sae.transform(as_array(rows)))
            shift = (codes * change) @ sae.components_ + constant
            return torch.from_numpy(shift)

        return of_arrays

    @cache
    def on(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        return [
            torch.tensor(array, dtype=dtype, device=device)
            for array in (change, constant)
        ]

    def by_coder(rows: Tensor) -> Tensor:
        rows = for_coder(rows)
        coder = coder_of(sae, rows)
        values, indices = coder(rows)
        change, constant = on(rows.device, rows.dtype)
        changed = SparseCodes(values * change[indices], indices)
        return decode(changed, coder.atoms) + constant

    return by_coder


class _Reusable(ContextDecorator, AbstractContextManager):
    """A context that can be entered several times, in a new one each time.

    Parameters
    ----------
    make : callable
        Returns a new context.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[nn.Module]]):
        self.make = make
        self.entered: list[AbstractContextManager[nn.Module]] = []

    def __enter__(self) -> nn.Module:
        context = self.make()
        model = context.__enter__()
        self.entered.append(context)
        return model

    def __exit__(self, *error) -> bool | None:
        return self.entered.pop().__exit__(*error)


# Callers of warnings inside _Reusable, from their own line to the with statement.
STACK = 4


@contextmanager
def _steering(
    model: nn.Module,
    layer: str,
    of_rows: Callable[[Tensor], Tensor],
    skip_first: int,
    max_norm: float | None,
) -> Iterator[nn.Module]:
    leaves_out = skip_first or max_norm is not None
    numbered = (
        numbering(uncompiled(model), layer, skip_first) if leaves_out else nullcontext()
    )
    n_again, with_gradients = 0, False

    def note(*_) -> None:
        nonlocal with_gradients
        with_gradients |= torch.is_grad_enabled()

    with numbered as numbers, eager(model, own=False), without_fast_path():

        def change(activations: Tensor) -> Tensor:
            nonlocal n_again
            n_again += in_backward()
            if numbers is None:
                return of_rows(activations.flatten(0, -2)).view(activations.shape)
            counting = left_in(activations, numbers(activations), skip_first, max_norm)
            return with_rows(activations, counting, of_rows)

        # Checkpoints may run the layer itself without gradients.
        handle = uncompiled(model).register_forward_pre_hook(note)
        try:
            with replacing_output(model, layer, change) as n_runs:
                yield model
        finally:
            handle.remove()
    if not n_runs[0]:
        warnings.warn(
            f"layer={layer!r} did not run: nothing was steered.", stacklevel=STACK
        )
    elif with_gradients and not n_again and _runs_again(model, layer):
        warnings.warn(
            f"layer={layer!r} lies in a block with gradient checkpointing, which a "
            "later backward() would run again without steering: call it inside the "
            "context.",
            stacklevel=STACK,
        )


def _runs_again(model: nn.Module, layer: str) -> bool:
    """Whether gradient checkpointing of transformers runs a layer again."""
    on = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    # Models have the flag, too, but they run their blocks again, if those have it.
    blocks = [m for m in on if not hasattr(m, "get_input_embeddings")] or on
    module = find_layer(model, layer)
    inside = (part for m in blocks if m.training for part in list(m.modules())[1:])
    return any(part is module for part in inside)


def ablate(
    model, layer, sae, atoms, *, skip_first=0, max_norm_ratio=None
) -> AbstractContextManager[nn.Module]:
    """Remove some atoms whenever a layer runs, inside a context.

    Equivalent to :func:`steer` with code 0.

    Parameters
    ----------
    model : torch.nn.Module, str or path-like
        The model, or its name or folder.
    layer : str
        Dotted name of a submodule.
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted to activations of this layer.
    atoms : int or array-like of int or bool
        Indices of the atoms, or a mask.
    skip_first : int, default=0
        Number of first positions that are left unchanged, as in :func:`steer`.
    max_norm_ratio : float, default=None
        Positions with larger norms are left unchanged, as in :func:`steer`.

    Returns
    -------
    context manager
        It returns the model.

    Raises
    ------
    TypeError, ValueError
        As for :func:`steer`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.activations import ablate
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.Identity())
    >>> X = torch.randn(100, 4)
    >>> activations = model[0](X).detach().numpy()
    >>> sae = MFRSparseAutoencoder(8, k=2, max_steps=20).fit(activations)
    >>> with ablate(model, "0", sae, [0, 5]):
    ...     without = model(X)
    >>> without.shape
    torch.Size([100, 6])
    """
    left_out = {"skip_first": skip_first, "max_norm_ratio": max_norm_ratio}
    return steer(model, layer, sae, atoms, 0.0, **left_out)
