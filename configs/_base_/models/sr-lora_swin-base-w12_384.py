# SR-LoRA on Swin-B with windows of 12 at 384 px, with the published stable ranks. A leaf gives the number of classes.
method = 'SR-LoRA'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='SwinSR_LoRA',
        arch='base',
        img_size=384,
        stage_cfgs=dict(block_cfgs=dict(window_size=12)),
        drop_path_rate=0.1,
        lora_ranks='swin-b',
        lora_alpha=1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/swin-transformer/convert/'
            'swin_base_patch4_window12_384_22kto1k-d59b0d1d.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', in_channels=1024),
)
