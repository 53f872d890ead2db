# The last three blocks of the vision tower are not adapted, as in the published code when the numbers of the paper
# came out.
_base_ = './clip-lora_vit-large-p14_1xb32-cosine-500i-per-shot_imagenet.py'
method = 'CLIP-LoRA (21 blocks)'
model = dict(layers=dict(_delete_=True, vision=list(range(21)), text='all'))
run_folder = 'clip-lora-21-blocks/vit-large-p14/{dataset_name}/{shot}shots/seed{seed}'
