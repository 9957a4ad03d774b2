"""Keep PyTorch's transformers on the path whose tensors hooks can read."""

from collections.abc import Callable
from functools import partial

import torch

from .._utils.threads import ForAllThreads


def _disable_fast_path() -> Callable[[], object]:
    mha = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    return partial(mha.set_fastpath_enabled, before)


# In evaluation mode, the fast path of nn.TransformerEncoder packs inputs with padding
# into nested tensors, which layers with hooks do not understand.
without_fast_path = ForAllThreads(_disable_fast_path)
