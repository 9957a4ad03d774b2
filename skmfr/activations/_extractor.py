"""The scikit-learn transformer from the inputs of a model to its activations."""

from __future__ import annotations

from copy import copy
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import check_is_fitted, check_memory

from .._utils.checks import Device, Interval
from .._utils.documentation import DocumentationLinkMixin
from .._utils.fitted import unchanged_on_error
from .._utils.pickles import VersionedPickleMixin
from ._extraction import block_rows, prepared
from ._pooling import POOLINGS, bounded, check_left, code, pool_rows, row_norms
from ._sharing import NamedModel, SharedModule
from ._storage import RowFile

# Parameters that clone does not copy.
SHARED = ("model", "tokenizer")
# Attributes that a fit may set.
LEARNED = ("n_features_out_", "sae_", "median_norm_")

# Activations (n_positions, width), input by input, and the number of each input.
Taken = tuple[np.ndarray, np.ndarray]


class ActivationExtractor(
    VersionedPickleMixin,
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Activations of one layer of a network, as rows of a matrix.

    The model runs on batches of inputs, in evaluation mode, and stops after the layer.
    A hook records the output of the layer the first time that it runs. Afterwards the
    model is restored: hooks are removed, and each submodule has its own mode again.
    :meth:`fit` learns from the inputs only with `sae` or `max_norm_ratio`.

    With `sae`, the activations are coded position by position before they are pooled,
    and the rows are codes.

    Read more in the :doc:`user guide </user_guide/activations>`.

    Parameters
    ----------
    model : torch.nn.Module, str or path-like
        The model, or the name or folder of a pretrained one, which transformers loads
        with the class that it was saved from. Clones share a module instead of copying
        it. Caches identify a module by its weights, hooks, and all else that it stores,
        so keep objects that change when it runs, such as counters, outside. A folder is
        read again when its files change.

    layer : str or list of str
        Dotted name of a submodule, as in ``model.named_modules()``:
        "transformer.h.0.mlp". With a list of names, the model runs once for all of
        them, and the result is a list with the rows of each layer; `sae` is then not
        supported. Do not pass this list to an SAE, which would train on all of its
        parts: an SAE takes the rows of one layer.

    positions : {"last", "mean", "max", "all"} or int, default="last"
        Positions (tokens of a text, places in an image) that make the row of an input:
        the last one; one by index, counted from the end if negative; or the mean or
        maximum over all. "all" gives one row for each position, input by input. Padding
        does not count, and neither do positions that `skip_first` and `max_norm_ratio`
        leave out. A layer of attention heads has a position for each head of each
        token; "last" and integers are then not supported.

    tokenizer : callable, default=None
        Converts texts to token ids, as transformers tokenizers do:
        ``tokenizer(texts)["input_ids"]``. None means the tokenizer that was saved with
        a model given by name.

    sae : transformer, default=None
        Codes the activations, for example :class:`~skmfr.MFRSparseAutoencoder`. A clone
        is fitted to all positions; ``sklearn.frozen.FrozenEstimator(sae)`` is used
        unchanged. None returns activations.

    batch_size : int, default=32
        Number of inputs in each forward pass. Sequences of different lengths are padded
        to the longest of them, so sort texts by length to save computation.

    max_length : int, default=None
        Maximum number of tokens, without padding; longer sequences are cut. With None,
        nothing is cut, and a sequence longer than the model's context is an error.

    pad_token_id : int, default=None
        Id that fills short rows of an array of token ids, at either end. None means
        that there is no padding; sequences of different lengths need none. Each row
        gives the same result as its text alone, because padding at the left is moved to
        the right. If BOS has this id, it is kept at the start of rows that are padded
        at the right. In rows padded at the left, only an ``attention_mask`` in a
        mapping distinguishes it from padding.

    skip_first : int, default=0
        Number of first positions of each input, without padding, to leave out. Many
        language models have huge activations on the first token, whatever it is. For a
        layer that gives one vector per input, nothing is left out.

    max_norm_ratio : float, default=None
        Leave out positions where the norm of the activations exceeds this multiple of
        `median_norm_`. None leaves out no position.

    feature_axis : int, default=None
        Axis of the features in the output of the layer. The first axis is inputs; all
        others are positions. None means axis 1 for convolutions and for batch, group
        and instance norms; the last axis for linear layers, embeddings and layer norms
        over one axis; and for other layers axis 1 if there are four axes and the layer
        sees no tokens, and the last axis otherwise.

    out : path-like or list of path-like, default=None
        ``.npy`` file that `transform` writes to, batch by batch, or a list with one
        file for each layer. `transform` returns the memory-mapped file. After an
        interruption, the same call resumes; if the file is complete, the call reads it.
        ``NAME.json`` beside it describes the contents. A file with other contents is
        not overwritten.

    memory : str or joblib.Memory, default=None
        Where to cache activations, by model, layer and inputs. In a grid search, the
        model then runs once for each fold, even if `sae` varies.

    device : str, default=None
        Device to run on; the model is moved there temporarily. None means the current
        device of a module, and a GPU for a named model if there is one.

    verbose : int, default=0
        0 is silent, 1 shows a progress bar.

    Attributes
    ----------
    n_features_out_ : int, or list of int
        Width of the layer, or number of atoms of `sae`.

    sae_ : transformer
        The fitted `sae`.

    median_norm_ : float, or list of float
        Median norm of the activations of :meth:`fit`, at all positions except the
        skipped first ones. It exists only with `max_norm_ratio`.

    See Also
    --------
    skmfr.activations.loss_recovered : Value of a reconstruction to the model.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from skmfr.activations import ActivationExtractor
    >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.ReLU())
    >>> tokens = np.arange(12).reshape(3, 4)
    >>> ActivationExtractor(model, "1").fit_transform(tokens).shape
    (3, 16)
    >>> ActivationExtractor(model, "1", positions="all").fit_transform(tokens).shape
    (12, 16)
    """

    _parameter_constraints: dict = {
        "model": "no_validation",  # validated by as_model
        "layer": [str, list],
        "positions": [StrOptions(set(POOLINGS)), Integral],
        "tokenizer": [callable, None],
        "sae": [HasMethods(["fit", "transform"]), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "pad_token_id": [Interval(Integral, 0, None, closed="left"), None],
        "skip_first": [Interval(Integral, 0, None, closed="left")],
        "max_norm_ratio": [Interval(Real, 0, None, closed="neither"), None],
        "feature_axis": [Integral, None],
        "out": [str, PathLike, list, None],
        "memory": [str, HasMethods(["cache"]), None],
        "device": [Device(), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model,
        layer,
        *,
        positions="last",
        tokenizer=None,
        sae=None,
        batch_size=32,
        max_length=None,
        pad_token_id=None,
        skip_first=0,
        max_norm_ratio=None,
        feature_axis=None,
        out=None,
        memory=None,
        device=None,
        verbose=0,
    ):
        self.model = model
        self.layer = layer
        self.positions = positions
        self.tokenizer = tokenizer
        self.sae = sae
        self.batch_size = batch_size
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        self.skip_first = skip_first
        self.max_norm_ratio = max_norm_ratio
        self.feature_axis = feature_axis
        self.out = out
        self.memory = memory
        self.device = device
        self.verbose = verbose

    def fit(self, X, y=None):
        """Check the inputs and the layer, and fit the SAE if there is one.

        With `max_norm_ratio`, it also computes the median of norms. Without `sae` and
        `max_norm_ratio` it learns nothing and runs only the first input, and
        `transform` works without it.

        Parameters
        ----------
        X : array-like, sequence or mapping
            One or more inputs of one kind: token ids, (n_inputs, n_tokens) or sequences
            of different lengths; texts; images (n_inputs, ...) or any other batch that
            the model accepts; a mapping from argument names of the model to these.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        TypeError
            If X holds another kind of input than the model accepts.
        ValueError
            If the model has no such layer or the layer never runs; if X is empty, or
            has token ids outside the vocabulary, sequences longer than the context, or
            inputs without the requested position or with no position left.
        """
        self._fit(*prepared(self, X, fitting=True))
        return self

    def fit_transform(self, X, y=None):
        """Fit, and return the rows of the same inputs.

        The model runs only once if the activations at all positions are in memory
        anyway: with ``positions="all"``, `sae` or `memory`, but without `out`.

        Parameters
        ----------
        X : array-like, sequence or mapping
            Inputs, as for :meth:`fit`.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        rows : ndarray of shape (n_inputs, width), or CSR array
            Same as from :meth:`transform`.
        """
        extraction, inputs = prepared(self, X, fitting=True)
        in_memory = self.positions == "all" and self.out is None
        with unchanged_on_error(self):
            taken = self._fit(extraction, inputs, in_memory)
            if taken is None or self.out is not None:
                return self.transform(X)
            return self._rows(taken)

    def _fit(self, extraction, inputs, keep=False) -> list[Taken] | None:
        """Fit; return the activations at all positions if they had to be in memory."""
        first = extraction.first(inputs)
        for block in first:
            block_rows(block, self.positions, None)
        widths = [block.activations.shape[2] for block in first]
        learned: dict[str, Any] = {"n_features_out_": self._as_asked(widths)}
        taken: list[Taken] | None = None
        if self.sae is not None or (
            self.max_norm_ratio is not None and (keep or self.memory is not None)
        ):
            taken = self._taken(extraction, inputs, "all")
        if self.max_norm_ratio is not None:
            if taken is None:
                norms = extraction.norms(inputs)
            else:
                norms = [row_norms(rows) for rows, _ in taken]
            for of_layer in norms:
                check_left(np.array([len(of_layer)]), "all")
            medians = [float(np.median(of_layer)) for of_layer in norms]
            learned["median_norm_"] = self._as_asked(medians)
        if self.sae is not None and taken is not None:
            ((rows, lengths),) = taken
            if self.max_norm_ratio is not None:
                bound = self.max_norm_ratio * learned["median_norm_"]
                rows, lengths = bounded(rows, lengths, bound)
                check_left(lengths, "all")
            learned["sae_"] = clone(self.sae).fit(rows, None)
            learned["n_features_out_"] = learned["sae_"].transform(rows[:1]).shape[1]
        # A failing fit keeps the old attributes; any other fit removes all of them.
        for name in LEARNED:
            self.__dict__.pop(name, None)
        self.__dict__.update(learned)
        return taken

    def transform(self, X):
        """Extract activations of the layer, or codes of them.

        Parameters
        ----------
        X : array-like, sequence or mapping
            Inputs, as for :meth:`fit`.

        Returns
        -------
        rows : ndarray of shape (n_inputs, width), CSR array, or list of them
            One array for each layer if `layer` is a list. With ``positions="all"``,
            (n_positions, width), without padding. With `out`, memory-mapped and
            read-only. Codes have the form that `sae` returns. float32, or float64 if
            the model computes in float64.

        Raises
        ------
        TypeError, ValueError
            As for :meth:`fit`; if `out` is a file with other contents, or one that
            another process or thread is writing.
        NotFittedError
            If there is something to learn and the extractor is not fitted.
        """
        if self.sae is not None:
            check_is_fitted(self, "sae_")
        extraction, inputs = prepared(self, X)
        sae = None if self.sae is None else self.sae_
        if self.out is not None:
            files = self._files(extraction, inputs, sae)
            return self._as_asked(
                extraction.rows_in_files(inputs, self.positions, sae, files)
            )
        if self.memory is None or (sae is None and self.max_norm_ratio is None):
            taken = self._taken(extraction, inputs, self.positions, sae)
            return self._as_asked([rows for rows, _ in taken])
        # The cached activations serve any SAE and any bound.
        extraction = extraction._replace(max_norms=(None,) * len(extraction.layers))
        return self._rows(self._taken(extraction, inputs, "all"))

    def _as_asked(self, of_layers: list):
        """A list with one entry per layer, or the entry of the only layer."""
        return of_layers[0] if isinstance(self.layer, str) else of_layers

    def _rows(self, taken: list[Taken]):
        """Convert activations at all positions to rows."""
        return self._as_asked(
            [
                self._rows_of_layer(*of_layer, max_norm)
                for of_layer, max_norm in zip(taken, self._max_norms(), strict=True)
            ]
        )

    def _rows_of_layer(self, rows, lengths, max_norm):
        if max_norm is not None:
            rows, lengths = bounded(rows, lengths, max_norm)
        check_left(lengths, self.positions)
        if self.sae is None:
            return pool_rows(rows, lengths, self.positions)
        return code(rows, lengths, self.positions, self.sae_)

    def _max_norms(self) -> tuple[float | None, ...]:
        """Largest norm for each layer."""
        n_layers = 1 if isinstance(self.layer, str) else len(self.layer)
        if self.max_norm_ratio is None:
            return (None,) * n_layers
        check_is_fitted(self, "median_norm_")
        medians = np.broadcast_to(self.median_norm_, n_layers).tolist()
        return tuple(self.max_norm_ratio * median for median in medians)

    def _taken(self, extraction, inputs, positions, sae=None) -> list[Taken]:
        """Activations and the number of each input, from the model or the cache."""
        if self.memory is None:
            return extraction.rows(inputs, positions, sae)
        cached = check_memory(self.memory).cache(
            _extracted, ignore=["extraction", "inputs", "positions"]
        )
        fingerprint = joblib.hash(
            [
                self._fingerprint(extraction, inputs, positions, layer, max_norm)
                for layer, max_norm in zip(
                    extraction.layers, extraction.max_norms, strict=True
                )
            ]
        )
        return cached(extraction, inputs, positions, fingerprint)

    def _files(self, extraction, inputs, sae) -> list[RowFile]:
        """Files for the rows of each layer."""
        paths = [self.out] if isinstance(self.layer, str) else self.out
        if not isinstance(paths, list) or len(paths) != len(extraction.layers):
            raise ValueError(
                f"out must list {len(extraction.layers)} files, one for each layer, "
                f"got {self.out!r}."
            )
        if len({fspath(path) for path in paths}) < len(paths):
            raise ValueError(f"out must list each file once, got {self.out!r}.")
        return [
            RowFile(
                path,
                self._fingerprint(
                    extraction, inputs, self.positions, layer, max_norm, sae
                ),
            )
            for path, layer, max_norm in zip(
                paths, extraction.layers, extraction.max_norms, strict=True
            )
        ]

    def _fingerprint(
        self, extraction, inputs, positions, layer, max_norm, sae=None
    ) -> str:
        """Hash of everything that determines the rows of a layer."""
        model = SharedModule(extraction.model)
        content = (model, layer, positions, self.feature_axis, sae)
        left_out = (extraction.skip_first, max_norm)
        return joblib.hash((content, left_out, inputs.content()))

    @property
    def _n_features_out(self) -> int:
        if isinstance(self.n_features_out_, list):
            raise ValueError(
                "Feature names need a single array, but several layers give several."
            )
        return self.n_features_out_

    def __sklearn_clone__(self):
        copied = type(self)(
            **{
                name: value if name in SHARED else clone(value, safe=False)
                for name, value in self.get_params(deep=False).items()
            }
        )
        for name in ("_metadata_request", "_sklearn_output_config", "_skl_callbacks"):
            if name in vars(self):
                setattr(copied, name, copy(getattr(self, name)))
        return copied

    def __getstate__(self):
        state = dict(super().__getstate__())
        if isinstance(self.model, torch.nn.Module):
            state["model"] = SharedModule(self.model)
        elif isinstance(self.model, (str, PathLike)):
            state["model"] = NamedModel(self.model)
        return state

    def __setstate__(self, state):
        model = state["model"]
        if isinstance(model, SharedModule):
            state = state | {"model": model.module}
        elif isinstance(model, NamedModel):
            state = state | {"model": model.name}
        super().__setstate__(state)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.requires_fit = self.sae is not None or self.max_norm_ratio is not None
        # The model decides what X may be.
        tags.no_validation = True
        return tags


def _extracted(extraction, inputs, positions, fingerprint):
    """Rows, which a cache identifies by their fingerprint."""
    return extraction.rows(inputs, positions)
