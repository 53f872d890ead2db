# The pre-trained backbone in an AdaptedBackbone. Only the head learns until a leaf says which kind of adapter.
_base_ = './vit-micro_digits-20shot.py'
model = dict(
    backbone=dict(_delete_=True, type='AdaptedBackbone', kind='LinearProbe', backbone={{_base_.model.backbone}})
)
