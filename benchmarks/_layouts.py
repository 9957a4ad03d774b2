"""Small SAEs that other packages write themselves, and what these packages report.

Each of ``LAYOUTS`` writes an SAE of random weights to a folder with the code of its
package, opens it with that code again, and returns a function from samples to codes and
reconstructions.  Packages are imported when they are needed.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

N_FEATURES, N_COMPONENTS, K = 8, 24, 4
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class Layout(NamedTuple):
    """A kind of SAE, and the package that writes it."""

    package: str
    """that is installed"""
    kind: str
    write: Callable[[Path], Forward]


def scattered(module: nn.Module) -> nn.Module:
    """The same with random weights: what a package begins with is often alike."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=draw)
        for name, threshold in module.named_buffers():
            if name.endswith("threshold"):
                threshold.fill_(0.3)
    return module


def encoded_and_decoded(sae) -> Forward:
    def forward(X: Tensor) -> tuple[Tensor, Tensor]:
        codes = sae.encode(X)
        return codes, sae.decode(codes)

    return forward


def sae_lens(kind: str, folder: Path) -> Forward:
    """The files of ``save_inference_model``, written after training."""
    import sae_lens

    entries: dict[str, object] = {"k": K} if "TopK" in kind else {}
    if kind.startswith("Matryoshka"):
        entries["matryoshka_widths"] = [N_COMPONENTS // 3, N_COMPONENTS]
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")
    sae = getattr(sae_lens, f"{kind}TrainingSAE")(
        config(d_in=N_FEATURES, d_sae=N_COMPONENTS, **entries)
    )
    scattered(sae).save_inference_model(folder)
    return encoded_and_decoded(sae_lens.SAE.load_from_disk(folder))


def gemma_scope(folder: Path) -> Forward:
    """Arrays as DeepMind published them, opened by SAELens' loader for those."""
    import sae_lens
    from sae_lens.loading import pretrained_sae_loaders as loaders

    draw = np.random.default_rng(0)
    shapes = {
        "W_enc": (N_FEATURES, N_COMPONENTS),
        "b_enc": N_COMPONENTS,
        "W_dec": (N_COMPONENTS, N_FEATURES),
        "b_dec": N_FEATURES,
    }
    arrays = {name: 0.4 * draw.standard_normal(shape) for name, shape in shapes.items()}
    arrays["threshold"] = draw.uniform(0, 1, N_COMPONENTS)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(folder / "params.npz", **arrays)

    # Instead of a download.
    with patch.object(loaders, "hf_hub_download", lambda **_: folder / "params.npz"):
        config, state, _ = loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res", "layer_1/width_16k", "cpu"
        )
    config |= {"d_in": N_FEATURES, "d_sae": N_COMPONENTS}
    config = loaders.handle_config_defaulting(config)
    sae = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig.from_dict(config))
    sae.load_state_dict(state)
    return encoded_and_decoded(sae)


def sparsify(folder: Path) -> Forward:
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=N_COMPONENTS, k=K)
    scattered(SparseCoder(N_FEATURES, config)).save_to_disk(folder)
    sae = SparseCoder.load_from_disk(folder)

    def forward(X: Tensor) -> tuple[Tensor, Tensor]:
        values, indices, _ = sae.encode(X)
        codes = torch.zeros(len(X), N_COMPONENTS).scatter(1, indices, values)
        return codes, sae.decode(values, indices)

    return forward


def dictionary_learning(kind: str, folder: Path) -> Forward:
    """State and configuration as its ``trainSAE`` saves them."""
    from dictionary_learning import dictionary, trainers, utils

    module = {
        "AutoEncoderTopK": trainers.top_k,
        "BatchTopKSAE": trainers.batch_top_k,
        "MatryoshkaBatchTopKSAE": trainers.matryoshka_batch_top_k,
    }.get(kind, dictionary)
    given = [N_FEATURES, N_COMPONENTS, *([K] if module is not dictionary else [])]
    if kind.startswith("Matryoshka"):
        given.append([N_COMPONENTS // 3, N_COMPONENTS - N_COMPONENTS // 3])
    sae = scattered(getattr(module, kind)(*given))
    torch.save(sae.state_dict(), folder / "ae.pt")
    config = {"trainer": {"dict_class": kind, "k": K}}
    (folder / "config.json").write_text(json.dumps(config))
    return encoded_and_decoded(utils.load_dictionary(str(folder), device="cpu")[0])


LAYOUTS = (
    *(
        Layout("sae-lens", kind, partial(sae_lens, kind))
        for kind in ("Standard", "JumpReLU", "Gated", "TopK", "BatchTopK")
    ),
    Layout("sae-lens", "Matryoshka", partial(sae_lens, "MatryoshkaBatchTopK")),
    Layout("sae-lens", "Gemma Scope", gemma_scope),
    Layout("eai-sparsify", "TopK", sparsify),
    *(
        Layout("dictionary-learning", kind, partial(dictionary_learning, kind))
        for kind in (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "JumpReluAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
        )
    ),
)
