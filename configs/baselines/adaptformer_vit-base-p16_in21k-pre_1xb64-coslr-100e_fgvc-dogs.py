_base_ = [
    '../_base_/models/adaptformer_vit-base-p16.py',
    '../_base_/datasets/fgvc_imagenet_224/dogs.py',
    '../_base_/schedules/noah_adamw_coslr-100e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=64)
model = dict(head=dict(num_classes=120))
