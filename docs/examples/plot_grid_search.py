"""
Choosing k and alpha by grid search
===================================

By an estimator's own score, the largest ``k`` wins: more active atoms explain more.
Two other scorers ask whether the atoms are good: how much they explain when all
candidates may use as many, and whether witnesses find them too.
"""

# %%
# Data whose answer is known
# --------------------------
# 32 features in 16 dimensions, of which 2 are active in a sample, on average.

import matplotlib.pyplot as plt
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV

from skmfr import MFRSparseAutoencoder
from skmfr.datasets import make_superposition
from skmfr.metrics import agreement_scorer, make_fixed_l0_scorer

X, _, features = make_superposition(4_000, 16, 32, n_active=2, random_state=0)

# %%
# Search
# ------
# Three scores at once; ``refit`` says which of them decides. ``n_jobs`` would train
# candidates in parallel.

search = GridSearchCV(
    MFRSparseAutoencoder(32, batch_size=256, max_steps=300, random_state=0),
    {"k": [1, 2, 4, 8], "alpha": [0.0, 1.0]},
    scoring={
        "own score": None,
        "explained by 2 atoms": make_fixed_l0_scorer(2),
        "agreement": agreement_scorer,
    },
    refit="explained by 2 atoms",
    cv=2,
)
search.fit(X)
print(f"most explained by 2 atoms: {search.best_params_}")

# %%
# What each score would choose
# ----------------------------
# The own score rises with ``k`` to the end. The others do not: an atom that was trained
# to share the work with seven others is no feature. Circles mark the best of each,
# the dotted line the mean number of active features.

results = search.cv_results_
k, alpha = (results[f"param_{name}"].astype(float) for name in ("k", "alpha"))
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for ax, name in zip(axes, search.scorer_, strict=True):
    score = results[f"mean_test_{name}"]
    for value, style in [(0.0, "s--"), (1.0, "o-")]:
        at_value = alpha == value
        ax.plot(k[at_value], score[at_value], style, label=f"alpha={value:g}")
    best = score.argmax()
    ax.plot(k[best], score[best], "o", markersize=14, mfc="none", color="black")
    ax.axvline(2, color="0.5", linestyle=":")
    ax.set(
        title=name.capitalize(),
        xlabel="k",
        xscale="log",
        xticks=[1, 2, 4, 8],
        xticklabels=[1, 2, 4, 8],
    )
    ax.minorticks_off()
axes[0].set_ylabel("Score, mean of two folds")
axes[0].legend(loc="lower right")
plt.show()

# %%
# Both scorers choose the true ``k``. On other data they may choose the next one: many
# samples have more active features than the mean.

found = cosine_similarity(features, search.best_estimator_.components_).max(axis=1)
print(f"features found by the best: {(found > 0.9).mean():.0%}")
