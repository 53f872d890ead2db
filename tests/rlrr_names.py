"""Names of the tensors of the published RLRR code, as the golden files have them, and ours."""

import re

VIT = dict(
    arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=8, patch_size=4, norm_cfg=dict(type='LN', eps=1e-6),
)  # fmt: skip
SWIN = dict(
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), img_size=32, window_size=4, out_indices=(1,),
    drop_path_rate=0.0,
)  # fmt: skip

# Published names of a ViT -> ours, with dots at the end of those of whole layers.
BASE = {
    'embeddings.position_embeddings': 'pos_embed',
    'embeddings.cls_token': 'cls_token',
    'embeddings.patch_embeddings.': 'patch_embed.projection.',
    'embeddings.ssf_scale_patch': 'patch_embed.projection.ssf_scale',
    'embeddings.ssf_shift_patch': 'patch_embed.projection.ssf_shift',
    'encoder.encoder_norm.': 'ln1.',
    'encoder.ssf_scale_enc_norm': 'ln1.ssf_scale',
    'encoder.ssf_shift_enc_norm': 'ln1.ssf_shift',
}
BLOCK = {
    'attention_norm.': 'ln1.',
    'ffn_norm.': 'ln2.',
    'ssf_scale_attn_norm': 'ln1.ssf_scale',
    'ssf_shift_attn_norm': 'ln1.ssf_shift',
    'ssf_scale_ffn_norm': 'ln2.ssf_scale',
    'ssf_shift_ffn_norm': 'ln2.ssf_shift',
    'ffn.fc1.': 'ffn.layers.0.0.',
    'ffn.fc2.': 'ffn.layers.1.',
    'attn.out.': 'attn.proj.',
}
LINEAR = {'mlp.weight': 'weight', 'mlp.bias': 'bias', 'scale_col': 'rlrr_in', 'scale_line': 'rlrr_out',
          'shift_bias': 'rlrr_bias', 'weight': 'weight', 'bias': 'bias'}  # fmt: skip
SLICES = {'query': 'q', 'key': 'k', 'value': 'v'}


def replaced(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old):
            return new + LINEAR.get(name[len(old) :], name[len(old) :])
    raise KeyError(name)


def vit_name(name: str) -> str:
    """Our name of a published tensor; that of a frozen q, k or v ends with its letter."""
    name = name.removeprefix('transformer.')
    block = re.match(r'encoder\.layer\.(\d+)\.(.*)', name)
    if not block:
        return replaced(name, BASE)
    number, end = block.groups()
    part = re.match(r'attn\.(query|key|value)\.(.*)', end)
    if part:
        return f'layers.{number}.attn.qkv.{LINEAR[part[2]]}_{SLICES[part[1]]}'
    return f'layers.{number}.{replaced(end, BLOCK)}'


def swin_name(name: str) -> str:
    """Our name of a published tensor of a Swin transformer."""
    name = re.sub(r'^layers\.', 'stages.', name)
    name = name.replace('attn.', 'attn.w_msa.').replace('mlp.fc1', 'ffn.layers.0.0').replace('mlp.fc2', 'ffn.layers.1')
    name = name.replace('patch_embed.proj.', 'patch_embed.projection.')
    name = re.sub(r'ssf_(scale|shift)_(norm\d)', r'\2.ssf_\1', name)
    name = re.sub(r'^ssf_(scale|shift)_encode_norm', r'norm1.ssf_\1', name)
    name = re.sub(r'^norm\.', 'norm1.', name)
    for old in ('scale_col', 'scale_line', 'shift_bias'):
        name = name.replace(old, LINEAR[old])
    return name
