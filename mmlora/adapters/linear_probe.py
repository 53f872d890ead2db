"""Linear probing: the whole backbone is frozen, and only the head that a model puts on it learns."""

import torch.nn as nn

from .tuning import Choice


class LinearProbe(Choice):
    """Let nothing of a backbone learn."""

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return no name."""
        return set()
