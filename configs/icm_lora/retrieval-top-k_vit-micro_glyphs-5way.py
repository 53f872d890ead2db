# The mean of the best LoRAs of the four nearest tasks, by softmax.
_base_ = [
    '../_base_/vit-micro_frozen.py',
    '../_base_/datasets/bank_glyphs.py',
    '../_base_/schedules/generator_closed-form.py',
    '../_base_/generator_runtime.py',
]
model = dict(type='RetrievalGenerator', mode='top_k', k=4)
