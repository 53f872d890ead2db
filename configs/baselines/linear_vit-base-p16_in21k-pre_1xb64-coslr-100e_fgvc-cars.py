_base_ = [
    '../_base_/models/linear_vit-base-p16.py',
    '../_base_/datasets/fgvc_imagenet_224/cars.py',
    '../_base_/schedules/vpt_sgd_coslr-100e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=64)
model = dict(head=dict(num_classes=196))
