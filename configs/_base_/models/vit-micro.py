# A vision transformer for 32x32 images: 8x8 tokens of 4 pixels, cut from overlapping windows of 8 pixels.
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=288),
        img_size=32,
        patch_size=4,
        patch_cfg=dict(kernel_size=8, padding=2),
    ),
    head=dict(type='LinearClsHead', in_channels=96, num_classes=10),
)
