"""
Quickstart: letters out of a mixture
====================================

Each image shows three letters on top of each other, under noise. Nobody tells the
sparse autoencoders (SAEs) which letters there are, or that there are letters at all.
They recover nearly the whole alphabet, and a score says which of the learned atoms to
trust.

Run as a script, this takes less than a minute and writes ``quickstart.png`` to the
current folder.
"""

# %%
# Data
# ----
# We draw the 26 letters, then mix: each of 10,000 images is the sum of three letters,
# each with a strength between 0.5 and 1.5, plus noise.

from pathlib import Path
from string import ascii_uppercase

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skmfr import MFRSparseAutoencoder

SIDE = 14  # pixels
font = ImageFont.load_default(16)


def drawn(letter):
    """One letter as a row of pixels between 0 and 1."""
    image = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    draw.text((SIDE / 2, SIDE / 2), letter, fill=255, font=font, anchor="mm")
    return np.asarray(image).ravel() / 255


letters = np.stack([drawn(letter) for letter in ascii_uppercase])
rng = np.random.default_rng(0)
strengths = np.zeros((10_000, len(letters)))
for row in strengths:
    row[rng.choice(len(letters), 3, replace=False)] = rng.uniform(0.5, 1.5, 3)
X = strengths @ letters + rng.normal(scale=0.2, size=(len(strengths), SIDE**2))

# %%
# Fit
# ---
# We do not know how many letters there are, so we ask for 52 atoms. Three SAEs learn
# together. Two more, the *witnesses*, see the same images but nothing of the others.

sae = MFRSparseAutoencoder(
    n_components=52, k=3, batch_size=512, max_steps=1000, random_state=0
)
sae.fit(X)

# %%
# Which atoms are letters?
# ------------------------
# The agreement of an atom is its mean cosine with the most similar atom of each
# witness. An atom is trusted if an independent fit is likely to find it again. Here we
# know the answer, so we can check: an atom shows a letter if its cosine with that
# letter exceeds 0.9.

cosines = letters @ sae.components_.T / np.linalg.norm(letters, axis=1)[:, None]
nearest_letter = cosines.argmax(axis=0)
is_letter = cosines.max(axis=0) > 0.9
trusted = sae.trusted_

n_found = len(np.unique(nearest_letter[trusted & is_letter]))
print(f"{trusted.sum()} of {len(trusted)} atoms are trusted")
print(f"they show {n_found} of the {len(letters)} letters")
print(f"letters among the atoms that are not trusted: {is_letter[~trusted].sum()}")

# %%
# The picture
# -----------
# The trusted atoms come in alphabetical order, the others by agreement. Grey adds ink,
# red takes it away. A few trusted atoms show a stroke in which letters differ. Most of
# these return in other fits, too.

agreement = sae.feature_agreement_
by_letter = np.lexsort([-cosines.max(axis=0), nearest_letter, ~is_letter])
by_agreement = np.argsort(-agreement)
groups = {
    "What the SAEs see: three letters and noise": X[:13],
    f"What they learn: {trusted.sum()} atoms that the score trusts": sae.components_[
        by_letter[trusted[by_letter]]
    ],
    f"{(~trusted).sum()} atoms that it does not trust": sae.components_[
        by_agreement[~trusted[by_agreement]]
    ],
}

N_COLUMNS = 13
heights = [-(-len(images) // N_COLUMNS) for images in groups.values()]
fig = plt.figure(figsize=(9, 0.72 * sum(heights) + 1.2), layout="constrained")
parts = fig.subfigures(len(groups), 1, height_ratios=[h + 0.5 for h in heights])
for part, (title, images), height in zip(parts, groups.items(), heights, strict=True):
    part.suptitle(title, fontsize=12)
    axes = part.subplots(height, N_COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, image in zip(axes, images, strict=False):
        limit = np.abs(image).max()
        ax.imshow(image.reshape(SIDE, SIDE), cmap="RdGy", vmin=-limit, vmax=limit)

picture = Path("quickstart.png").resolve()
fig.savefig(picture, dpi=100)
print(f"picture: {picture}")
