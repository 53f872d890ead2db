"""Stands in for the process of a run: what it leaves behind depends on the options of the run. Imports nothing slow."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def entry(state, name, sha256, metrics):
    options = state['options']
    return dict(
        method='stub', dataset_name='toy', backbone='none', shot=options.get('shot'), split=None,
        seed=options.get('randomness.seed', 0), config='c.py', metrics=metrics,
        checkpoint=dict(name=name, sha256=sha256), trained_on='toy', trainable_parameters=1,
        test=dict(config={}, list=None, images=9, fingerprint='f', majority_rate=None),
        protocol=dict(selection='last epoch', at='epoch 1 of 1', on_test=False, validation=None, tta=False, amp=False),
    )  # yapf: disable


def main(folder):
    state = json.loads((folder / 'job.json').read_text())
    fate = state['options'].get('fate', 'fine')
    with open(folder / 'calls', 'a') as file:
        file.write(f'{os.environ.get("CUDA_VISIBLE_DEVICES")} {os.environ.get("OMP_NUM_THREADS")}\n')
    print('the stub is at', state['name'], flush=True)
    if fate == 'crash':
        raise SystemExit('out of luck')
    if fate == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == 'silent':
        return
    if fate == 'sleep' and len((folder / 'calls').read_text().splitlines()) == 1:
        time.sleep(120)
    value = 50 - abs(state['settled']['lr'] - (3 if state['measure'] == 'val' else 1)) + state['options'].get(
        'randomness.seed', 0) / 10
    metrics = {'accuracy/top1': value}
    content = state['key'].encode()
    (folder / 'epoch_1.pth').write_bytes(content)
    (folder / 'last_checkpoint').write_text('/somewhere/else/epoch_1.pth')
    sha256, stat = hashlib.sha256(content).hexdigest(), (folder / 'epoch_1.pth').stat()
    if state['measure'] == 'test':
        results = dict(format='mmlora results 1', results=[entry(state, 'epoch_1.pth', sha256, metrics)])
        (folder / 'results.json').write_text(json.dumps(results))
    known = dict(name='epoch_1.pth', size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)
    (folder / 'job.json').write_text(json.dumps({**state, 'status': 'done', 'checkpoint': known, 'metrics': metrics}))


if __name__ == '__main__':
    main(Path(sys.argv[-1]))
