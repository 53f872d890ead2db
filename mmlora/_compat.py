"""Cures for today's OpenMMLab stack (placeholder for the first commit: row 1 only)."""


def _torchvision_schemas() -> None:
    import sys

    import torch
    if 'torchvision' in sys.modules or torch.version.cuda or torch.version.hip:
        return
    import importlib.util
    from pathlib import Path
    spec = importlib.util.find_spec('torchvision')
    if spec is None or spec.origin is None:
        return
    for library in sorted(Path(spec.origin).parent.glob('_C*.so')):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            continue
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    _KEEP.append(library)


_KEEP: list = []


def apply() -> None:
    """Apply every cure that this environment needs."""
    _torchvision_schemas()
