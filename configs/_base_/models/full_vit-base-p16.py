# All of ViT-B/16 learns.
_base_ = './linear_vit-base-p16.py'
method = 'Full fine-tuning'
model = dict(_scope_='mmpretrain', backbone=dict(kind='FullFineTune'))
