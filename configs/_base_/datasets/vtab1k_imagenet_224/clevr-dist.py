_base_ = '../vtab1k_imagenet_224.py'
dataset_name = 'vtab1k-clevr-dist'
train_dataloader = dict(dataset=dict(name='clevr_dist'))
val_dataloader = dict(dataset=dict(name='clevr_dist'))
test_dataloader = dict(dataset=dict(name='clevr_dist'))
