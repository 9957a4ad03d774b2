from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers
from scipy import sparse
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from skmfr import MFRSparseAutoencoder
from skmfr.activations import (
    ActivationExtractor,
    Contexts,
    feature_table,
    logit_effects,
    top_contexts,
)


class Letters:
    """A tokenizer that can go back: each id is a letter."""

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)

    def convert_ids_to_tokens(self, ids):
        return [chr(97 + i) for i in ids]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(26, 8), nn.Linear(8, 12), nn.Tanh())


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(26, size=n) for n in rng.integers(2, 9, size=40)]


def fitted(model, sequences, **parameters):
    extractor = ActivationExtractor(model, "1", positions="all", batch_size=7)
    usual = {"n_components": 20, "k": 3, "max_steps": 10, "random_state": 0}
    usual["n_witnesses"] = 1
    sae = MFRSparseAutoencoder(**(usual | parameters))
    return sae.fit(extractor.transform(sequences)), extractor


@pytest.mark.parametrize("algorithm", ["encoder", "omp"])
@pytest.mark.parametrize("n_contexts", [1, 4, 100])
def test_contexts_are_the_largest_codes(model, sequences, n_contexts, algorithm):
    sae, extractor = fitted(model, sequences)
    sae.set_params(transform_algorithm=algorithm)
    contexts = top_contexts(sae, extractor, sequences, n_contexts=n_contexts)
    codes = sae.transform(extractor.transform(sequences))
    np.testing.assert_allclose(contexts.density, (codes != 0).mean(0))
    by_input = np.split(codes, np.cumsum([len(s) for s in sequences])[:-1])
    for atom in range(20):
        peaks = np.array([part[:, atom].max() for part in by_input])
        expected = np.sort(peaks[peaks > 0])[::-1][:n_contexts]
        n = len(expected)
        np.testing.assert_allclose(contexts.codes[atom, :n], expected, atol=1e-6)
        assert not contexts.codes[atom, n:].any()
        assert (contexts.inputs[atom, n:] == -1).all()
        for code, where, position in zip(
            contexts.codes[atom, :n],
            contexts.inputs[atom, :n],
            contexts.positions[atom, :n],
            strict=True,
        ):
            assert by_input[where][position, atom] == pytest.approx(code, abs=1e-6)


def test_contexts_show_the_tokens_around(model, sequences):
    sae, extractor = fitted(model, sequences)
    contexts = top_contexts(sae, extractor, sequences, before=3, after=2)
    atom, rank = np.argwhere(contexts.inputs >= 0)[-1]
    where, position = contexts.inputs[atom, rank], contexts.positions[atom, rank]
    padded = np.concatenate([[-1] * 3, sequences[where], [-1] * 2])
    window = padded[position : position + 6]
    assert np.array_equal(contexts.tokens[atom, rank], window)
    frame = contexts.to_frame(Letters())
    text = frame.set_index(["atom", "rank"]).loc[(atom, rank), "text"]
    before, after = sequences[where][:position][-3:], sequences[where][position + 1 :]
    expected = [before, sequences[where][[position]], after[:2]]
    assert text == "{}«{}»{}".format(*map(Letters().decode, expected))
    assert len(frame) == (contexts.inputs >= 0).sum()


class Words(Letters):
    """A tokenizer whose words lose the space before them when they come first."""

    def decode(self, ids):
        return " ".join(self.convert_ids_to_tokens(ids))


def test_contexts_keep_the_spaces_between_tokens(model, sequences):
    contexts = top_contexts(*fitted(model, sequences), sequences)
    for text, window in zip(
        contexts.to_frame(Words())["text"],
        contexts.tokens[contexts.inputs >= 0],
        strict=True,
    ):
        assert text.replace("«", "").replace("»", "") == Words().decode(
            window[window >= 0]
        )
        assert text.partition("«")[2].lstrip()[0] == Letters().decode([window[8]])


def test_padded_arrays_have_the_same_contexts(model, sequences):
    sae, extractor = fitted(model, sequences)
    padded = np.zeros((len(sequences), 8), dtype=int)
    for row, sequence in zip(padded, sequences, strict=True):
        row[-len(sequence) :] = sequence + 1
    shifted = nn.Sequential(nn.Embedding(27, 8), model[1])
    with torch.no_grad():
        shifted[0].weight[1:] = model[0].weight
    there = ActivationExtractor(shifted, "1", pad_token_id=0)
    one = top_contexts(sae, extractor, sequences)
    other = top_contexts(sae, there, padded)
    np.testing.assert_allclose(one.codes, other.codes, atol=1e-6)
    # A token has the same code everywhere: which of its places are shown is open.
    active = one.tokens[..., one.before] >= 0
    assert np.array_equal(one.tokens[active, 8] + 1, other.tokens[active, 8])
    assert ((other.tokens != 0) & (other.tokens >= -1)).all()


def test_images_have_places_and_no_tokens():
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(1, 6, 3))
    images = np.random.default_rng(0).normal(size=(15, 1, 5, 5))
    extractor = ActivationExtractor(convolution, "0", positions="all")
    X = extractor.transform(images)
    sae = MFRSparseAutoencoder(10, k=2, n_witnesses=0, max_steps=30, random_state=0)
    sae.fit(X)
    contexts = top_contexts(sae, extractor, images, n_contexts=2)
    assert contexts.tokens is None
    codes = sae.transform(X).reshape(15, 9, 10)
    assert np.array_equal(contexts.inputs[:, 0], codes.max(1).argmax(0))
    assert "text" not in contexts.to_frame(Letters())


def test_a_wrong_width_is_named(model, sequences):
    sae, _ = fitted(model, sequences)
    with pytest.raises(ValueError, match="gives 8 features, but sae was fitted to 12"):
        top_contexts(sae, ActivationExtractor(model, "0"), sequences)


def test_texts_keep_spaces_and_characters():
    class Bytes:
        """Tokens of bytes; spaces at the beginning go, as with SentencePiece."""

        def decode(self, ids):
            return bytes(ids).decode(errors="replace").lstrip(" ")

    def text(string, position):
        tokens = np.full((1, 1, 9), -1)
        ids = list(string.encode())
        tokens[0, 0, 4 - position : 4 - position + len(ids)] = ids
        none = np.zeros((1, 1), dtype=int)
        contexts = Contexts(none, none, none, tokens, 4, none)
        return contexts.to_frame(Bytes())["text"][0]

    assert text("a b c", 1) == "a« »b c"
    assert text("ab", 0) == "«a»b"
    # The second byte completes what the first begins.
    assert text("né.", 2) == "n«é»."


def test_a_space_with_part_of_a_character_is_shown_by_its_bytes():
    pieces = [b"a", b" \xd0", b"\x96", b" "]

    class Pieces:
        """Names bytes by letters, as byte-level tokenizers do."""

        def decode(self, ids):
            return b"".join(pieces[i] for i in ids).decode(errors="replace")

        def convert_ids_to_tokens(self, token):
            return ["a", "ĠÐ", "ĸ", "Ġ"][token]

    def text(*ids, at):
        window = np.array([-1, *ids, -1])
        none = np.zeros((1, 1), dtype=int)
        contexts = Contexts(none, none, none, window[None, None], at + 1, none)
        return contexts.to_frame(Pieces())["text"][0]

    assert text(0, 1, 2, 0, at=1) == "a«<0x20><0xD0>»\u0416a"
    assert text(0, 1, at=1) == "a«<0x20><0xD0>»"
    assert text(0, 1, 2, 0, at=2) == "a «\u0416»a"
    assert text(0, 3, 0, at=1) == "a« »a"


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=26, n_positions=9, n_embd=12, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.uniform_(0.5, 2)
    return model


def test_logit_effects_are_what_the_head_makes_of_an_atom(gpt2, model, sequences):
    sae, _ = fitted(model, sequences)
    effects = logit_effects(sae, gpt2, n_tokens=4)
    norm, head = gpt2.transformer.ln_f, gpt2.lm_head.weight.detach().numpy()
    for atom, direction in enumerate(sae.components_):
        logits = head @ ((direction - direction.mean()) * norm.weight.detach().numpy())
        order = np.argsort(-logits)
        assert np.array_equal(effects.promoted[atom], order[:4])
        assert np.array_equal(effects.suppressed[atom], order[::-1][:4])
        np.testing.assert_allclose(
            effects.promoted_logits[atom], logits[order[:4]], atol=1e-5
        )
        np.testing.assert_allclose(
            effects.suppressed_logits[atom], logits[order[::-1][:4]], atol=1e-5
        )


# How transformers calls models with a head, if not ForCausalLM.
HEADS = {
    "CTRL": "LMHeadModel",
    "T5": "ForConditionalGeneration",
    "Gemma3": "ForConditionalGeneration",
}
# Configurations of the language models of models that see images too.
CONFIGS = {"Llama4": "Llama4Text", "Mllama": "MllamaText"}


@pytest.mark.parametrize(
    ("config", "norm", "centred"),
    [
        ("Llama", "model.norm", False),
        ("Gemma", "model.norm", False),
        ("OPT", "model.decoder.final_layer_norm", True),
        ("Phi", "model.final_layernorm", True),
        ("Nemotron", "model.norm", True),  # scales by one plus its weight
        ("BioGpt", "biogpt.layer_norm", True),
        ("CTRL", "transformer.layernorm", True),
        ("Lfm2", "model.embedding_norm", False),
        ("RecurrentGemma", "model.final_norm", False),
        ("Rwkv", "rwkv.ln_out", True),
        ("XGLM", "model.layer_norm", True),
        ("T5", "decoder.final_layer_norm", False),
        ("Gemma3", "model.language_model.norm", False),
        ("Llama4", "model.norm", False),
        ("Mllama", "model.norm", False),
        ("xLSTM", "backbone.out_norm", False),
        ("CpmAnt", "cpmant.encoder.output_layernorm", False),
    ],
)
def test_logit_effects_go_through_the_norm_of_the_model(
    model, sequences, config, norm, centred
):
    torch.manual_seed(0)
    sae, _ = fitted(model, sequences)
    settings = {
        "vocab_size": 26,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "word_embed_proj_dim": 12,
        "num_heads": 2,
        "cross_attention_layers": [],
        "prompt_length": 0,
        "pad_token_id": 0,
    }
    if config == "Gemma3":  # sees images too
        vision = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
        settings = {"text_config": settings, "vision_config": vision}
    settings = getattr(transformers, f"{CONFIGS.get(config, config)}Config")(**settings)
    kind = HEADS.get(config, "ForCausalLM")
    other = getattr(transformers, f"{config}{kind}")(settings).eval()
    with torch.no_grad():
        for parameter in other.get_submodule(norm).parameters():
            parameter.uniform_(0.5, 2)
        # What the norm gives is linear in what it divides by its size.
        atoms = torch.tensor(sae.components_[:, :], dtype=torch.float32)
        size = (atoms.var(1, unbiased=False) if centred else (atoms**2).mean(1)).sqrt()
        scaled = atoms / size[:, None] * 1e3
        normed = other.get_submodule(norm)(scaled) - other.get_submodule(norm)(-scaled)
        logits = (normed / 2 * size[:, None]) @ other.get_output_embeddings().weight.T
    effects = logit_effects(sae, other, n_tokens=26)
    expected = logits.sort(1, descending=True).values
    np.testing.assert_allclose(effects.promoted_logits, expected, atol=1e-5)


@pytest.mark.parametrize("normed", [True, False])
def test_logit_effects_go_through_the_projection_of_opt(model, sequences, normed):
    torch.manual_seed(0)
    sae, _ = fitted(model, sequences)
    config = transformers.OPTConfig(
        vocab_size=26,
        hidden_size=12,
        word_embed_proj_dim=5,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=12,
        do_layer_norm_before=normed,
    )
    other = transformers.OPTForCausalLM(config).eval()
    atoms = torch.tensor(sae.components_, dtype=torch.float32)
    if normed:
        nn.init.uniform_(other.model.decoder.final_layer_norm.weight, 0.5, 2)
    last = other.model.decoder.layers[-1]

    def logits(rows):
        """Of the model, if its last block gives these rows."""
        handle = last.register_forward_hook(lambda *_: rows[:, None])
        with torch.no_grad():
            logits = other(torch.ones(len(rows), 1, dtype=torch.long)).logits
        handle.remove()
        return logits[:, 0]

    expected = (logits(1e3 * atoms) - logits(-1e3 * atoms)) / 2e3
    if normed:  # it divides by the size of the rows
        expected *= 1e3 * atoms.std(1, correction=0)[:, None]
    effects = logit_effects(sae, other, n_tokens=26)
    expected = expected.sort(1, descending=True).values
    np.testing.assert_allclose(effects.promoted_logits, expected, atol=1e-5)


class LowRank(nn.Module):
    """Adds a product of small matrices to a layer, as LoRA does, and drops out."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(self.dropout(x)))


class Quantised(nn.Module):
    """Has no parameters, and a method for the weight, as in torch.ao."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = linear.weight.detach().div(0.01).round().to(torch.int8)

    def weight(self):
        return self.packed

    def forward(self, x):
        return x @ (self.packed * 0.01).T


@pytest.mark.parametrize("kind", ["LoRA", "quantised", "bias in bfloat16"])
def test_logit_effects_are_of_all_that_the_head_does(gpt2, model, sequences, kind):
    torch.manual_seed(0)
    sae, _ = fitted(model, sequences)
    other, merged = deepcopy(gpt2), deepcopy(gpt2)
    head = nn.Linear(12, 26, bias=kind.startswith("bias"))
    merged.lm_head = nn.Linear(12, 26, bias=False)
    with torch.no_grad():
        if kind == "LoRA":
            other.lm_head = LowRank(head)
            change = other.lm_head.up.weight @ other.lm_head.down.weight
            merged.lm_head.weight.copy_(head.weight + change)
        elif kind == "quantised":
            other.lm_head = Quantised(head)
            merged.lm_head.weight.copy_(other.lm_head.packed * 0.01)
        else:
            other.lm_head = head.bfloat16()
            merged.lm_head.weight.copy_(head.weight)
    other.train()
    found, expected = (logit_effects(sae, m, n_tokens=26) for m in (other, merged))
    assert other.lm_head.training
    for name in ("promoted_logits", "suppressed_logits"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), atol=1e-6
        )


def test_logit_effects_need_a_head_of_that_width(gpt2, model, sequences):
    sae, _ = fitted(model, sequences)
    with pytest.raises(ValueError, match="with an output embedding"):
        logit_effects(sae, model)
    narrow = MFRSparseAutoencoder(4, k=1, n_saes=1, n_witnesses=0, max_steps=5)
    narrow.fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match="sae has 3 features, but .* takes 12"):
        logit_effects(narrow, gpt2)


def test_the_table_joins_what_is_known(gpt2, model, sequences):
    sae, extractor = fitted(model, sequences)
    contexts = top_contexts(sae, extractor, sequences)
    effects = logit_effects(sae, gpt2, n_tokens=3)
    table = feature_table(sae, contexts=contexts, effects=effects, tokenizer=Letters())
    assert len(table) == 20
    assert np.array_equal(table["agreement"], sae.feature_agreement_)
    others = [i for i in range(3) if i != sae.reference_sae_]
    for i in others:
        cosines = sae.components_ @ sae.dictionaries_[i].T
        assert np.array_equal(table[f"sae {i}"], cosines.argmax(1))
        np.testing.assert_allclose(table[f"sae {i} cosine"], cosines.max(1), atol=1e-6)
    np.testing.assert_allclose(
        table["witness 0 cosine"], sae.feature_agreement_, atol=1e-6
    )
    assert table["promoted"][5] == Letters().convert_ids_to_tokens(effects.promoted[5])
    frame = contexts.to_frame(Letters())
    best = frame[frame["rank"] == 0].set_index("atom")["text"]
    assert table["top context"].dropna().equals(best.rename("top context"))
    assert np.array_equal(table["top input"], contexts.inputs[:, 0])
    assert "promoted" not in feature_table(sae)


def test_codes_in_csr_give_the_same_contexts(model, sequences):
    sae, extractor = fitted(model, sequences)
    one = top_contexts(sae, extractor, sequences)
    sae.set_params(sparse_output=True)
    assert sparse.issparse(sae.transform(extractor.transform(sequences)))
    other = top_contexts(sae, extractor, sequences)
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.inputs, other.inputs)
