"""The scikit-learn face: from inputs of a model to its activations."""

from __future__ import annotations

from copy import copy
from numbers import Integral, Real
from os import PathLike
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
from ._extraction import block_rows, prepared
from ._pooling import POOLINGS, bounded, check_left, code, pool_rows, row_norms
from ._sharing import NamedModel, SharedModule
from ._storage import RowFile

# Not copied by clone.
SHARED = ("model", "tokenizer")
# What a fit may give.
LEARNED = ("n_features_out_", "sae_", "median_norm_")

# Activations (n_positions, width), input after input, and how many each input has.
Taken = tuple[np.ndarray, np.ndarray]


class ActivationExtractor(
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Activations of one layer of a network, as rows of a matrix.

    Inputs go through the model in batches, in evaluation mode and no further than the
    layer; a hook takes down what the layer gives the first time it runs. The model is
    as before afterwards: hooks removed, each submodule in its own mode. Only with `sae`
    or `max_norm_ratio` something is learned from the inputs of :meth:`fit`.

    With `sae`, the activations are coded, position by position, before they are pooled,
    and the rows are codes.

    Read more in the :doc:`user guide </user_guide/activations>`.

    Parameters
    ----------
    model : torch.nn.Module, str or path-like
        The model, or the name or folder of a pretrained one, which transformers loads
        as the class that it was saved from. A module is shared by clones, not copied,
        and known to caches by its weights, settings and hooks. A folder is read again
        when its files change.

    layer : str or list of str
        Dotted name of a submodule, as in ``model.named_modules()``:
        "transformer.h.0.mlp". Of several, inputs go through the model once, and there
        is a list of rows, one for each; they take no `sae`.

    positions : {"last", "mean", "max", "all"} or int, default="last"
        Which positions (tokens of a text, places in an image) make the row of an input:
        the last one; one by number, from the end if negative; or the mean or the
        maximum over all. "all" gives a row for each position, input after input.
        Padding does not count, nor do the positions that `skip_first` and
        `max_norm_ratio` leave out.

    tokenizer : callable, default=None
        Makes token ids of texts, as transformers' tokenizers do:
        ``tokenizer(texts)["input_ids"]``. None means the one that was saved with a
        model that is given by name.

    sae : transformer, default=None
        Codes activations, such as :class:`~skmfr.MFRSparseAutoencoder`. A clone is
        fitted to all positions; ``sklearn.frozen.FrozenEstimator(sae)`` is used as it
        is. None gives activations.

    batch_size : int, default=32
        Inputs that go through the model at a time.

    max_length : int, default=None
        Sequences are cut to so many tokens, padding aside. None cuts none, and one that
        is longer than the model's context is an error.

    pad_token_id : int, default=None
        Id that fills short rows of an array of token ids, at either end. None means
        that there is no padding; sequences of different lengths need none. Each row
        gives what its text would alone: padding at the left is moved to the right.
        Where BOS has this id, it is kept at the start of rows that are padded at the
        right; in rows padded at the left, only an ``attention_mask`` in a mapping tells
        it from padding.

    skip_first : int, default=0
        So many first positions of each input, padding aside, are left out. Many
        language models keep huge activations on the first token, whatever it is. Of a
        layer that gives one vector for an input, nothing is left out.

    max_norm_ratio : float, default=None
        Positions are left out where the norm of the activations is above so many times
        `median_norm_`. None leaves out none.

    feature_axis : int, default=None
        Axis of the features in what the layer gives, the first being inputs; all others
        are positions. None means 1 if it has four, as in convolutions, otherwise the
        last.

    out : path-like or list of path-like, default=None
        ``.npy`` file that `transform` writes to, batch by batch, or one for each layer;
        it then returns the memory-mapped file. After a stop, the same call goes on
        where it was; when the file is whole, it reads it. Next to it lies
        ``NAME.json``, which says what it holds: a file that holds anything else is not
        overwritten.

    memory : str or joblib.Memory, default=None
        Where to cache activations, by model, layer and inputs. In a grid search, each
        fold then goes through the model once, `sae` may differ as it likes.

    device : str, default=None
        Where to run; the model is moved there for the time being. None means where a
        module is, and a GPU for a named model where there is one.

    verbose : int, default=0
        0 is silent, 1 shows a progress bar.

    Attributes
    ----------
    n_features_out_ : int, or list of int
        Width of the layer, or number of atoms of `sae`.

    sae_ : transformer
        The fitted `sae`.

    median_norm_ : float, or list of float
        Median norm of the activations of :meth:`fit`, at all positions but the first
        ones that are left out. Only if `max_norm_ratio` is given.

    See Also
    --------
    skmfr.activations.loss_recovered : What a reconstruction is worth to the model.

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
        "model": "no_validation",  # as_model does it
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

        With `max_norm_ratio`, it also takes the median of norms. Without either nothing
        is learned, only the first input goes through the model, and `transform` does
        not need it.

        Parameters
        ----------
        X : array-like, sequence or mapping
            Inputs, one or more of a kind: token ids, (n_inputs, n_tokens) or sequences
            of different lengths; texts; images (n_inputs, ...) or whatever batch the
            model takes; a mapping of such by argument of the model.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        TypeError
            If X holds something of another kind than the model takes.
        ValueError
            If the model has no such layer or it never runs; if X is empty, or has
            token ids out of the vocabulary, sequences longer than the context, or
            inputs without such a position or with none left.
        """
        self._fit(*prepared(self, X, fitting=True))
        return self

    def fit_transform(self, X, y=None):
        """Fit, and give the rows of the same inputs.

        They go through the model once where their activations at all positions are in
        memory anyway: with ``positions="all"``, `sae` or `memory`, but not with `out`.

        Parameters
        ----------
        X : array-like, sequence or mapping
            Inputs, as for :meth:`fit`.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        rows : ndarray of shape (n_inputs, width), or CSR array
            As :meth:`transform`.
        """
        extraction, inputs = prepared(self, X, fitting=True)
        in_memory = self.positions == "all" and self.out is None
        with unchanged_on_error(self):
            taken = self._fit(extraction, inputs, in_memory)
            if taken is None or self.out is not None:
                return self.transform(X)
            return self._rows(taken)

    def _fit(self, extraction, inputs, keep=False) -> list[Taken] | None:
        """Learn; the activations at all positions where they had to be in memory."""
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
        # A fit that fails leaves what there was; any other leaves nothing of it.
        for name in LEARNED:
            self.__dict__.pop(name, None)
        self.__dict__.update(learned)
        return taken

    def transform(self, X):
        """Activations of the layer, or codes of them.

        Parameters
        ----------
        X : array-like, sequence or mapping
            Inputs, as for :meth:`fit`.

        Returns
        -------
        rows : ndarray of shape (n_inputs, width), CSR array, or list of them
            One for each layer if these are a list. With ``positions="all"``
            (n_positions, width), padding left out. With `out` memory-mapped, read-only.
            Codes are as `sae` gives them. float32, or float64 if the model computes in
            it.

        Raises
        ------
        TypeError, ValueError
            As :meth:`fit`; if `out` is a file that holds something else.
        NotFittedError
            If there is something to learn, and it has not been fitted.
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
        # What the cache holds serves any SAE and any bound.
        extraction = extraction._replace(max_norms=(None,) * len(extraction.layers))
        return self._rows(self._taken(extraction, inputs, "all"))

    def _as_asked(self, of_layers: list):
        """What is of all layers, or of the one that was given alone."""
        return of_layers[0] if isinstance(self.layer, str) else of_layers

    def _rows(self, taken: list[Taken]):
        """What activations at all positions amount to."""
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
        """Of each layer."""
        n_layers = 1 if isinstance(self.layer, str) else len(self.layer)
        if self.max_norm_ratio is None:
            return (None,) * n_layers
        check_is_fitted(self, "median_norm_")
        medians = np.broadcast_to(self.median_norm_, n_layers).tolist()
        return tuple(self.max_norm_ratio * median for median in medians)

    def _taken(self, extraction, inputs, positions, sae=None) -> list[Taken]:
        """Activations and how many each input has, from the model or the cache."""
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
        """Where the rows of each layer go."""
        paths = [self.out] if isinstance(self.layer, str) else self.out
        if not isinstance(paths, list) or len(paths) != len(extraction.layers):
            raise ValueError(
                f"out must list {len(extraction.layers)} files, one for each layer, "
                f"got {self.out!r}."
            )
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
        """Hash of all that the rows of a layer depend on."""
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
        # What X may be, the model decides.
        tags.no_validation = True
        return tags


def _extracted(extraction, inputs, positions, fingerprint):
    """Rows, known to a cache by their fingerprint."""
    return extraction.rows(inputs, positions)
