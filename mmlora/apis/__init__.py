"""What the tools and Python users call."""

from .build_banks import build_banks
from .build_banks_published import import_published_banks, import_published_task_vectors
from .check_data import check_data
from .check_known import check_folders, check_known, check_lists
from .convert import convert_weights
from .extract_task_vectors import extract_task_vectors
from .florence import export_florence, filter_florence, florence_task_vector
from .generate_from_vectors import generate_from_vectors
from .generate_lora import generate_lora, load_generator
from .import_hub import import_published_hub
from .inversion import InversionSettings, LoRAInversion
from .invert_hub import invert_hub
from .merge import merge_checkpoint
from .merge_adapters import merge_adapter_folders
from .pool_sheet import contact_sheet
from .pretune_hub import pretune_hub
from .rank_curve import rank_curve
from .rank_report import parse_budget, ranks_from_checkpoint, ranks_from_config
from .reporting import write_report
from .settle import settle_ranks
from .test import prepare_test_cfg, test
from .train import prepare_train_cfg, train
from .truncate import truncate_checkpoint
from .variables import settle_variables

__all__ = [
    'InversionSettings',
    'LoRAInversion',
    'build_banks',
    'check_data',
    'check_folders',
    'check_known',
    'check_lists',
    'contact_sheet',
    'convert_weights',
    'export_florence',
    'extract_task_vectors',
    'filter_florence',
    'florence_task_vector',
    'generate_from_vectors',
    'generate_lora',
    'import_published_banks',
    'import_published_hub',
    'import_published_task_vectors',
    'invert_hub',
    'load_generator',
    'merge_adapter_folders',
    'merge_checkpoint',
    'parse_budget',
    'prepare_test_cfg',
    'prepare_train_cfg',
    'pretune_hub',
    'rank_curve',
    'ranks_from_checkpoint',
    'ranks_from_config',
    'settle_ranks',
    'settle_variables',
    'test',
    'train',
    'truncate_checkpoint',
    'write_report',
]
