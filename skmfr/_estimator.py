"""The scikit-learn face: parameters, validation, fitted attributes."""

from __future__ import annotations

import warnings
from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import TYPE_CHECKING

from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions

from ._base import BaseSparseAutoencoder
from ._data.checked import checked
from ._training import attributes as fitted
from ._training.attributes import Late, set_fitted
from ._utils.checks import Device, Interval
from ._utils.fitted import unchanged_on_error

if TYPE_CHECKING:
    from ._training.fit import Fit

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands where scikit-learn has no callbacks."""


class MFRSparseAutoencoder(CallbackSupportMixin, BaseSparseAutoencoder):
    """Sparse autoencoders with mutual feature regularization (MFR).

    Several sparse autoencoders (SAEs) learn an overcomplete dictionary each, on the
    same batches.  A penalty pulls matched atoms of their dictionaries together, so that
    they learn features that are in the data rather than accidents of one run.  Witness
    SAEs, which the penalty never touches, tell atom by atom how far to trust the result
    (`feature_agreement_`).

    SAE i codes a sample as ``z = TopK(ReLU((x - b_i) E_i^T + c_i), k)`` and
    reconstructs it as ``z D_i + b_i``, with atoms (rows of ``D_i``) of unit norm.
    Minimised is ``sum_i FVU_i + alpha * mean_{i<j} (1 - C(D_i, D_j))``: the fraction of
    variance unexplained, and C, the mean cosine of matched atoms, where atoms that are
    not alike count as unmatched.  Atoms that no sample activates follow a loss of their
    own, in which they code what the others leave (AuxK of Gao et al., 2024).

    Read more in the user guide: :doc:`how far to trust an atom
    </user_guide/agreement>`, :doc:`why each default is what it is
    </user_guide/defaults>`.

    Parameters
    ----------
    n_components : int, default=None
        Number of atoms. None means ``min(4 * n_features_in_, 4096)``.

    n_saes : int, default=3
        Number of SAEs that are trained together. 1 is an ordinary SAE.

    k : int, default=8
        Number of active atoms per sample, at most; clipped to `n_components`.

    alpha : float, default=1.0
        Weight of the mutual penalty. 0 trains the SAEs independently. It has no unit:
        the loss is relative to the variance of the data. The penalty is on from the
        middle of training until 80 % of it, and pulls only atoms together
        that are alike: whose cosine is nearer to 1 than to `agreement_null_`.

    matching : {"hungarian", "max"}, default="hungarian"
        Which atoms of two SAEs are pulled together: a one-to-one matching of the
        largest total cosine (exact up to 2048 atoms; above that, the best among the
        nearest few of each), or each atom and the nearest of the other SAE.

    n_witnesses : int, default=1
        Number of further SAEs on the same batches without penalty.

    witness_rows : {"same", "disjoint"}, default="same"
        Which rows witnesses see: those of the group, or each of several witnesses a
        random part of its own, of each batch as of all data, while the group sees all.
        What two witnesses with disjoint rows agree on is no accident of the sample, and
        several of them take the time of one. Rows are told apart by their values, so
        that a row stays in its part in further calls, and equal rows are in one part.

    tied : bool, default=False
        Whether the encoder's weights are the atoms themselves.

    transform_algorithm : {"encoder", "lstsq", "omp"}, default="encoder"
        How samples are coded after training: by the encoder; by least squares on the
        atoms that the encoder picks; or by orthogonal matching pursuit, which is
        slower and reconstructs best. The last two give coefficients of both signs,
        unless `positive_code` is True. It can be changed after `fit`; but if it is
        "omp" in `fit`, the last fifth of the steps fits the dictionaries to codes of
        matching pursuit, which takes longer and is at the cost of the encoder's.
        Least squares leave out an atom whose cosine with the span of those before it,
        in the order of `components_`, is above .99875: its coefficient would be large,
        and undone by theirs.

    positive_code : bool, default=False
        Whether codes by "lstsq" and "omp" are not negative, as the encoder's always
        are: non-negative least squares, and the algorithm of Lawson and Hanson (1974)
        for it, ended when k atoms are in use. An atom then stands for one direction
        instead of two, so that codes of k entries can be compared with the encoder's.
        It can be changed after `fit`, as `transform_algorithm`.

    sparse_output : bool, default=False
        Whether `transform` returns a SciPy CSR array.

    max_iter : int, default=None
        Number of epochs of a fit. None means as many as make `max_steps`; if that is
        None too, 2000 steps, or one pass over the data if that is more.

    max_steps : int, default=None
        Number of gradient steps of a fit, at most.

    batch_size : int, default=1024
        Samples per gradient step; clipped to n_samples.

    learning_rate : float or "auto", default="auto"
        Learning rate of Adam. "auto" means ``0.047 / n_features_in_ ** 0.25``,
        which was chosen on data of 64 to 576 features. A step moves each entry of an
        atom by about the learning rate.

    tol : float, default=1e-4
        Fall of the FVU of held-out samples below which it counts as stalled, if
        `early_stopping` is True. FVU is a share of the variance, so `tol` is one too,
        whatever the unit of the data and the FVU reached.

    early_stopping : bool, default=False
        Whether to hold samples out, and to look at their FVU after each epoch (of at
        least 50 steps). If it has stalled for `n_iter_no_change` epochs in a row, the
        second half of training begins at once, with the penalty and the fall of the
        learning rate, and takes as many steps as the first half did. False takes all
        steps.

    validation_fraction : float, default=0.1
        Share of samples to hold out if `early_stopping` is True.

    n_iter_no_change : int, default=10
        Number of epochs without a gain of `tol` before the second half begins.

    reinit_threshold : float or None, default=None
        An SAE whose atoms are used so unequally that the mean over atoms of
        ``(|rate - t| / t)^3``, ``t = k / n_components``, exceeds this is started anew,
        in the first half of a fit, or of a pass of `partial_fit`, three times at most.
        None turns this off.
        The paper's value is 2.5; data with some frequent features exceed it for good.

    reinit_every : int, default=50
        Number of steps between two looks at that statistic.

    resample_every : int or None, default=100
        Number of steps between resamplings: atoms that nothing moved for so many steps,
        neither samples nor the auxiliary loss by which dead atoms learn what the others
        leave, are pointed at samples that are reconstructed badly. None turns this off.

    share_atoms : bool, default=True
        Whether each of three or more SAEs is given atoms that two others share (cosine
        above 0.99) and it lacks, in the place of atoms that nobody shares: every 100
        steps while the penalty is on.

    warm_start : bool, default=False
        Whether `fit` goes on from the previous fit. An SAE that was imported, or saved
        without its state of training, becomes the first of the group; the others start
        from its atoms and noise, witnesses at random.

    shuffle : bool, default=True
        Whether each epoch takes the samples in a new random order.

    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", ...; "auto" means a CUDA GPU where
        there is one.

    precision : {"float32", "float64", "bfloat16"}, default="float32"
        Precision of training. "bfloat16" multiplies in bfloat16 to find candidates,
        whose codes are computed in float32 again.

    checkpoint_dir : path-like, default=None
        Folder to write the state of training to. A fit with the same parameters,
        integer `random_state` and data goes on from there, and ends with the same
        bytes (CPU) as if it had never stopped. The last two states are kept: if the
        newest cannot be read, a fit warns and takes the one before. Fits with other
        parameters or data, such as those of a grid search, may share the folder; none
        goes on from another's. Data are told apart by all of their values; of more
        than 512 MB on disk, by those of eight blocks of 64 MB and the shape. None
        writes nothing.

    checkpoint_every : int, default=None
        Number of steps between checkpoints. None means 500.

    callback : callable, default=None
        Called as ``callback(step, info)`` after each step, with the number of steps
        done and a dict with the keys "n_steps", "fvu" (of the batch, mean over the
        SAEs), "agreement" (mean best cosine of the first SAE's atoms in the last
        witness, renewed every 50 steps), "dead" (share of the SAEs' atoms that were
        active in no batch of the last 100 steps), "k", "alpha", "learning_rate",
        "n_reinits" (of the SAEs and witnesses together). A dict that it returns is
        kept in `history_`, as with :class:`skmfr.inspection.TrainingHistory`.

    verbose : int, default=0
        0 is silent, 1 shows progress on stderr: a bar on a terminal and in notebooks, a
        line for each tenth of the steps in a log and from workers of joblib.

    random_state : int, RandomState instance or None, default=None
        Determines initial atoms, batches and resampling. Pass an int for results that
        are the same, to the byte, in every call on one machine (CPU) with as many
        threads; with another number of threads sums are rounded differently.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms of the reference SAE, of unit norm.

    dictionaries_ : ndarray of shape (n_saes, n_components, n_features)
        Atoms of all SAEs.

    witness_dictionaries_ : ndarray of shape (n_witnesses, n_components, n_features)
        Atoms of the witnesses.

    reference_sae_ : int
        The SAE with the lowest loss, which codes new data.

    encoder_weights_ : ndarray of shape (n_components, n_features)
        E of the reference SAE.

    encoder_bias_ : ndarray of shape (n_components,)
        c of the reference SAE, in units of the data.

    decoder_bias_ : ndarray of shape (n_features,)
        b of the reference SAE, in units of the data.

    feature_agreement_ : ndarray of shape (n_components,)
        Mean over the witnesses of the largest cosine of each reference atom with an
        atom of the witness. Without witnesses over the other SAEs, which is no
        evidence once ``alpha > 0``: the penalty optimises that number. NaN for one SAE
        alone.

    mutual_agreement_ : ndarray of shape (n_saes, n_components)
        The same inside the group: of each SAE's atoms with the other SAEs.

    agreement_null_ : float
        What random dictionaries of this size give.

    reappearance_ : ndarray of shape (n_components,)
        Probability that an independent fit, with another seed on other rows of the
        source, has the atom at a cosine of 0.8 or more; see
        :func:`skmfr.agreement.reappearance`. NaN, with a warning when it is read,
        without a witness or with fewer than three SAEs, witnesses included.

    trusted_ : ndarray of shape (n_components,), bool
        The most atoms of which 5 % are expected not to return, among those that agree
        more than chance makes them; see :func:`skmfr.agreement.trusted_atoms`, which
        takes other rates. False where `reappearance_` is NaN.

    median_norm_ : float
        Median of the Euclidean norms of the training rows, as they were given. After
        `partial_fit` the mean of the medians of all calls, weighted by their rows. NaN
        for models from other packages.

    n_outliers_, inlier_fvu_, outlier_fvu_ : int, float, float
        Training rows so far that outweighed all others and were :ref:`drawn in
        <outliers>`; FVU of the others, and of these, in the last call, or None.

    n_iter_ : int
        Number of epochs of the last fit, begun ones included; number of calls of
        `partial_fit`.

    n_steps_ : int
        Number of gradient steps so far, in the life of the model.

    loss_curve_ : ndarray of shape (`n_steps_`,)
        FVU of each batch before its step, mean over the SAEs; by matching pursuit in
        steps that fit the dictionary to it.

    history_ : list of dict
        What `callback` returned in each step, if it returned dicts: in the last steps
        up to `n_steps_`, of calls that went on from one another.

    n_reinits_ : ndarray of shape (n_saes,)
        How often each SAE was started anew.

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
    Data are centred and divided by one number inside; fitted attributes are in units of
    the data. Arrays of weights and biases are read-only; assign a new one to change it.
    Over a fit, k falls from twice its value to that value in the first fifth of the
    steps, and the learning rate to zero in the second half. The penalty rises after the
    first half, and is gone after 80 % of the steps.

    References
    ----------
    L. Marks, A. Paren, D. Krueger, F. Barez, "Enhancing Neural Network
    Interpretability with Feature-Aligned Sparse Autoencoders", arXiv:2411.01220, 2024.

    L. Gao et al., "Scaling and Evaluating Sparse Autoencoders", arXiv:2406.04093, 2024.

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
        "n_saes": [Interval(Integral, 1, None, closed="left")],
        "k": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "matching": [StrOptions({"hungarian", "max"})],
        "n_witnesses": [Interval(Integral, 0, None, closed="left")],
        "witness_rows": [StrOptions({"same", "disjoint"})],
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
        "tol": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "reinit_threshold": [Interval(Real, 0, None, closed="left"), None],
        "reinit_every": [Interval(Integral, 1, None, closed="left")],
        "resample_every": [Interval(Integral, 1, None, closed="left"), None],
        "share_atoms": ["boolean"],
        "warm_start": ["boolean"],
        "shuffle": ["boolean"],
        "device": [Device()],
        "precision": [StrOptions({"float32", "float64", "bfloat16"})],
        "checkpoint_dir": [str, PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left"), None],
        "callback": [callable, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    # Stored by `fit`, and made when they are read after `partial_fit`.
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
        n_saes=3,
        k=8,
        alpha=1.0,
        matching="hungarian",
        n_witnesses=1,
        witness_rows="same",
        tied=False,
        transform_algorithm="encoder",
        positive_code=False,
        sparse_output=False,
        max_iter=None,
        max_steps=None,
        batch_size=1024,
        learning_rate="auto",
        tol=1e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        reinit_threshold=None,
        reinit_every=50,
        resample_every=100,
        share_atoms=True,
        warm_start=False,
        shuffle=True,
        device="auto",
        precision="float32",
        checkpoint_dir=None,
        checkpoint_every=None,
        callback=None,
        verbose=0,
        random_state=None,
    ):
        self.n_components = n_components
        self.n_saes = n_saes
        self.k = k
        self.alpha = alpha
        self.matching = matching
        self.n_witnesses = n_witnesses
        self.witness_rows = witness_rows
        self.tied = tied
        self.transform_algorithm = transform_algorithm
        self.positive_code = positive_code
        self.sparse_output = sparse_output
        self.max_iter = max_iter
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.reinit_threshold = reinit_threshold
        self.reinit_every = reinit_every
        self.resample_every = resample_every
        self.share_atoms = share_atoms
        self.warm_start = warm_start
        self.shuffle = shuffle
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

        An interrupted fit (KeyboardInterrupt) leaves an estimator with the steps done
        so far, warns, and raises the interrupt again, so that a search or a script
        stops. Interrupted before the first step, and after any error, the estimator is
        what it was before the call.

        Data on disk are read batch by batch, by a thread that keeps ahead of training.
        Of a memory-mapped array and of shards, each epoch is a new permutation of all
        samples, as of an array in memory, and the result is the same. Of zarr and dask
        arrays and chunked HDF5 datasets, which can only be read chunk by chunk, each
        epoch is a new permutation of the chunks; the samples of a few chunks that
        follow one another, 256 MB, are permuted together. So chunks should not be much
        larger than a tenth of that, and if similar samples are stored together, a batch
        has less variety than the data. See :doc:`data larger than memory
        </user_guide/scaling>`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data: anything that scikit-learn takes; a list of arrays or names
            of ``.npy`` files, which are shards of the data, of the same width and
            dtype; or an array that is read chunk by chunk (zarr, dask, h5py).
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ValueError
            If X or a parameter is not as described. A value that is not finite is
            reported with its row; in shards or chunks, when it is read.
        OSError
            If a checkpoint cannot be written. The last one stays to go on from.
        KeyboardInterrupt
            If it is interrupted.

        Warns
        -----
        UserWarning
            If less than 2 % of the rows hold more than half of the variance.
        ConvergenceWarning
            If it is interrupted, or shows signs of failure: poor reconstruction in
            spite of high agreement, atoms that collapse to one, a penalty that costs
            reconstruction, unstable reinitialisation.
        """
        self._learn(X, going_on=self.warm_start, one_pass=False)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Train for one pass over some data.

        A model that began with this method trains at a constant learning rate, with the
        penalty from the first step. One that `fit` has brought to its end goes on as in
        the last steps of that fit: at 5 % of the learning rate, less for batches of
        fewer than 256 samples, without the penalty and without new atoms, so that it
        follows the data and loses nothing of what it has. So does one that was
        imported, or saved without its state of training, see `warm_start`.

        Centre and scale are those of all samples of all calls. First calls that say
        little are forgotten when a call says more: those with samples that are all the
        same, or fewer than there are atoms and than in that call. Weights and agreement
        are made when they are read. Interrupted, it does as `fit` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, in any form that `fit` takes.
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
        self._learn(X, going_on=True, one_pass=True)
        return self

    def _learn(self, X, *, going_on: bool, one_pass: bool) -> None:
        """Take over what a fit leaves, or stay as it was; raise what interrupted it."""
        replaced = self.__sklearn_is_fitted__()
        with unchanged_on_error(self):
            found = self._fit(X, going_on=going_on, one_pass=one_pass)
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
            # Also where warnings are errors.
            if found.interrupt is not None:
                raise found.interrupt

    def _fit(self, X, *, going_on: bool, one_pass: bool) -> Fit:
        """Check X, and train from the start or go on, for a schedule or one pass."""
        from ._sae.arrays import WEIGHTS
        from ._training.fit import fit
        from ._training.progress import EpochCallbacks
        from ._training.results import Earlier
        from ._utils.ambient import undisturbed

        continued = going_on and hasattr(self, "_training")
        if continued and one_pass:
            # Of partial_fit, scikit-learn validates the first call alone.
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
            begin_callbacks = partial(EpochCallbacks, self, self._init_callback_context)
        n_calls = getattr(self, "n_iter_", 0) if continued else 0
        history = getattr(self, "history_", []) if continued else []
        with undisturbed():
            found = fit(
                X,
                self.get_params(deep=False),
                seed=seed,
                earlier=earlier,
                weights=weights,
                one_pass=one_pass,
                begin_callbacks=begin_callbacks,
            )
        if one_pass:
            found.attributes["n_iter_"] = n_calls + 1
        if found.attributes["history_"]:
            found.attributes["history_"][:0] = history
        fitted.forget_late(self)
        set_fitted(self, found.attributes)
        return found

    def __getstate__(self):
        from ._training.results import without_copies

        return without_copies(super().__getstate__())

    def __setstate__(self, state):
        from ._training.results import with_copies

        super().__setstate__(state)
        # Arrays come out of a pickle so that they can be written to.
        set_fitted(self, with_copies(state))

    def __sklearn_is_fitted__(self) -> bool:
        return "reference_sae_" in vars(self)


def check_parameters(sae: MFRSparseAutoencoder) -> None:
    """Raise an error that names a parameter, if one is not as described."""
    sae._validate_params()
