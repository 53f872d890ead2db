# Microsoft's Swin-B with windows of 7 of ImageNet-22k, on classes of VGG-Flower.
_base_ = ['../_base_/datasets/hub/vgg-flower.py', '../_base_/bank_runtime.py']
release = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
weights = dict(type='Pretrained', checkpoint=release + 'swin_base_patch4_window7_224_22k.pth')
backbone = dict(type='SwinTransformer', arch='base', img_size=224, init_cfg=weights)
hub = dict(targets=['attn.w_msa.qkv'])
model = dict(backbone=backbone, neck=dict(type='GlobalAveragePooling'))
