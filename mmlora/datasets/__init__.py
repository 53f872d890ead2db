"""Data sets, episodes and samplers."""

from .bank_episodes import BankEpisodes, BankEpisodeSampler
from .class_folders import ClassFolders
from .coop import CoOpDataset
from .coop_sets import COOP_SETS, IMAGENET_SHIFTS, CoOpSet, find_coop_set
from .digits import Digits
from .episodes import EpisodeSampler
from .episodic_dataset import EpisodicDataset
from .fgvc import FGVC
from .fgvc_sets import FGVC_SETS, FGVCSet, find_fgvc_set
from .florence import FlorenceDetection
from .glyph_few_shot import FewShotGlyphs
from .glyphs import Glyphs
from .list_dataset import ListDataset
from .loading import LoadImageFromFile
from .lora_bank_dataset import LoRABankDataset
from .medfmc import Chest19, Colon, Endoscopy
from .meta_sets import META_SETS, MetaSet, find_meta_set
from .meta_split import MetaSplit
from .pool import PoolImages
from .samplers import ResumableInfiniteSampler, ResumableRepeatAugSampler, ResumableSampler
from .seeded import SampleIndex, SeededDataset
from .vtab1k import VTAB1k
from .vtab_sets import VTAB_SETS, VTABSet, find_vtab_set

__all__ = [
    'COOP_SETS',
    'FGVC',
    'FGVC_SETS',
    'IMAGENET_SHIFTS',
    'META_SETS',
    'VTAB_SETS',
    'BankEpisodeSampler',
    'BankEpisodes',
    'Chest19',
    'ClassFolders',
    'CoOpDataset',
    'CoOpSet',
    'Colon',
    'Digits',
    'Endoscopy',
    'EpisodeSampler',
    'EpisodicDataset',
    'FGVCSet',
    'FewShotGlyphs',
    'FlorenceDetection',
    'Glyphs',
    'ListDataset',
    'LoRABankDataset',
    'LoadImageFromFile',
    'MetaSet',
    'MetaSplit',
    'PoolImages',
    'ResumableInfiniteSampler',
    'ResumableRepeatAugSampler',
    'ResumableSampler',
    'SampleIndex',
    'SeededDataset',
    'VTAB1k',
    'VTABSet',
    'find_coop_set',
    'find_fgvc_set',
    'find_meta_set',
    'find_vtab_set',
]
