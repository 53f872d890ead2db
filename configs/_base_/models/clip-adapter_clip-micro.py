# CLIP-Adapter on clip-micro: a bottleneck of 24 behind the vision tower.
_base_ = './clip-micro_pretrained.py'
method = 'CLIP-Adapter'
model = dict(type='CLIPAdapter', ratio=0.2, reduction=4)
