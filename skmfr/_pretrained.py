"""Sparse autoencoders trained by other packages."""

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
    """Sparse autoencoder that another package trained.

    The functions of :mod:`skmfr.io` make it from files. It covers ReLU, JumpReLU and
    gated activations, and those forms of TopK that differ from
    :class:`MFRSparseAutoencoder`. Codes and reconstructions equal those of the package
    that wrote the files. `fit` learns nothing; it only checks the data, so that the SAE
    works in pipelines. A clone shares the weights in memory.

    A sample x has scores ``s = (x - b) E^T + c``. Its codes z are the scores above
    `threshold_` (without thresholds, the k largest positive scores), and 0 elsewhere.
    Its reconstruction is ``z D + b``.

    Read more in the user guide: :doc:`SAEs of others </user_guide/others>`.

    Parameters
    ----------
    k : int, default=None
        Maximum number of active atoms per sample; clipped to the number of atoms. None
        keeps all scores above their thresholds. TopK and matching pursuit need a
        number.

    transform_algorithm : {"encoder", "lstsq", "omp"}, default="encoder"
        How samples are coded, as in :class:`MFRSparseAutoencoder`.

    positive_code : bool, default=False
        Whether "lstsq" and "omp" return non-negative codes.

    sparse_output : bool, default=False
        Whether `transform` returns a SciPy CSR array.

    device : str or torch.device, default="auto"
        Device to compute on: "cpu", "cuda", "cuda:1", ... "auto" selects a CUDA GPU if
        there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms, with the norms that they have in the files.

    dictionaries_ : ndarray of shape (1, n_components, n_features)
        The same atoms with unit norm, computed when it is read.

    encoder_weights_ : ndarray of shape (n_components, n_features)
        E.

    encoder_bias_ : ndarray of shape (n_components,)
        c.

    decoder_bias_ : ndarray of shape (n_features,)
        b.

    threshold_ : ndarray of shape (n_components,) or None
        Thresholds that active scores exceed, 0 for ReLU. A gated SAE has the thresholds
        that give the same codes. None means TopK.

    feature_agreement_ : ndarray of shape (n_components,)
        NaN, unless the files contain it. :func:`skmfr.agreement.compare` measures it.

    trusted_ : ndarray of shape (n_components,), bool
        False, unless the files contain it.

    agreement_null_ : float
        Agreement of random dictionaries of this size.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    skmfr.io.from_sae_lens : Makes one from files of SAELens.
    skmfr.io.from_dictionary_learning : Makes one from files of dictionary_learning.
    skmfr.io.save : Writes one.

    Notes
    -----
    It also has the other attributes of an :class:`MFRSparseAutoencoder` with one SAE
    and no witness. Their values mean that nothing is known.

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
        """Check the data, without learning anything.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that :class:`MFRSparseAutoencoder` accepts. Feature names
            are stored.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If X is not numeric, not finite, or not as wide as the atoms, or if a
            parameter is not as described.
        NotFittedError
            If there are no weights, because no function of :mod:`skmfr.io` made it.
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
        """Scale the atoms to unit norm, as in SAEs trained here.

        Returns
        -------
        dictionaries : ndarray of shape (1, n_components, n_features)
            Atoms of the only SAE.
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
        # Pickle loses the read-only flag of arrays.
        set_fitted(self, dict(vars(self)))

    def __sklearn_is_fitted__(self) -> bool:
        return "components_" in vars(self)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = not self.__sklearn_is_fitted__()
        return tags
