_base_ = '../vtab1k_half_flip_224.py'
dataset_name = 'vtab1k-clevr-count'
train_dataloader = dict(dataset=dict(name='clevr_count'))
val_dataloader = dict(dataset=dict(name='clevr_count'))
test_dataloader = dict(dataset=dict(name='clevr_count'))
