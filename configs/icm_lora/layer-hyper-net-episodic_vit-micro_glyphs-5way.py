# Through the backbone on episodes alone: no LoRA has to be trained before.
_base_ = './layer-hyper-net-both_vit-micro_glyphs-5way.py'
model = dict(lora=dict(targets=['attn.qkv'], rank=4))
letters = dict(type='Glyphs', split='train', samples_per_class=20, pipeline=[dict(type='PackInputs')])
train_dataloader = dict(
    batch_sampler=dict(type='EpisodeSampler', p_interpolate=1.0),
    dataset=dict(_delete_=True, type='EpisodicDataset', dataset=letters),
)
