# The LoRA starts from the average of the hub, not fresh as published; this folder is made by
# tools/merge_adapters.py mmlora://hub_vit-micro_glyphs-5way --method change --rank 4 --out FOLDER
_base_ = './meta-lora_vit-micro_glyphs-5way.py'
train_dataloader = dict(batch_sampler=dict(p_interpolate=0.5))
load_from = 'work_dirs/averages/vit-micro_glyphs-5way'
