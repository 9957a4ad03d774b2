"""The scikit-learn estimator: parameters, validation, fitted attributes."""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions

from ._base import BaseSparseAutoencoder
from ._data.checked import checked
from ._training import attributes as fitted
from ._training.attributes import Late, set_fitted
from ._utils.checks import Device, Interval, in_python, validate_parameters
from ._utils.fitted import unchanged_on_error

if TYPE_CHECKING:
    from ._training.fit import Fit

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Replaces the class that older versions of scikit-learn lack."""


class MFRSparseAutoencoder(CallbackSupportMixin, BaseSparseAutoencoder):
    """Sparse autoencoders with mutual feature regularization (MFR).

    Several sparse autoencoders (SAEs) train on the same batches, and each learns an
    overcomplete dictionary.  A penalty attracts matched atoms of their dictionaries to
    each other, so that the SAEs learn features of the data rather than accidents of one
    run.  Witness SAEs train without the penalty.  They show, for each atom, how much to
    trust the result (`feature_agreement_`).

    SAE i codes a sample as ``z = TopK(ReLU((x - b_i) E_i^T + c_i), k)`` and
    reconstructs it as ``z D_i + b_i``, with atoms (rows of ``D_i``) of unit norm.  With
    ``activation="batchtopk"``, a threshold takes the place of TopK.  Training minimises
    ``sum_i FVU_i + alpha * mean_{i<j} (1 - C(D_i, D_j))``.  FVU is the fraction of
    variance unexplained.  C is the mean cosine of matched atoms, in which atoms that
    are not alike count as unmatched.  Dead atoms, which no sample activates, have a
    separate loss: they code the residual of the other atoms (AuxK of Gao et al., 2024).

    Read more in the user guide: :doc:`how much to trust an atom
    </user_guide/agreement>`, :doc:`why each default is what it is
    </user_guide/defaults>`.

    The parameters come in four groups: the model (`n_components` to `sparse_output`),
    training (`max_iter` to `warm_start`), trust (`n_saes` to `witness_rows`), and
    running (`device` to `random_state`).

    Parameters
    ----------
    n_components : int, default=None
        Number of atoms. None means ``min(4 * n_features_in_, 4096)``.

    k : int, default=8
        Maximum number of active atoms per sample; clipped to `n_components`. With
        ``activation="batchtopk"``, the mean number in the training data.

    activation : {"topk", "batchtopk"}, default="topk"
        How many atoms the encoder activates. "topk" activates the k atoms with the
        largest scores in each sample. "batchtopk" shares the active atoms of a batch
        among its samples in the last fifth of the steps, up to ``2 * k`` for one of
        them (Bussmann et al., 2024). New samples activate the atoms whose scores exceed
        `threshold_`: k on average, and at most ``2 * k``. `partial_fit`, and a `fit`
        that continues another, share in all steps. With as many active atoms on
        average, this mostly leaves less of the variance. The threshold belongs to the k
        of the fit. After `fit`, "topk" with any k remains possible; the encoder is then
        worse than after a fit with "topk". Matching pursuit ignores the threshold and
        uses k atoms.

    tied : bool, default=False
        Whether the encoder uses the atoms as its weights.

    transform_algorithm : {"encoder", "lstsq", "omp"}, default="encoder"
        How samples are coded after training: by the encoder; by least squares on the
        atoms that the encoder selects; or by orthogonal matching pursuit, which is
        slower and reconstructs best. Codes from the last two can be negative unless
        `positive_code` is True. You can change this parameter after `fit`. If it is
        "omp" during `fit`, the last fifth of the steps fits the dictionaries to codes
        from matching pursuit, which takes longer and makes the encoder's codes worse.
        Least squares leaves out an atom whose cosine with the span of the preceding
        atoms, in the order of `components_`, is above .99875. Its coefficient would be
        large, and theirs would cancel it.

    positive_code : bool, default=False
        Whether "lstsq" and "omp" return non-negative codes, as the encoder always does.
        They then use non-negative least squares, and the algorithm of Lawson and Hanson
        (1974) for it, stopped when k atoms are in use. An atom then represents one
        direction instead of two, so that codes with k entries can be compared with the
        encoder's. You can change this parameter after `fit`.

    sparse_output : bool, default=False
        Whether `transform` returns a SciPy CSR array.

    max_iter : int, default=None
        Number of epochs of a fit. None means as many as `max_steps` needs; if that is
        None too, 2000 steps, but no more than 500 epochs, and at least one.

    max_steps : int, default=None
        Maximum number of gradient steps of a fit.

    batch_size : int, default=1024
        Samples per gradient step; clipped to n_samples.

    learning_rate : float or "auto", default="auto"
        Learning rate of Adam for atoms; encoders and biases learn with a third of it,
        and with all of it if `tied`. "auto" means ``0.1 / n_features_in_ ** 0.25``,
        and a third of that if `tied`; it was chosen on data with 64 to 576 features.
        Each step moves each entry of an atom by about the learning rate.

    early_stopping : bool, default=False
        Whether to hold out samples and to compute their FVU after each epoch (of at
        least 50 steps). When FVU has stalled for `n_iter_no_change` epochs in a row,
        the second half of training, with the penalty and the decay of the learning
        rate, begins at once and takes as many steps as the first half did. With False,
        all steps are done. `partial_fit` does not use it.

    tol : float, default=1e-4
        If `early_stopping` is True, FVU counts as stalled when it falls by less than
        this on held-out samples. FVU is a share of the variance, so `tol` does not
        depend on the unit of the data or the level of FVU.

    validation_fraction : float, default=0.1
        Share of samples to hold out if `early_stopping` is True.

    n_iter_no_change : int, default=10
        Number of stalled epochs before the second half begins.

    reinit_threshold : float or None, default=None
        An SAE is reinitialised if its atoms are used so unequally that the mean over
        atoms of ``(|rate - t| / t)^3``, with ``t = k / n_components``, exceeds this
        threshold. This happens at most three times, in the first half of a fit or of a
        pass of `partial_fit`, but not in passes after a fit. None turns
        reinitialisation off. The paper uses 2.5; data with some frequent features
        exceed this value permanently.

    reinit_every : int, default=50
        Number of steps between two evaluations of that statistic.

    shuffle : bool, default=True
        Whether each epoch visits the samples in a new random order.

    warm_start : bool, default=False
        Whether `fit` continues the previous fit, with the centre and scale of its own
        data. An SAE that was imported, or saved without its training state, becomes the
        first of the group. The other SAEs start from its atoms plus noise, and
        witnesses start at random.

    n_saes : int, default=3
        Number of SAEs that are trained together. 1 trains an ordinary SAE.

    alpha : float, default=1.0
        Weight of the mutual penalty. 0 trains the SAEs independently. The weight has no
        unit, because the loss is relative to the variance of the data. The penalty is
        on from the middle of training until 80 % of it. It attracts two atoms only if
        they are alike: if their cosine is nearer to 1 than to `agreement_null_`.

    matching : {"hungarian", "max"}, default="hungarian"
        Which atoms of two SAEs attract each other. "hungarian" is the one-to-one
        matching with the largest total cosine (exact up to 2048 atoms; above that, the
        best among the nearest few of each). "max" matches each atom with the nearest
        atom of the other SAE.

    share_atoms : bool, default=True
        Whether an SAE in a group of three or more receives atoms that two others share
        (cosine above 0.99) and it lacks. They replace atoms that no other SAE shares,
        every 100 steps while the penalty is on.

    n_witnesses : int, default=2
        Number of further SAEs that train on the same batches without the penalty. With
        one witness and ``alpha > 0``, only two SAEs are independent of each other, and
        `reappearance_` can be too high; see :func:`skmfr.agreement.reappearance`.

    witness_rows : {"auto", "same", "disjoint"}, default="auto"
        Rows that witnesses see: the rows of the group, or, with several witnesses, a
        random part of its own for each, of each batch as of all data, while the group
        sees all rows. An atom that two witnesses with disjoint rows share is not an
        accident of the sample. All of them together code as many rows as one witness.
        The values of a row decide its part, so it stays there in further calls with the
        same unit and dtype, and equal rows are in the same part. "auto" is "disjoint"
        in a `fit` to fewer than 50 rows for each atom, and otherwise "same". Equal rows
        count each time, so choose "disjoint" for oversampled data.

    device : str or torch.device, default="auto"
        Device to compute on: "cpu", "cuda", "cuda:1", ... "auto" selects a CUDA GPU if
        there is one.

    precision : {"float32", "float64", "bfloat16"}, default="float32"
        Precision of training. "bfloat16" multiplies in bfloat16 to find candidates, and
        computes their codes again in float32.

    checkpoint_dir : path-like, default=None
        Folder for checkpoints of the training state. A fit with the same parameters,
        integer `random_state` and data resumes from there, and ends with the same bytes
        (on a CPU) as an uninterrupted fit. The last two checkpoints are kept: if the
        newest cannot be read, the fit warns and resumes from the previous one. Fits
        with other parameters or data, such as those of a grid search, can share the
        folder; each resumes only from its own checkpoints. Data are identified by all
        of their values, or, for more than 512 MB on disk, by eight blocks of 64 MB and
        the shape. None writes no checkpoints.

    checkpoint_every : int, default=None
        Number of steps between checkpoints. None means 500.

    callback : callable, default=None
        Called as ``callback(step, info)`` after each step, with the number of steps
        done and a dict with the keys "n_steps", "fvu" (of the batch, averaged over the
        SAEs), "agreement" (mean best cosine of the first SAE's atoms in the last
        witness, updated every 50 steps), "dead" (share of the SAEs' atoms that were
        active in no batch of the last 100 steps), "k", "alpha", "learning_rate",
        "n_reinits" (total over SAEs and witnesses). If it returns a dict, the dict is
        stored in `history_`, as with :class:`skmfr.inspection.TrainingHistory`.

    verbose : int, default=0
        0 is silent. 1 shows progress on stderr: a progress bar on a terminal and in
        notebooks, and a line for each tenth of the steps in a log and in joblib
        workers.

    random_state : int, RandomState instance or None, default=None
        Determines initial atoms and batches. Pass an int for results that
        are identical to the byte in every call on one machine (CPU) with as many
        threads. With another number of threads, sums are rounded differently.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms of the reference SAE, of unit norm.

    dictionaries_ : ndarray of shape (n_saes, n_components, n_features)
        Atoms of all SAEs.

    witness_dictionaries_ : ndarray of shape (n_witnesses, n_components, n_features)
        Atoms of the witnesses.

    reference_sae_ : int
        Index of the SAE with the lowest loss, which codes new data.

    encoder_weights_ : ndarray of shape (n_components, n_features)
        E of the reference SAE.

    encoder_bias_ : ndarray of shape (n_components,)
        c of the reference SAE, in units of the data.

    decoder_bias_ : ndarray of shape (n_features,)
        b of the reference SAE, in units of the data.

    threshold_ : ndarray of shape (n_components,) or None
        Score that an atom must exceed to be active, in units of the data, the same for
        all atoms. None after a fit with ``activation="topk"``.

    k_ : int
        k of the fit.

    feature_agreement_ : ndarray of shape (n_components,)
        Largest cosine of each reference atom with an atom of a witness, averaged over
        the witnesses. Without witnesses, it is averaged over the other SAEs; with
        ``alpha > 0`` this is not evidence, because the penalty optimises it. NaN for a
        single SAE without witnesses.

    mutual_agreement_ : ndarray of shape (n_saes, n_components)
        The same inside the group: agreement of each SAE's atoms with the other SAEs.

    agreement_null_ : float
        Agreement of random dictionaries of this size.

    reappearance_ : ndarray of shape (n_components,)
        Probability that an independent fit, with another seed on other rows of the
        source, has the atom at a cosine of 0.8 or more; see
        :func:`skmfr.agreement.reappearance`. NaN, with a warning when it is read,
        without a witness or with fewer than three SAEs, witnesses included.

    trusted_ : ndarray of shape (n_components,), bool
        The largest set of atoms in which at most 5 % are expected not to return, among
        the atoms that agree more than by chance. See
        :func:`skmfr.agreement.trusted_atoms` for other rates. False where
        `reappearance_` is NaN.

    median_norm_ : float
        Median of the Euclidean norms of the training rows, before centring. After
        `partial_fit`, the mean of the medians of all calls, weighted by their number of
        rows. NaN for models from other packages.

    witness_rows_ : {"same", "disjoint"}
        Rows that the witnesses saw.

    n_outliers_, inlier_fvu_, outlier_fvu_ : int, float, float
        Number of outlying rows of the last fit and of later passes, which training
        :ref:`scales down <outliers>`; FVU of the other rows and of the outlying rows in
        the last call.
        Each FVU is relative to the variance of its own rows. At most 4,096 rows of each
        kind are coded. The FVUs are None if there are no such rows.

    n_iter_ : int
        Number of epochs of the last fit, including the one in which it ended; each call
        of `partial_fit` adds 1. Forgotten calls do not count, as in `n_steps_`.

    n_steps_ : int
        Total number of gradient steps over all fits of the model.

    loss_curve_ : ndarray of shape (`n_steps_`,)
        FVU of each batch before its step, averaged over the SAEs. Steps that fit the
        dictionary to matching pursuit use the FVU of matching pursuit.

    history_ : list of dict
        Dicts that `callback` returned, one for each step. It covers the last steps up
        to `n_steps_`, from consecutive calls that continued each other.

    n_reinits_ : ndarray of shape (n_saes,)
        How often each SAE was reinitialised.

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if all are strings.

    See Also
    --------
    sklearn.decomposition.MiniBatchDictionaryLearning : Sparse coding by coordinate
        descent.

    Notes
    -----
    The estimator centres the data and divides them by one number; fitted attributes are
    in units of the data. Arrays of weights and biases are read-only; to change one,
    assign a new array. Further training does not start from it, but from what the last
    fit left. During a fit, k falls from twice its value to its value in the
    first fifth of the steps, and the learning rate falls to zero in the second half.
    The mutual penalty begins after the first half and ends after 80 % of the steps.
    Unless `tied`, a small penalty on the weights of encoders is part of the loss, in
    proportion to FVU, to k / n_components and to the learning rate.

    References
    ----------
    L. Marks, A. Paren, D. Krueger, F. Barez, "Enhancing Neural Network
    Interpretability with Feature-Aligned Sparse Autoencoders", arXiv:2411.01220, 2024.

    L. Gao et al., "Scaling and Evaluating Sparse Autoencoders", arXiv:2406.04093, 2024.

    B. Bussmann, P. Leask, N. Nanda, "BatchTopK Sparse Autoencoders", arXiv:2412.06410,
    2024.

    P. Jedryszek, O. M. Crook, "Stable and Steerable Sparse Autoencoders with Weight
    Regularization", arXiv:2603.04198, 2026.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmfr import MFRSparseAutoencoder
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = MFRSparseAutoencoder(n_components=64, max_steps=200, random_state=0)
    >>> codes = sae.fit_transform(X)
    >>> codes.shape
    (1797, 64)
    >>> int((codes != 0).sum(axis=1).max())
    8
    """

    _parameter_constraints: dict = {
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"topk", "batchtopk"})],
        "tied": ["boolean"],
        "transform_algorithm": [StrOptions({"encoder", "lstsq", "omp"})],
        "positive_code": ["boolean"],
        "sparse_output": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "max_steps": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "early_stopping": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "reinit_threshold": [Interval(Real, 0, None, closed="left"), None],
        "reinit_every": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "warm_start": ["boolean"],
        "n_saes": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "matching": [StrOptions({"hungarian", "max"})],
        "share_atoms": ["boolean"],
        "n_witnesses": [Interval(Integral, 0, None, closed="left")],
        "witness_rows": [StrOptions({"auto", "same", "disjoint"})],
        "device": [Device()],
        "precision": [StrOptions({"float32", "float64", "bfloat16"})],
        "checkpoint_dir": [str, PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left"), None],
        "callback": [callable, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    # `fit` stores these; after `partial_fit` they are computed when they are read.
    components_ = Late(fitted.make_weights)
    dictionaries_ = Late(fitted.make_weights)
    witness_dictionaries_ = Late(fitted.make_weights)
    encoder_weights_ = Late(fitted.make_weights)
    feature_agreement_ = Late(fitted.make_agreement)
    mutual_agreement_ = Late(fitted.make_agreement)
    trusted_ = Late(fitted.make_agreement)
    reappearance_ = Late(fitted.make_reappearance)

    def __init__(
        self,
        n_components=None,
        *,
        k=8,
        activation="topk",
        tied=False,
        transform_algorithm="encoder",
        positive_code=False,
        sparse_output=False,
        max_iter=None,
        max_steps=None,
        batch_size=1024,
        learning_rate="auto",
        early_stopping=False,
        tol=1e-4,
        validation_fraction=0.1,
        n_iter_no_change=10,
        reinit_threshold=None,
        reinit_every=50,
        shuffle=True,
        warm_start=False,
        n_saes=3,
        alpha=1.0,
        matching="hungarian",
        share_atoms=True,
        n_witnesses=2,
        witness_rows="auto",
        device="auto",
        precision="float32",
        checkpoint_dir=None,
        checkpoint_every=None,
        callback=None,
        verbose=0,
        random_state=None,
    ):
        self.n_components = n_components
        self.k = k
        self.activation = activation
        self.tied = tied
        self.transform_algorithm = transform_algorithm
        self.positive_code = positive_code
        self.sparse_output = sparse_output
        self.max_iter = max_iter
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping = early_stopping
        self.tol = tol
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.reinit_threshold = reinit_threshold
        self.reinit_every = reinit_every
        self.shuffle = shuffle
        self.warm_start = warm_start
        self.n_saes = n_saes
        self.alpha = alpha
        self.matching = matching
        self.share_atoms = share_atoms
        self.n_witnesses = n_witnesses
        self.witness_rows = witness_rows
        self.device = device
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.callback = callback
        self.verbose = verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the dictionaries.

        An interrupted fit (KeyboardInterrupt) leaves the estimator fitted with the
        steps done so far. It warns and raises the interrupt again, so that a search or
        a script stops. If the interrupt comes before the first step, or if an error
        occurs, the estimator keeps its state from before the call.

        Data on disk are read batch by batch; a thread reads ahead of training. For a
        memory-mapped array or shards, each epoch is a new permutation of all samples,
        as for an array in memory, and the result is the same. Zarr and dask arrays and
        chunked HDF5 datasets can be read only chunk by chunk. Each epoch then permutes
        the chunks, and shuffles together the samples of a few consecutive chunks, 256
        MB in all. Chunks should therefore not be much larger than a tenth of that. If
        similar samples are stored together, a batch is less varied than the data. See
        :doc:`data larger than memory </user_guide/scaling>`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data: any array-like that scikit-learn accepts; a list of shards of
            the data, which are arrays or names of ``.npy`` files with the same width
            and dtype; or an array that is read chunk by chunk (zarr, dask, h5py).
        y : Ignored
            Not used. Callbacks of scikit-learn receive it: `ScoringMonitor` records no
            score if it is None.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If X or a parameter is not as described. The error names the row of a value
            that is not finite; for shards or chunks, it is raised when the row is read.
        OSError
            If a checkpoint cannot be written. A later fit can resume from the last one.
        KeyboardInterrupt
            If the fit is interrupted.

        Warns
        -----
        UserWarning
            If few rows hold more than half of the variance: less than 2 %, or up to a
            quarter if they are far from all others (:ref:`when <outliers>`).
        ConvergenceWarning
            If the fit is interrupted, or shows a sign of failure: poor reconstruction
            with high agreement, collapse to identical atoms, a penalty that costs
            reconstruction, or unstable reinitialisation.
        """
        self._learn(X, y, going_on=self.warm_start, one_pass=False)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Train for one pass over some data.

        A model that began with this method trains at a constant learning rate, with the
        penalty from the first step. After `fit`, training continues as in the last
        steps of that fit: at 5 % of the learning rate (less for batches of fewer than
        256 samples), without the penalty and without replacing atoms. The model follows
        the data and keeps what it has learned. The same holds for a model that was
        imported, or saved without its training state; see `warm_start`.

        Centre and scale are computed from the samples of the last `fit` and of all
        later calls. First calls are forgotten when a later call has more information:
        calls whose samples are all identical, of `fit` too, and calls of this method
        with fewer samples than the atoms and than the later call. Of an imported model,
        only centre and scale of identical samples are forgotten. Weights and agreement
        are computed when they are read. An interrupt has the same effect as in `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, in any form that `fit` accepts.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If X or a parameter is not as described.
        """
        self._learn(X, y, going_on=True, one_pass=True)
        return self

    def _learn(self, X, y, *, going_on: bool, one_pass: bool) -> None:
        """Fit, keeping the old state on errors; warn, and re-raise an interrupt."""
        replaced = self.__sklearn_is_fitted__()
        with unchanged_on_error(self):
            found = self._fit(X, y, going_on=going_on, one_pass=one_pass)
        signs = found.signs
        if found.interrupt is not None:
            who = (
                "the earlier model is replaced by" if replaced else "the estimator has"
            )
            told = f"Training was interrupted after {found.progress}; {who} what was "
            signs = [f"{told}learned so far.", *signs]
        try:
            for sign in signs:
                warnings.warn(sign, ConvergenceWarning, stacklevel=4)
        finally:
            # Even if warnings are errors.
            if found.interrupt is not None:
                raise found.interrupt

    def _fit(self, X, y, *, going_on: bool, one_pass: bool) -> Fit:
        """Check X and train: from the start or continuing, a full fit or one pass."""
        from ._sae.arrays import WEIGHTS
        from ._training.fit import fit
        from ._training.progress import EpochCallbacks
        from ._training.results import Earlier
        from ._utils.ambient import undisturbed

        continued = going_on and hasattr(self, "_training")
        if continued and one_pass:
            # scikit-learn validates only the first call of partial_fit.
            check_parameters(self)
        X = checked(self, X, reset=not continued)
        earlier = weights = begin_callbacks = None
        if continued and self._training:
            earlier = Earlier.of(self)
            seed = earlier.seed
        else:
            if continued:
                weights = [getattr(self, name) for name in WEIGHTS]
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if hasattr(self, "_init_callback_context") and not one_pass:
            begin_callbacks = partial(
                EpochCallbacks, self, self._init_callback_context, y=y
            )
        n_calls = getattr(self, "n_iter_", 0) if continued else 0
        with undisturbed():
            found = fit(
                X,
                in_python(self.get_params(deep=False)),
                seed=seed,
                earlier=earlier,
                weights=weights,
                one_pass=one_pass,
                begin_callbacks=begin_callbacks,
            )
        if one_pass:
            # Of forgotten calls there are no steps either.
            own = found.attributes["_training"]["step"]
            anew = earlier is not None and found.attributes["n_steps_"] == own
            found.attributes["n_iter_"] = 1 if anew else n_calls + 1
        fitted.forget_late(self)
        set_fitted(self, found.attributes)
        return found

    @property
    def _selection(self):
        validate_parameters(self, "activation")
        if self.activation == "topk":
            return self.k, None
        if self.threshold_ is None:
            raise ValueError(
                "activation='batchtopk' needs a threshold, which a fit with "
                "activation='topk' does not find. Fit again, or set activation='topk'."
            )
        n_components = len(self.components_)
        if np.shape(self.threshold_) != (n_components,):
            raise ValueError(
                f"threshold_ has shape {np.shape(self.threshold_)}, expected one "
                f"threshold for each atom, ({n_components},)."
            )
        if min(self.k, n_components) != self.k_:
            raise ValueError(
                f"k={self.k}, but with activation='batchtopk' the threshold is for the "
                f"k={self.k_} of the fit. Fit again, or set activation='topk'."
            )
        from ._sae.encoder import MOST_OF_BATCH

        return MOST_OF_BATCH * self.k_, self.threshold_

    def __setattr__(self, name, value):
        if name in fitted.DICTIONARIES and value is not vars(self).get(name):
            fitted.keep_decoder(self)
        super().__setattr__(name, value)

    def __getstate__(self):
        from ._training.results import without_copies

        return without_copies(super().__getstate__())

    def __setstate__(self, state):
        from ._training.results import with_copies

        super().__setstate__(state)
        # Pickle loses the read-only flag of arrays.
        set_fitted(self, with_copies(self.__dict__))

    def __sklearn_is_fitted__(self) -> bool:
        return "reference_sae_" in vars(self)

    def _html_repr(self) -> str:
        """Precede scikit-learn's HTML representation (from 1.7 on) by a summary."""
        from ._training.diagnostics import fit_summary

        summary = ""
        if self.__sklearn_is_fitted__():
            summary = f'<p class="skmfr-summary">{fit_summary(self)}</p>'
        return summary + super()._html_repr()


def check_parameters(sae: MFRSparseAutoencoder) -> None:
    """Validate the parameters, with scikit-learn's error messages."""
    sae._validate_params()
