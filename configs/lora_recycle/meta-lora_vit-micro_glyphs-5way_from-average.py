# The LoRA starts from the average of the hub, not fresh as published: tools/merge_adapters.py HUB --method change --rank 4.
_base_ = './meta-lora_vit-micro_glyphs-5way.py'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
load_from = 'work_dirs/averages/vit-micro_glyphs-5way'
