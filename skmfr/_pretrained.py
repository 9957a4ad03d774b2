"""Sparse autoencoders that others have trained."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from ._base import BaseSparseAutoencoder
from ._data.checked import checked
from ._training.attributes import set_fitted
from ._utils.checks import Device, Interval
from ._utils.fitted import unchanged_on_error


class PretrainedSAE(BaseSparseAutoencoder):
    """Sparse autoencoder of another package, of whatever kind.

    :mod:`skmfr.io` makes them of files: with ReLU, JumpReLU and gated activations, and
    with TopK where :class:`MFRSparseAutoencoder` is not the same. Codes and
    reconstructions are those of the package that wrote the files. There is nothing to
    learn: `fit` only looks at the data, so that it serves in pipelines, and a clone has
    the same weights, in the same memory.

    A sample x has scores ``s = (x - b) E^T + c`` and is coded as those of them that are
    above `threshold_` (or, without thresholds, as the k largest positive ones),
    and all else 0; it is reconstructed as ``z D + b``.

    Read more in the user guide: :doc:`SAEs of others </user_guide/others>`.

    Parameters
    ----------
    k : int, default=None
        Number of active atoms per sample, at most; clipped to the number of atoms. None
        takes all that are above their thresholds; TopK and matching pursuit need a
        number.

    transform_algorithm : {"encoder", "lstsq", "omp"}, default="encoder"
        How samples are coded, as in :class:`MFRSparseAutoencoder`.

    positive_code : bool, default=False
        Whether codes by "lstsq" and "omp" are not negative.

    sparse_output : bool, default=False
        Whether `transform` returns a SciPy CSR array.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", ...; "auto" means a CUDA GPU where
        there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms, as long as they are in the files.

    dictionaries_ : ndarray of shape (1, n_components, n_features)
        The same, of unit norm, made when it is read.

    encoder_weights_ : ndarray of shape (n_components, n_features)
        E.

    encoder_bias_ : ndarray of shape (n_components,)
        c.

    decoder_bias_ : ndarray of shape (n_features,)
        b.

    threshold_ : ndarray of shape (n_components,) or None
        What scores must be above, 0 for ReLU. A gated SAE has the thresholds that give
        the same codes. None means TopK.

    feature_agreement_ : ndarray of shape (n_components,)
        NaN, unless the files tell. :func:`skmfr.agreement.compare` measures it.

    trusted_ : ndarray of shape (n_components,), bool
        False, unless the files tell.

    agreement_null_ : float
        What random dictionaries of this size give.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    skmfr.io.from_sae_lens : Makes one.
    skmfr.io.from_dictionary_learning : Makes one.
    skmfr.io.save : Writes one.

    Notes
    -----
    It has the other attributes of an :class:`MFRSparseAutoencoder` of one SAE without
    witness, too, which say that nothing is known.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skmfr.io import from_sae_lens
    >>> weights = {
    ...     "W_enc": np.eye(3, dtype=np.float32),
    ...     "b_enc": np.zeros(3, dtype=np.float32),
    ...     "W_dec": np.eye(3, dtype=np.float32),
    ...     "b_dec": np.zeros(3, dtype=np.float32),
    ...     "threshold": np.full(3, 0.5, dtype=np.float32),
    ... }
    >>> config = {"architecture": "jumprelu", "d_in": 3, "d_sae": 3}
    >>> from safetensors.numpy import save_file
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "cfg.json").write_text(json.dumps(config))
    ...     save_file(weights, Path(folder, "sae_weights.safetensors"))
    ...     sae = from_sae_lens(folder)
    >>> sae
    PretrainedSAE()
    >>> sae.transform([[2.0, 0.25, -1.0]])
    array([[2., 0., 0.]])
    """

    _parameter_constraints: dict = {
        "k": [Interval(Integral, 1, None, closed="left"), None],
        "transform_algorithm": [StrOptions({"encoder", "lstsq", "omp"})],
        "positive_code": ["boolean"],
        "sparse_output": ["boolean"],
        "device": [Device()],
    }

    def __init__(
        self,
        k=None,
        *,
        transform_algorithm="encoder",
        positive_code=False,
        sparse_output=False,
        device="auto",
    ):
        self.k = k
        self.transform_algorithm = transform_algorithm
        self.positive_code = positive_code
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X, y=None):
        """Check data; there is nothing to learn.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that :class:`MFRSparseAutoencoder` takes. Names of
            features are kept.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If X is not numeric, finite and as wide as the atoms, or a parameter is not
            as described.
        NotFittedError
            If there are no weights, as :mod:`skmfr.io` has not made it.
        """
        check_is_fitted(
            self,
            msg="This %(name)s has no weights: the functions of skmfr.io make one of "
            "files.",
        )
        self._validate_params()
        with unchanged_on_error(self):
            n_features = self.n_features_in_
            width = checked(self, X, reset=True).shape[1]
            if width != n_features:
                raise ValueError(
                    f"X has {width} features, but {type(self).__name__} is expecting "
                    f"{n_features} features as input."
                )
        return self

    @property
    def dictionaries_(self):
        """Give the atoms unit norm, as ours have.

        Returns
        -------
        dictionaries : ndarray of shape (1, n_components, n_features)
            Atoms of the one SAE.
        """
        norms = np.linalg.norm(self.components_, axis=1, keepdims=True)
        return (self.components_ / np.where(norms > 0, norms, 1))[None]

    def __sklearn_clone__(self):
        clone = super().__sklearn_clone__()
        shared = {name: value for name, value in vars(self).items() if name[-1] == "_"}
        shared.pop("feature_names_in_", None)
        vars(clone).update(shared)
        return clone

    def __setstate__(self, state):
        super().__setstate__(state)
        # Arrays come out of a pickle so that they can be written to.
        set_fitted(self, state)

    def __sklearn_is_fitted__(self) -> bool:
        return "components_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = not self.__sklearn_is_fitted__()
        return tags
