# Told of each task by how its classes lie, not only by where they are.
_base_ = './pca-ridge_vit-micro_glyphs-5way.py'
task_vectors = 'work_dirs/task_vectors/prototype-stats_vit-micro_glyphs-5way.safetensors'
model = dict(task_encoder=dict(type='PrototypeStats'))
