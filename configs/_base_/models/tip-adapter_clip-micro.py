# Tip-Adapter on clip-micro, without training.
_base_ = './clip-micro_pretrained.py'
method = 'Tip-Adapter'
model = dict(type='TipAdapter', num_views=1)
