# Google's ViT-B/16 of ImageNet-21k, on classes of VGG-Flower.
_base_ = ['../_base_/datasets/hub/vgg-flower.py', '../_base_/bank_runtime.py']
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
weights = dict(type='Pretrained', checkpoint='https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz')
backbone = dict(type='VisionTransformer', arch='base', img_size=224, patch_size=16, init_cfg=weights)
model = dict(backbone=backbone)
