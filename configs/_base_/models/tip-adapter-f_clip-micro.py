# Tip-Adapter-F on clip-micro: the keys of the cache learn.
_base_ = './clip-micro_pretrained.py'
method = 'Tip-Adapter-F'
model = dict(type='TipAdapter', finetune=True, num_views=1)
