# As LoRA-Recycle (CVPR 2025) meta-trains: an episode a step, Adam, and a cycle of 25 steps of warm-up and 75 of a
# cosine between 1e-5 and 1e-3. The published code looks at test images each 100 steps and keeps the best; here
# classes for validation decide, each 2000 steps.
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = dict(type='PeriodicWarmupCosineLR', period=100, warmup=25, min_ratio=0.01, by_epoch=False)
train_cfg = dict(type='mmlora.IterTrainLoop', max_iters=240000, val_interval=2000)
