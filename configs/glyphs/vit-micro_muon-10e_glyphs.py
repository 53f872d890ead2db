_base_ = [
    '../_base_/models/vit-micro.py',
    '../_base_/datasets/glyphs.py',
    '../_base_/schedules/muon_cosine.py',
    '../_base_/default_runtime.py',
]

model = dict(head=dict(_delete_=True, type='ArcFaceClsHead', in_channels=96, num_classes=1138, scale=16.0, margins=0.0))
train_cfg = dict(by_epoch=True, max_epochs=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', T_max=9, begin=1, end=10, convert_to_iter_based=True),
]
