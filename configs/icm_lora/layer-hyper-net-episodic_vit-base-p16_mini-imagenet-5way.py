# Through the backbone on episodes of the classes for meta-training: no LoRA has to be trained before.
_base_ = [
    '../_base_/models/episodic-generator_vit-base-p16.py',
    '../_base_/datasets/episodes_mini-imagenet.py',
    '../_base_/schedules/generator_adamw_cosine_2000i.py',
    '../_base_/generator_iter_runtime.py',
]
