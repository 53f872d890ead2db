_base_ = '../vtab1k_half_224.py'
dataset_name = 'vtab1k-oxford-flowers102'
train_dataloader = dict(dataset=dict(name='oxford_flowers102'))
val_dataloader = dict(dataset=dict(name='oxford_flowers102'))
test_dataloader = dict(dataset=dict(name='oxford_flowers102'))
