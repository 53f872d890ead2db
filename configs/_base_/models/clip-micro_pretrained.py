# clip-micro with the weights that come with the package; mmlora/assets/clip-micro_glyphs.md says what it knows.
_base_ = './clip-micro.py'
model = dict(logit_scale='pretrained', init_cfg=dict(type='Pretrained', checkpoint='mmlora://clip-micro_glyphs'))
