"""mmpretrain's own names, bare or of a whole classifier: what every other layout is converted to and from."""

from collections.abc import Iterable

from .base import Layout, Rule, affine
from .transforms import SAME

_DERIVED = {r'.*(relative_position_index|relative_coords_table|num_batches_tracked)': 'follows from the architecture'}


def own_layouts(others: Iterable[Layout]) -> tuple[Layout, Layout]:
    """Return the rows of mmpretrain's ViT and Swin, whose names are the targets of all other rows."""
    others = tuple(others)
    return (
        Layout(
            name='mmpretrain',
            title='mmpretrain ViT',
            rules=(
                *_identities(others, False),
                *affine({'head.layers.head': 'head', 'head.layers.pre_logits': 'pre_logits'}),
            ),
            signs=('layers.0.ln1.weight', 'layers.0.attn.qkv.weight', 'patch_embed.projection.weight'),
            prefixes=('', 'backbone.'),
        ),
        Layout(
            name='mmpretrain-swin',
            title='mmpretrain Swin',
            rules=(*_identities(others, True), *affine({'head.fc': 'head'})),
            signs=('patch_embed.projection.weight', 'stages.0.blocks.0.attn.w_msa.qkv.weight'),
            prefixes=('', 'backbone.'),
            drops=_DERIVED,
            stages=True,
        ),
    )


def _identities(layouts: Iterable[Layout], stages: bool) -> Iterable[Rule]:
    targets = {rule.target.text: rule.target for row in layouts if row.stages == stages for rule in row.rules}
    return (Rule((target,), target, SAME) for target in targets.values())
