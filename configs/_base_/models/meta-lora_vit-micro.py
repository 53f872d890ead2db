# vit-micro with a LoRA of rank 4 on q and v of each block, scaling 1, and prototypes as a head.
model = dict(
    _scope_='mmpretrain',
    type='MetaClassifier',
    backbone=dict(
        type='AdaptedBackbone',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=288),
            img_size=32,
            patch_size=4,
            patch_cfg=dict(kernel_size=8, padding=2),
            init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs'),
        ),
        targets=['attn.qkv'],
        lora_slices='qv',
        lora_ranks=4,
        lora_scaling=1.0,
    ),
    head=dict(type='PrototypeHead', distance='squared_euclidean'),
    sparse=False,
)
