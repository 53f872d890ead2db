# Images of your own: data_root/train/CLASS/*.jpg and data_root/test/CLASS/*.jpg, each folder called after its class.
_base_ = '../clip_224.py'
dataset_name = 'images'
folders = dict(type='ClassFolders', data_root='data/images')
train_dataloader = dict(dataset=folders)
val_dataloader = dict(dataset=folders)
test_dataloader = dict(dataset=folders)
