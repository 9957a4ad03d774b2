import pickle
from copy import deepcopy

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from skmfr.activations import ActivationExtractor
from skmfr.activations._models import evaluating
from skmfr.activations._sharing import model_digest

TOKENS = np.arange(20).reshape(5, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 6), nn.BatchNorm1d(6))


def test_pickling_moves_nothing(model, monkeypatch):
    extractor = ActivationExtractor(model, "1")
    expected, before = extractor.transform(TOKENS), tensors(model)

    def moved(*_, **__):
        raise AssertionError("the module was moved")

    monkeypatch.setattr(nn.Module, "_apply", moved)
    pickled = pickle.dumps(extractor)
    monkeypatch.undo()
    assert tensors(model) == before
    assert pickle.loads(pickled).model is model
    del model, extractor
    assert np.array_equal(pickle.loads(pickled).transform(TOKENS), expected)


def tensors(model) -> list[tuple]:
    return [
        (id(t), t.data_ptr(), t.device) for t in [*model.parameters(), *model.buffers()]
    ]


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    model[1].weight = model[0].weight
    pickled = pickle.dumps(ActivationExtractor(model, "1"))
    weight = model[0].weight.detach().clone()
    del model
    copied = pickle.loads(pickled).model
    assert copied[1].weight is copied[0].weight
    assert torch.equal(copied[0].weight, weight)
    assert isinstance(copied[0].weight, nn.Parameter)
    assert copied[0].weight.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_is_split_over_devices_stays_so(model):
    extractor = ActivationExtractor(model, "0")
    expected = extractor.transform(TOKENS)
    model[1:].cuda()
    before = tensors(model)
    pickled = pickle.dumps(extractor)
    assert tensors(model) == before
    del model, extractor
    copied = pickle.loads(pickled)
    assert {t.device.type for t in copied.model.state_dict().values()} == {"cpu"}
    assert np.array_equal(copied.transform(TOKENS), expected)


def test_a_model_whose_weights_are_partly_elsewhere_stays_so(model):
    split = deepcopy(model)
    split[1].to("meta")
    extractor = ActivationExtractor(split, "0")
    expected, before = extractor.transform(TOKENS), tensors(split)
    pickled = pickle.dumps(extractor)
    assert tensors(split) == before
    assert pickle.loads(pickled).model is split
    assert joblib.hash(extractor) == joblib.hash(ActivationExtractor(split, "0"))
    other = ActivationExtractor(deepcopy(split), "0")
    assert joblib.hash(extractor) != joblib.hash(other)
    del split, extractor
    assert np.array_equal(pickle.loads(pickled).transform(TOKENS), expected)


def test_a_split_model_is_not_moved_either(model):
    # Tensors without data stand for those of another device.
    split = deepcopy(model)
    split[1].to("meta")
    rows = ActivationExtractor(split, "0", device="cpu").transform(TOKENS)
    assert np.array_equal(rows, ActivationExtractor(model, "0").transform(TOKENS))
    split = nn.Sequential(deepcopy(model[1]).to("meta"), nn.Linear(6, 2))
    refused = pytest.raises(ValueError, match="split over cpu, meta")
    with refused, evaluating(split, "meta"):
        pass
    assert [t.device.type for t in split.parameters()] == ["meta"] * 2 + ["cpu"] * 2


class Scaled(nn.Module):
    """A model with a setting that only its forward pass reads."""

    def __init__(self, setting, factor):
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.out = nn.Identity()
        self.setting, self.factor = setting, factor

    def forward(self, ids):
        return self.out(self.embedding(ids) * self.factor(self.setting))


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (lambda x: [1, x], lambda setting: setting[1]),
        (lambda x: (1, [x, None]), lambda setting: setting[1][0]),
        (lambda x: {"factor": x}, lambda setting: setting["factor"]),
        (lambda x: {x}, max),
        (lambda x: torch.tensor(x), lambda setting: setting),
        (lambda x: [torch.tensor(x)], lambda setting: setting[0]),
    ],
)
def test_caches_know_all_settings(make, factor, tmp_path):
    model = Scaled(make(2.0), factor)
    extractor = ActivationExtractor(model, "out", memory=str(tmp_path))
    before = extractor.fit_transform(TOKENS)
    model.setting = make(4.0)
    np.testing.assert_allclose(extractor.transform(TOKENS), 2 * before)


def test_attributes_without_bytes_are_no_settings():
    model = Scaled(None, None)
    before = model_digest(model)
    model.setting = {}
    model.setting["itself"] = model.setting
    assert model_digest(model) == before
    model.setting = torch.ones(2, dtype=torch.complex64).conj()
    assert model_digest(model) != before


def test_equal_settings_are_one_model():
    """In whichever order a set has them."""
    parts = ["a", "b", "c", "d"]
    model = Scaled(None, None)
    digests = set()
    for order in (parts, parts[::-1]):
        model.setting = {"names": set(order), "scale": torch.ones(2)}
        digests.add(model_digest(model))
    assert len(digests) == 1
