_base_ = '../vtab1k_half_flip_224.py'
dataset_name = 'vtab1k-oxford-iiit-pet'
train_dataloader = dict(dataset=dict(name='oxford_iiit_pet'))
val_dataloader = dict(dataset=dict(name='oxford_iiit_pet'))
test_dataloader = dict(dataset=dict(name='oxford_iiit_pet'))
