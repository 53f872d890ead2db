"""Writes the adapter of a run as a folder when training ends."""

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from ...io.clip_folder import check_writable
from ...io.clip_vision import why_not_elsewhere
from ...io.lora_names import look_up_library
from ...models.clip import LoRACLIPClassifier
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..adapter_folder import VALIDATION, result_row, why_no_adapter, write_run_adapter
from ..clip_record import why_no_folder, write_run
from .protocol_hook import ProtocolHook


@register(HOOKS)
class AdapterFolderHook(Hook):
    """Leave ``<work_dir>/adapter`` behind.

    That of a CLIP is taken by :func:`mmlora.clip.load`, ``tools/test.py`` and peft, any other by
    :func:`mmlora.load_adapter` and ``tools/test.py``, and if it is LoRA by peft.

    It holds the weights of the last step, or their average where the run is validated by that. Where the model has no
    adapter that a folder could hold, the log says why there is none; where a CLIP has another vision tower than
    transformers' ``CLIPModel``, the log says why peft does not take it.

    Args:
        folder: Name of the folder below the work directory.
        library: Whose module names peft shall find, as for :func:`mmlora.save_adapter`; not for CLIP.

    Raises:
        ValueError: The name is no single name of a folder, or the library is unknown.
    """

    priority = 'LOWEST'

    def __init__(self, folder: str = 'adapter', library: str | None = None) -> None:
        if not folder or Path(folder).name != folder:
            raise ValueError(f'folder must be the name of a folder below the work directory, got {folder!r}')
        if library is not None:
            look_up_library(library)
        self.folder, self.library = folder, library

    def before_train(self, runner: Runner) -> None:
        """Look at the place for the folder, rather than after hours of training.

        Raises:
            ValueError: Something else lies there.
        """
        model = unwrap_model(runner.model)
        if (why_no_folder if isinstance(model, LoRACLIPClassifier) else why_no_adapter)(model) is None:
            check_writable(Path(runner.work_dir) / self.folder)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the folder."""
        model = unwrap_model(runner.model)
        clip = isinstance(model, LoRACLIPClassifier)
        reason = why_no_folder(model) if clip else why_no_adapter(model)
        if reason:
            runner.logger.info(f'No adapter folder is written: {reason}')
            return
        averages = [hook.ema_model.module for hook in runner.hooks
                    if isinstance(hook, EMAHook) and hook._ema_started(runner)]
        scalars = {name: buffer.current() for name, buffer in runner.message_hub.log_scalars.items()
                   if name.startswith('val/') and not name.endswith('time')}
        noted = next((hook for hook in runner.hooks if isinstance(hook, ProtocolHook)), None)
        protocol = noted and noted.describe(runner, dict(epoch=runner.epoch, iter=runner.iter))
        path = Path(runner.work_dir) / self.folder
        images = ((protocol or {}).get('validation') or {}).get('images')
        rows = [result_row(VALIDATION, name.removeprefix('val/'), float(value), images)
                for name, value in scalars.items()]
        if not clip:
            classes = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
            write_run_adapter(path, runner.cfg, averages[0] if averages else model, protocol, rows, classes,
                              self.library)
            runner.logger.info(f'The adapter is in {path}: mmlora.load_adapter(CONFIG, {str(path)!r}) takes it')
            return
        write_run(path, runner.cfg, model, protocol, rows, averages[0].state_dict() if averages else None)
        foreign = why_not_elsewhere(model.vision_arguments, model.arch.patch_size)
        takers = 'tools/test.py take it' if foreign else 'tools/test.py and peft take it'
        link = ' and' if foreign else ','
        runner.logger.info(f'The adapter is in {path}: mmlora.clip.load({str(path)!r}){link} {takers}'
                           + (f'; peft does not: {foreign}' if foreign else ''))
