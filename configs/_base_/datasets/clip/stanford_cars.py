_base_ = '../clip_224.py'
dataset_name = 'stanford_cars'
train_dataloader = dict(dataset=dict(name='stanford_cars'))
val_dataloader = dict(dataset=dict(name='stanford_cars'))
test_dataloader = dict(dataset=dict(name='stanford_cars'))
