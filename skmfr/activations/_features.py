"""Interpret atoms: their contexts, their effects on logits, their matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from numbers import Integral
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.utils._param_validation import validate_params
from torch import Tensor, nn

from .._sae.cosines import nearest_elsewhere
from .._sae.top import TopCodes
from .._utils.ambient import undisturbed
from .._utils.checks import Interval
from .._utils.extras import needed_by
from .._utils.tokens import REPLACEMENT, token_text
from ._extraction import block_rows, prepared
from ._extractor import ActivationExtractor
from ._loading import as_model
from ._models import check_width, evaluating, model_device, model_dtype, untuned
from ._pooling import nothing_left

if TYPE_CHECKING:
    import pandas as pd

# Numbers in a block of logits; 64 MB in float32.
LOGITS_AT_ONCE = 1 << 24
# Names under which transformers stores the norm before the decoder head.
FINAL_NORMS = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "final_norm",
    "norm_f",
    "ln_out",
    "layer_norm",
    "layernorm",
    "embedding_norm",
    "out_norm",
    "output_layernorm",
)
# Names under which it stores the part with this norm, from the outside in. The base of
# some models is the model itself: the prefix of Llama 4 is that with images in front.
BODIES = ("base_model", "language_model", "text_model", "decoder", "model", "encoder")
# Name of OPT for what follows the norm where embeddings are narrower than the rest.
PROJECTIONS = ("project_out",)


class Contexts(NamedTuple):
    """Contexts in which each atom is most active, from :func:`top_contexts`.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.activations import Contexts
    >>> contexts = Contexts(
    ...     codes=np.array([[2.5, 1.0]]),
    ...     inputs=np.array([[7, 4]]),
    ...     positions=np.array([[3, 0]]),
    ...     tokens=None,
    ...     before=0,
    ...     density=np.array([0.1]),
    ... )
    >>> contexts.to_frame()
       atom  rank  code  input  position
    0     0     0   2.5      7         3
    1     0     1   1.0      4         0
    """

    codes: np.ndarray
    """(n_components, n_contexts), in descending order; 0 if there is no context"""
    inputs: np.ndarray
    """(n_components, n_contexts), index of the input; -1 if there is no context"""
    positions: np.ndarray
    """(n_components, n_contexts), position in the input, without padding"""
    tokens: np.ndarray | None
    """(n_components, n_contexts, before + 1 + after), token ids around the position,
    -1 outside the input; None if inputs are not token ids"""
    before: int
    """index of the position in `tokens`"""
    density: np.ndarray
    """(n_components,), share of the positions at which the atom is active, without the
    positions that the extractor leaves out"""

    def to_frame(self, tokenizer=None) -> pd.DataFrame:
        """One row for each atom and context.

        Parameters
        ----------
        tokenizer : transformers tokenizer, optional
            Converts tokens to text, with the active token between « and ». A token that
            ends in the middle of a character is shown by its bytes, as ``<0xF0>``.

        Returns
        -------
        DataFrame
            Columns "atom", "rank", "code", "input", "position"; also "text", if there
            is a tokenizer and inputs are token ids.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        with needed_by("Contexts.to_frame", "activations"):
            import pandas as pd

        atom, rank = np.nonzero(self.inputs >= 0)
        frame: dict[str, Any] = {
            "atom": atom,
            "rank": rank,
            "code": self.codes[atom, rank],
            "input": self.inputs[atom, rank],
            "position": self.positions[atom, rank],
        }
        if tokenizer is not None and self.tokens is not None:
            windows = self.tokens[atom, rank]
            frame["text"] = [self._text(window, tokenizer) for window in windows]
        return pd.DataFrame(frame)

    def _text(self, window: np.ndarray, tokenizer) -> str:
        return "{}«{}»{}".format(*self._parts(window, tokenizer))

    def _parts(self, window: np.ndarray, tokenizer) -> tuple[str, str, str]:
        """Text of a window before the position, at it and after it."""
        inside = window >= 0
        ids, n_before = window[inside].tolist(), inside[: self.before].sum()
        # Decoding the parts separately would lose spaces and characters they share.
        before, until, whole = (
            tokenizer.decode(ids[:n]) for n in (n_before, n_before + 1, len(ids))
        )
        begin = len(commonprefix([before, until]))
        end = max(begin, len(commonprefix([until, whole])))
        at = whole[begin:end]
        # A token that ends in the middle of a character may add only what comes before
        # it, as a space, or nothing.
        if not at or until.endswith(REPLACEMENT):
            at = token_text(tokenizer, ids[n_before])
        return whole[:begin], at, whole[end:]


class LogitEffects(NamedTuple):
    """Tokens that atoms make more and less likely, from :func:`logit_effects`.

    Examples
    --------
    >>> import numpy as np
    >>> from skmfr.activations import LogitEffects
    >>> effects = LogitEffects(
    ...     promoted=np.array([[11, 5]]),
    ...     promoted_logits=np.array([[0.9, 0.4]]),
    ...     suppressed=np.array([[8, 2]]),
    ...     suppressed_logits=np.array([[-0.7, -0.1]]),
    ... )
    >>> int(effects.promoted[0, 0])
    11
    """

    promoted: np.ndarray
    """(n_components, n_tokens), ids of the largest effects, in descending order"""
    promoted_logits: np.ndarray
    """(n_components, n_tokens)"""
    suppressed: np.ndarray
    """(n_components, n_tokens), ids of the smallest effects, in ascending order"""
    suppressed_logits: np.ndarray
    """(n_components, n_tokens)"""


@validate_params(
    {
        "extractor": [ActivationExtractor],
        "n_contexts": [Interval(Integral, 1, None, closed="left")],
        "before": [Interval(Integral, 0, None, closed="left")],
        "after": [Interval(Integral, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def top_contexts(sae, extractor, X, *, n_contexts=10, before=8, after=4) -> Contexts:
    """Find where each atom is most active, in one pass over the inputs.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted to activations of the extractor's layer.
    extractor : ActivationExtractor
        Extracts the activations at all positions, whatever its `positions`, except for
        those that its `skip_first` and `max_norm_ratio` leave out.
    X : array-like, sequence or mapping
        Inputs, as for :meth:`ActivationExtractor.transform`.
    n_contexts : int, default=10
        Maximum number of contexts per atom, all from different inputs.
    before, after : int, default=8 and 4
        Tokens to show before and after the position.

    Returns
    -------
    Contexts
        Arrays `codes`, `inputs`, `positions`, each of shape (n_components,
        n_contexts), `tokens` and `density`; ``to_frame(tokenizer)`` makes a DataFrame.

    Raises
    ------
    ValueError
        If the width of the layer differs from that of `sae`, or as for
        :meth:`ActivationExtractor.transform`.
    NotFittedError
        If the extractor has a `max_norm_ratio` and is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.activations import ActivationExtractor, top_contexts
    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16))
    >>> tokens = np.random.default_rng(0).integers(50, size=(20, 6))
    >>> extractor = ActivationExtractor(model, "1", positions="all")
    >>> activations = extractor.fit_transform(tokens)
    >>> sae = MFRSparseAutoencoder(32, k=2, max_steps=50, random_state=0)
    >>> contexts = top_contexts(sae.fit(activations), extractor, tokens)
    >>> contexts.inputs.shape, contexts.tokens.shape
    ((32, 10), (32, 10, 13))
    """
    if not isinstance(extractor.layer, str):
        raise ValueError(f"extractor must have one layer, got {extractor.layer!r}.")
    extraction, inputs = prepared(extractor, X)
    extraction = extraction._replace(positions="all")
    best, n_tokens = None, 0
    with extraction.blocks(inputs) as blocks:
        for (block,) in blocks:
            n_tokens += block.n_tokens
            rows = block_rows(block, "all", None)
            if rows is None:
                continue
            check_width(sae, rows.shape[1], extractor.layer)
            codes = sparse.csr_array(sae.transform(rows))
            best = best or TopCodes(codes.shape[1], n_contexts)
            best.add(codes, block.start, block.lengths, block.places)
    if best is None:
        raise nothing_left("all inputs", "top_contexts")
    stream = inputs.seen_by(extraction.model, extractor.layer).token_stream()
    tokens = None
    # The positions of a layer need not be tokens.
    if stream is not None and n_tokens == len(stream.ids):
        tokens = stream.windows(best.inputs, best.positions, before, after)
    density = best.n_active / best.n_positions
    return Contexts(best.codes, best.inputs, best.positions, tokens, before, density)


@validate_params(
    {"n_tokens": [Interval(Integral, 1, None, closed="left")]},
    prefer_skip_nested_validation=True,
)
def logit_effects(sae, model, *, n_tokens=10) -> LogitEffects:
    """Compute which tokens each atom alone makes more and less likely.

    The effect of an atom is its product with the rows of the decoder head, after the
    scale of the norm before the head, if there is one. It is the change of the logits
    when the atom is added to the residual stream, without the effects of later layers
    and of the norm's division.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted to activations of a layer that writes to the residual stream.
    model : PreTrainedModel, str or path-like
        Language model of transformers, or its name or folder.
    n_tokens : int, default=10
        Tokens per atom, clipped to the vocabulary.

    Returns
    -------
    LogitEffects
        Arrays `promoted`, `promoted_logits`, `suppressed`, `suppressed_logits`, each of
        shape (n_components, n_tokens).

    Raises
    ------
    ValueError
        If the model has no decoder head, or its width differs from that of `sae`.

    References
    ----------
    nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.activations import ActivationExtractor, logit_effects
    >>> config = GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    >>> model = GPT2LMHeadModel(config)
    >>> tokens = [[1, 5, 2, 7, 3], [4, 8, 1]]
    >>> extractor = ActivationExtractor(model, "transformer.h.0.mlp", positions="all")
    >>> sae = MFRSparseAutoencoder(16, k=2, max_steps=5, n_saes=1, n_witnesses=0)
    >>> effects = logit_effects(sae.fit(extractor.fit_transform(tokens)), model)
    >>> effects.promoted.shape
    (16, 10)
    """
    module, _ = as_model(model)
    head: Any = getattr(module, "get_output_embeddings", lambda: None)()
    base: Any = untuned(head)
    weight = getattr(base, "weight", None)
    if weight is None:
        raise ValueError(
            f"model must be a transformers language model with an output embedding, "
            f"but {type(module).__name__} has none."
        )
    projection: Any = _last_part(module, PROJECTIONS)
    first = projection or base
    width = first.in_features if hasattr(first, "in_features") else weight.shape[1]
    if width != sae.n_features_in_:
        raise ValueError(
            f"sae has {sae.n_features_in_} features, but the output embedding takes "
            f"{width}: logit effects exist only for layers that write to the residual "
            "stream."
        )
    device = model_device(head)
    atoms = torch.tensor(sae.components_, dtype=torch.float32, device=device)
    atoms = _through_norm(atoms, module)
    parts = []
    with undisturbed(), evaluating(head):
        unembed = _unembedding(head, projection)
        # The bias does not come from an atom.
        of_zero = unembed(torch.zeros_like(atoms[:1]))
        n_vocabulary = of_zero.shape[1]
        n_tokens = min(n_tokens, n_vocabulary)
        for block in atoms.split(max(1, LOGITS_AT_ONCE // n_vocabulary)):
            logits = unembed(block) - of_zero
            largest, smallest = (
                logits.topk(n_tokens, largest=largest) for largest in (True, False)
            )
            parts.append((largest.indices, largest.values, *reversed(smallest)))
    return LogitEffects(*(torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True)))


def _unembedding(
    head: nn.Module, projection: nn.Module | None
) -> Callable[[Tensor], Tensor]:
    """The function of a decoder head, from rows (n_rows, width) to logits in float32.

    The head is run, because its weight may be quantised or elsewhere, and may not be
    all: PEFT adds to what it gives. A projection before it is part of the function.
    """
    if projection is not None:
        project, unembed = (_unembedding(each, None) for each in (projection, head))
        return lambda rows: unembed(project(rows))
    base = untuned(head)
    if isinstance(base, nn.Embedding):  # of a model that applies it by itself
        unembedding = base.weight.detach().float()
        return lambda rows: rows @ unembedding.T
    linear = _in_float32(head)
    dtype = model_dtype(linear)
    return lambda rows: linear(rows.to(dtype)).float()


def _in_float32(module: nn.Module) -> nn.Module:
    """A copy in float32, unless it is so, or weights are quantised or not loaded.

    Outputs in half precision would be too coarse to subtract.
    """
    weights = list(module.parameters())
    if any(w.is_meta or not w.is_floating_point() for w in weights):
        return module
    if all(w.dtype == torch.float32 for w in weights):
        return module
    return deepcopy(module).float()


def _through_norm(atoms: Tensor, model: nn.Module) -> Tensor:
    """Centre and scale atoms as the last norm does, without its division and bias.

    Norms are told by what they do, because names of classes do not say whether they
    centre, or whether they scale by one plus their weight.
    """
    norm = _last_part(model, FINAL_NORMS)
    if norm is None:
        return atoms
    norm = _in_float32(norm)
    dtype = model_dtype(norm)
    level = torch.ones(atoms.shape[1], device=model_device(norm))
    alternating = 64 * level  # much larger than the norm's epsilon
    alternating[1::2] *= -1
    alternating -= alternating.mean()
    with torch.no_grad():
        of_level, of_alternating = (
            # Their bias cancels.
            (norm(probe) - norm(-probe)).flatten().float() / 2
            for probe in (x[None, None].to(dtype) for x in (level, alternating))
        )
    scale = of_alternating / alternating * alternating.square().mean().sqrt()
    if of_level.norm() < 1e-2 * of_alternating.norm():
        atoms = atoms - atoms.mean(1, keepdim=True)
    return atoms * scale.to(atoms)


def _last_part(model: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The part before the decoder head that has one of these names; None if none."""
    parts = (getattr(model, name, None) for name in names)
    part = next((part for part in parts if isinstance(part, nn.Module)), None)
    if part is not None:
        return part
    bodies = (getattr(model, name, None) for name in BODIES)
    for body in bodies:
        if isinstance(body, nn.Module) and body is not model:
            return _last_part(body, names)
    return None


def feature_table(sae, *, contexts=None, effects=None, tokenizer=None) -> pd.DataFrame:
    """Collect what is known about each atom in one row per atom.

    Parameters
    ----------
    sae : MFRSparseAutoencoder or PretrainedSAE
        Fitted SAE.
    contexts : Contexts, optional
        From :func:`top_contexts`.
    effects : LogitEffects, optional
        From :func:`logit_effects`.
    tokenizer : transformers tokenizer, optional
        Converts tokens to text. Without it, effects are token ids, and there is no top
        context.

    Returns
    -------
    DataFrame
        Index "atom"; columns "agreement" and "trusted". For each other SAE, "sae 1" is
        its nearest atom and "sae 1 cosine" their cosine, and "witness 0" and "witness 0
        cosine" are the same for each witness. From contexts: "density", "largest code",
        "top input" (-1 if the atom was never active) and, for token ids, "top context".
        From effects: "promoted" and "suppressed".

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If `contexts` or `effects` have another number of atoms.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> from skmfr.activations import feature_table
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(32, n_saes=2, max_steps=50, random_state=0).fit(X)
    >>> feature_table(sae).columns[:2].tolist()
    ['agreement', 'trusted']
    """
    with needed_by("feature_table", "activations"):
        import pandas as pd

    columns: dict[str, Any] = {
        "agreement": sae.feature_agreement_,
        "trusted": sae.trusted_,
    }
    for name, (cosine, index) in nearest_elsewhere(
        sae.reference_sae_, sae.dictionaries_, sae.witness_dictionaries_
    ).items():
        name = name.lower()
        columns |= {name: index, f"{name} cosine": cosine}
    table = pd.DataFrame(columns)
    table.index.name = "atom"
    if contexts is not None:
        table["density"] = contexts.density
        table["largest code"] = contexts.codes[:, 0]
        table["top input"] = contexts.inputs[:, 0]
        frame = contexts._replace(
            **{
                name: getattr(contexts, name)[:, :1]
                for name in ("codes", "inputs", "positions")
            }
        ).to_frame(tokenizer)
        if "text" in frame:
            table["top context"] = frame.set_index("atom")["text"]
    if effects is not None:
        for name in ("promoted", "suppressed"):
            ids = getattr(effects, name)
            table[name] = [
                row if tokenizer is None else tokenizer.convert_ids_to_tokens(row)
                for row in ids.tolist()
            ]
    return table
