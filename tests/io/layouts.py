"""Small SAEs in every layout that is read, written by hand, with their rules.

A layout is a function of a folder and a generator of random numbers: it writes the
files and gives a function from samples to codes and reconstructions, in float64.
"""

import json

import numpy as np
import torch
from safetensors.numpy import save_file

D, M, K = 8, 24, 4


def arrays_of(draw):
    """Weights of an SAE, atoms of different norms, as SAELens lays them out."""
    W_dec = draw.standard_normal((M, D))
    W_dec /= (
        np.linalg.norm(W_dec, axis=1, keepdims=True) * np.linspace(0.5, 2, M)[:, None]
    )
    arrays = {
        "W_enc": W_dec.T + 0.3 * draw.standard_normal((D, M)),
        "b_enc": 0.3 * draw.standard_normal(M),
        "W_dec": W_dec,
        "b_dec": draw.standard_normal(D),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def above(scores, threshold):
    return np.where(scores > threshold, scores, 0).clip(min=0)


def top_k(scores, k=K):
    bar = np.sort(scores, axis=1)[:, -k, None]
    return np.where(scores >= bar, scores, 0).clip(min=0)


def rule(arrays, activation, subtract=True):
    W_enc, b_enc, W_dec, b_dec = (
        np.asarray(arrays[name], np.float64)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )

    def forward(X):
        codes = activation((X - b_dec * subtract) @ W_enc + b_enc)
        return codes, codes @ W_dec + b_dec

    return forward


def gated_rule(arrays, subtract=True):
    W_enc, b_gate, b_mag, r_mag, W_dec, b_dec = (
        np.asarray(arrays[name], np.float64)
        for name in ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec")
    )

    def forward(X):
        products = (X - b_dec * subtract) @ W_enc
        magnitude = (products * np.exp(r_mag) + b_mag).clip(min=0)
        codes = magnitude * (products + b_gate > 0)
        return codes, codes @ W_dec + b_dec

    return forward


# SAELens.

TODAY = {
    "d_in": D,
    "d_sae": M,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.2.hook_mlp_out"},
}
BEFORE_6 = {
    "d_in": D,
    "d_sae": M,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "normalize_activations": "none",
    "dtype": "torch.float32",
    "device": "cuda",
    "hook_name": "blocks.8.hook_resid_pre",
    "hook_layer": 8,
    "sae_lens_training_version": "3.18.2",
}
# Of gpt2-small-res-jb: neither architecture nor function.
OLDEST = {
    "d_in": D,
    "d_sae": M,
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "dtype": "torch.float32",
    "device": "cpu",
}


def write_sae_lens(folder, config, arrays):
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(arrays, folder / "sae_weights.safetensors")


def sae_lens_standard(folder, draw, config=TODAY, **entries):
    arrays = arrays_of(draw)
    write_sae_lens(folder, config | {"architecture": "standard"} | entries, arrays)
    return rule(
        arrays, lambda s: above(s, 0), entries.get("apply_b_dec_to_input", True)
    )


def sae_lens_jumprelu(folder, draw, config=TODAY, **entries):
    arrays = arrays_of(draw)
    arrays["threshold"] = draw.uniform(-0.5, 1.5, M).astype(np.float32)
    write_sae_lens(folder, config | {"architecture": "jumprelu"} | entries, arrays)
    subtract = entries.get("apply_b_dec_to_input", True)
    return rule(arrays, lambda s: above(s, arrays["threshold"]), subtract)


def sae_lens_gated(folder, draw, config=TODAY, **entries):
    arrays = arrays_of(draw)
    del arrays["b_enc"]
    for name in ("b_gate", "b_mag", "r_mag"):
        arrays[name] = (0.5 * draw.standard_normal(M)).astype(np.float32)
    write_sae_lens(folder, config | {"architecture": "gated"} | entries, arrays)
    return gated_rule(arrays, entries.get("apply_b_dec_to_input", True))


def sae_lens_topk(folder, draw, config=TODAY, **entries):
    arrays = arrays_of(draw)
    entries = {"architecture": "topk", "k": K} | entries
    write_sae_lens(folder, config | entries, arrays)
    return rule(arrays, top_k)


def sae_lens_oldest(folder, draw):
    arrays = arrays_of(draw)
    # Which it wrote for a time, in vain.
    factors = {"scaling_factor": np.ones(M, np.float32)}
    write_sae_lens(folder, OLDEST, arrays | factors)
    return rule(arrays, lambda s: above(s, 0))


def sae_lens_finetuned(folder, draw):
    arrays = arrays_of(draw)
    # Factors of the codes in the decoder, which versions 3 to 5 trained at the end.
    factors = draw.uniform(0.5, 2, M).astype(np.float32)
    entries = {"architecture": "standard", "finetuning_scaling_factor": True}
    write_sae_lens(folder, BEFORE_6 | entries, arrays | {"scaling_factor": factors})
    return rule(
        arrays | {"W_dec": arrays["W_dec"] * factors[:, None]}, lambda s: above(s, 0)
    )


def gemma_scope(folder, draw):
    arrays = arrays_of(draw)
    arrays["threshold"] = draw.uniform(0, 1.5, M).astype(np.float32)
    np.savez(folder / "params.npz", **arrays)
    return rule(arrays, lambda s: above(s, arrays["threshold"]), subtract=False)


# dictionary_learning.


def write_state(folder, kind, state):
    config = {"trainer": {"dict_class": kind, "k": K}}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        name: torch.tensor(np.asarray(array, order="C"))
        for name, array in state.items()
    }
    torch.save(tensors, folder / "ae.pt")


def linear_state(arrays, bias):
    return {
        "encoder.weight": arrays["W_enc"].T,
        "encoder.bias": arrays["b_enc"],
        "decoder.weight": arrays["W_dec"].T,
        bias: arrays["b_dec"],
    }


def auto_encoder(folder, draw):
    arrays = arrays_of(draw)
    write_state(folder, "AutoEncoder", linear_state(arrays, "bias"))
    # Its own loader makes atoms unit vectors.
    norms = np.linalg.norm(arrays["W_dec"], axis=1)
    arrays["W_dec"] = arrays["W_dec"] / norms[:, None]
    arrays["W_enc"], arrays["b_enc"] = arrays["W_enc"] * norms, arrays["b_enc"] * norms
    return rule(arrays, lambda s: above(s, 0))


def auto_encoder_new(folder, draw):
    arrays = arrays_of(draw)
    write_state(folder, "AutoEncoderNew", linear_state(arrays, "decoder.bias"))
    return rule(arrays, lambda s: above(s, 0), subtract=False)


def gated_auto_encoder(folder, draw):
    arrays = arrays_of(draw)
    for name in ("b_gate", "b_mag", "r_mag"):
        arrays[name] = (0.5 * draw.standard_normal(M)).astype(np.float32)
    state = linear_state(arrays, "decoder_bias")
    del state["encoder.bias"]
    state |= {
        "gate_bias": arrays["b_gate"],
        "mag_bias": arrays["b_mag"],
        "r_mag": arrays["r_mag"],
    }
    write_state(folder, "GatedAutoEncoder", state)
    return gated_rule(arrays)


def jumprelu_auto_encoder(folder, draw):
    arrays = arrays_of(draw)
    threshold = draw.uniform(0, 1.5, M).astype(np.float32)
    write_state(folder, "JumpReluAutoEncoder", arrays | {"threshold": threshold})
    return rule(arrays, lambda s: above(s, threshold), subtract=False)


def numbers(threshold):
    return {"k": np.int32(K), "threshold": np.float32(threshold)}


def auto_encoder_topk(folder, draw):
    arrays = arrays_of(draw)
    arrays["W_dec"] /= np.linalg.norm(arrays["W_dec"], axis=1, keepdims=True)
    state = linear_state(arrays, "b_dec") | numbers(0.7)
    write_state(folder, "AutoEncoderTopK", state)
    return rule(arrays, top_k)


def batch_topk(folder, draw, threshold=0.7):
    arrays = arrays_of(draw)
    state = linear_state(arrays, "b_dec") | numbers(threshold)
    write_state(folder, "BatchTopKSAE", state)
    return rule(arrays, lambda s: above(s, threshold))


def batch_topk_untrained(folder, draw):
    return batch_topk(folder, draw, threshold=-1.0)


def matryoshka(folder, draw):
    arrays = arrays_of(draw)
    groups = {"group_sizes": np.array([8, 16])}
    write_state(folder, "MatryoshkaBatchTopKSAE", arrays | numbers(0.7) | groups)
    return rule(arrays, lambda s: above(s, 0.7))


# sparsify.


def sparsify(folder, draw):
    arrays = arrays_of(draw)
    config = {"activation": "topk", "d_in": D, "num_latents": M, "k": K}
    (folder / "cfg.json").write_text(json.dumps(config))
    weights = {
        "encoder.weight": np.ascontiguousarray(arrays["W_enc"].T),
        "encoder.bias": arrays["b_enc"],
        "W_dec": arrays["W_dec"],
        "b_dec": arrays["b_dec"],
    }
    save_file(weights, folder / "sae.safetensors")
    return rule(arrays, top_k)


def with_entries(write, config, **entries):
    return lambda folder, draw: write(folder, draw, config, **entries)


NOT_SUBTRACTED = {"apply_b_dec_to_input": False}
SAE_LENS = {
    "standard": sae_lens_standard,
    "standard, not subtracted": with_entries(
        sae_lens_standard, TODAY, **NOT_SUBTRACTED
    ),
    "jumprelu": sae_lens_jumprelu,
    "jumprelu, not subtracted": with_entries(
        sae_lens_jumprelu, TODAY, **NOT_SUBTRACTED
    ),
    "gated": sae_lens_gated,
    "gated, not subtracted": with_entries(sae_lens_gated, TODAY, **NOT_SUBTRACTED),
    "topk of different norms": sae_lens_topk,
    "standard before 6": with_entries(sae_lens_standard, BEFORE_6),
    "jumprelu before 6": with_entries(sae_lens_jumprelu, BEFORE_6),
    "gated before 6": with_entries(sae_lens_gated, BEFORE_6),
    "the oldest": sae_lens_oldest,
}
DICTIONARY_LEARNING = {
    "AutoEncoder": auto_encoder,
    "AutoEncoderNew": auto_encoder_new,
    "GatedAutoEncoder": gated_auto_encoder,
    "JumpReluAutoEncoder": jumprelu_auto_encoder,
    "AutoEncoderTopK": auto_encoder_topk,
    "BatchTopKSAE": batch_topk,
    "BatchTopKSAE, untrained": batch_topk_untrained,
    "MatryoshkaBatchTopKSAE": matryoshka,
}
LAYOUTS = (
    SAE_LENS
    | DICTIONARY_LEARNING
    | {
        "finetuned before 6": sae_lens_finetuned,
        "Gemma Scope": gemma_scope,
        "sparsify of different norms": sparsify,
    }
)
