"""The sizes of CLIP: those of OpenAI by name, and any other.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv 2103.00020,
table 20.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACTIVATIONS = ('quick_gelu', 'gelu')


@dataclass(frozen=True)
class CLIPArch:
    """The sizes of two towers.

    Attributes:
        image_size: Side of the images, in pixels.
        patch_size: Side of a patch, in pixels.
        vision_width: Width of the vision tower.
        vision_layers: Number of its blocks.
        vision_heads: Number of its heads; 0 means one for each 64 of the width.
        embed_dim: Width of the space that both towers project to. 0 for a vision tower alone.
        text_width: Width of the text tower. 0 for a vision tower alone.
        text_layers: Number of its blocks.
        text_heads: Number of its heads; 0 means one for each 64 of the width.
        context_length: Largest number of tokens of a prompt, the two special ones included.
        vocab_size: Number of tokens.
        activation: ``'quick_gelu'``, ``x * sigmoid(1.702 x)`` as OpenAI's, or ``'gelu'``, as many of open_clip's.
    """

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    vision_heads: int = 0
    embed_dim: int = 0
    text_width: int = 0
    text_layers: int = 0
    text_heads: int = 0
    context_length: int = 77
    vocab_size: int = 49408
    activation: str = 'quick_gelu'

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            least = int(field.default is dataclasses.MISSING or field.name in ('context_length', 'vocab_size'))
            size = getattr(self, field.name)
            if field.name == 'activation':
                continue
            if isinstance(size, bool) or not isinstance(size, int) or size < least:
                raise ValueError(f'{field.name} must be an integer of at least {least}, got {size!r}')
        for tower in ('vision', 'text'):
            width = getattr(self, f'{tower}_width')
            heads = getattr(self, f'{tower}_heads') or max(1, width // 64)
            object.__setattr__(self, f'{tower}_heads', heads)
            if width % heads:
                raise ValueError(f'{tower}_width={width} does not divide into {tower}_heads={heads}')
        if self.image_size % self.patch_size:
            raise ValueError(f'image_size={self.image_size} is not a multiple of patch_size={self.patch_size}')
        if self.activation not in ACTIVATIONS:
            raise ValueError(f'unknown activation {self.activation!r}: choose one of {ACTIVATIONS}')

    @property
    def vision_arch(self) -> dict[str, int]:
        """The ``arch`` of mmpretrain's ``VisionTransformer``."""
        return dict(
            embed_dims=self.vision_width,
            num_layers=self.vision_layers,
            num_heads=self.vision_heads,
            feedforward_channels=4 * self.vision_width,
        )

    def check_text(self) -> None:
        """Check that there is a text tower.

        Raises:
            ValueError: Its sizes are missing.
        """
        missing = [name for name in ('embed_dim', 'text_width', 'text_layers') if not getattr(self, name)]
        if missing:
            raise ValueError(f'a classifier needs a text tower, and the arch gives no {", ".join(missing)}')


_BASE = dict(vision_width=768, vision_layers=12, embed_dim=512, text_width=512, text_layers=12)
ARCHS: dict[str, CLIPArch] = {
    'ViT-B/32': CLIPArch(image_size=224, patch_size=32, **_BASE),
    'ViT-B/16': CLIPArch(image_size=224, patch_size=16, **_BASE),
    'ViT-L/14': CLIPArch(
        image_size=224, patch_size=14, vision_width=1024, vision_layers=24, embed_dim=768, text_width=768,
        text_layers=12,
    ),
}  # fmt: skip


def find_arch(arch: str | Mapping[str, Any] | CLIPArch, image_size: int | None = None) -> CLIPArch:
    """Return the sizes that a config means.

    Args:
        arch: A name in :data:`ARCHS`, in which case, '/', '-' and '_' do not matter, or the fields of
            :class:`CLIPArch`.
        image_size: Takes the place of that of the arch.

    Raises:
        ValueError: The name is unknown, or sizes do not fit each other.
        TypeError: A field is unknown or missing.
    """
    if isinstance(arch, str):
        known = {_plain(name): value for name, value in ARCHS.items()}
        if _plain(arch) not in known:
            close = difflib.get_close_matches(arch, ARCHS) or list(ARCHS)
            raise ValueError(f'unknown arch {arch!r}: did you mean one of {close}? A dict gives other sizes')
        found = known[_plain(arch)]
    elif isinstance(arch, CLIPArch):
        found = arch
    else:
        fields = {field.name: field for field in dataclasses.fields(CLIPArch)}
        unknown = sorted(set(arch) - set(fields))
        missing = [n for n, field in fields.items() if field.default is dataclasses.MISSING and n not in arch]
        if unknown or missing:
            parts = {'has unknown fields': unknown, 'lacks': missing}
            wrong = ' and '.join(f'{what} {names}' for what, names in parts.items() if names)
            raise TypeError(f'arch {wrong}; the fields are {list(fields)}')
        found = CLIPArch(**arch)
    return found if image_size is None else dataclasses.replace(found, image_size=image_size)


def _plain(name: str) -> str:
    return name.lower().replace('/', '').replace('-', '').replace('_', '')
