# Tip-Adapter-F: 20 epochs (published: 100 on EuroSAT, where the leaf says so) of AdamW (1e-3, eps 1e-4, decay 0.01)
# and a cosine to 0, step by step. Published batches are of 256 images, train_dataloader=dict(batch_size=256) in a
# leaf.
max_epochs = 20
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01, eps=1e-4))
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, T_max='{max_epochs}', end='{max_epochs}')
]
train_cfg = dict(by_epoch=True, max_epochs='{max_epochs}', val_interval='{max_epochs}')
val_cfg = dict()
test_cfg = dict()
