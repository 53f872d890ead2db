# RLRR on ViT-B/16 for the published runs with augmentation (FGVC): Mixup or CutMix of each batch, smoothed labels and
# the loss for soft targets. A leaf gives the number of classes twice, to head and to data_preprocessor, which makes the
# soft targets. The average of the weights comes with ema_runtime.py, the learning rates with
# schedules/rlrr_fgvc_aug_100e.py.
_base_ = './rlrr_vit-base-p16.py'
model = dict(
    _scope_='mmpretrain',
    head=dict(loss=dict(type='CrossEntropyLoss', use_soft=True)),
    train_cfg=dict(
        augments=dict(type='MixupCutMix', mixup=0.8, cutmix=1.0, prob=1.0, switch_prob=0.5, smoothing=0.1)
    ),
)
