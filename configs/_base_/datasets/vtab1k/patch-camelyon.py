_base_ = '../vtab1k_no-aug_384.py'
dataset_name = 'vtab1k-patch-camelyon'
train_dataloader = dict(dataset=dict(name='patch_camelyon'))
test_dataloader = dict(dataset=dict(name='patch_camelyon'))
