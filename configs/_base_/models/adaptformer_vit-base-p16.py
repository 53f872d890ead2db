# AdaptFormer on ViT-B/16, 8 wide as in the tables of VTAB-1k (0.16 M parameters); the paper's own experiments have 64.
_base_ = './linear_vit-base-p16.py'
method = 'AdaptFormer'
model = dict(_scope_='mmpretrain', backbone=dict(kind='AdaptFormer', adapter_cfg=dict(bottleneck=8, scale=0.1)))
