"""Shared parts of displays: lazy matplotlib, colours, panels, choices, samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._utils.checks import as_indices
from .._utils.extras import needed_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

# From the palette of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE = "#0072B2", "#D55E00"
# A legend outside the data.
ABOVE = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "frameon": False,
    "fontsize": 9,
}
# A few strong pixels would make all others pale, so they are clipped.
SHOWN_SHARE = 0.99


def import_pyplot(caller: str):
    """matplotlib.pyplot, or an error that explains how to install it."""
    with needed_by(caller, "plot"):
        import matplotlib.pyplot as plt
    return plt


def import_mne(caller: str):
    """MNE, or an error that explains how to install it."""
    with needed_by(f"{caller} with info", "eeg"):
        import mne
    return mne


def line_style(given, **defaults) -> dict:
    """Keyword arguments of lines, which override defaults also by their short names."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    return defaults | normalize_kwargs(given, Line2D)


def new_axes(caller: str, ax: Axes | None, figsize=None) -> Axes:
    """The given axes, or those of a new figure."""
    if ax is None:
        plt = import_pyplot(caller)
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    return ax


def panels(
    caller: str, ax: Axes | None, shape: tuple[int, int], figsize, **options
) -> tuple[Axes, np.ndarray]:
    """Divide axes, or those of a new figure, into panels.

    Returns
    -------
    ax : Axes
        Empty except for a title.
    axes : ndarray of shape `shape`, of Axes

    Raises
    ------
    ValueError
        If the axes are not part of a grid; only such axes can be divided.
    """
    ax = new_axes(caller, ax, figsize)
    spec = ax.get_subplotspec()
    if spec is None:
        raise ValueError(
            "ax is not part of a subplot grid, so it cannot be divided into panels. "
            "Make it with plt.subplots() or figure.add_subplot()."
        )
    ax.set_axis_off()
    return ax, spec.subgridspec(*shape).subplots(squeeze=False, **options)


def check_labels(labels, n: int) -> list[str]:
    """One label for each of n dictionaries; None means their indices."""
    labels = list(map(str, range(n) if labels is None else labels))
    if len(labels) != n:
        raise ValueError(f"There are {len(labels)} labels for {n} dictionaries.")
    return labels


def chosen(choice, name: str, scores: np.ndarray) -> np.ndarray:
    """Indices of the items to show, in order of descending score.

    Parameters
    ----------
    choice : int or array-like of int or bool
        How many, evenly spread over the ranks of the scores; or the indices or a mask.
    name : str
        Name of the choice in errors.
    scores : ndarray of shape (n_items,)
        NaN ranks lowest.

    Returns
    -------
    ndarray of shape (n_chosen,), int
    """
    n_items = len(scores)
    ranked = np.argsort(-scores, kind="stable")
    wanted = as_indices(choice, n_items)
    if wanted.size == 0:
        raise ValueError(f"{name} must choose at least one of {n_items}, got none.")
    if wanted.dtype.kind not in "iu" or wanted.ndim > 1:
        raise ValueError(
            f"{name} must be a number, a list of them, or a boolean mask of "
            f"({n_items},), got {choice!r}."
        )
    if wanted.ndim == 0:
        if wanted < 1:
            raise ValueError(f"{name} must be at least 1, got {choice}.")
        places = np.linspace(0, n_items - 1, min(int(wanted), n_items))
        return ranked[np.rint(places).astype(int)]
    if wanted.min() < 0 or wanted.max() >= n_items:
        raise ValueError(
            f"{name} must be from 0 to {n_items - 1}, got {wanted.tolist()}."
        )
    return wanted[np.argsort(-scores[wanted], kind="stable")]


def check_layout(
    n_features: int, image_shape, n_channels: int, sfreq
) -> tuple[int, ...] | None:
    """Check that samples can be drawn as requested.

    Parameters
    ----------
    n_features : int
    image_shape : tuple of int or None
        (height, width), or (height, width, 3) in colour. None means curves.
    n_channels : int
        Curves per sample.
    sfreq : float or None
        Samples per second of curves.

    Returns
    -------
    tuple of int or None
        The shape.
    """
    if image_shape is None:
        if n_channels < 1 or n_features % n_channels:
            raise ValueError(
                f"n_channels={n_channels} does not divide the {n_features} features "
                "of a sample."
            )
        if sfreq is not None and not sfreq > 0:
            raise ValueError(f"sfreq must be above 0, got {sfreq}.")
        return None
    return check_image_shape(n_features, image_shape)


def check_image_shape(n_features: int, image_shape) -> tuple[int, ...]:
    """Shape of these features as an image: (height, width), or (height, width, 3)."""
    shape = tuple(np.atleast_1d(image_shape).tolist())
    is_shape = all(isinstance(side, int) and side > 0 for side in shape)
    if not is_shape or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ValueError(
            "image_shape must be (height, width), or (height, width, 3) in colour, "
            f"got {shape}."
        )
    if np.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={shape} has {np.prod(shape)} values, but a sample has "
            f"{n_features} features."
        )
    return shape


def draw_image(ax: Axes, sample: np.ndarray, shape, vmin, vmax, cmap) -> AxesImage:
    """Draw a sample (n_features,) as an image; colours are scaled to the range."""
    image = sample.reshape(shape)
    if image.ndim == 3:
        image = np.clip((image - vmin) / max(vmax - vmin, np.finfo(float).tiny), 0, 1)
    ax.set(xticks=[], yticks=[])
    return ax.imshow(
        image, vmin=vmin, vmax=vmax, cmap=cmap, interpolation="nearest", aspect="equal"
    )


def draw_curves(
    ax: Axes, sample: np.ndarray, n_channels: int, spacing: float, sfreq, **style
) -> list[Line2D]:
    """Draw a sample (n_channels * n_times,) as one curve per channel.

    The first channel is on top; each next one is lower by the spacing.
    """
    curves = sample.reshape(n_channels, -1)
    x = np.arange(curves.shape[1]) / (sfreq or 1)
    heights = -spacing * np.arange(n_channels)
    lines = ax.plot(x, curves.T + heights, **style)
    ax.margins(x=0)
    if spacing:
        # As many labels as are legible.
        every = -(-n_channels // 10)
        ax.set_yticks(heights[::every], [str(i) for i in range(0, n_channels, every)])
        ax.set_ylabel("Channel")
    return lines


def curve_spacing(samples: np.ndarray, n_channels: int) -> float:
    """Distance between curves at which few of them cross."""
    if n_channels == 1 or samples.size == 0:
        return 0.0
    return float(np.quantile(np.abs(samples), SHOWN_SHARE)) or 1.0


def abscissa(n_channels: int, sfreq) -> str:
    """Label of the horizontal axis of curves."""
    if sfreq is not None:
        return "Time (s)"
    return "Feature" if n_channels == 1 else "Sample"
