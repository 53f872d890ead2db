# A CLIP for 32x32 images: 8x8 tokens of 4 pixels, cut from overlapping windows of 8 pixels, and whole words as tokens.
# A leaf or the base of a method says what of it learns.
model = dict(
    _scope_='mmpretrain',
    type='LoRACLIP',
    arch=dict(
        image_size=32,
        patch_size=4,
        vision_width=96,
        vision_layers=4,
        vision_heads=3,
        embed_dim=96,
        text_width=64,
        text_layers=3,
        text_heads=2,
        context_length=32,
        vocab_size=722,
    ),
    vision=dict(patch_cfg=dict(kernel_size=8, padding=2)),
    templates='a picture of {}.',
    tokenizer=dict(type='WordTokenizer', vocabulary='mmlora://clip-micro_words.txt'),
)
