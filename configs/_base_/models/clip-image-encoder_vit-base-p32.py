# The image side of CLIP ViT-B/32: the vision tower and its projection, without texts and heads. The weights are a file
# of yours: of OpenAI, open_clip or Hugging Face.
model = dict(
    _scope_='mmpretrain',
    backbone=dict(
        type='CLIPImageEncoder',
        arch='ViT-B/32',
        init_cfg=dict(type='Pretrained', checkpoint='weights/ViT-B-32.pt'),
    ),
)
