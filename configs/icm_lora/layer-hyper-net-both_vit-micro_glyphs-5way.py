# Through the backbone on episodes, and on the LoRAs of the bank where an episode is one of its tasks.
_base_ = [
    '../_base_/models/episodic-generator_vit-micro.py',
    '../_base_/datasets/bank_glyphs_episodes.py',
    '../_base_/schedules/generator_adamw_cosine_2000i.py',
    '../_base_/generator_iter_runtime.py',
]
