# A fresh LoRA of rank 4 on q and v, scaling 1, and a linear head for each episode.
tuner = dict(
    type='LoRATuner', targets=['attn.qkv'], slices='qv', rank=4, scaling=1.0,
    steps=50, optimizer=dict(type='SGD', lr=0.1), together=8,
)  # yapf: disable
