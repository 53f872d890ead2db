# clip_epoch_runtime.py where the image tower does not change: features of all images are encoded once, those of
# training images in 10 random views, which epochs take in turn.
_base_ = './clip_epoch_runtime.py'
custom_hooks = [
    dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='AdapterFolderHook'),
    dict(type='FeatureCacheHook', num_views=10),
]  # yapf: disable
