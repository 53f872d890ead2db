# Images of your own: data_root/train/CLASS/*.jpg and data_root/test/CLASS/*.jpg, each folder called after its class.
_base_ = '../clip_224.py'
dataset_name = 'images'
data_root = 'data/images'
train_dataloader = dict(dataset=dict(type='ClassFolders'))
val_dataloader = dict(dataset=dict(type='ClassFolders'))
test_dataloader = dict(dataset=dict(type='ClassFolders'))
