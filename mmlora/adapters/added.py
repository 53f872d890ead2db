"""Modules that an adapter adds beside the frozen ones of a model, such as prompts and bottlenecks."""

import torch.nn as nn


class AddedModule(nn.Module):
    """A module that the frozen model knows nothing of: hooks call it, and all of its tensors learn.

    Its own tensors are bare Parameters, so that ``init_weights`` of a model does not draw them anew. The name by which
    a model holds it begins with the prefix of its kind of adapter.
    """

    scaling: float = 1.0
    """Factor of what it adds, which no tensor holds."""

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Return the learned tensors by their names within this module."""
        return dict(self.named_parameters())

    def reset_adapter(self) -> None:
        """Draw the learned tensors anew."""
        raise NotImplementedError


def added_modules(model: nn.Module) -> dict[str, AddedModule]:
    """Return all modules that adapters have added to a model, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, AddedModule)}
