# One layer after the other, from the task and the place of the layer.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_adamw_cosine_100e.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='LayerHyperNet')
