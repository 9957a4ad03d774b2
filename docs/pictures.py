"""Copy the pictures of README.md and of the landing page out of the built gallery.

``python -m sphinx docs docs/_build && python docs/pictures.py``
"""

from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
# Name in docs/_static/pictures: picture of the gallery.
PICTURES = {
    "quickstart": "plot_quickstart_001",
    "datascience": "plot_grid_search_001",
    "eeg": "plot_eeg_denoising_001",
    "interpretability": "plot_transformer_001",
}


def main() -> None:
    for name, drawn in PICTURES.items():
        source = DOCS / f"auto_examples/images/sphx_glr_{drawn}.png"
        with Image.open(source) as picture:
            picture.thumbnail((900, 900), Image.Resampling.LANCZOS)
            # 256 colours make half of the bytes, and look the same.
            small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(DOCS / f"_static/pictures/{name}.png", optimize=True)


if __name__ == "__main__":
    main()
