_base_ = [
    '../_base_/models/ssf_vit-base-p16.py',
    '../_base_/datasets/fgvc/cars.py',
    '../_base_/schedules/ssf_adamw_coslr-100e.py',
    '../_base_/ema_runtime.py',
]
train_dataloader = dict(batch_size=64)
model = dict(backbone=dict(backbone=dict(drop_path_rate=0.0)), head=dict(num_classes=196))
optim_wrapper = dict(optimizer=dict(lr=2e-2, weight_decay=5e-2))
