_base_ = '../clip_224.py'
dataset_name = 'food101'
train_dataloader = dict(dataset=dict(name='food101'))
val_dataloader = dict(dataset=dict(name='food101'))
test_dataloader = dict(dataset=dict(name='food101'))
