# Printed letters of the training scripts, rougher than those that the backbone was trained on.
_base_ = ['../_base_/models/vit-micro.py', '../_base_/hub_runtime.py']

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
pipeline = [dict(type='PackInputs')]
glyphs = dict(type='Glyphs', split='train', samples_per_class=60, distortion='rough', pipeline=pipeline)
hub_sources = [dict(name='glyphs', dataset=glyphs)]
hub = dict(batch_size=16, num_workers=0, cache=True)
train_cfg = dict(max_epochs=10)
