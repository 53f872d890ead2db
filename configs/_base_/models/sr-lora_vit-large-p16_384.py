# SR-LoRA on ViT-L/16 at 384 px, with the published stable ranks. A leaf gives the number of classes.
_base_ = './sr-lora_vit-base-p16_384.py'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        arch='large',
        lora_ranks='in21k-vit-l',
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vit/finetune/'
            'vit-large-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-b20ba619.pth'
        ),
    ),
    head=dict(in_channels=1024),
)
