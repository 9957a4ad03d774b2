"""
Choosing k by grid search
=========================

By an estimator's own score, the largest ``k`` wins: more active atoms explain more.
Better questions are how many atoms an independent fit would find again, and how much is
explained when all candidates may use equally many atoms.
"""

# %%
# Data whose answer is known
# --------------------------
# 32 features in 16 dimensions. On average, 2 of them are active in a sample.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition
from skmfr.metrics import estimate_l0, make_fixed_l0_scorer, reappearance_scorer

X, _, features = make_superposition(4_000, 16, 32, n_active=2, random_state=0)

# %%
# Search
# ------
# A search can compute several scores. ``refit`` decides by them: among the candidates
# that lose at most 3 % of the atoms that return, it takes the largest ``k``, which
# explains most. On other data you do not know the features; here, a fourth score counts
# how many of them were found. ``n_jobs`` would train candidates in parallel.


def n_found(sae, X):
    """How many features have an atom at a cosine above 0.9."""
    return int(np.sum(cosine_similarity(features, sae.components_).max(axis=1) > 0.9))


def largest_k_that_returns(results):
    returning = results["mean_test_returning"]
    k = results["param_k"].astype(int)
    return int(np.argmax(np.where(returning >= 0.97 * returning.max(), k, 0)))


search = GridSearchCV(
    MFRSparseAutoencoder(32, batch_size=256, max_steps=300, random_state=0),
    {"k": [1, 2, 3, 4, 6, 8]},
    scoring={
        "own": None,
        "fixed": make_fixed_l0_scorer(2),
        "returning": reappearance_scorer,
        "found": n_found,
    },
    refit=largest_k_that_returns,
    cv=2,
)
search.fit(X)
print(f"chosen: {search.best_params_}")
print(f"features found: {n_found(search.best_estimator_, X)} of {len(features)}")

# %%
# What each score would choose
# ----------------------------
# The estimator's own score rises with ``k`` to the end. The other two fall, because an
# atom that shares its work with seven others is not a feature. The atoms that are
# expected to return are as many as the features that were found, although the scorer
# does not know the features. The dotted line marks the mean number of active features.

results = search.cv_results_
k = results["param_k"].astype(int)
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
panels = {"own": "Own score", "fixed": "Explained by 2 atoms", "returning": "Atoms"}
for ax, (name, title) in zip(axes, panels.items(), strict=True):
    label = "expected to return" if name == "returning" else None
    ax.plot(k, results[f"mean_test_{name}"], "o-", label=label)
    ax.axvline(2, color="0.5", linestyle=":")
    ax.set(title=title, xlabel="k", xscale="log", xticks=k, xticklabels=k)
    ax.minorticks_off()
axes[0].set_ylabel("Share of the variance explained")
found = results["mean_test_found"]
axes[2].plot(k, found, "x--", label="show a feature")
chosen = search.best_index_
axes[2].plot(
    k[chosen],
    results["mean_test_returning"][chosen],
    "o",
    markersize=14,
    mfc="none",
    color="black",
    label="chosen",
)
axes[2].set_ylim(0)
axes[2].legend()
plt.show()

# %%
# The search does not count active features. It finds a ``k`` with which training learns
# single features; on other data this may be half or three times their number
# (:doc:`/user_guide/choosing`). Their number can be estimated from one fit: by how many
# steps of matching pursuit explain more than chance.

n_active = estimate_l0(search.best_estimator_, X, random_state=0)
print(f"active atoms per sample: {n_active:.1f}")
