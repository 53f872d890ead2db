# The LoRAs of the hub averaged into one, and a linear head for each episode. merge='factors' averages A and B.
tuner = dict(
    type='FeatureTuner', head='linear', hub='{hub_folder}', merge='change',
    steps=50, optimizer=dict(type='SGD', lr=0.1),
)  # yapf: disable
