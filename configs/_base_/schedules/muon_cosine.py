# The position embedding learns ten times faster: it starts near 0, and until it has grown the network sees a bag of
# patches.
optim_wrapper = dict(
    optimizer=dict(type='MuonAdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(lr_mult=10.0, decay_mult=0.0)},
    ),
)
