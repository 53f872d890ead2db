# A gate over the features of all LoRAs of the hub, and a linear head, for each episode.
tuner = dict(
    type='MOLETuner', hub='{hub_folder}', head='linear', balance=0.5,
    steps=50, optimizer=dict(type='SGD', lr=0.1),
)  # yapf: disable
