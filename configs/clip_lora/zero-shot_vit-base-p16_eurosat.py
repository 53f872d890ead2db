_base_ = [
    '../_base_/models/zero-shot_clip-vit-base-p16.py',
    '../_base_/datasets/clip/eurosat.py',
    '../_base_/clip_runtime.py',
]
shot = 0
train_dataloader = val_dataloader = val_evaluator = None
test_cfg = dict()
run_folder = 'zero-shot/vit-base-p16/{dataset_name}'
