"""Views of atoms and samples, and their numbers in few bytes."""

from __future__ import annotations

from base64 import b64encode
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .._drawing import check_image_shape

# Maximum size of the shapes in a page; as text, a third more.
MOST_BYTES = 8_000_000
LEVELS = 255


class View(NamedTuple):
    """The form in which atoms and samples are shown."""

    kind: str
    """"image", "channels", "curve", or "text", which has no shape"""
    shape: tuple[int, ...]
    """shape of a row of features: (height, width), (height, width, 3), (n_channels,
    n_times) or (n_features,)"""
    labels: list[str]
    """names of channels, or of the features of a curve"""
    step: float | None
    """seconds between two points of a curve"""


def make_view(
    n_features: int,
    *,
    image_shape: tuple[int, ...] | None = None,
    ch_names: list[str] | None = None,
    sfreq: float | None = None,
    is_text: bool = False,
    labels=(),
) -> View:
    """Check how to show rows of features.

    Parameters
    ----------
    n_features : int
    image_shape, ch_names, sfreq
        As in :func:`report`.
    is_text : bool
        Whether contexts are shown instead.
    labels : sequence of str
        Names of features.

    Raises
    ------
    ValueError
        If the parameters contradict each other or n_features.
    """
    ways = {"image_shape": image_shape, "ch_names": ch_names, "contexts": is_text}
    given = [name for name, value in ways.items() if value not in (None, False)]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} are given, but atoms can be shown in only one way."
        )
    if sfreq is not None and not 0 < sfreq < np.inf:
        raise ValueError(f"sfreq must be a positive number of hertz, got {sfreq!r}.")
    step = sfreq and 1 / float(sfreq)
    if is_text:
        return View("text", (0,), [], None)
    if image_shape is not None:
        return View("image", check_image_shape(n_features, image_shape), [], None)
    if ch_names is not None:
        names = [str(name) for name in ch_names]
        if not names or n_features % len(names):
            raise ValueError(
                f"ch_names has {len(names)} names, but the {n_features} features are "
                "not a multiple of that: they hold all times of the first channel, "
                "then of the second, and so on."
            )
        shape = len(names), n_features // len(names)
        return View("channels", shape, names, step)
    return View("curve", (n_features,), [str(label) for label in labels], step)


def thinned(view: View, n_shapes: int) -> View:
    """The view with as many points as the page has room for with so many shapes."""
    most = MOST_BYTES // max(1, n_shapes)
    # Colours and channels are kept.
    kept = {"image": view.shape[2:], "channels": view.shape[:1]}.get(view.kind, ())
    factor, shape = 1, view.shape
    while prod(shape) > max(most, prod(kept)):
        factor += 1
        if view.kind == "image":
            shape = (*(-(-size // factor) for size in view.shape[:2]), *kept)
        else:
            shape = (*kept, -(-view.shape[-1] // factor))
    if factor == 1:
        return view
    step = view.step and view.step * -(-view.shape[-1] // shape[-1])
    # Names of single features do not apply to means of several.
    labels = view.labels if view.kind == "channels" else []
    return View(view.kind, shape, labels, step)


def averaged(rows: np.ndarray, view: View, fewer: View) -> np.ndarray:
    """Rows of features averaged to fewer points.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    view, fewer : View
        The original view, and the one from :func:`thinned`.

    Returns
    -------
    ndarray of shape (n_rows, n_points)
    """
    shapes = rows.reshape(-1, *view.shape)
    for axis, (size, wanted) in enumerate(
        zip(view.shape, fewer.shape, strict=True), start=1
    ):
        if wanted < size:
            begins = np.arange(0, size, -(-size // wanted))
            lengths = np.diff(begins, append=size)
            sums = np.add.reduceat(shapes, begins, axis=axis)
            shapes = sums / lengths.reshape(-1, *[1] * (shapes.ndim - axis - 1))
    return shapes.reshape(len(rows), -1)


def known(values) -> list[float | None]:
    """Numbers, and None for missing ones."""
    return [float(v) if np.isfinite(v) else None for v in values]


def significant(values) -> list[float | None]:
    """Numbers with 4 digits, and None for missing ones."""
    return known(float(f"{value:.4g}") for value in values)


class Shapes:
    """Rows of features with 8 bits per value, between the smallest and the largest."""

    def __init__(self, view: View, fewer: View):
        self.view, self.fewer = view, fewer
        self.low: list[float | None] = []
        self.high: list[float | None] = []
        self.bytes = bytearray()

    def add(self, rows: np.ndarray) -> None:
        """Append rows, (n_rows, n_features)."""
        rows = averaged(rows, self.view, self.fewer)
        low, high = (extreme(rows, axis=1) for extreme in (np.min, np.max))
        # Not rounded: a shape may be small beside its offset.
        self.low += known(low)
        self.high += known(high)
        scale = LEVELS / np.where(high > low, high - low, 1)
        levels = (rows - low[:, None]) * scale[:, None]
        self.bytes += np.rint(levels).astype(np.uint8).tobytes()

    def limits(self) -> dict[str, Any]:
        """Values of 0 and `LEVELS` in each row."""
        return {"low": self.low, "high": self.high}

    def text(self) -> str:
        """The bytes in base64."""
        return b64encode(self.bytes).decode("ascii")
