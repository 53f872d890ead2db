# The best LoRA of the nearest task.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_closed-form.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='RetrievalGenerator', mode='nearest')
