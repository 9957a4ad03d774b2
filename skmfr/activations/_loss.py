"""The loss of a language model that a reconstruction of activations preserves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf, nan
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch
from sklearn.utils._param_validation import StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import cross_entropy, kl_div

from .._base import BaseSparseAutoencoder
from .._data.checked import max_norm_of
from .._sae.arrays import coder_of
from .._utils.checks import Device, Interval, as_array
from ._check_inputs import check_inputs, holds_texts
from ._inputs import Batch, Inputs
from ._interventions import for_coder
from ._loading import as_model
from ._models import (
    call,
    check_width,
    encoder_of,
    evaluating,
    find_layer,
    in_decoder,
    never_ran,
    sees_tokens,
)
from ._placing import Placing
from ._pooling import nothing_left
from ._positions import LEAVING_OUT, left_in, numbers_of, with_rows
from ._replacing import replacing_output


def _kl_divergence(logits: Tensor, own: Tensor) -> Tensor:
    """Sum over tokens of the divergence from the prediction of the unchanged model.

    Both are logits, (n_tokens, n_vocabulary).
    """
    changed, unchanged = (of.float().log_softmax(-1) for of in (logits, own))
    return kl_div(changed, unchanged, reduction="sum", log_target=True)


# Sums over tokens, of logits and targets, by the parameter ``loss``.
CROSS_ENTROPY, KL_DIVERGENCE = "cross_entropy", "kl_divergence"
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    CROSS_ENTROPY: partial(cross_entropy, reduction="sum"),
    KL_DIVERGENCE: _kl_divergence,
}
# Activations of a batch, (n_inputs, ..., width), and indices of tokens.
Change = Callable[[Tensor, Tensor | None], Tensor]


@validate_params(
    {
        "layer": [str],
        "loss": [StrOptions(set(LOSSES))],
        "ablation": [StrOptions({"zero", "mean"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "pad_token_id": [Interval(Integral, 0, None, closed="left"), None],
        **LEAVING_OUT,
        "device": [Device(), None],
        "return_losses": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def loss_recovered(
    model,
    layer,
    sae,
    tokens,
    *,
    loss=CROSS_ENTROPY,
    ablation="zero",
    batch_size=32,
    pad_token_id=None,
    skip_first=0,
    max_norm_ratio=None,
    device=None,
    return_losses=False,
):
    r"""Share of a layer's value to a language model that a reconstruction preserves.

    .. math:: \frac{L_\mathrm{ablated} - L_\mathrm{spliced}}
                   {L_\mathrm{ablated} - L_\mathrm{clean}}

    L is a loss of the model: unchanged (clean), with the layer's output replaced by its
    reconstruction at each token (spliced), and with the output replaced by zero or by
    its mean over these tokens (ablated).

    Parameters
    ----------
    model : torch.nn.Module, str or path-like
        Causal language model, or its name or folder. It returns logits (n_inputs,
        n_tokens, n_vocabulary), or an object with these as ``logits``.
    layer : str
        Dotted name of a submodule.
    sae : estimator or callable
        Reconstructs rows (n_tokens, width): by ``reconstruct``, by ``transform`` and
        ``inverse_transform``, or as a callable.
    tokens : array-like of shape (n_inputs, n_tokens), sequence of sequences, or mapping
        Token ids, which `sae` should not have seen. For an encoder-decoder, a mapping
        with "input_ids", "decoder_input_ids", and their masks if there is padding. In a
        mapping, "labels" of -100 and the places where "position_ids" restart, which are
        the first tokens of packed texts, are not predicted.
    loss : {"cross_entropy", "kl_divergence"}, default="cross_entropy"
        Cross-entropy of the next token; or Kullback-Leibler divergence from the
        prediction of the unchanged model, whose own loss is then 0.  The divergence
        varies less between inputs, so that fewer tokens suffice.
    ablation : {"zero", "mean"}, default="zero"
        The replacement that counts as nothing recovered.
    batch_size : int, default=32
        Number of inputs in each forward pass.
    pad_token_id : int, default=None
        Id that fills short rows of an array, as in :class:`ActivationExtractor`.
    skip_first : int, default=0
        Number of first positions of each input that are neither spliced nor ablated.
    max_norm_ratio : float, default=None
        The same applies to positions whose norm exceeds this multiple of
        ``sae.median_norm_``.
    device : str, default=None
        Device to run on, as in :class:`ActivationExtractor`.
    return_losses : bool, default=False
        Whether to return the losses as well.

    Returns
    -------
    recovered : float
        1 for the identity, 0 for the ablation, negative for worse than the ablation.
    losses : Bunch
        Mean losses in nats per token: `clean`, `spliced`, `zero`, `mean`; and the
        `standard_error` of `recovered` over inputs, NaN for one input. Returned only if
        `return_losses` is True.

    Raises
    ------
    TypeError
        If `sae` cannot reconstruct, or `tokens` holds texts.
    ValueError
        If the layer does not exist, never runs, or does not change the loss; if its
        width differs from that of `sae`; if the model gives no logits of tokens, or
        some that depend on later tokens; if tokens are not as described; if no position
        is left; or if `sae` has no ``median_norm_``.

    References
    ----------
    S. Rajamanoharan et al., "Improving Dictionary Learning with Gated Sparse
    Autoencoders", arXiv:2404.16014, 2024.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from skmfr.activations import loss_recovered
    >>> embedding = nn.Embedding(50, 8)
    >>> model = nn.Sequential(embedding, nn.Tanh(), nn.Linear(8, 50))
    >>> tokens = torch.arange(40).reshape(4, 10)
    >>> loss_recovered(model, "1", lambda X: X, tokens)
    1.0
    >>> loss_recovered(model, "1", lambda X: 0 * X, tokens) == 0
    True
    """
    reconstruct = _reconstruction(sae)
    if holds_texts(tokens):
        raise TypeError(
            "tokens must hold token ids, got texts: pass tokenizer(texts)['input_ids']."
        )
    module, device = as_model(model, device)
    find_layer(module, layer)
    inputs = check_inputs(tokens, module, pad_token_id=pad_token_id, name="tokens")

    max_norm = max_norm_of(sae, max_norm_ratio)
    total, n_tokens = torch.zeros((), dtype=torch.float32, device="cpu"), 0

    def observed(rows: Tensor) -> Tensor:
        nonlocal total, n_tokens
        sums = rows.double().sum(0)
        total, n_tokens = total.to(sums) + sums, n_tokens + len(rows)
        return rows

    def spliced(rows: Tensor) -> Tensor:
        check_width(sae, rows.shape[1], layer)
        return reconstruct(rows)

    def constant(value: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda rows: value.expand_as(rows)

    placing = Placing(module, layer, skip_first)

    def by_input(loss: str, *replacements: Callable[[Tensor], Tensor]) -> np.ndarray:
        def change_by(of_rows: Callable[[Tensor], Tensor]) -> Change:
            def change(activations: Tensor, numbers: Tensor | None) -> Tensor:
                placed = placing(numbers, activations)
                counting = left_in(activations, placed, skip_first, max_norm)
                return with_rows(activations, counting, of_rows)

            return change

        changes = [change_by(of_rows) for of_rows in replacements]
        return _by_input(module, layer, inputs, batch_size, changes, loss)

    with evaluating(module, device):
        _check_causal(module, inputs)
        _look(module, layer, inputs, placing)
        (clean,) = by_input(CROSS_ENTROPY, observed)
        if not n_tokens:
            raise nothing_left("tokens", "loss_recovered")
        constants = {"mean": total / n_tokens, "zero": torch.zeros_like(total)}
        names = [*constants] if return_losses else [ablation]
        replaced = by_input(loss, spliced, *(constant(constants[n]) for n in names))
    if loss == KL_DIVERGENCE:
        clean[:, 0] = 0.0
    sums = dict(zip(["clean", "spliced", *names], [clean, *replaced], strict=True))
    worth = sums[ablation][:, 0] - sums["clean"][:, 0]
    if worth.sum() == 0:
        raise ValueError(
            f"Ablating layer={layer!r} does not change the loss, so there is no loss "
            "to recover."
        )
    gained = sums[ablation][:, 0] - sums["spliced"][:, 0]
    recovered = float(gained.sum() / worth.sum())
    if not return_losses:
        return recovered
    means = {name: float(np.divide(*of.sum(0))) for name, of in sums.items()}
    return recovered, Bunch(**means, standard_error=_standard_error(gained, worth))


def _standard_error(parts: np.ndarray, wholes: np.ndarray) -> float:
    """Of sum(parts) / sum(wholes), whose pairs are independent; both (n,).

    The ratio estimator's, to first order: Cochran, Sampling Techniques, section 2.11.
    """
    n = len(parts)
    if n == 1:
        return nan
    deviations = parts - parts.sum() / wholes.sum() * wholes
    variance = n / (n - 1) * np.square(deviations).sum()
    return float(variance**0.5 / abs(wholes.sum()))


def _by_input(
    model: nn.Module,
    layer: str,
    inputs: Inputs,
    batch_size: int,
    changes: list[Change],
    loss: str,
) -> np.ndarray:
    """Loss of next tokens with changed activations in a layer, and their number.

    (n_changes, n_inputs, 2), sums over the tokens of each input.
    """
    sums: list[list[tuple[float, int]]] = [[] for _ in changes]
    for batch in inputs.batches(model, batch_size):
        ids, counting = _ids(batch, model)
        numbers = _numbers(model, layer, batch)
        told = _told(counting, batch, encoder_of(model) is not None)
        targets = ids[:, 1:]
        if loss == KL_DIVERGENCE:
            targets = _logits(call(model, batch.arguments), ids, model)[:, :-1]
        for change, of_change in zip(changes, sums, strict=True):
            logits = _changed_logits(model, layer, batch, numbers, change, ids)
            # Input by input, because the logits of a batch already take much memory.
            for of_input, target, known in zip(logits, targets, told, strict=True):
                lost = LOSSES[loss](of_input[:-1][known].float(), target[known])
                of_change.append((float(lost), int(known.sum())))
    by_input = np.array(sums)
    if not by_input[..., 1].any():
        raise ValueError("tokens must hold a sequence of at least two tokens.")
    return by_input


def _changed_logits(
    model: nn.Module,
    layer: str,
    batch: Batch,
    numbers: Tensor | None,
    change: Change,
    ids: Tensor,
) -> Tensor:
    """Logits of a batch with changed activations in a layer."""
    with replacing_output(model, layer, lambda X: change(X, numbers)) as n_runs:
        output = call(model, batch.arguments)
    if not n_runs[0]:
        raise never_ran(layer)
    return _logits(output, ids, model)


def _look(model: nn.Module, layer: str, inputs: Inputs, placing: Placing) -> None:
    """Show one input, because a batch may have as many inputs as tokens."""
    batch = next(inputs.batches(model, 1))
    numbers = _numbers(model, layer, batch)

    def look(activations: Tensor) -> Tensor:
        placing(numbers, activations)
        return activations

    with replacing_output(model, layer, look):
        call(model, batch.arguments)


def _logits(output, ids: Tensor, model: nn.Module) -> Tensor:
    """Logits in the output of a model, (n_inputs, n_tokens, n_vocabulary)."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", 0)
    if (
        not isinstance(logits, Tensor)
        or logits.ndim != 3
        or logits.shape[:2] != ids.shape
        or logits.shape[2] <= ids.max()
    ):
        raise ValueError(
            f"model must be a causal language model that gives logits for each "
            f"token, but {type(model).__name__} does not."
        )
    return logits


def _check_causal(model: nn.Module, inputs: Inputs) -> None:
    """Refuse a model whose logits for the first tokens depend on later ones."""
    if any("quantized.dynamic" in type(m).__module__ for m in model.modules()):
        return  # those quantise activations by their range over all tokens
    batch = next(inputs.batches(model, 1))
    ids, counting = _ids(batch, model)
    # Outputs at padding may depend on anything.
    (tokens,) = counting[0].nonzero(as_tuple=True)
    early, late = tokens.tensor_split([len(tokens) // 2])
    if not len(early):
        return

    def logits() -> Tensor:
        return _logits(call(model, batch.arguments), ids, model)[0, early]

    before, own = logits(), ids.clone()
    # These ids are the batch's own. The later ones become, if possible, one that is
    # there, because others may mean padding.
    first, others = ids[0, early[0]], ids[0, late]
    ids[0, late] = torch.where(others != first, first, (first == 0).to(first))
    after = logits()
    # The order of sums, and so their rounding, may depend on all tokens.
    rounding = max(1e-4, 16 * torch.finfo(before.dtype).eps)
    change, size = (vector_norm(x, inf) for x in (after - before, before))
    if change <= rounding * size:
        return
    # Nor is it the tokens if the same ones give other logits, as in models with noise.
    # The first pass of SmolLM2 in a process once differed by 1e-4 from all later ones.
    ids.copy_(own)
    if change > 2 * vector_norm(logits() - before, inf):
        raise ValueError(
            f"model must be a causal language model, but in {type(model).__name__} the "
            "logits for a token depend on the tokens after it."
        )


def _told(counting: Tensor, batch: Batch, of_decoder: bool) -> Tensor:
    """Tokens whose successor is to be predicted, (n_inputs, n_tokens - 1), bool.

    They are those of the model's own loss: neither padding nor before a label -100 or
    the first token of the next packed text.
    """
    told = counting[:, 1:] & counting[:, :-1]
    given = batch.arguments if isinstance(batch.arguments, Mapping) else {}
    labels = given.get("labels")
    if labels is not None and labels.shape == counting.shape:
        # Those of a decoder are shifted already.
        told &= (labels[:, :-1] if of_decoder else labels[:, 1:]) != -100
    numbers = given.get("decoder_position_ids" if of_decoder else "position_ids")
    if numbers is not None and numbers.shape == counting.shape:
        told &= numbers[:, 1:] > numbers[:, :-1]
    return told


def _ids(batch: Batch, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Token ids of a batch, and which are not padding, (n_inputs, n_tokens)."""
    given, seen = batch.arguments, batch.inputs
    ids: Tensor | None
    if encoder_of(model) is not None:
        if isinstance(given, Tensor) or "decoder_input_ids" not in given:
            raise ValueError(
                f"{type(model).__name__} predicts tokens of its decoder: pass tokens "
                "as a mapping with 'decoder_input_ids'."
            )
        ids, seen = given["decoder_input_ids"], seen.of_decoder
    else:
        ids = given if isinstance(given, Tensor) else given.get("input_ids")
    if ids is None:
        raise ValueError("tokens must be token ids: there are no 'input_ids'.")
    if ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(
            f"tokens must be token ids, but {type(model).__name__} has no token "
            "embedding."
        )
    mask = batch.mask_of(seen)
    if mask is None:
        return ids, torch.ones_like(ids, dtype=torch.bool)
    return ids, torch.from_numpy(mask).to(ids.device)


def _numbers(model: nn.Module, layer: str, batch: Batch) -> Tensor | None:
    """Index of each token of a layer, from 1; 0 for padding.

    (n_inputs, n_tokens); None if the layer sees images or sounds, or is of an encoder
    without padding.
    """
    if sees_tokens(model, layer) is False and batch.n_tokens_of(batch.inputs):
        return None
    _, counting = _ids(batch, model)
    if encoder_of(model) is not None and not in_decoder(model, layer):
        if batch.mask is None:
            return None
        counting = torch.from_numpy(batch.mask).to(counting.device)
    return numbers_of(counting)


def _reconstruction(sae) -> Callable[[Tensor], Tensor]:
    """The function that reconstructs rows of activations."""
    if isinstance(sae, BaseSparseAutoencoder):
        check_is_fitted(sae)

        def by_coder(rows: Tensor) -> Tensor:
            rows = for_coder(rows)
            return coder_of(sae, rows).reconstruct(rows)

        return by_coder
    of_arrays = _reconstruction_of_arrays(sae)
    return lambda rows: torch.from_numpy(np.asarray(of_arrays(as_array(rows))))


def _reconstruction_of_arrays(sae) -> Callable[[np.ndarray], np.ndarray]:
    if hasattr(sae, "reconstruct"):
        return sae.reconstruct
    if hasattr(sae, "transform") and hasattr(sae, "inverse_transform"):
        return lambda X: sae.inverse_transform(sae.transform(X))
    if callable(sae):
        return sae
    raise TypeError(
        "sae must have reconstruct, or transform and inverse_transform, or be "
        f"callable, got {type(sae).__name__}."
    )
