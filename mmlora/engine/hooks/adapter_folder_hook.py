"""Writes the adapter of a CLIP as a folder when training ends."""

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from ...io.clip_folder import check_writable
from ...io.clip_vision import why_not_elsewhere
from ...registry import HOOKS, register
from ..adaptation import unwrap_model
from ..clip_record import why_no_folder, write_run
from .protocol_hook import ProtocolHook


@register(HOOKS)
class AdapterFolderHook(Hook):
    """Leave ``<work_dir>/adapter`` behind, which :func:`mmlora.clip.load`, ``tools/test.py`` and peft take.

    It holds the weights of the last step, or their average where the run is validated by that. Where the model has no
    LoRA that peft could hold, the log says why there is no folder; where it has another vision tower than
    transformers' ``CLIPModel``, the log says why peft does not take it.

    Args:
        folder: Name of the folder below the work directory.

    Raises:
        ValueError: The name is no single name of a folder.
    """

    priority = 'LOWEST'

    def __init__(self, folder: str = 'adapter') -> None:
        if not folder or Path(folder).name != folder:
            raise ValueError(f'folder must be the name of a folder below the work directory, got {folder!r}')
        self.folder = folder

    def before_train(self, runner: Runner) -> None:
        """Look at the place for the folder, rather than after hours of training.

        Raises:
            ValueError: Something else lies there.
        """
        if why_no_folder(unwrap_model(runner.model)) is None:
            check_writable(Path(runner.work_dir) / self.folder)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the folder."""
        model = unwrap_model(runner.model)
        reason = why_no_folder(model)
        if reason:
            runner.logger.info(f'No adapter folder is written: {reason}')
            return
        averages = [hook.ema_model.module for hook in runner.hooks
                    if isinstance(hook, EMAHook) and hook._ema_started(runner)]
        scalars = {name: buffer.current() for name, buffer in runner.message_hub.log_scalars.items()
                   if name.startswith('val/') and not name.endswith('time')}
        noted = next((hook for hook in runner.hooks if isinstance(hook, ProtocolHook)), None)
        protocol = noted and noted.describe(runner, dict(epoch=runner.epoch, iter=runner.iter))
        path = write_run(
            Path(runner.work_dir) / self.folder, runner.cfg, model, protocol, scalars,
            averages[0].state_dict() if averages else None,
        )
        foreign = why_not_elsewhere(model.vision_arguments, model.arch.patch_size)
        takers = 'tools/test.py take it' if foreign else 'tools/test.py and peft take it'
        link = ' and' if foreign else ','
        runner.logger.info(f'The adapter is in {path}: mmlora.clip.load({str(path)!r}){link} {takers}'
                           + (f'; peft does not: {foreign}' if foreign else ''))
