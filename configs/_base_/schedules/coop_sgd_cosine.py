# CoOp: SGD, an epoch at 1e-5, then a cosine by epochs from 2e-3. 50 epochs for 1 image of each class, 100 for 2 to 7,
# 200 from 8 on; for ImageNet always 50 (max_epochs=50). Momentum and decay are our assumption: CoOp does not set
# them, and these are, as far as we know, the defaults of the library that it uses. CLIP-Adapter, which is trained by
# CoOp's command, has the same.
max_epochs = dict(from_shot_1=50, from_shot_2=100, from_shot_8=200)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.002, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='ConstantLR', by_epoch=True, end=2, factor=0.005),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end='{max_epochs}', T_max='{max_epochs}'),
]
train_cfg = dict(by_epoch=True, max_epochs='{max_epochs}', val_interval='{max_epochs}')
val_cfg = dict()
test_cfg = dict()
