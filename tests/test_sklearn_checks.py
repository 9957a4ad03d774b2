"""scikit-learn's own checks, with no expected failure."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmfr import MFRSparseAutoencoder, PretrainedSAE
from skmfr.io._weights import Weights, estimator_of

# Few steps: the checks are about conventions, and fit some two hundred times.
ESTIMATORS = [
    MFRSparseAutoencoder(max_steps=10),
    MFRSparseAutoencoder(max_steps=5, n_saes=1, n_witnesses=0, activation="batchtopk"),
    MFRSparseAutoencoder(
        max_steps=5, n_witnesses=0, tied=True, transform_algorithm="omp"
    ),
    MFRSparseAutoencoder(
        max_steps=5, n_saes=1, n_witnesses=1, transform_algorithm="lstsq"
    ),
]


class MadeForItsData(PretrainedSAE):
    """Without weights until it gets some as wide as its data: checks have many."""

    def fit(self, X, y=None):
        if not self.__sklearn_is_fitted__():
            width = max(1, *np.asarray(X).shape[-1:], 1)
            draw = np.random.default_rng(0)
            shapes = (5, width), (5,), (5, width), (width,), (5,)
            arrays = [draw.standard_normal(shape) for shape in shapes]
            made = estimator_of(Weights(*arrays[:-1], np.abs(arrays[-1])))
            vars(self).update(
                {name: value for name, value in vars(made).items() if name[-1] == "_"}
            )
        return super().fit(X, y)


PRETRAINED = [
    MadeForItsData(),
    MadeForItsData(k=2, transform_algorithm="omp", positive_code=True),
]

# What check_estimator does not run.
FURTHER_CHECKS = [
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_n_features_in_after_fitting",
]


@pytest.fixture(autouse=True)
def _short_fits_may_look_bad():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@parametrize_with_checks([*ESTIMATORS, *PRETRAINED])
def test_passes_all_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "estimator",
    [MFRSparseAutoencoder(max_steps=5), MadeForItsData()],
    ids=["fit", "no"],
)
@pytest.mark.parametrize("name", FURTHER_CHECKS)
def test_passes_checks_that_check_estimator_leaves_out(name, estimator):
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this scikit-learn has no {name}")
    check(type(estimator).__name__, estimator)
