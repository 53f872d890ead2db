# The last stage of P>M>F: all weights learn to classify changed copies of the support by its class means. The rate is
# one of those that its paper chooses from for each domain.
tuner = dict(type='FullTuner', head='prototype', steps=50, optimizer=dict(type='SGD', lr=1e-3), views=1)
