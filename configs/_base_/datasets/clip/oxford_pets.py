_base_ = '../clip_224.py'
dataset_name = 'oxford_pets'
train_dataloader = dict(dataset=dict(name='oxford_pets'))
val_dataloader = dict(dataset=dict(name='oxford_pets'))
test_dataloader = dict(dataset=dict(name='oxford_pets'))
