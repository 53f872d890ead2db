"""Full fine-tuning: the backbone learns as it would without an adapter."""

import torch.nn as nn

from .tuning import Choice


class FullFineTune(Choice):
    """Let everything of a backbone learn but what the backbone itself keeps fixed.

    That is for example a sine-cosine position embedding, or the first stages where ``frozen_stages`` says so.
    """

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return the names of the parameters that learn in the plain backbone.

        Raises:
            ValueError: There is none.
        """
        now = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
        found = {name for name, learns in (self._learned_before or now).items() if learns}
        if not found:
            raise ValueError(f'nothing of this {type(backbone).__name__} learns: all of it is frozen already')
        return found
