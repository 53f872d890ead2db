"""Ways to adapt a whole backbone that are no kind of linear layer: prompts, bottlenecks, or a choice of what learns.

They share two verbs. ``attach`` adds what a method adds, by forward hooks or by layers in the place of others, and
freezes the rest; ``detach`` takes all of it away. No forward of a backbone is ever copied.
"""

from collections.abc import Callable
from typing import ClassVar

import torch.nn as nn

from .freeze import adapter_parameter_names, freeze, release_norms


class Tuning:
    """A way to adapt a backbone. An instance belongs to the one backbone that it is attached to.

    Subclasses say what is added (:meth:`_add`, :meth:`_remove`) and which parameters learn (:meth:`learned`).
    """

    prefix: ClassVar[str | None] = None
    """Begins the names of the learned tensors, or of the modules that hold them; None where nothing is added."""

    unmergeable: ClassVar[str | None] = None
    """Why no plain model computes the same as the adapted one; None where one does."""

    chooses: ClassVar[bool] = False
    """Whether the method is a choice of the backbone's own parameters, and adds none."""

    def __init__(self) -> None:
        self._learned_before: dict[str, bool] | None = None

    @property
    def attached(self) -> bool:
        """Whether this belongs to a backbone at present."""
        return self._learned_before is not None

    def attach(self, backbone: nn.Module, frozen: bool = True) -> None:
        """Adapt a backbone in place and let nothing else of it learn.

        Args:
            backbone: Any model in which the method finds its sites.
            frozen: False lets what is not adapted learn too. The weights of layers that are scaled and shifted stay
                frozen.

        Raises:
            ValueError: The method does not fit the backbone, the backbone is tuned already, or this belongs to another
                backbone.
        """
        if self.attached or find_tuning(backbone) is not None:
            raise ValueError(f'{self.name} cannot be attached: detach the {find_tuning(backbone) or self} first')
        if self.chooses and not frozen:
            raise ValueError(
                f"{self.name} chooses what learns, so frozen=False would undo it: use kind='FullFineTune' for that"
            )
        before = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
        self._add(backbone)
        self._learned_before = before
        backbone.tuning = self
        if frozen:
            freeze(backbone, self.learned(backbone))

    def detach(self, backbone: nn.Module) -> None:
        """Take away what :meth:`attach` has done; the frozen weights stay as they are.

        Raises:
            ValueError: This is not attached to the backbone.
        """
        if find_tuning(backbone) is not self:
            raise ValueError(f'{self.name} is not attached to this {type(backbone).__name__}')
        self._remove(backbone)
        release_norms(backbone)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(self._learned_before[name])
        self._learned_before = None
        del backbone.tuning

    def learned(self, backbone: nn.Module) -> set[str]:
        """Return the exact names of the parameters that learn in a backbone to which this is attached."""
        return adapter_parameter_names(backbone)

    @property
    def name(self) -> str:
        """The name of the method, as papers and configs write it."""
        return type(self).__name__

    def _add(self, backbone: nn.Module) -> None:
        """Add hooks, modules or layers. Nothing is changed where the method does not fit.

        Raises:
            ValueError: It does not fit; the message says what would.
        """

    def _remove(self, backbone: nn.Module) -> None:
        """Undo :meth:`_add`."""

    def __repr__(self) -> str:
        arguments = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if not k.startswith('_'))
        return f'{self.name}({arguments})'


class Choice(Tuning):
    """A method that adds nothing and lets some of the backbone's own parameters learn."""

    chooses = True

    def _add(self, backbone: nn.Module) -> None:
        self.learned(backbone)  # Refuses a backbone that has nothing of the kind.


def find_tuning(model: nn.Module) -> Tuning | None:
    """Return what a backbone is tuned by, or None."""
    tuning = vars(model).get('tuning')
    return tuning if isinstance(tuning, Tuning) else None


def tunings(model: nn.Module) -> dict[str, Tuning]:
    """Return what the backbones inside a model are tuned by, by the name of the backbone."""
    return {name: find_tuning(m) for name, m in model.named_modules() if find_tuning(m) is not None}


def parameters_where(model: nn.Module, wanted: Callable[[nn.Module, str], bool]) -> set[str]:
    """Return the full names of the parameters that are wanted.

    Args:
        model: Any model.
        wanted: Of a module and the name of one of its own parameters within it.
    """
    return {
        f'{name}.{own}' if name else own
        for name, module in model.named_modules()
        for own, _ in module.named_parameters(recurse=False)
        if wanted(module, own)
    }


def check_size(name: str, value: int) -> int:
    """Return a whole number of at least 1 as an int.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is below 1.
    """
    if isinstance(value, bool) or not hasattr(value, '__index__'):
        raise TypeError(f'{name} must be an integer, got {value!r}')
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')
    return int(value)


def check_flag(name: str, value: bool) -> bool:
    """Return True or False.

    Raises:
        TypeError: It is neither, such as the text ``'False'``, which would mean True.
    """
    if not isinstance(value, bool):
        raise TypeError(f'{name} must be True or False, got {value!r}')
    return value


def check_dropout(value: float) -> float:
    """Return a probability in [0, 1).

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range; at 1 nothing would learn.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'dropout must be a number, got {value!r}')
    if not 0 <= value < 1:
        raise ValueError(f'dropout must lie in [0, 1), got {value}')
    return float(value)
