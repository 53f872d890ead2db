# SR-LoRA on ViT-B/16. A leaf gives the pre-trained weights (init_cfg of the backbone) and the number of classes.
model = dict(
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='VitSR_LoRA', arch='base', img_size=224, patch_size=16, lora_ranks='stable_rank'),
    head=dict(type='LinearClsHead', in_channels=768, num_classes=1000),
)
