# Printed letters of the training scripts, more distorted than in pre-training: a backbone that knows the letters has
# something left to learn for a task.
data_preprocessor = dict(mean=[54, 54, 54], std=[72, 72, 72])
distortion = dict(
    rotation=30, scale=0.3, stretch=0.3, shear=0.3, shift=5.0, wave=1.5, blur=1.2, contrast=0.5, noise=0.25
)
pipeline = [dict(type='PackInputs')]
glyphs = dict(type='Glyphs', split='train', samples_per_class=20, distortion=distortion, pipeline=pipeline)
source = dict(name='glyphs', dataset=glyphs)
hub_sources = [source]
