# RLRR on ViT-L/32.
_base_ = './rlrr_vit-large-p16.py'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        patch_size=32,
        init_cfg=dict(checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-L_32.npz'),
    ),
)
