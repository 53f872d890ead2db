# The nearest LoRA; samples behind the first add noise.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_closed-form.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='RetrievalGenerator', mode='nearest_noise', noise_std=0.1)
