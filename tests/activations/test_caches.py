"""Counting goes on in passes that continue others, whatever the cache."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from skmfr.activations import steer

SMALL = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2}
MODELS = {
    "mamba": (MambaForCausalLM, MambaConfig(state_size=4, **SMALL), "backbone.layers"),
    "mamba2": (
        Mamba2ForCausalLM,
        Mamba2Config(state_size=4, num_heads=4, head_dim=4, n_groups=1, **SMALL),
        "backbone.layers",
    ),
    "rwkv": (RwkvForCausalLM, RwkvConfig(context_length=32, **SMALL), "rwkv.blocks"),
}
# Without padding, and padded at the left.
IDS = torch.tensor([[3, 4, 5, 6, 7], [0, 0, 5, 6, 7]])


@pytest.fixture(scope="module")
def pca():
    return PCA(2).fit(np.random.default_rng(0).normal(size=(20, 8)))


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    kind, config, layers = MODELS[request.param]
    made = kind(config).eval()
    made.layer = made.get_submodule(f"{layers}.0")
    made.layer_name = f"{layers}.0"
    return made


def changed(model, pca, skip_first, run) -> list[list[int]]:
    """Which positions are steered, one list for each input."""
    outputs: list = []

    def keep(module, inputs, output):
        output = output if isinstance(output, torch.Tensor) else output[0]
        outputs.append(output.detach().clone())

    handles = [model.layer.register_forward_hook(keep)]
    with (
        steer(model, model.layer_name, pca, 0, 50.0, skip_first=skip_first),
        torch.no_grad(),
    ):
        handles += [model.layer.register_forward_hook(keep)]
        run()
    for handle in handles:
        handle.remove()
    differs = [
        (a != b).any(-1).int() for a, b in zip(outputs[::2], outputs[1::2], strict=True)
    ]
    return torch.cat(differs, dim=1).tolist()


@pytest.mark.parametrize("skip_first", [0, 2, 6])
def test_generation_goes_on_counting(model, pca, skip_first):
    # RWKV of transformers mixes the inputs of a batch.
    rows = [IDS] if "Mamba" in type(model).__name__ else list(IDS[:, None])
    usual = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    for ids in rows:

        def run(ids=ids):
            mask = (ids != 0).long()
            model.generate(ids, attention_mask=mask, eos_token_id=None, **usual)

        # The last new token does not go through the model.
        tokens = torch.cat([ids != 0, torch.ones(len(ids), 4, dtype=torch.bool)], 1)
        expected = tokens & (tokens.cumsum(1) > skip_first)
        if not skip_first:  # nothing is counted, padding is steered too
            expected = torch.ones_like(tokens)
        assert changed(model, pca, skip_first, run) == expected.int().tolist()


def test_a_state_that_comes_out_of_a_pass_goes_on_counting(model, pca):
    def run():
        first = model(IDS[:1], use_cache=True)
        names = {"state", "cache", "cache_params"} & set(first)
        cache = {name: first[name] for name in names}
        for token in (8, 9):
            model(torch.tensor([[token]]), use_cache=True, **cache)

    assert changed(model, pca, 6, run) == [[0, 0, 0, 0, 0, 0, 1]]


def test_a_state_of_unknown_length_is_named(model, pca):
    with torch.no_grad():
        first = model(IDS[:1], use_cache=True)
    names = {"state", "cache", "cache_params"} & set(first)
    given = {name: first[name] for name in names}
    given |= {"input_ids": torch.tensor([[8]]), "use_cache": True}
    # Something is in it, so that this is not the first token.
    assert changed(model, pca, 1, lambda: model(**given)) == [[1]]
    with pytest.raises(ValueError, match=r"skip_first=2, but the cache of \w+ does"):
        changed(model, pca, 2, lambda: model(**given))


class WithCache(torch.nn.Module):
    """A model whose user passes a cache, or an initial state."""

    layer_name = "layer"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Embedding(30, 8)

    def forward(self, ids, cache=None, state=None):
        return self.layer(ids)


@pytest.mark.parametrize(
    "given",
    [{"cache": {}}, {"cache": [None, None]}, {"state": (torch.zeros(1),) * 2}],
)
def test_what_a_first_pass_begins_with_has_no_tokens(pca, given):
    model = WithCache()
    found = changed(model, pca, 2, lambda: model(torch.tensor([[3, 4, 5]]), **given))
    assert found == [[0, 0, 1]]


def test_the_mask_may_come_before_the_ids(pca):
    torch.manual_seed(0)
    kind, config, layers = MODELS["rwkv"]
    model = kind(config).eval()
    model.layer, model.layer_name = model.get_submodule(f"{layers}.0"), f"{layers}.0"

    def run():
        state = model(IDS[:1], use_cache=True).state
        mask = torch.ones(1, 6, dtype=torch.long)
        ids = torch.tensor([[8]])
        model(attention_mask=mask, input_ids=ids, state=state, use_cache=True)

    # Six columns of the mask are not six tokens.
    assert changed(model, pca, 5, run) == [[0, 0, 0, 0, 0, 1]]
    assert changed(model, pca, 6, run) == [[0] * 6]
