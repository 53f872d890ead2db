_base_ = '../vtab1k_half_flip_224.py'
dataset_name = 'vtab1k-patch-camelyon'
train_dataloader = dict(dataset=dict(name='patch_camelyon'))
val_dataloader = dict(dataset=dict(name='patch_camelyon'))
test_dataloader = dict(dataset=dict(name='patch_camelyon'))
