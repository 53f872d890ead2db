# 2SFS on clip-micro: first the layer normalisations learn, then a linear classifier.
_base_ = './clip-micro_pretrained.py'
method = '2SFS'
model = dict(type='TwoStageCLIP', tune='layer_norm', encoder='both')
