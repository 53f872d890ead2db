# vit-micro, frozen, and a hyper-network that learns through it.
model = dict(
    _scope_='mmpretrain',
    type='EpisodicGenerator',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=288),
        img_size=32,
        patch_size=4,
        patch_cfg=dict(kernel_size=8, padding=2),
        init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs'),
    ),
    generator=dict(
        type='LayerHyperNet',
        description_dim=192,
        task_encoder=dict(type='SetEncoder', feature_dim=96),
    ),
    head=dict(type='PrototypeHead', distance='cosine', temperature=0.1),
)
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
support_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32), backend='pillow', interpolation='bilinear'),
    dict(type='PackInputs'),
]
