# SR-LoRA on ViT-L/16 at 384 px, with the published stable ranks. A leaf gives the number of classes.
method = 'SR-LoRA'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='VitSR_LoRA',
        arch='large',
        img_size=384,
        patch_size=16,
        lora_ranks='in21k-vit-l',
        lora_alpha=1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vit/finetune/'
            'vit-large-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-b20ba619.pth',
            prefix='backbone.',
        ),
    ),
    head=dict(type='LinearClsHead', in_channels=1024),
)
