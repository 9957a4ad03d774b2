import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from skmfr.activations import ActivationExtractor, ablate, loss_recovered, steer
from skmfr.activations._compiled import eager

TOKENS = np.arange(20).reshape(5, 4)


def wrapped(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def inside(model):
    model[1] = torch.compile(model[1], backend="eager")
    return model


def forward(model):
    model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(20, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 20)
    )


@pytest.fixture(params=[wrapped, in_place, inside, forward])
def compiled(request, plain):
    """A model that has run compiled, and still does."""
    torch._dynamo.reset()
    model = request.param(deepcopy(plain))
    with torch.no_grad():
        model(torch.tensor(TOKENS))
    return model


@pytest.fixture(scope="module")
def pca(plain):
    X = ActivationExtractor(plain, "1.0", positions="all").transform(TOKENS)
    return PCA(3).fit(X)


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).numpy()


def test_layers_are_those_of_the_model_before(compiled, plain):
    expected = ActivationExtractor(plain, "1.0").transform(TOKENS)
    names = [name for name, _ in compiled.named_modules() if name.endswith("1.0")]
    for layer in ["1.0", *names]:
        rows = ActivationExtractor(compiled, layer).transform(TOKENS)
        assert np.array_equal(rows, expected)


def test_steering_changes_what_the_model_before_would_give(compiled, plain, pca):
    for context in [
        lambda model: steer(model, "1.0", pca, 0, 5.0),
        lambda model: ablate(model, "1.0", pca, [0, 1]),
    ]:
        before = logits(compiled)
        with context(plain):
            expected = logits(plain)
        with context(compiled) as model:
            assert model is compiled
            np.testing.assert_allclose(logits(model), expected, atol=1e-6)
        assert np.abs(expected - before).max() > 0.01
        assert np.array_equal(logits(compiled), before)


def test_loss_recovered_is_that_of_the_model_before(compiled, plain, pca):
    expected = loss_recovered(plain, "1.0", pca, TOKENS)
    assert loss_recovered(compiled, "1.0", pca, TOKENS) == pytest.approx(expected)


def test_the_compiler_is_as_before_afterwards(plain, pca):
    calls = []

    def backend(graph, inputs):
        def run(*arguments):
            calls.append(1)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    compiled = torch.compile(deepcopy(plain), backend=backend)
    logits(compiled)
    del calls[:]
    with (
        steer(compiled, "1.0", pca, 0, 5.0),
        steer(compiled, "1", pca, 0, 1.0),
    ):
        ActivationExtractor(compiled, "1.0").transform(TOKENS)
        logits(compiled)
    assert not calls
    logits(compiled)
    assert calls


def test_a_model_compiled_while_it_is_steered_forgets_it(plain, pca):
    torch._dynamo.reset()
    model = deepcopy(plain)
    with steer(model, "1.0", pca, 0, 5.0):
        steered = logits(model)
        compiled = wrapped(model)
        assert np.array_equal(logits(compiled), steered)
    np.testing.assert_allclose(logits(compiled), logits(plain), atol=1e-6)


def test_contexts_of_threads_may_end_in_any_order(plain):
    torch._dynamo.reset()
    calls, meet = [], Barrier(2, timeout=10)

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    def first():
        with eager(plain):
            meet.wait()
            meet.wait()

    def second():
        meet.wait()
        with eager(plain):
            meet.wait()
            threads[0].result()
            logits(torch.compile(deepcopy(plain), backend=backend))
            assert not calls

    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(first)]
        pool.submit(second).result()
    logits(torch.compile(deepcopy(plain), backend=backend))
    assert calls


def test_an_older_torch_says_what_is_needed(compiled, plain, pca, monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    expected = logits(plain)
    with (
        pytest.raises(ValueError, match=r"torch.compile.*before torch 2\.6"),
        steer(compiled, "1.0", pca, 0, 5.0),
    ):
        pass
    with steer(plain, "1.0", pca, 0, 5.0):
        assert np.abs(logits(plain) - expected).max() > 0.01


def test_what_was_never_compiled_needs_no_compiler(plain, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    monkeypatch.delattr(torch.compiler, "set_stance")
    with eager(plain):
        assert "torch._dynamo" not in sys.modules
