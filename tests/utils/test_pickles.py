"""Pickles of other versions load, or are refused with both versions named."""

import pickle
from copy import deepcopy

import numpy as np
import pytest

import skmfr
from skmfr import MFRSparseAutoencoder
from skmfr._utils.pickles import VERSION
from skmfr.activations import ActivationExtractor
from skmfr.eeg import EEGDenoiser
from skmfr.io._weights import Weights, estimator_of


def pretrained():
    one = np.eye(3, dtype=np.float32)
    return estimator_of(Weights(one, one[0], one, one[0], one[0]))


ESTIMATORS = [
    MFRSparseAutoencoder(),
    pretrained(),
    EEGDenoiser(),
    ActivationExtractor("model", layer="layer"),
]
every_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__
)


def written_by(version, estimator):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skmfr, "__version__", version)
        return pickle.dumps(estimator)


@every_estimator
@pytest.mark.parametrize("version", ["0.1.9", "0.20.0", "1.2.0"])
def test_pickles_of_other_versions_are_refused(estimator, version):
    message = f"written by skmfr {version}, which skmfr {skmfr.__version__} .*io.save"
    pickled = written_by(version, estimator)
    with pytest.raises(pickle.UnpicklingError, match=message):
        pickle.loads(pickled)


@every_estimator
def test_pickles_of_the_same_second_number_load(estimator, monkeypatch):
    monkeypatch.setattr(skmfr, "__version__", "0.2.7")
    loaded = pickle.loads(written_by("0.2.1", estimator))
    assert vars(loaded).keys() == vars(estimator).keys()


@every_estimator
def test_pickles_of_0_1_0_hold_no_version_and_are_refused(estimator):
    state = estimator.__getstate__()
    assert state.pop(VERSION) == skmfr.__version__
    with pytest.raises(pickle.UnpicklingError, match=r"written by skmfr 0\.1\.0, "):
        deepcopy(estimator).__setstate__(state)


def test_early_pickles_of_0_1_0_that_hold_a_class_of_then_are_refused():
    # An estimator's attribute of the class skmfr._batches.Standardiser.
    pickled = b"cskmfr._batches\nStandardiser\n."
    with pytest.raises(pickle.UnpicklingError, match=r"written by skmfr 0\.1\.0, "):
        pickle.loads(pickled)


def test_a_state_that_is_read_stays_as_it_was():
    state = MFRSparseAutoencoder().__getstate__()
    kept = dict(state)
    MFRSparseAutoencoder().__setstate__(state)
    assert state == kept
