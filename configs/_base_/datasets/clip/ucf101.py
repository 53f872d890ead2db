_base_ = '../clip_224.py'
dataset_name = 'ucf101'
train_dataloader = dict(dataset=dict(name='ucf101'))
val_dataloader = dict(dataset=dict(name='ucf101'))
test_dataloader = dict(dataset=dict(name='ucf101'))
