# The image side of CLIP ViT-B/32 as it is, and prototypes as a head: nothing learns.
model = dict(
    _scope_='mmpretrain',
    type='MetaClassifier',
    backbone=dict(type='CLIPImageEncoder', arch='ViT-B/32'),
    head=dict(type='PrototypeHead', distance='squared_euclidean'),
)
