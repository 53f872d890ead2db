"""The data and schedule of ``tiny_vit.py`` with a CLIP of a made-up world, whose classes the data set names."""

_base_ = 'tiny_vit.py'

model = dict(
    _delete_=True,
    type='LoRACLIP',
    arch=dict(
        image_size=32, patch_size=16, vision_width=16, vision_layers=3, vision_heads=2, embed_dim=8, text_width=16,
        text_layers=2, text_heads=2, context_length=10, vocab_size=16,
    ),
    tokenizer=dict(type='WordTokenizer', vocabulary=['a', 'photo', 'of', '.', 'class0', 'class1', 'class2']),
    params='qkvo',
    lora_rank=4,
    lora_dropout=0.1,
    vision=dict(drop_path_rate=0.1),
)  # fmt: skip
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='AdapterFolderHook')]
optim_wrapper = dict(optimizer=dict(lr=2e-2))
