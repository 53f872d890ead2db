# All weights and a linear head for each episode.
tuner = dict(type='FullTuner', head='linear', steps=50, optimizer=dict(type='SGD', lr=0.1))
