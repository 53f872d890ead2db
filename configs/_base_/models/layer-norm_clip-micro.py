# The layer normalisations of both towers of clip-micro learn.
_base_ = './clip-micro_pretrained.py'
method = 'LayerNorm'
model = dict(type='LayerNormCLIP', encoder='both')
