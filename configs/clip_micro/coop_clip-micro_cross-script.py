_base_ = [
    '../_base_/models/coop_clip-micro.py',
    '../_base_/datasets/glyphs_clip_cross-script.py',
    '../_base_/schedules/clip-micro_adamw_cosine_300i.py',
    '../_base_/clip_cached_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=3e-1))
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='AdapterFolderHook'),
                dict(type='StrictLoadHook', other_prompts=True)]  # yapf: disable
run_folder = 'coop/clip-micro/{dataset_name}/{shot}shots/seed{seed}'
