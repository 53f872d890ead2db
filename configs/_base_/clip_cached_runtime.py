# clip_runtime.py where the image tower does not change: the features of all images are encoded once.
_base_ = './clip_runtime.py'
custom_hooks = [
    dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='AdapterFolderHook'),
    dict(type='FeatureCacheHook'),
]  # yapf: disable
