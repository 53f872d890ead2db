_base_ = [
    '../_base_/models/two-stage_clip-micro.py',
    '../_base_/datasets/glyphs_clip_unseen-combinations.py',
    '../_base_/schedules/clip-micro_two-stage_adamw_cosine_300i.py',
    '../_base_/clip_two-stage_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
run_folder = 'two-stage/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
