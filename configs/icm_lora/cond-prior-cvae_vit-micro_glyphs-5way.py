# A prior of the latent that sees the task.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_adamw_cosine_100e.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='ConditionalPriorCVAE', latent_dim=64, channels=(8, 16, 32, 32, 16, 8))
