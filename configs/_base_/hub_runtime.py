# A hub of LoRAs as LoRA-Recycle (CVPR 2025) has it: 100 LoRAs of rank 4 on q and v, scaling 1, one for each 5-way task;
# Adam, 1e-3, together with a head. The published code lacks this stage. Batch, schedule, clipping and the split of the
# images are those of its nearest code, which runs one epoch; the number of epochs is not published.
# A leaf gives the model with its weights, data_preprocessor and hub_sources: the images, of which
# classes='<file of data_splits>:<key>' chooses some classes.
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmlora'], allow_failed_imports=False)
hub = dict(
    targets=['attn.qkv'],
    rank=4,
    slices='qv',
    scaling=1.0,
    num_loras=100,
    n_way=5,
    train_fraction=0.8,
    across=False,
    together=4,
    batch_size=64,
    num_workers=4,
    cache=False,
)
train_cfg = dict(max_epochs=10)
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3), clip_grad=dict(max_norm=50))
param_scheduler = dict(type='MultiStepLR', milestones=[30, 50, 80], gamma=0.2)
randomness = dict(seed=0)
