# Checkpoints and log lines by iterations, the LoRAs of the hub as teachers of episodes of one LoRA, and the best step
# on the classes for validation.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='MetaLoRADistillationHook', hub='{hub_folder}', tokens='dense')]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2000, save_best='{shot}-shot/accuracy', rule='greater'))
log_processor = dict(by_epoch=False)
randomness = dict(seed=42)
