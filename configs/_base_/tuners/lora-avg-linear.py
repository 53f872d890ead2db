# The LoRAs of the hub averaged into one, and a linear head for each episode. merge='change' averages the products B A.
tuner = dict(
    type='FeatureTuner', head='linear', hub='{hub_folder}', merge='factors',
    steps=50, optimizer=dict(type='SGD', lr=0.1),
)  # yapf: disable
