_base_ = '../fgvc_224.py'
dataset_name = 'fgvc-cars'
train_dataloader = dict(dataset=dict(name='cars'))
val_dataloader = dict(dataset=dict(name='cars'))
test_dataloader = dict(dataset=dict(name='cars'))
