# Letters in many ways of writing, on a backbone that a laptop trains in seconds; learned by prototypes of 20 letters,
# so that a LoRA learns the way and not the letters. Episodes that it serves have 5.
_base_ = ['../_base_/models/vit-micro.py', '../_base_/datasets/hub/glyphs_ways.py', '../_base_/bank_runtime.py']
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmlora://vit-micro_glyphs')))
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
hub = dict(head='prototype', num_loras=48, n_way=20, batch_size=80, together=4, num_workers=0, cache=True)
optim_wrapper = dict(optimizer=dict(lr=2e-2))
train_cfg = dict(max_epochs=8)
bank = dict(start_epoch=7)
