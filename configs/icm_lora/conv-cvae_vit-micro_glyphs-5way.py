# The published generator: 12 stages, a latent of 256, 2000 epochs.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/icm-lora_adamw_cosine_2000e.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='ConvCVAE')
