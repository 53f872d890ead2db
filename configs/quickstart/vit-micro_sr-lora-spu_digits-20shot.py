# SR-LoRA whose iterations train a random number of the first components of each adapter; see docs/spu.md.
_base_ = './vit-micro_sr-lora_digits-20shot.py'
method = 'SR-LoRA with SPU'
custom_hooks = [dict(type='StepSeedHook'), dict(type='StableRankHook'), dict(type='SPUHook')]
