_base_ = [
    '../_base_/models/tip-adapter-f_clip-micro.py',
    '../_base_/datasets/glyphs_clip_unseen-scripts.py',
    '../_base_/schedules/clip-micro_adamw_cosine_300i.py',
    '../_base_/clip_cached_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=3e-4))
model = dict(alpha=100, beta=5.5)
run_folder = 'tip-adapter-f/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
