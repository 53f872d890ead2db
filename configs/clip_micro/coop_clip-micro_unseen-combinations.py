_base_ = [
    '../_base_/models/coop_clip-micro.py',
    '../_base_/datasets/glyphs_clip_unseen-combinations.py',
    '../_base_/schedules/clip-micro_adamw_cosine_300i.py',
    '../_base_/clip_cached_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=3e-1))
run_folder = 'coop/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
