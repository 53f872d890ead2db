# Swin-B of ImageNet-22k, frozen, and a hyper-network that learns through it; LoRAs of rank 4 on q and v.
model = dict(
    _scope_='mmpretrain',
    type='EpisodicGenerator',
    backbone=dict(
        type='SwinTransformer',
        arch='base',
        img_size=224,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_base_patch4_window7_224_22k.pth',
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    lora=dict(targets=['attn.w_msa.qkv'], rank=4),
    generator=dict(
        type='LayerHyperNet',
        description_dim=2048,
        task_encoder=dict(type='SetEncoder', feature_dim=1024),
    ),
    head=dict(type='PrototypeHead', distance='cosine', temperature=0.1),
)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
