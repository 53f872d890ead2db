# Distorted letters, on a backbone that a laptop trains in seconds; learned by prototypes.
_base_ = ['../_base_/models/vit-micro.py', '../_base_/datasets/hub/glyphs_distorted.py', '../_base_/bank_runtime.py']
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
hub = dict(head='prototype', batch_size=20, together=8, num_workers=0, cache=True)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs=6)
bank = dict(start_epoch=4)
