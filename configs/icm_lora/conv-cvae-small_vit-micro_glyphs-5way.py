# Six stages, for minutes on a laptop.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_adamw_cosine_100e.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='ConvCVAE', latent_dim=64, channels=(8, 16, 32, 32, 16, 8))
