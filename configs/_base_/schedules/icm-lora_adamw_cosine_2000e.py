# As ICM-LoRA (IJCAI 2025) publishes it: a rate of 2e-4 that a cosine over twice as many epochs takes to its half. Its
# code makes no optimizer; AdamW is the natural reading.
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=2e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=4000, by_epoch=True)
train_cfg = dict(type='mmlora.EpochTrainLoop', max_epochs=2000)
