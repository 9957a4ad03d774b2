"""
Data on disk: memory maps, and batches that come one by one
===========================================================

``fit`` reads a memory-mapped array batch by batch and never holds it as a whole.
``partial_fit`` learns from arrays that come one after the other, from a database or an
instrument say.
"""

# %%
# A file larger than a batch
# --------------------------
# 200,000 samples of 32 numbers, written in pieces. With a disk that is large enough
# this works the same for a file larger than the memory.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition

X, _, features = make_superposition(
    200_000, 32, 64, n_active=4, dtype="float32", random_state=0
)
X_test, X_train = X[:10_000], X[10_000:]

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "samples.npy"
on_disk = np.lib.format.open_memmap(path, "w+", X_train.dtype, X_train.shape)
for start in range(0, len(X_train), 10_000):
    on_disk[start : start + 10_000] = X_train[start : start + 10_000]
on_disk.flush()
print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")

# %%
# fit
# ---
# Each epoch takes the samples in a new random order, also from disk.

X_mapped = np.load(path, mmap_mode="r")
sae = MFRSparseAutoencoder(n_components=64, k=4, max_steps=800, random_state=0)
sae.fit(X_mapped)
fvu_of_fit = 1 - sae.score(X_test)
print(f"FVU on new samples, {sae.n_steps_} steps: {fvu_of_fit:.3f}")

# %%
# partial_fit
# -----------
# A call makes one pass over what it gets. It cannot know how many calls will follow, so
# learning rate and ``k`` stay what they are: ``fit`` starts with a larger ``k``, and
# ends with a learning rate that falls to zero. One pass over the file is a quarter of
# the steps above.

online = MFRSparseAutoencoder(n_components=64, k=4, random_state=0)
n_steps, fvu = [], []
for start in range(0, len(X_mapped), 10_000):
    online.partial_fit(X_mapped[start : start + 10_000])
    n_steps.append(online.n_steps_)
    fvu.append(1 - online.score(X_test))
print(f"FVU on new samples, {online.n_steps_} steps: {fvu[-1]:.3f}")

# %%
# Codes of a file, in pieces
# --------------------------
# ``transform`` gives the same codes in whatever pieces it gets the samples. As sparse
# matrices they are small.

sae.set_params(sparse_output=True)
n_bytes = 0
for start in range(0, len(X_mapped), 10_000):
    codes = sae.transform(X_mapped[start : start + 10_000])
    n_bytes += codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes
dense = len(X_mapped) * sae.n_components * X_mapped.itemsize
print(f"codes: {n_bytes / 1e6:.1f} MB, as dense matrix {dense / 1e6:.1f} MB")

# %%
# What each pass taught
# ---------------------

fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(n_steps, fvu, "o-", color="tab:blue", label="partial_fit, 10,000 samples each")
ax.axhline(
    fvu_of_fit, color="tab:orange", linestyle="--", label=f"fit, {sae.n_steps_} steps"
)
ax.set(
    xlabel="Gradient steps",
    ylabel="FVU on new samples",
    ylim=(0, None),
    title="Learning from pieces, and from a file as a whole",
)
ax.legend()
plt.show()

# %%
# The memory map is let go before its file.

del on_disk, X_mapped
folder.cleanup()
