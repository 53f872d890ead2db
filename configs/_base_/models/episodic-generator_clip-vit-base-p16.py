# The image side of CLIP ViT-B/16, frozen, and a hyper-network that learns through it; LoRAs of rank 4 on q and v.
model = dict(
    _scope_='mmpretrain',
    type='EpisodicGenerator',
    backbone=dict(
        type='CLIPImageEncoder',
        arch='ViT-B/16',
        init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-16.pt'),
    ),
    lora=dict(targets=['attn.qkv'], rank=4),
    generator=dict(
        type='LayerHyperNet',
        description_dim=1024,
        task_encoder=dict(type='SetEncoder', feature_dim=512),
    ),
    head=dict(type='PrototypeHead', distance='cosine', temperature=0.1),
)
data_preprocessor = dict(
    mean=[122.7709383, 116.7460125, 104.09373615], std=[68.5005327, 66.6321579, 70.32316305], to_rgb=True
)
