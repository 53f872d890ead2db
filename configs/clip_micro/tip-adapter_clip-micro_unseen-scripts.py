_base_ = [
    '../_base_/models/tip-adapter_clip-micro.py',
    '../_base_/datasets/glyphs_clip_unseen-scripts.py',
    '../_base_/schedules/tip-adapter_training-free.py',
    '../_base_/clip_cached_epoch_runtime.py',
]
val_cfg = None
model = dict(alpha=100, beta=5.5)
run_folder = 'tip-adapter/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
