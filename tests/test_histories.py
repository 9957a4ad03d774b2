"""Any calls in any order leave what a fresh estimator has after the last valid ones.

Hypothesis draws the histories; how many, the profile says, see conftest.py.  What a
fresh estimator has is computed once for the calls that count, and kept.
"""

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator

from skmfr import MFRSparseAutoencoder, io
from skmfr._training import fit as fitting
from skmfr._training import loop
from skmfr.activations import ActivationExtractor
from skmfr.eeg import EEGDenoiser, _supervised

mne = pytest.importorskip("mne")
N_HISTORIES = 30 if settings.get_current_profile_name() == "ci" else 1000


def share_of_histories(share):
    return settings(max_examples=round(share * N_HISTORIES))


# What happens


class Call(NamedTuple):
    """A call that learns."""

    method: str
    data: str
    told: tuple
    """parameters that have been set by then, by their names in the tables below"""
    n_steps: int | None = None
    """after which it is stopped"""


class Stopped(OSError):
    """An error in the middle of training."""


@contextmanager
def stopping(n_steps, error=None):
    """End training when so many steps of its schedule are done, or raise an error."""
    train = loop.train

    def train_so_long(state, *arguments):
        *arguments, after_step = arguments

        def is_over(state):
            if state.step == n_steps and error is not None:
                raise error
            return state.step == n_steps

        if not is_over(state):
            train(state, *arguments, lambda state: after_step(state) or is_over(state))

    with mock.patch.object(fitting, "train", train_so_long):
        yield


def outcome(call: Callable) -> tuple[Any, list[str]]:
    """What a call gives, or the error that it raises; and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except (ValueError, TypeError, Stopped, KeyboardInterrupt) as error:
            result = error
    told = [f"{each.category.__name__}: {each.message}" for each in caught]
    return result, sorted(told)


# What is compared


def plain(value):
    """Bytes and plain Python that are equal if the values are, NaN or not."""
    match value:
        case np.ndarray() if value.dtype != object:
            return value.dtype.str, value.shape, value.tobytes()
        case np.ndarray() | list() | tuple():
            return [plain(each) for each in value]
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case float() | np.generic():
            return type(value), np.asarray(value).tobytes()
        case torch.nn.Module():
            modes = [module.training for module in value.modules()]
            hooks = [len(module._forward_hooks) for module in value.modules()]
            weights = {k: w.numpy() for k, w in value.state_dict().items()}
            return modes, hooks, plain(weights)
        case mne.io.BaseRaw() | mne.BaseEpochs():
            return plain(value.get_data()), repr(value.info)
        case pd.DataFrame():
            return list(value.columns), plain(value.to_numpy())
        case BaseEstimator():
            return type(value), plain(value.get_params()), plain(fitted(value))
        case BaseException():
            return type(value), str(value)
    if sparse.issparse(value):
        return [plain(part) for part in (value.data, value.indices, value.indptr)]
    return value


def fitted(estimator) -> dict:
    """Fitted attributes, also those that are made when they are read.

    They are read of a copy, so that the estimator has those alone that it had.
    """
    estimator = shadow(estimator)
    names = [n for n in dir(estimator) if n.endswith("_") and not n.startswith("_")]
    found = {name: getattr(estimator, name, None) for name in [*names, "_training"]}
    return {name: found[name] for name in found if hasattr(estimator, name)}


def shadow(estimator):
    """An estimator with the same objects for attributes."""
    other = object.__new__(type(estimator))
    vars(other).update(vars(estimator))
    return other


def assert_same(one: dict, other: dict):
    different = {
        name
        for name in one.keys() | other.keys()
        if name not in one or name not in other or one[name] != other[name]
    }
    assert not different


@cache
def fresh(cls, calls: tuple[Call, ...]) -> tuple:
    """An estimator that had these calls and no others, and what the last one gave.

    A call that was stopped is a fit of the steps done, on the same schedule.
    """
    estimator, last = cls.kind(**cls.REQUIRED), None
    for call in calls:
        estimator.set_params(**cls.parameters(dict(call.told)))
        with stopping(call.n_steps):
            last = outcome(lambda call=call: cls.carry_out(estimator, call))
    return estimator, last


@cache
def fresh_attributes(cls, calls: tuple[Call, ...]) -> dict:
    return plain(fitted(fresh(cls, calls)[0]))


@cache
def fresh_results(cls, calls, told, method, data):
    """What an estimator that had these calls gives with these parameters."""
    estimator = shadow(fresh(cls, calls)[0])
    estimator.set_params(**cls.parameters(dict(told)))
    return plain(outcome(lambda: cls.use(estimator, method, data)))


# Histories


class History:
    """An estimator, and the calls that a fresh one needs to be the same.

    Its methods are what can happen.
    """

    kind: type
    REQUIRED: dict = {}
    TOLD_FIRST: dict = {}
    DATA: dict[str, tuple]
    # Whether an interrupted fit leaves the steps that were done.
    keeps_steps = False

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls: tuple[Call, ...] = ()
        self.told = dict(self.TOLD_FIRST)
        self.estimator = self.kind(**self.REQUIRED)
        self.unfitted = set(vars(self.estimator))
        self.estimator.set_params(**self.parameters(self.told))

    @classmethod
    def live(cls, operations):
        """Have all this happen, one after the other, and look after each."""
        data_before = plain(cls.DATA)
        with TemporaryDirectory() as folder:
            history = cls(Path(folder))
            for name, *arguments in operations:
                getattr(history, name)(*arguments)
                expected = fresh_attributes(cls, history.calls)
                assert_same(plain(fitted(history.estimator)), expected)
        assert plain(cls.DATA) == data_before

    @classmethod
    def parameters(cls, told) -> dict:
        """Parameters of these names in the tables."""
        return told

    @classmethod
    def carry_out(cls, estimator, call: Call):
        result = getattr(estimator, call.method)(*cls.DATA[call.data])
        return "itself" if result is estimator else result

    @classmethod
    def use(cls, estimator, method, data):
        return getattr(estimator, method)(*cls.DATA[data])

    def begins_anew(self, method) -> bool:
        return True

    def learn(self, method, data, n_steps=None, error=None):
        """Call what learns: it does as with a fresh estimator, or changes nothing."""
        earlier = () if self.begins_anew(method) else self.calls
        call = Call(method, data, tuple(self.told.items()))
        before = dict(vars(self.estimator))
        content, parameters = plain(before), plain(self.estimator.get_params())
        with stopping(n_steps, error):
            result, warned = outcome(lambda: self.carry_out(self.estimator, call))
        assert plain(self.estimator.get_params()) == parameters
        if isinstance(result, KeyboardInterrupt) and self.keeps_steps and n_steps > 0:
            [warning] = [each for each in warned if "interrupted" in each]
            assert f"after {n_steps} of " in warning
            warned.remove(warning)
            result, call = "itself", call._replace(n_steps=n_steps)
        if not isinstance(result, Stopped | KeyboardInterrupt):
            _, expected = fresh(type(self), (*earlier, call))
            assert plain((result, warned)) == plain(expected)
        if isinstance(result, BaseException):
            after = vars(self.estimator)
            assert_same(plain(after), content)
            assert all(after[name] is value for name, value in before.items())
        else:
            self.calls = (*earlier, call)
        return result

    def learn_wrongly(self, method, data, wrong):
        """Call what learns with a parameter that is not as described."""
        name, value = wrong
        right, told = self.estimator.get_params()[name], dict(self.told)
        self.estimator.set_params(**{name: value})
        self.told[name] = value
        result = self.learn(method, data)
        assert isinstance(result, ValueError | TypeError)
        assert name in str(result)
        self.estimator.set_params(**{name: right})
        self.told = told

    def give(self, method, data):
        """Call what does not learn."""
        result = outcome(lambda: self.use(self.estimator, method, data))
        told = tuple(self.told.items())
        expected = fresh_results(type(self), self.calls, told, method, data)
        assert plain(result) == expected

    def tell(self, change):
        name, value = change
        self.estimator.set_params(**self.parameters({name: value}))
        self.told[name] = value

    def make_clone(self, go_on_with_it):
        cloned = clone(self.estimator)
        assert set(vars(cloned)) == self.unfitted
        assert plain(cloned.get_params()) == plain(self.estimator.get_params())
        if go_on_with_it:
            self.estimator, self.calls = cloned, ()

    def make_copy(self, copied, go_on_with_it):
        other = copied(self.estimator)
        assert_same(plain(fitted(other)), plain(fitted(self.estimator)))
        assert plain(other.get_params()) == plain(self.estimator.get_params())
        if go_on_with_it:
            self.estimator = other


def happening(fewest, *kinds):
    """Lists of what happens, of such kinds: how often, method, and its arguments."""
    return st.lists(
        st.one_of(
            [
                st.tuples(st.just(name), *arguments)
                for often, name, *arguments in kinds
                for _ in range(often)
            ]
        ),
        min_size=fewest,
        max_size=2 * fewest,
    )


def changes(**values):
    """One of these parameters, and one of its values."""
    return one_of(*((name, each) for name in values for each in values[name]))


def one_of(*values):
    return st.sampled_from(values)


def pickled(estimator):
    return pickle.loads(pickle.dumps(estimator))


INTERRUPT, ERROR = st.just(KeyboardInterrupt), st.just(Stopped)
COPIED = 2, "make_copy", one_of(copy.deepcopy, pickled), st.booleans()
CLONED = 1, "make_clone", st.booleans()


# MFRSparseAutoencoder


def rows(n, n_features=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, n_features))


def with_nan(X):
    X = X.copy()
    X.flat[X.size // 2] = np.nan
    return X


class SAEHistory(History):
    kind = MFRSparseAutoencoder
    REQUIRED = {
        "n_components": 12,
        "k": 3,
        "n_saes": 2,
        "max_steps": 12,
        "batch_size": 16,
        "random_state": 0,
    }
    DATA = {
        "some": (rows(40),),
        "others": (3 * rows(50, seed=1) + 1,),
        "float32": (rows(40).astype(np.float32),),
        "named": (pd.DataFrame(rows(40), columns=list("abcdef")),),
        "one": (rows(1),),
        "alike": (np.ones((20, 6)),),
        "wide": (rows(40, 7),),
        "NaN": (with_nan(rows(40)),),
        "text": ([["a", "b"]],),
    }
    keeps_steps = True

    def begins_anew(self, method):
        return method == "fit" and not self.told.get("warm_start", False)

    def set_checkpoints(self, are_there):
        """From which it goes on, to the same end."""
        place, every = (self.folder / "checkpoints", 3) if are_there else (None, None)
        self.estimator.set_params(checkpoint_dir=place, checkpoint_every=every)

    def read(self, name):
        """Attributes that are made when they are read are those that go on."""
        getattr(self.estimator, name, None)

    def save_and_load(self):
        if self.calls:
            io.save(self.estimator, self.folder / "sae.safetensors")
            self.estimator = io.load(self.folder / "sae.safetensors")


METHODS = one_of("fit", "partial_fit")
SAE_GOOD, SAE_DATA = one_of(*list(SAEHistory.DATA)[:-2]), one_of(*SAEHistory.DATA)
OF_SAES = happening(
    8,
    (6, "learn", METHODS, SAE_GOOD),
    (1, "learn", METHODS, SAE_DATA),
    (2, "learn", METHODS, SAE_GOOD, st.integers(0, 12), INTERRUPT),
    (1, "learn", METHODS, SAE_GOOD, st.integers(0, 12), ERROR),
    (
        1,
        "learn_wrongly",
        METHODS,
        SAE_DATA,
        changes(k=[0], max_steps=["many"], tied=[2], device=["none"]),
    ),
    (
        4,
        "tell",
        changes(
            warm_start=[True, False],
            max_steps=[5, 20],
            max_iter=[2],
            early_stopping=[True],
            n_components=[16],
            n_saes=[1],
            n_witnesses=[0],
            tied=[True, False],
            k=[1, 16],
            alpha=[0.0],
            precision=["bfloat16"],
            reinit_threshold=[0.9],
            reinit_every=[3],
            share_atoms=[False],
            shuffle=[False],
            random_state=[1],
        ),
    ),
    (
        2,
        "tell",
        changes(
            k=[1, 16],
            transform_algorithm=["lstsq", "omp"],
            positive_code=[True, False],
            sparse_output=[True, False],
        ),
    ),
    (1, "set_checkpoints", st.booleans()),
    (3, "give", one_of("transform", "score", "reconstruct"), SAE_DATA),
    (1, "read", one_of("components_", "trusted_", "mutual_agreement_")),
    (1, "save_and_load"),
    COPIED,
    CLONED,
)


@share_of_histories(0.4)
@given(OF_SAES)
def test_histories_of_saes(happenings):
    SAEHistory.live(happenings)


# EEGDenoiser

SFREQ = 32


def signals(seed, n_channels=2):
    """Rhythms with noise, and without: (n_epochs, n_channels, n_times)."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, (12, n_channels, 1))
    clean = 1e-5 * np.sin(np.arange(32) + phase)
    return clean + 1e-5 * rng.standard_normal(clean.shape), clean


def a_raw(data):
    info = mne.create_info(data.shape[1], SFREQ, "eeg")
    return mne.io.RawArray(np.concatenate(list(data), axis=1), info, verbose="error")


def some_epochs(data):
    info = mne.create_info(data.shape[1], SFREQ, "eeg")
    return mne.EpochsArray(data, info, verbose="error")


def flat(data):
    data = data.copy()
    data[:, 0] = 0
    return data


NOISY, CLEAN = signals(0)
SMALL = MFRSparseAutoencoder(
    12, k=3, n_saes=2, n_witnesses=1, max_steps=10, batch_size=32, random_state=0
)
SAES = {
    "usual": SMALL,
    "pursuit": clone(SMALL).set_params(transform_algorithm="omp", n_components=16),
    "single": clone(SMALL).set_params(n_saes=1, n_witnesses=0),
}


class EEGHistory(History):
    kind = EEGDenoiser
    REQUIRED = {"window": 0.25, "random_state": 0}
    TOLD_FIRST = {"sae": "usual", "sfreq": SFREQ}
    DATA = {
        "noisy": (NOISY,),
        "noisy and clean": (NOISY, CLEAN),
        "others and clean": signals(1),
        "float32": (NOISY.astype(np.float32),),
        "raw": (a_raw(NOISY),),
        "raw and clean": (a_raw(NOISY), a_raw(CLEAN)),
        "epochs": (some_epochs(signals(2)[0]),),
        "more channels": (signals(3, 3)[0],),
        "NaN": (with_nan(NOISY),),
        "clean with NaN": (NOISY, with_nan(CLEAN)),
        "flat": (flat(NOISY),),
        "flat and clean": (flat(NOISY), CLEAN),
        "labels": (NOISY, np.arange(len(NOISY))),
        "short": (NOISY[..., :5],),
    }

    @classmethod
    def parameters(cls, told):
        return told | {"sae": clone(SAES[told["sae"]])} if "sae" in told else told

    @classmethod
    def use(cls, estimator, method, data):
        X, *y = cls.DATA[data]
        if method == "apply":
            return estimator.apply(X, exclude=[0, 3])
        return getattr(estimator, method)(X, *(y if method == "score" else ()))

    def tell(self, change):
        if change[0] == "sae":
            self.told.pop("sae__k", None)
        super().tell(change)


FIT = st.just("fit")
EEG_GOOD, EEG_DATA = one_of(*list(EEGHistory.DATA)[:-6]), one_of(*EEGHistory.DATA)
OF_DENOISERS = happening(
    7,
    (4, "learn", FIT, EEG_GOOD),
    (2, "learn", FIT, EEG_DATA),
    (1, "learn", FIT, EEG_GOOD, st.integers(0, 10), INTERRUPT),
    (1, "learn", FIT, EEG_GOOD, st.integers(0, 10), ERROR),
    (
        1,
        "learn_wrongly",
        FIT,
        EEG_DATA,
        changes(overlap=[2], window=[-1], sfreq=["fast"]),
    ),
    (
        4,
        "tell",
        changes(
            sae=SAES,
            sae__k=[2, 16],
            window=[0.25, 0.5],
            overlap=[0.5],
            sfreq=[None, SFREQ],
            picks=["eeg", None],
            exclude=[(), (1, 2), (15,)],
            trusted_only=[True, False],
            random_state=[1],
        ),
    ),
    (4, "give", one_of("transform", "apply", "score"), EEG_DATA),
    COPIED,
    CLONED,
)


@share_of_histories(0.2)
@given(OF_DENOISERS)
def test_histories_of_denoisers(happenings):
    # Of as few samples as there are, no more are made by mixing them anew.
    with mock.patch.object(_supervised, "FIT_ROWS", 1000):
        EEGHistory.live(happenings)


# ActivationExtractor


def small_model(width, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Embedding(20, 8), torch.nn.Linear(8, width), torch.nn.ReLU()
        )


MODELS = {"usual": small_model(6, 0), "wide": small_model(9, 1)}
WEIGHTS = [copy.deepcopy(MODELS["usual"].state_dict()), small_model(6, 2).state_dict()]
TOKENS = np.random.default_rng(0).integers(1, 20, (12, 5))
CACHES = TemporaryDirectory()
CODERS = {
    "none": None,
    "small": SMALL,
    "frozen": FrozenEstimator(clone(SAES["single"]).fit(rows(40))),
}


class ExtractorHistory(History):
    kind = ActivationExtractor
    REQUIRED = {"model": None, "layer": "1", "batch_size": 5}
    TOLD_FIRST = {"model": "usual", "sae": "none", "weights": 0}
    DATA = {
        "tokens": (TOKENS,),
        "others": (TOKENS[:7, ::-1].copy(),),
        "lists": ([row[: 2 + i % 3].tolist() for i, row in enumerate(TOKENS)],),
        "one": (TOKENS[:1, :1],),
        "out of range": (TOKENS + 5,),
        "no rows": (TOKENS[:0],),
    }

    @classmethod
    def parameters(cls, told):
        """Parameters of these names; the usual model gets the weights."""
        told = dict(told)
        if told.get("memory"):
            told["memory"] = mkdtemp(dir=CACHES.name)
        if "weights" in told:
            MODELS["usual"].load_state_dict(WEIGHTS[told.pop("weights")])
        tables = {"model": MODELS, "sae": CODERS}
        return {k: tables[k][v] if k in tables else v for k, v in told.items()}

    def learn(self, *arguments):
        # A fresh one may have had others.
        self.parameters(self.told)
        return super().learn(*arguments)

    def give(self, *arguments):
        self.parameters(self.told)
        super().give(*arguments)

    def tell(self, change):
        super().tell(change)
        if change == ("memory", True):
            # One for all calls, whereas that of a fresh one is empty.
            self.estimator.set_params(memory=str(self.folder / "cache"))


LEARN = one_of("fit", "fit_transform")
GOOD_TEXTS, TEXTS = one_of("tokens", "lists"), one_of(*ExtractorHistory.DATA)
OF_EXTRACTORS = happening(
    16,
    (5, "learn", LEARN, GOOD_TEXTS),
    (1, "learn", LEARN, TEXTS),
    (1, "learn", LEARN, TEXTS, st.integers(0, 10), INTERRUPT),
    (1, "learn", LEARN, TEXTS, st.integers(0, 10), ERROR),
    (
        1,
        "learn_wrongly",
        LEARN,
        TEXTS,
        changes(layer=["7"], positions=["most"], batch_size=[0]),
    ),
    (3, "tell", changes(sae=CODERS, max_norm_ratio=[1.1, None])),
    (3, "tell", changes(weights=[0, 1], model=MODELS)),
    (
        2,
        "tell",
        changes(
            layer=["0", "1"],
            positions=["all", "last", "mean", "max"],
            skip_first=[0, 1],
            pad_token_id=[3],
            max_length=[2],
        ),
    ),
    (2, "tell", changes(memory=[True, None])),
    (5, "give", st.just("transform"), GOOD_TEXTS),
    (1, "give", st.just("transform"), TEXTS),
    COPIED,
    CLONED,
)


@share_of_histories(0.4)
@given(OF_EXTRACTORS)
def test_histories_of_extractors(happenings):
    ExtractorHistory.live(happenings)
