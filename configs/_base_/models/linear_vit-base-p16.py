# The head alone learns, on Google's ViT-B/16 of ImageNet-21k. The bases of the other baselines derive from this one; a
# leaf gives the number of classes.
method = 'Linear probe'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='AdaptedBackbone',
        kind='LinearProbe',
        backbone=dict(
            type='VisionTransformer',
            arch='base',
            img_size=224,
            patch_size=16,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz',
            ),
        ),
    ),
    head=dict(type='LinearClsHead', in_channels=768, num_classes=1000),
)
