# A fresh linear head on the features of each episode's support.
tuner = dict(type='FeatureTuner', head='linear', steps=50, optimizer=dict(type='SGD', lr=0.1))
