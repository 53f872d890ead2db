# SR-LoRA on ViT-B/16 at 384 px. The ranks are the published stable ranks of this very checkpoint, so that nothing has
# to be computed; lora_ranks='stable_rank' computes them. A leaf gives the number of classes.
method = 'SR-LoRA'
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='VitSR_LoRA',
        arch='base',
        img_size=384,
        patch_size=16,
        lora_ranks='in21k-vit-b',
        lora_alpha=1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vit/finetune/'
            'vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b.pth',
            prefix='backbone.',
        ),
    ),
    head=dict(type='LinearClsHead', in_channels=768),
)
