"""Ways to learn from the support of a test episode: the baselines that LoRA-Recycle (CVPR 2025) compares with."""

from .feature_tuner import FeatureTuner
from .full_tuner import FullTuner
from .lora_hub_tuner import LoRAHubTuner
from .lora_tuner import LoRATuner
from .mole_tuner import MOLETuner
from .test_images import TestImages
from .tuner import EpisodeTuner, NumberedEpisode

__all__ = [
    'EpisodeTuner',
    'FeatureTuner',
    'FullTuner',
    'LoRAHubTuner',
    'LoRATuner',
    'MOLETuner',
    'NumberedEpisode',
    'TestImages',
]
