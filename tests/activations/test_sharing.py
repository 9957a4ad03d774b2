import pickle
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import partial
from threading import Lock
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu, silu, tanh

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


def quantized(value):
    return torch.quantize_per_tensor(torch.full((2,), value), 0.1, 0, torch.qint8)


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


@dataclass
class Scale:
    alpha: float


class Kind(Enum):
    ONE = 1
    TWO = 2


def twice(x):
    return 2 * x


class Hidden(list):
    """Modules of which torch does not know."""

    def __init__(self, value):
        super().__init__([nn.Linear(1, 1)])
        nn.init.constant_(self[0].weight, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.relu, torch.tanh),
        (silu, tanh),
        (partial(leaky_relu, negative_slope=0.1), partial(leaky_relu)),
        (lambda x: x, lambda x: 2 * x),
        (lambda x: x, twice),
        (Scale(1.0).__eq__, Scale(2.0).__eq__),
        (np.float32(1), np.float32(2)),
        (np.zeros(3), np.ones(3)),
        ([np.zeros(3)], [np.ones(3)]),
        (Scale(1.0), Scale(2.0)),
        (SimpleNamespace(a=torch.zeros(2)), SimpleNamespace(a=torch.ones(2))),
        (SimpleNamespace(a=torch.relu), SimpleNamespace(a=torch.tanh)),
        (Kind.ONE, Kind.TWO),
        (torch.float32, torch.float64),
        (re.compile("a"), re.compile("b")),
        (Hidden(1.0), Hidden(2.0)),
        (quantized(1.0), quantized(2.0)),
        (Lock(), Lock()),
    ],
)
def test_objects_are_settings(one, other):
    model = Scaled(one, None)
    before = model_digest(model)
    assert model_digest(model) == before
    model.setting = other
    assert model_digest(model) != before
    model.setting = one
    assert model_digest(model) == before


def test_settings_may_contain_themselves():
    model = Scaled(None, None)
    before = model_digest(model)
    model.setting = {}
    model.setting["itself"] = model.setting
    assert model_digest(model) == model_digest(model) != before
    model.setting = [model, model.out]
    assert model_digest(model) == model_digest(model) != before


def test_a_replaced_forward_is_another_model(model):
    replaced = deepcopy(model)
    assert model_digest(replaced) == model_digest(model)
    replaced[1].forward = lambda x: 2 * nn.Linear.forward(replaced[1], x)
    assert model_digest(replaced) == model_digest(replaced) != model_digest(model)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_quantised_weights_are_weights(model, tmp_path):
    ao = pytest.importorskip("torch.ao.quantization")
    other = deepcopy(model)
    nn.init.ones_(other[1].weight)
    models = [ao.quantize_dynamic(each, {nn.Linear}) for each in (model, other)]
    extractors = [ActivationExtractor(each, "1") for each in models]
    rows = [extractor.transform(TOKENS) for extractor in extractors]
    assert not np.allclose(*rows)
    pickles = [pickle.dumps(extractor) for extractor in extractors]
    for each, pickled in zip(models, pickles, strict=True):
        assert pickle.loads(pickled).model is each
    for extractor, expected in zip(extractors, rows, strict=True):
        extractor.set_params(memory=str(tmp_path))
        assert np.array_equal(extractor.transform(TOKENS), expected)
    copied = pickle.loads(pickle.dumps(deepcopy(models[0])))
    assert model_digest(copied) == model_digest(models[0])


def test_equal_models_remain_two(model):
    """Each pickle is of one of them, which may change later."""
    other = deepcopy(model)
    for each in (model, other):
        assert pickle.loads(pickle.dumps(ActivationExtractor(each, "1"))).model is each


IN_ANOTHER_PROCESS = """
import pickle, sys
extractor = pickle.load(open(sys.argv[1], "rb"))
pickle.dump(extractor, open(sys.argv[1], "wb"))
"""


def test_an_extractor_returns_to_its_model(model, tmp_path):
    file = tmp_path / "extractor.pkl"
    file.write_bytes(pickle.dumps(ActivationExtractor(model, "1")))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(file)]
    subprocess.run(command, check=True)
    assert pickle.loads(file.read_bytes()).model is model
    nn.init.zeros_(model[1].weight)
    copied = pickle.loads(file.read_bytes()).model
    assert copied is not model
    assert copied[1].weight.any()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "mamba"])
def test_running_a_model_does_not_change_it(name):
    """transformers adds hooks to it when hidden states are first asked for."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        name, vocab_size=50, hidden_size=8, d_model=8, num_hidden_layers=1,
        num_layers=1, num_attention_heads=2, num_heads=2, num_key_value_heads=2,
        intermediate_size=8, d_ff=8, d_kv=4, state_size=4,
    )  # fmt: skip
    model = transformers.AutoModel.from_config(config).eval()
    before = model_digest(model)
    ids = torch.from_numpy(TOKENS)
    decoder = {"decoder_input_ids": ids} if name == "t5" else {}
    model(ids, **decoder)
    model(ids, **decoder, output_hidden_states=True)
    assert model_digest(model) == before
    assert model_digest(deepcopy(model)) == before


def test_conjugated_settings_have_bytes():
    model = Scaled(None, None)
    before = model_digest(model)
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
