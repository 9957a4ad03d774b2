"""The scikit-learn face: parameters, validation, fitted attributes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import ceil
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ._data.moments import fvu_of_blocks
from ._data.sources import (
    Source,
    as_array,
    as_source,
    check_finite,
    chunk_starts,
    n_mixed,
)
from ._sae.cosines import mean_nearest_cosine
from ._sae.levels import TRUSTED, agreement_level, random_agreement
from ._utils.documentation import DocumentationLinkMixin

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands where scikit-learn has no callbacks."""


# Steps of a fit by default; more if one pass over the data takes more.
DEFAULT_STEPS = 2000
# Learning rate by default, times the square root of the number of features.
AUTO_LEARNING_RATE = 0.12
MAX_AUTO_COMPONENTS = 4096
# Steps between checkpoints by default.
CHECKPOINT_EVERY = 500
# Losses of this many last steps tell how good an SAE is.
RECENT_STEPS = 100


class MFRSparseAutoencoder(
    DocumentationLinkMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Sparse autoencoders with mutual feature regularization (MFR).

    Several sparse autoencoders (SAEs) learn an overcomplete dictionary each, on the
    same batches.  A penalty pulls matched atoms of their dictionaries together, so that
    they learn features that are in the data rather than accidents of one run.  Witness
    SAEs, which the penalty never touches, tell atom by atom how far to trust the result
    (`feature_agreement_`).

    SAE i codes a sample as ``z = TopK(ReLU((x - b_i) E_i^T + c_i), k)`` and
    reconstructs it as ``z D_i + b_i``, with atoms (rows of ``D_i``) of unit norm.
    Minimised is ``sum_i FVU_i + alpha * mean_{i<j} (1 - MMCS(D_i, D_j))``: the fraction
    of variance unexplained, and the mean cosine of matched atoms, where atoms that are
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
        middle of training until shortly before its end, and pulls only atoms together
        that are alike: whose cosine is nearer to 1 than to `agreement_null_`.

    matching : {"hungarian", "max"}, default="hungarian"
        Which atoms of two SAEs are pulled together: a one-to-one matching of the
        largest total cosine (exact up to 2048 atoms; above that, the best among the
        nearest few of each), or each atom and the nearest of the other SAE.

    n_witnesses : int, default=1
        Number of further SAEs on the same batches without penalty.

    tied : bool, default=False
        Whether the encoder's weights are the atoms themselves.

    transform_algorithm : {"encoder", "lstsq", "omp"}, default="encoder"
        How samples are coded after training: by the encoder; by least squares on the
        atoms that the encoder picks; or by orthogonal matching pursuit, which is
        slower and reconstructs best. The last two give coefficients of both signs.
        It can be changed after `fit`; but if it is "omp" in `fit`, the last fifth of
        the steps fits the dictionaries to codes of matching pursuit, which takes longer
        and is at the cost of the encoder's.

    sparse_output : bool, default=False
        Whether `transform` returns a SciPy CSR array.

    max_iter : int, default=1000
        Number of epochs, at most.

    max_steps : int, default=None
        Number of gradient steps, at most. None means 2000, or one pass over the data
        if that is more.

    batch_size : int, default=1024
        Samples per gradient step; clipped to n_samples.

    learning_rate : float or "auto", default="auto"
        Learning rate of Adam. "auto" means ``0.12 / sqrt(n_features_in_)``: a step
        moves each entry of an atom by about the learning rate, so the atom by 12 % of
        its length.

    tol : float, default=0.0
        Gain in FVU below which the loss counts as stalled. If it does for
        `n_iter_no_change` epochs (of at least 50 steps) in a row, the rest of the
        schedule is skipped but for the final fall of the learning rate. 0 never
        stops early.

    early_stopping : bool, default=False
        Whether to measure the gain on held-out samples instead of the batches.

    validation_fraction : float, default=0.1
        Share of samples to hold out if `early_stopping` is True.

    n_iter_no_change : int, default=10
        Number of epochs without gain before training is brought to its end.

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
        leave, are pointed at samples that are reconstructed badly. At the same time,
        while the penalty is on, each of three or more SAEs is given atoms that two
        others share (cosine above 0.99) and it lacks, in the place of atoms that nobody
        shares. None turns both off.

    warm_start : bool, default=False
        Whether `fit` goes on from the previous fit.

    shuffle : bool, default=True
        Whether each epoch takes the samples in a new random order.

    device : str, default="auto"
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
        "n_reinits" (of the SAEs and witnesses together). See
        :class:`skmfr.inspection.TrainingHistory`.

    verbose : int, default=0
        0 is silent, 1 shows a progress bar.

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

    trusted_ : ndarray of shape (n_components,), bool
        Atoms whose agreement is more than three quarters of the way from the null
        level to 1: ``feature_agreement_ > 0.25 * agreement_null_ + 0.75``.

    n_iter_ : int
        Number of epochs of the last fit, begun ones included; number of calls of
        `partial_fit`.

    n_steps_ : int
        Number of gradient steps so far.

    loss_curve_ : ndarray of shape (`n_steps_`,)
        FVU of each batch before its step, mean over the SAEs; by matching pursuit in
        steps that fit the dictionary to it.

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
    Data are centred and divided by one number inside; the fitted attributes are in
    units of the data. Arrays of weights and biases are read-only, as they are prepared
    once for all samples to come; assign a new array to change one. Over a fit, k falls
    from twice its value to that value in the first half of the steps, and the learning
    rate to zero in the last 30 %. The penalty rises after the first half, and is gone
    after 80 %.

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
        "tied": ["boolean"],
        "transform_algorithm": [StrOptions({"encoder", "lstsq", "omp"})],
        "sparse_output": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
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
        "warm_start": ["boolean"],
        "shuffle": ["boolean"],
        "device": [str],
        "precision": [StrOptions({"float32", "float64", "bfloat16"})],
        "checkpoint_dir": [str, PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left"), None],
        "callback": [callable, None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components=None,
        *,
        n_saes=3,
        k=8,
        alpha=1.0,
        matching="hungarian",
        n_witnesses=1,
        tied=False,
        transform_algorithm="encoder",
        sparse_output=False,
        max_iter=1000,
        max_steps=None,
        batch_size=1024,
        learning_rate="auto",
        tol=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        reinit_threshold=None,
        reinit_every=50,
        resample_every=100,
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
        self.tied = tied
        self.transform_algorithm = transform_algorithm
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

        An interrupted fit (KeyboardInterrupt) warns and leaves an estimator with the
        steps done so far; before the first step it is raised.

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

        Warns
        -----
        ConvergenceWarning
            If the fit shows signs of failure: poor reconstruction in spite of high
            agreement, atoms that collapse to one, a penalty that costs
            reconstruction, unstable reinitialisation.
        """
        continued = self.warm_start and self._can_go_on()
        X = self._checked(X, reset=not continued)
        self._learn(X, continued=continued, one_pass=False)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Train for one pass over some data, at a constant learning rate.

        The first call also decides how the data are centred and scaled, so its data
        should be typical. Neither k nor alpha change over the steps: the penalty is on
        from the first. Interrupted, it does as `fit` does.

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
        continued = self._can_go_on()
        X = self._checked(X, reset=not continued)
        self._learn(X, continued=continued, one_pass=True)
        return self

    def _can_go_on(self) -> bool:
        """Whether there is a state of training to go on from."""
        if not hasattr(self, "_trained"):
            return False
        if not self._trained:
            raise ValueError(
                "This SAE was imported from another package, without the state of its "
                "training: neither partial_fit nor warm_start=True can go on from "
                "it. Set warm_start=False and call fit to train anew."
            )
        return True

    def _learn(
        self, X: np.ndarray | Source, *, continued: bool, one_pass: bool
    ) -> None:
        """Train from the start or go on, for a whole schedule or for one pass."""
        from ._data.batches import Batches, fingerprint
        from ._data.standardiser import Standardiser
        from ._training.initial import untrained
        from ._training.schedule import Plateau, Schedule
        from ._training.state import new_state
        from ._utils.threads import let_forks_compute
        from ._utils.workers import present_workers

        let_forks_compute()
        workers = present_workers.get()
        # What a fitted model goes on from stays as it was until there is a new one.
        if continued:
            seed = self._seed
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rows, validation = None, None
        if self.early_stopping and not one_pass:
            rows, validation = self._split(X, seed)
        standardiser = self._standardiser if continued else Standardiser.of(X, rows)

        settings = self._settings(X.shape[1], seed)
        batches = Batches(
            X,
            rows,
            self.batch_size,
            self.shuffle,
            seed,
            key=self.n_steps_ if continued else 0,
            workers=workers,
        )
        if continued:
            state = self._restored_state(settings)
        else:
            ensemble = untrained(batches, standardiser, settings)
            state = new_state(ensemble, settings)
        if one_pass:
            state.begin(Schedule.constant(ceil(batches.per_epoch)), Plateau())
        else:
            schedule = Schedule.over(
                self._n_steps(batches.per_epoch), anneal_k=not continued
            )
            state.begin(schedule, Plateau(self.tol, self.n_iter_no_change))

        checkpoints = None
        is_saved = self.checkpoint_dir is not None and not one_pass
        # For which data are read, and so only where it is compared.
        hash_of_X = fingerprint(X) if is_saved or workers.size > 1 else None
        if is_saved:
            checkpoints = self._checkpoints(settings, state, hash_of_X, workers)
            state = checkpoints.load(settings) or state
        workers.check_same(
            self._decisive_params()
            | {
                "X.shape": X.shape,
                # Of which the samples may be in another order.
                "hash of X": hash_of_X,
                "seed drawn from random_state": seed,
                "step of the checkpoint in checkpoint_dir": state.step,
            }
        )

        self._train(
            state, batches, standardiser, settings, validation, checkpoints, one_pass
        )
        set_fitted(self, _fitted(state, standardiser, settings, X.dtype))
        self._seed: int = seed
        self._standardiser: Standardiser = standardiser
        self._trained = self._kept(state, moments=one_pass or self.warm_start)
        if one_pass:
            self.n_iter_ = getattr(self, "n_iter_", 0) + 1 if continued else 1
        else:
            self.n_iter_ = ceil(state.step / batches.per_epoch)
            self._warn_of_failure(state, settings)

    def _decisive_params(self) -> dict[str, object]:
        """The parameters that decide what training does."""
        return {
            name: value
            for name, value in self.get_params().items()
            if name not in INDIFFERENT_TO_TRAINING
        }

    def _checkpoints(self, settings, state, hash_of_X: str | None, workers):
        """The checkpoints of a fit that begins with this state."""
        from ._training.checkpoint import Checkpoints

        if self.random_state is None:
            warnings.warn(
                f"No other fit will go on from the checkpoints in checkpoint_dir="
                f"{str(self.checkpoint_dir)!r}, for each has other random numbers: "
                "random_state=None, expected an integer.",
                stacklevel=5,
            )
        return Checkpoints(
            Path(self.checkpoint_dir),
            self._decisive_params()
            # What may be written in other ways, and be the same.
            | {name: getattr(settings, name) for name in RESOLVED}
            | {
                "for_pursuit": settings.for_pursuit,
                "seed": settings.seed,
                "n_steps_": state.n_steps,
                "dictionaries_": joblib.hash(state.ensemble.decoder.cpu().numpy()),
                "X": hash_of_X,
            },
            circumstances={"world_size": workers.size},
        )

    def _train(
        self, state, batches, standardiser, settings, validation, checkpoints, one_pass
    ):
        """Run the training loop, watched, saved, and open to interruption."""
        from ._training.loop import train
        from ._training.progress import EpochCallbacks, Watch
        from ._training.schedule import due

        every = self.checkpoint_every or CHECKPOINT_EVERY
        first = batches.workers.rank == 0
        epochs = None
        if hasattr(self, "_init_callback_context") and not one_pass:
            epochs = EpochCallbacks(
                self,
                getattr(batches.X, "X", batches.X),
                batches.per_epoch,
                state,
                lambda state: _fitted(state, standardiser, settings, batches.X.dtype),
            )

        def after_step(state) -> bool:
            watch(state)
            if first and checkpoints is not None and due(state.step, every):
                checkpoints.save(state)
            return epochs is not None and epochs(state)

        with Watch(settings, self.verbose if first else 0, self.callback) as watch:
            try:
                train(state, batches, standardiser, settings, validation, after_step)
            except KeyboardInterrupt:
                if state.step == 0:
                    raise
                warnings.warn(
                    f"Training was interrupted after {state.step} of "
                    f"{state.schedule.n_steps} steps; the estimator has what was "
                    "learned so far.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
        if epochs is not None:
            epochs.close(state)

    def _split(
        self, X: np.ndarray | Source, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and rows to hold out for early stopping."""
        from ._utils.random import VALIDATION, random_numbers

        # Of many chunks whole ones: for a few rows of each, all would be read.
        sizes, most = np.diff(chunk_starts(X)), int(self.validation_fraction * len(X))
        if len(sizes) <= n_mixed(X) or sizes.max() > most:
            sizes = np.ones(len(X), dtype=int)
        order = random_numbers(seed, VALIDATION).permutation(len(sizes))
        n_rows = np.cumsum(sizes[order])
        n_held_out = max(1, int(np.searchsorted(n_rows, most, side="right")))
        if len(sizes) - n_held_out < 1:
            raise ValueError(
                f"early_stopping=True with validation_fraction="
                f"{self.validation_fraction} leaves no sample to train on: "
                f"n_samples={len(X)}."
            )
        held_out = np.zeros(len(sizes), dtype=bool)
        held_out[order[:n_held_out]] = True
        held_out = np.repeat(held_out, sizes)
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _n_steps(self, steps_per_epoch: float) -> int:
        """Length of a fit: max_iter epochs, but no more than max_steps."""
        most = self.max_steps
        if most is None:
            most = max(DEFAULT_STEPS, ceil(steps_per_epoch))
        return min(ceil(self.max_iter * steps_per_epoch), most)

    def _settings(self, n_features: int, seed: int):
        """What the parameters amount to on data with so many features."""
        import torch

        from ._training.settings import Settings
        from ._utils.devices import resolve_device

        if self.checkpoint_every is not None and self.checkpoint_dir is None:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every} needs a checkpoint_dir, "
                "got None."
            )
        n_components = self.n_components
        if n_components is None:
            n_components = min(4 * n_features, MAX_AUTO_COMPONENTS)
        learning_rate = self.learning_rate
        if learning_rate == "auto":
            learning_rate = AUTO_LEARNING_RATE / n_features**0.5
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        # What Adam squares must not overflow.
        largest = torch.finfo(dtype).max ** 0.5
        for name, value in [("alpha", self.alpha), ("learning_rate", learning_rate)]:
            if float(value) > largest:
                raise ValueError(
                    f"{name}={value:g} is too large for precision={self.precision!r}: "
                    f"it must be at most {largest:g}."
                )
        return Settings(
            n_components=n_components,
            n_saes=self.n_saes,
            n_witnesses=self.n_witnesses,
            k=min(self.k, n_components),
            alpha=float(self.alpha),
            matching=self.matching,
            tied=bool(self.tied),
            learning_rate=float(learning_rate),
            reinit_threshold=self.reinit_threshold,
            reinit_every=self.reinit_every,
            resample_every=self.resample_every,
            seed=seed,
            device=resolve_device(self.device),
            dtype=dtype,
            low_precision=self.precision == "bfloat16",
            for_pursuit=self.transform_algorithm == "omp",
        )

    def _kept(self, state, moments: bool) -> dict[str, np.ndarray]:
        """What another call needs to go on; Adam's moments only if one is likely."""
        from ._training.checkpoint import to_arrays

        return {
            name: array
            for name, array in to_arrays(state).items()
            # The dictionaries are public attributes already.
            if name != "decoder" and (moments or not name.startswith("adam"))
        }

    def _restored_state(self, settings):
        """The state that training ended with."""
        from ._training.checkpoint import from_arrays

        n_saes, n_components, n_features = self.dictionaries_.shape
        dtype = self._trained["encoder_bias"].dtype
        for name, wanted, found in [
            ("n_saes", settings.n_saes, n_saes),
            ("n_components", settings.n_components, n_components),
            ("n_features_in_", self.n_features_in_, n_features),
            ("n_witnesses", settings.n_witnesses, len(self.witness_dictionaries_)),
            ("tied", settings.tied, "encoder" not in self._trained),
            ("precision", str(settings.dtype), f"torch.{dtype}"),
        ]:
            if wanted != found:
                raise ValueError(
                    f"{name}={wanted}, but the fit to go on from had {name}={found}. "
                    "Set warm_start=False and call fit to start anew."
                )
        decoder = np.concatenate([self.dictionaries_, self.witness_dictionaries_])
        return from_arrays(self._trained | {"decoder": decoder.astype(dtype)}, settings)

    def _warn_of_failure(self, state, settings) -> None:
        from ._training.diagnostics import failure_signs, share_of_duplicates
        from ._training.revive import MAX_REINITS

        recent = state.losses[max(0, state.n_steps - RECENT_STEPS) : state.n_steps]
        group, witnesses = np.split(recent.cpu().numpy().mean(0), [settings.n_saes])
        # An interrupted fit may not have come so far.
        penalised = settings.n_saes > 1 and state.step > state.schedule.annealing
        for sign in failure_signs(
            alpha=settings.alpha if penalised else 0.0,
            group_fvu=group.mean(),
            witness_fvu=witnesses.mean() if len(witnesses) else np.nan,
            mutual_agreement=self.mutual_agreement_.mean(),
            duplicate_share=share_of_duplicates(self.components_),
            null_agreement=self.agreement_null_,
            n_reinits=int(state.n_reinits.max()),
            max_reinits=MAX_REINITS,
        ):
            warnings.warn(sign, ConvergenceWarning, stacklevel=5)

    def _checked(self, X, reset: bool) -> np.ndarray | Source:
        """X as an array, or what reads it piece by piece."""
        source = as_source(X)
        if source is not None:
            # Values that are not finite are found when they are read.
            return validate_data(self, source, reset=reset, skip_check_array=True)
        if reset or not as_validated(self, X):
            X = validate_data(
                self,
                as_array(X),
                dtype=[np.float64, np.float32],
                ensure_all_finite=False,
                reset=reset,
            )
        if not get_config()["assume_finite"]:
            check_finite(X)
        return X

    def transform(self, X):
        """Code samples with the reference SAE.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` takes.

        Returns
        -------
        codes : ndarray or CSR array of shape (n_samples, n_components)
            At most k entries of a row are not zero; with
            ``transform_algorithm="encoder"`` none is negative. float32 for float32
            data and for float16 in files, float64 otherwise.

        Raises
        ------
        ValueError
            If X is not numeric, finite and as wide as the training data.
        """
        from ._sae.arrays import coder_of, csr_codes, dense_codes

        X = checked_data(self, X)
        codes_of = csr_codes if self.sparse_output else dense_codes
        return codes_of(coder_of(self, X), X)

    def inverse_transform(self, X):
        """Reconstruct samples from codes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            ``X @ components_ + decoder_bias_``.

        Raises
        ------
        ValueError
            If X is not numeric, finite and as wide as there are atoms.
        """
        check_is_fitted(self)
        codes = check_array(
            as_array(X), accept_sparse="csr", dtype=[np.float64, np.float32]
        )
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"X has {codes.shape[1]} columns, but there are n_components="
                f"{len(self.components_)} atoms: inverse_transform takes codes."
            )
        atoms = self.components_.astype(codes.dtype, copy=False)
        return codes @ atoms + self.decoder_bias_.astype(codes.dtype, copy=False)

    def reconstruct(self, X, trusted_only=False):
        """Code samples and reconstruct them.

        The same as ``inverse_transform(transform(X))``, without the codes in full.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` takes.
        trusted_only : bool, default=False
            Whether to leave out the atoms that are not `trusted_`.

        Returns
        -------
        X_hat : ndarray of shape (n_samples, n_features)
            Reconstructed data.

        Raises
        ------
        ValueError
            If X is not numeric, finite and as wide as the training data.
        """
        from ._sae.arrays import coder_of, reconstruct

        X = checked_data(self, X)
        kept = self.trusted_ if trusted_only else None
        return reconstruct(coder_of(self, X), X, kept)

    def score(self, X, y=None):
        """Share of the variance of X that its reconstruction explains.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, in any form that `fit` takes.
        y : Ignored
            Not used, present for API consistency.

        Returns
        -------
        score : float
            1 - FVU with the present `transform_algorithm`, the same as ``r2_score(X,
            reconstruct(X), multioutput="variance_weighted")``. At most 1.

        Raises
        ------
        ValueError
            If X is not numeric, finite and as wide as the training data.
        """
        from ._sae.arrays import coder_of, reconstructed_blocks

        X = checked_data(self, X)
        return 1.0 - fvu_of_blocks(reconstructed_blocks(coder_of(self, X), X))

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __setstate__(self, state):
        super().__setstate__(state)
        # Arrays come out of a pickle so that they can be written to.
        set_fitted(self, {})

    def __sklearn_is_fitted__(self) -> bool:
        # A fit that fails has left n_features_in_.
        return hasattr(self, "components_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def checked_data(sae: MFRSparseAutoencoder, X) -> np.ndarray | Source:
    """X as a fitted estimator codes it: an array, or what reads it piece by piece."""
    check_is_fitted(sae)
    return sae._checked(X, reset=False)


def as_validated(sae: MFRSparseAutoencoder, X) -> bool:
    """Whether scikit-learn's checks would give X back, for a fitted estimator.

    They take as long as a row is coded.
    """
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and len(X) > 0
        and X.shape[1] == sae.n_features_in_
        and X.dtype in (np.float32, np.float64)
        and not hasattr(sae, "feature_names_in_")
    )


def check_parameters(sae: MFRSparseAutoencoder) -> None:
    """Raise an error that names a parameter, if one is not as described."""
    sae._validate_params()


def set_fitted(sae: MFRSparseAutoencoder, attributes: Mapping[str, Any]) -> None:
    """Set fitted attributes; those that coders are made of become read-only.

    An edit in place, which coders would not see, then raises.
    """
    for name, value in attributes.items():
        setattr(sae, name, value)
    for name in READ_ONLY & vars(sae).keys():
        array = getattr(sae, name)
        while isinstance(array, np.ndarray):
            array.flags.writeable = False
            array = array.base


def _fitted(state, standardiser, settings, dtype) -> dict:
    """Fitted attributes: NumPy, in units of the data and in their precision."""
    from ._training.loop import check_convergence

    n_saes = settings.n_saes
    losses = state.losses[: state.n_steps, :n_saes].cpu().numpy().copy()
    check_convergence(state, settings)
    reference = int(np.argmin(losses[-RECENT_STEPS:].mean(0)))

    decoder = state.ensemble.decoder.cpu().numpy().astype(dtype)
    decoder /= np.linalg.norm(decoder, axis=2, keepdims=True)
    dictionaries, witnesses = decoder[:n_saes], decoder[n_saes:]
    mean, scale = standardiser.mean, standardiser.scale
    encoder, encoder_bias, decoder_bias = (
        tensor[reference].cpu().numpy().astype(dtype)
        for tensor in (
            state.ensemble.encoder,
            state.ensemble.encoder_bias,
            state.ensemble.decoder_bias,
        )
    )
    mutual = np.stack(
        [
            mean_nearest_cosine(atoms, np.delete(dictionaries, i, axis=0))
            for i, atoms in enumerate(dictionaries)
        ]
    )
    agreement = mutual[reference]
    if len(witnesses):
        agreement = mean_nearest_cosine(dictionaries[reference], witnesses)
    null = random_agreement(decoder.shape[2], settings.n_components)
    return {
        "components_": dictionaries[reference],
        "dictionaries_": dictionaries,
        "witness_dictionaries_": witnesses,
        "reference_sae_": reference,
        "encoder_weights_": dictionaries[reference] if settings.tied else encoder,
        # ReLU and TopK commute with the scale, so that it goes to the biases.
        "encoder_bias_": encoder_bias * dtype.type(scale),
        "decoder_bias_": mean + decoder_bias * dtype.type(scale),
        "feature_agreement_": agreement,
        "mutual_agreement_": mutual,
        "agreement_null_": null,
        "trusted_": agreement > agreement_level(null, TRUSTED),
        "n_steps_": state.n_steps,
        "loss_curve_": losses.mean(1),
        "n_reinits_": state.n_reinits[:n_saes].copy(),
    }


# Weights of the SAEs, some of which are views of others.
READ_ONLY = {
    "components_",
    "dictionaries_",
    "witness_dictionaries_",
    "encoder_weights_",
    "encoder_bias_",
    "decoder_bias_",
}
# Parameters that have the same value in several spellings, such as "auto".
RESOLVED = ("n_components", "k", "alpha", "tied", "learning_rate", "device")
# Parameters that do not change what training does.
INDIFFERENT_TO_TRAINING = {
    "transform_algorithm",  # but for pursuit or not
    "sparse_output",
    "checkpoint_dir",
    "checkpoint_every",
    "callback",
    "verbose",
    "random_state",
}
