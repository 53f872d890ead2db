# The same on rough printed letters: a hub and a pool of the training scripts, validation and tests on scripts that
# pre-training has not seen.
_base_ = './recycle_224.py'
dataset_name = 'glyphs'
hub_folder = 'mmlora://hub_vit-micro_glyphs-5way'
pool_folder = 'work_dirs/pools/vit-micro_glyphs-5way'
data_preprocessor = dict(_delete_=True, mean=[54, 54, 54], std=[72, 72, 72])
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    num_workers=0,
    dataset=dict(dataset=dict(channels='rgb', pipeline=pipeline)),
)
letters = dict(type='Glyphs', distortion='rough', samples_per_class=40, seed=1, redraw=False, pipeline=pipeline)
val_dataloader = dict(batch_size=256, num_workers=1, dataset=dict(_delete_=True, split='val', **letters))
test_dataloader = dict(batch_size=256, num_workers=1, dataset=dict(_delete_=True, split='test', **letters))
