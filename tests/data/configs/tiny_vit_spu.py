"""The tiny run with SPU, in processes of different seeds, and a hook that records what each draws."""

_base_ = ['tiny_vit.py']
custom_imports = dict(imports=['mmlora', 'spu_probe'], allow_failed_imports=False)
model = dict(backbone=dict(type='VitSR_LoRA', lora_ranks=[[7, 8], [8, 6]], lora_alpha=8))
custom_hooks = [
    dict(type='SPUHook', targets='qkv', per='forward', rows='reference'),
    dict(type='SPUHook', targets='proj', detach_prefix=True),
    dict(type='SPUProbeHook'),
]
randomness = dict(seed=0, diff_rank_seed=True)
