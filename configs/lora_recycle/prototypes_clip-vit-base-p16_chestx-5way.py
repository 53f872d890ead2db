# Only for tests, of the weights as they are: tools/test.py takes weights/ViT-B-16.pt as the checkpoint.
_base_ = [
    '../_base_/models/prototypes_clip-vit-base-p16.py',
    '../_base_/datasets/recycle/mix_chestx.py',
    '../_base_/default_runtime.py',
]
train_dataloader = val_dataloader = val_cfg = val_evaluator = None
