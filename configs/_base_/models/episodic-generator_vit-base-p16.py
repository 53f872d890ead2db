# ViT-B/16 of ImageNet-21k, frozen, and a hyper-network that learns through it; LoRAs of rank 4 on q and v.
model = dict(
    _scope_='mmpretrain',
    type='EpisodicGenerator',
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
    lora=dict(targets=['attn.qkv'], rank=4),
    generator=dict(
        type='LayerHyperNet',
        description_dim=1536,
        task_encoder=dict(type='SetEncoder', feature_dim=768),
    ),
    head=dict(type='PrototypeHead', distance='cosine', temperature=0.1),
)
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], to_rgb=True)
