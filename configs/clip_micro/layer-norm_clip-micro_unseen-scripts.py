_base_ = [
    '../_base_/models/layer-norm_clip-micro.py',
    '../_base_/datasets/glyphs_clip_unseen-scripts.py',
    '../_base_/schedules/clip-micro_adamw_cosine_300i.py',
    '../_base_/clip_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=3e-2))
run_folder = 'layer-norm/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
