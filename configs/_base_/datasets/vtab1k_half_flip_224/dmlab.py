_base_ = '../vtab1k_half_flip_224.py'
dataset_name = 'vtab1k-dmlab'
train_dataloader = dict(dataset=dict(name='dmlab'))
val_dataloader = dict(dataset=dict(name='dmlab'))
test_dataloader = dict(dataset=dict(name='dmlab'))
