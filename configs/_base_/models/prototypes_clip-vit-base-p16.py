# The image side of CLIP ViT-B/16 as it is, and prototypes as a head: nothing learns.
model = dict(
    _scope_='mmpretrain',
    type='MetaClassifier',
    backbone=dict(type='CLIPImageEncoder', arch='ViT-B/16'),
    head=dict(type='PrototypeHead', distance='squared_euclidean'),
)
