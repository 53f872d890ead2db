_base_ = '../vtab1k_resize_384.py'
dataset_name = 'vtab1k-clevr-dist'
train_dataloader = dict(dataset=dict(name='clevr_dist'))
test_dataloader = dict(dataset=dict(name='clevr_dist'))
