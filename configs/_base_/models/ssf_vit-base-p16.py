# SSF on ViT-B/16, from the AugReg weights of ImageNet-21k as published. A leaf gives drop_path_rate.
_base_ = './linear_vit-base-p16.py'
method = 'SSF'
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        kind='SSF',
        backbone=dict(
            init_cfg=dict(
                checkpoint='https://storage.googleapis.com/vit_models/augreg/'
                'B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz'
            )
        ),
    ),
)
