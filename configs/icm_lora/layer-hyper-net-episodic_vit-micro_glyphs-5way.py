# Through the backbone on episodes alone, each in one way of writing: no LoRA has to be trained before.
_base_ = './layer-hyper-net-both_vit-micro_glyphs-5way.py'
model = dict(lora=dict(targets=['attn.qkv'], rank=4))
train_dataloader = dict(
    batch_sampler=dict(type='EpisodeSampler'),
    dataset=dict(_delete_=True, type='EpisodicDataset', dataset={{_base_.letters_in_ways}}, apart=True),
)
