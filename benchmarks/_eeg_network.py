"""A small convolutional network that denoises EEG, for ``benchmarks.eeg``."""

import numpy as np
import torch
from torch import nn

# Number of hidden channels, by whether there are several channels, and size of kernels:
# they make 4,000 to 5,000 parameters.
N_HIDDEN = {False: 16, True: 8}
KERNEL, DILATIONS = 9, (1, 4, 16)
BATCH, N_STEPS, LEARNING_RATE = 32, 500, 1e-2


def network(n_channels: int) -> nn.Sequential:
    """Four convolutions over time, which see 0.7 s at 256 Hz."""
    widths = [n_channels, *[N_HIDDEN[n_channels > 1]] * len(DILATIONS)]
    layers: list[nn.Module] = []
    for n_in, n_out, dilation in zip(widths, widths[1:], DILATIONS, strict=False):
        layers += [nn.Conv1d(n_in, n_out, KERNEL, dilation=dilation, padding="same")]
        layers += [nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Conv1d(widths[-1], n_channels, KERNEL, padding="same")
    )


def size(X: torch.Tensor) -> torch.Tensor:
    """Root mean square of epochs, (n_epochs, 1, 1)."""
    return X.square().mean((1, 2), keepdim=True).sqrt() + 1e-12


def augmented(
    noisy: torch.Tensor, clean: torch.Tensor, draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean epochs with the artefacts of others, shifted round, reversed, negated.

    An artefact is as large, relative to the clean epoch, as it was to its own.
    """
    n = len(clean)
    order = torch.randperm(n, generator=draw)
    artefact = ((noisy - clean) / size(clean))[order] * size(clean)
    pair = []
    for part in (clean, artefact):
        part = part.roll(int(torch.randint(part.shape[2], (), generator=draw)), 2)
        turned = torch.rand(n, 1, 1, generator=draw) < 0.5
        part = torch.where(turned, part.flip(2), part)
        pair.append(part * (1 - 2 * torch.randint(2, (n, 1, 1), generator=draw)))
    return pair[0] + pair[1], pair[0]


def trained(noisy: np.ndarray, clean: np.ndarray, seed: int):
    """A function that denoises, trained by the error relative to the clean epoch.

    Parameters
    ----------
    noisy, clean : ndarray of shape (n_epochs, n_channels, n_times)
    seed : int
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(noisy.shape[1])
    X, Y = (torch.from_numpy(part.astype(np.float32)) for part in (noisy, clean))

    def denoised(X: torch.Tensor) -> torch.Tensor:
        # The network estimates the artefact, of epochs of unit size.
        return X - size(X) * model(X / size(X))

    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, LEARNING_RATE, total_steps=N_STEPS
    )
    for _ in range(N_STEPS):
        rows = torch.randint(len(X), (BATCH,), generator=draw)
        mixed, target = augmented(X[rows], Y[rows], draw)
        loss = (size(denoised(mixed) - target) / size(target)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()

    def denoise(X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return denoised(torch.from_numpy(X.astype(np.float32))).numpy()

    return denoise
