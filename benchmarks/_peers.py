"""Other packages' TopK SAEs, each trained by that package's own code.

Every function of ``PEERS`` takes the same data and budget and returns a ``Peer``; its
package is imported when it is called (``requirements-peers.txt``).  CPU only, except
for sparsify.

Packages count in steps or samples (warm-up, how long an atom must be silent to get an
auxiliary loss), and their defaults are for long runs: in short ones an atom would
never count as dead.  Here each count is the same fraction of the run as in the
package's example.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from skmfr._utils.devices import on_device

# The two of 1e-3, 3e-3, 1e-2 and 2e-2 that do best on activations and on synthetic
# data. Benchmarks report the better one.
LEARNING_RATES = {
    "sae-lens": (3e-3, 1e-2),
    "dictionary-learning": (1e-2, 2e-2),
    "sparsify": (1e-2, 2e-2),
    "overcomplete": (3e-3, 1e-2),
}
# Packages that measure the mean norm before training, and the number of batches for it.
SCALED = ("sae-lens", "dictionary-learning")
N_NORM_BATCHES = 100


class Peer(NamedTuple):
    """A trained SAE, which makes of X ``encode(X) @ atoms + decoder_bias``."""

    atoms: np.ndarray
    """Unit-norm decoder rows, (n_components, n_features), float32."""

    decoder_bias: np.ndarray
    """(n_features,), in the units of X."""

    encode: Callable[[np.ndarray], sparse.csr_array]
    """The package's own inference, its values for unit-norm atoms in the units of X."""

    seconds: float
    """Time that training took, imports aside."""


class Standardiser:
    """Centres X and divides it by one number: features have variance 1 on average.

    All peers get their data so, each package's own normalisation coming on top: some
    start with a bias of zero, some have step sizes in absolute units.
    """

    def __init__(self, X: np.ndarray):
        self.mean = X.mean(0, dtype=np.float64).astype(np.float32)
        self.scale = float(np.sqrt(X.var(0, dtype=np.float64).mean()))

    def transform(self, X: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((X - self.mean) / self.scale).astype(np.float32))


def sae_lens(
    X: np.ndarray,
    n_components: int,
    k: int,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    kind: str = "topk",
) -> Peer:
    """``SAETrainer`` on a ``TopKTrainingSAE``, set up as in its tutorial.

    Other kinds are "batchtopk" and "matryoshka", of an eighth, a quarter, half and all
    of the atoms; they code new data as in training, k per sample on average.

    Activations are scaled to a mean norm of sqrt(n_features), which training folds into
    the weights at its end; the learning rate falls to zero over the last fifth; an atom
    is dead after 1/30 of the steps without a sample.
    """
    from sae_lens.training.sae_trainer import SAETrainer

    standardiser = Standardiser(X)
    torch.manual_seed(seed)
    began = perf_counter()
    sae = sae_lens_sae(X.shape[1], n_components, k, kind)
    config = sae_lens_config(n_steps, batch_size, learning_rate)
    batches = shuffled_batches(standardiser.transform(X), batch_size, seed)
    with quiet():
        SAETrainer(config, sae, batches).fit()
    seconds = perf_counter() - began
    # Its activations are for a decoder of unit norm (rescale_acts_by_decoder_norm).
    return peer(sae.encode, sae.W_dec, sae.b_dec, standardiser, seconds, unit_norm=True)


def sae_lens_sae(n_features: int, n_components: int, k: int, kind: str = "topk"):
    import sae_lens

    names = {
        "topk": "TopKTraining",
        "batchtopk": "BatchTopKTraining",
        "matryoshka": "MatryoshkaBatchTopKTraining",
    }
    name = f"{names[kind]}SAE"
    more = {}
    if kind == "matryoshka":
        more["matryoshka_widths"] = [n_components // part for part in (8, 4, 2, 1)]
    config = getattr(sae_lens, f"{name}Config")(
        d_in=n_features,
        d_sae=n_components,
        k=k,
        normalize_activations="expected_average_only_in",
        **more,
    )
    return getattr(sae_lens, name)(config)


def sae_lens_config(n_steps: int, batch_size: int, learning_rate: float):
    from sae_lens.config import SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=n_steps * batch_size,
        train_batch_size_samples=batch_size,
        lr=learning_rate,
        lr_end=learning_rate / 10,  # must be set, "constant" ignores it
        lr_decay_steps=n_steps // 5,
        dead_feature_window=n_steps // 30,
        n_batches_for_norm_estimate=N_NORM_BATCHES,
    )


def dictionary_learning(
    X: np.ndarray,
    n_components: int,
    k: int,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Peer:
    """``trainSAE`` with a ``TopKTrainer``, set up as in its authors' demo.

    Activations are scaled to a mean squared norm of 1, which ``trainSAE`` folds into
    the SAE that it saves; the learning rate falls to zero over the last fifth; an atom
    is dead after 1/100 of the samples in which it was not active.
    """
    from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    from dictionary_learning.training import trainSAE

    def new_trainer(**config) -> TopKTrainer:
        trainer = TopKTrainer(**config)
        trainer.dead_feature_threshold = n_steps * batch_size // 100
        return trainer

    standardiser = Standardiser(X)
    began = perf_counter()
    config = {
        "trainer": new_trainer,
        "steps": n_steps,
        "activation_dim": X.shape[1],
        "dict_size": n_components,
        "k": k,
        "layer": 0,
        "lm_name": "",
        "lr": learning_rate,
        "warmup_steps": n_steps // 20,
        "decay_start": n_steps - n_steps // 5,
        "seed": seed,
        "device": "cpu",
    }
    batches = shuffled_batches(standardiser.transform(X), batch_size, seed)
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainSAE(
            batches,
            [config],
            steps=n_steps,
            save_dir=folder,
            normalize_activations=True,
            device="cpu",
        )
        sae = AutoEncoderTopK.from_pretrained(Path(folder, "trainer_0", "ae.pt"))
    seconds = perf_counter() - began
    return peer(sae.encode, sae.decoder.weight.T, sae.b_dec, standardiser, seconds)


def sparsify(
    X: np.ndarray,
    n_components: int,
    k: int,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: str = "cpu",
) -> Peer:
    """``SparseCoder`` in the loop of its ``Trainer``, which takes language models only.

    As by its defaults: FVU as the loss without AuxK, activations as they are.  Of its
    optimisers, Adam with a learning rate that falls to zero over all steps: its pull
    request 139 makes that the default, and the sign descent that release 1.3.3 defaults
    to is worse here (activations: FVU .171, not .155).
    """
    if device == "cpu":
        # Where Triton is installed, it would be taken for the CPU too.
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    with quiet():
        from sparsify import SparseCoder, SparseCoderConfig
        from transformers import get_linear_schedule_with_warmup

    standardiser = Standardiser(X)
    torch.manual_seed(seed)
    began = perf_counter()
    config = SparseCoderConfig(num_latents=n_components, k=k)
    sae = SparseCoder(X.shape[1], config, device)
    adam = torch.optim.Adam(sae.parameters(), lr=learning_rate)
    schedule = get_linear_schedule_with_warmup(adam, n_steps // 20, n_steps)
    batches = shuffled_batches(standardiser.transform(X), batch_size, seed)
    for step in range(n_steps):
        batch = on_device(next(batches).numpy(), device)
        if step == 0:
            sae.b_dec.data = batch.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        sae(batch).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        schedule.step()
    sae.cpu()
    seconds = perf_counter() - began

    def encode(batch: torch.Tensor) -> torch.Tensor:
        values, indices, _ = sae.encode(batch)
        codes = torch.zeros(len(batch), n_components)
        return codes.scatter_(1, indices, values)

    return peer(encode, sae.W_dec, sae.b_dec, standardiser, seconds)


def overcomplete(
    X: np.ndarray,
    n_components: int,
    k: int,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Peer:
    """``train_sae`` on a ``TopKSAE``, as in its documentation.

    Adam at a constant learning rate on the mean squared error; the encoder normalises
    over the batch; no bias is added to reconstructions.
    """
    from overcomplete.sae import TopKSAE, train_sae

    def loss(batch, reconstructed, scores, codes, dictionary) -> torch.Tensor:
        return (batch - reconstructed).square().mean()

    standardiser = Standardiser(X)
    torch.manual_seed(seed)
    began = perf_counter()
    sae = TopKSAE(X.shape[1], n_components, top_k=k)
    adam = torch.optim.Adam(sae.parameters(), lr=learning_rate)
    batches = shuffled_batches(standardiser.transform(X), batch_size, seed)
    train_sae(sae, islice(batches, n_steps), loss, adam, nb_epochs=1, monitoring=0)
    seconds = perf_counter() - began
    sae.eval()
    no_bias = torch.zeros(X.shape[1])

    def encode(batch: torch.Tensor) -> torch.Tensor:
        return sae.encode(batch)[1]

    return peer(encode, sae.get_dictionary(), no_bias, standardiser, seconds)


PEERS = {
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
    "overcomplete": overcomplete,
}


def installed() -> list[str]:
    """Names in ``PEERS`` whose package can be imported."""
    # Each function has the name of the module.
    return [name for name, train in PEERS.items() if find_spec(train.__name__)]


def peer(
    encode: Callable[[torch.Tensor], torch.Tensor],
    decoder: torch.Tensor,
    decoder_bias: torch.Tensor,
    standardiser: Standardiser,
    seconds: float,
    unit_norm: bool = False,
) -> Peer:
    """Take an SAE of standardised data back to the units of X and unit-norm atoms.

    Parameters
    ----------
    encode : callable
        From samples (n_samples, n_features) to dense codes (n_samples, n_components).
    decoder : Tensor of shape (n_components, n_features)
    decoder_bias : Tensor of shape (n_features,)
    standardiser : Standardiser
    seconds : float
    unit_norm : bool
        Whether the codes are for unit-norm atoms already, rather than for the decoder.
    """
    norms = decoder.detach().norm(dim=1, keepdim=True)
    atoms = (decoder.detach() / norms).numpy()
    factors = standardiser.scale * (1 if unit_norm else norms.T)

    @torch.no_grad()
    def encode_all(X: np.ndarray) -> sparse.csr_array:
        blocks = np.array_split(X, max(1, len(X) // 8192))
        codes = (encode(standardiser.transform(block)) * factors for block in blocks)
        return sparse.vstack(
            [sparse.csr_array(block.numpy()) for block in codes], "csr"
        )

    bias = decoder_bias.detach().numpy() * standardiser.scale + standardiser.mean
    return Peer(atoms, bias, encode_all, seconds)


def shuffled_batches(
    X: torch.Tensor, batch_size: int, seed: int
) -> Iterator[torch.Tensor]:
    """Batches of epochs without end, each epoch in another order."""
    rng = np.random.default_rng(seed)
    batch_size = min(batch_size, len(X))
    while True:
        order = torch.from_numpy(rng.permutation(len(X)))
        for start in range(0, len(X) - batch_size + 1, batch_size):
            yield X[order[start : start + batch_size]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow messages and progress bars."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield
