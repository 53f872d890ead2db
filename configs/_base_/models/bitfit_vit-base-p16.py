# The biases of ViT-B/16 learn: those of linear layers, normalisation and patch embedding.
_base_ = './linear_vit-base-p16.py'
method = 'BitFit'
model = dict(_scope_='mmpretrain', backbone=dict(kind='BitFit'))
