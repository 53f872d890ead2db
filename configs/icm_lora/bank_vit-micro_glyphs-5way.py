# Printed letters of the training scripts, on a backbone that a laptop trains in seconds; learned by prototypes.
_base_ = ['../_base_/models/vit-micro.py', '../_base_/bank_runtime.py']

model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
glyphs = dict(type='Glyphs', split='train', samples_per_class=20, pipeline=[dict(type='PackInputs')])
hub_sources = [dict(name='glyphs', dataset=glyphs)]
hub = dict(head='prototype', batch_size=20, together=8, num_workers=0, cache=True)
train_cfg = dict(max_epochs=6)
bank = dict(start_epoch=4)
