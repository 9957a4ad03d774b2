"""
Patches of a photograph: PCA, ICA, dictionary learning, and SAEs
================================================================

Four methods describe patches of 8 by 8 pixels: as sums of components that all patches
use (PCA, ICA), or of a few atoms out of many (dictionary learning, sparse
autoencoders). All may use eight numbers for a patch.
"""

# %%
# Patches
# -------
# Grey values of the photograph below the sky, each patch without its mean. A third of
# the patches is for the test.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.model_selection import train_test_split

from skmfr import MFRSparseAutoencoder
from skmfr.agreement import feature_agreement
from skmfr.metrics import fvu

image = load_sample_image("china.jpg")[150:].mean(axis=2) / 255
patches = extract_patches_2d(image, (8, 8), max_patches=6_000, random_state=0)
X = patches.reshape(len(patches), -1)
X -= X.mean(axis=1, keepdims=True)
X_train, X_test = train_test_split(X, test_size=1 / 3, random_state=0)

# %%
# Methods
# -------
# Each is trained twice, with two seeds: the second training shows which atoms come
# back. Dictionary learning and ours code new patches by orthogonal matching pursuit,
# with eight atoms out of 128. ICA of eight components spans the same space as PCA, so
# it reconstructs alike; it differs in its atoms.

K, N_ATOMS = 8, 128
methods = {
    "PCA": lambda seed: PCA(K, random_state=seed),
    "ICA": lambda seed: FastICA(K, max_iter=1000, random_state=seed),
    "dictionary learning": lambda seed: MiniBatchDictionaryLearning(
        N_ATOMS,
        alpha=0.2,
        batch_size=256,
        max_iter=3,
        transform_algorithm="omp",
        transform_n_nonzero_coefs=K,
        random_state=seed,
    ),
    "SAEs": lambda seed: MFRSparseAutoencoder(
        N_ATOMS,
        k=K,
        transform_algorithm="omp",
        max_steps=400,
        batch_size=512,
        random_state=seed,
    ),
}


def reconstruction(model, X):
    """X after the model's bottleneck."""
    if isinstance(model, MiniBatchDictionaryLearning):
        return model.transform(X) @ model.components_
    return model.inverse_transform(model.transform(X))


# %%
# Results
# -------
# FVU is the fraction of variance unexplained of new patches; "comes back" is the mean
# cosine of an atom with the nearest one of the other training.

fitted = {}
print(f"{'':>20}  FVU    comes back  seconds")
for name, make in methods.items():
    start = time.perf_counter()
    first, second = (make(seed).fit(X_train) for seed in (0, 1))
    seconds = (time.perf_counter() - start) / 2
    error = fvu(X_test, reconstruction(first, X_test))
    # With codes of both signs, that of an atom is arbitrary.
    both_signs = np.concatenate([second.components_, -second.components_])
    again = feature_agreement(first.components_, [both_signs]).mean()
    fitted[name] = first
    print(f"{name:>20}  {error:.3f}  {again:.3f}       {seconds:.1f}")

# %%
# Both sparse methods leave less than half of the error of eight components. The atoms
# of dictionary learning come back more often here. The page :doc:`/recovery` compares
# the two on data with known features.

# %%
# The atoms
# ---------
# Of the 128 atoms, those that are active most often. White adds light, black takes it.

fig, axes = plt.subplots(4, K, figsize=(9, 5), layout="constrained")
for row, (name, model) in zip(axes, fitted.items(), strict=True):
    use = (np.abs(model.transform(X_test)) > 0).mean(axis=0)
    for ax, atom in zip(row, np.argsort(-use, kind="stable"), strict=False):
        pixels = model.components_[atom].reshape(8, 8)
        limit = np.abs(pixels).max()
        ax.imshow(pixels, cmap="gray", vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
fig.suptitle("The most used atoms of each method")
plt.show()
