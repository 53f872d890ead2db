# The image side of CLIP ViT-B/16 with a LoRA of rank 4 on q and v of each block, scaling 1, and prototypes as a head.
model = dict(
    _scope_='mmpretrain',
    type='MetaClassifier',
    backbone=dict(
        type='AdaptedBackbone',
        backbone=dict(
            type='CLIPImageEncoder',
            arch='ViT-B/16',
            init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
        ),
        targets=['attn.qkv'],
        lora_slices='qv',
        lora_ranks=4,
        lora_scaling=1.0,
    ),
    head=dict(type='PrototypeHead', distance='squared_euclidean'),
    sparse=False,
)
