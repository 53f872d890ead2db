_base_ = [
    '../_base_/models/zero-shot_clip-micro.py',
    '../_base_/datasets/glyphs_clip_cross-script.py',
    '../_base_/clip_runtime.py',
]
train_dataloader = None
test_cfg = dict()
run_folder = 'zero-shot/clip-micro/{dataset_name}'
