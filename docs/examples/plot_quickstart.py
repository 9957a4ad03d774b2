"""
Quickstart: features of digits, and how far to trust them
=========================================================

Three sparse autoencoders (SAEs) learn a dictionary each from 8 x 8 images of digits.
A penalty pulls the three dictionaries together. A fourth SAE, the witness, sees the
same batches but not the penalty: what it finds as well is hardly an accident of one
run. Run as a script, this takes well under a minute and writes ``quickstart.png`` to
the folder that it is run in.
"""

# %%
# Data and fit
# ------------
# A quarter of the images is kept apart, to measure the reconstruction on images that
# training has not seen.

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skmfr import MFRSparseAutoencoder

X, _ = load_digits(return_X_y=True)
X_train, X_test = train_test_split(X, random_state=0)

sae = MFRSparseAutoencoder(
    n_components=128, k=8, n_saes=3, n_witnesses=1, random_state=0
)
sae.fit(X_train)

# %%
# Reconstruction
# --------------
# FVU is the fraction of variance unexplained: 0 is a perfect reconstruction, 1 that of
# an image by the mean image. Codes have at most ``k`` non-zero entries. The encoder
# finds them in one product; orthogonal matching pursuit ("omp") takes longer and
# reconstructs better with the same dictionary. Nothing needs to be fitted again.

for algorithm in ["encoder", "omp"]:
    sae.set_params(transform_algorithm=algorithm)
    print(f"FVU on new images, {algorithm:>7}: {1 - sae.score(X_test):.3f}")

# %%
# Agreement
# ---------
# The agreement of an atom is its largest cosine with an atom of the witness. Random
# dictionaries of this size reach the null level. Trusted are the
# most atoms of which 5 % are expected not to return in an independent fit.

agreement = sae.feature_agreement_
print(f"mean agreement with the witness: {agreement.mean():.3f}")
print(f"null level, random dictionaries: {sae.agreement_null_:.3f}")
print(f"atoms to trust: {sae.trusted_.sum()} of {agreement.size}")

# %%
# The atoms
# ---------
# Each atom is an image itself: red adds ink, blue takes it away.

N_SHOWN = 10
order = np.argsort(agreement)[::-1]
rows = {"Most\nagreed": order[:N_SHOWN], "Least\nagreed": order[-N_SHOWN:]}
shown = sae.components_[np.concatenate(list(rows.values()))]
# A few strong pixels would make all others pale: they are cut off.
limit = np.quantile(np.abs(shown), 0.99)

fig, axes = plt.subplots(len(rows), N_SHOWN, figsize=(12, 3.4), layout="constrained")
for row, (label, atoms) in zip(axes, rows.items(), strict=True):
    for ax, atom in zip(row, atoms, strict=True):
        image = ax.imshow(
            sae.components_[atom].reshape(8, 8), cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(f"{agreement[atom]:.2f}")
    row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=10)
fig.suptitle(
    f"The {N_SHOWN} most and {N_SHOWN} least agreed of {agreement.size} atoms learned "
    "from images of digits\n"
    "Number: largest cosine with an atom of the witness, a separate SAE "
    f"(random dictionaries: {sae.agreement_null_:.2f})",
    fontsize=12,
)
fig.colorbar(image, ax=axes, label="Pixel of the atom", extend="both", aspect=15)

picture = Path("quickstart.png").resolve()
fig.savefig(picture, dpi=120)
print(f"picture: {picture}")
