# clip-micro from scratch: images and names of the letters of the training scripts, without the combinations that are
# held out.
_base_ = ['../_base_/models/clip-micro.py', '../_base_/datasets/glyphs.py', '../_base_/schedules/muon_cosine.py',
          '../_base_/clip_runtime.py']  # yapf: disable
dataset_name = 'glyphs'
model = dict(type='ContrastiveCLIP', negatives=256)
data_preprocessor = dict(num_classes=None)
train_dataloader = dict(dataset=dict(combinations='seen'))
train_cfg = dict(by_epoch=False, max_iters=2600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=2600, T_max=2500),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'text.positional_embedding': dict(lr_mult=10.0, decay_mult=0.0),
                     'logit_scale': dict(decay_mult=0.0)}))  # yapf: disable
