"""The tiny run with a hook that records what each process does (``tests/test_tools/rank_probe.py``)."""

_base_ = ['tiny_vit.py']
custom_imports = dict(imports=['mmlora', 'rank_probe'], allow_failed_imports=False)
custom_hooks = [dict(type='RankProbeHook')]
