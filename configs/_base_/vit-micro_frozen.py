# vit-micro as generators of LoRAs see images with it, frozen; letters of a folder are brought to its size.
frozen_model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=288),
        img_size=32,
        patch_size=4,
        patch_cfg=dict(kernel_size=8, padding=2),
        init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs'),
    ),
    data_preprocessor=dict(mean=[54, 54, 54], std=[72, 72, 72]),
)
support_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
