"""Banks as training data: balanced tasks, episodes of tasks with their LoRAs, and what does not belong together."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from mmlora.adapters.lora_spec import LoRASpec
from mmlora.adapters.lora_weights import Pair
from mmlora.datasets import BankEpisodes, BankEpisodeSampler, LoRABankDataset, SampleIndex, SeededDataset
from mmlora.io.lora_banks import LoRABanks
from mmlora.io.task_vectors import TaskVectors

CLASSES = ('a', 'b', 'c', 'd')


class Images:
    """Six images of each of four classes."""

    metainfo = dict(classes=CLASSES)

    def __len__(self) -> int:
        return 24

    def get_gt_labels(self) -> np.ndarray:
        return np.arange(24) % 4

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.zeros(1), data_samples=DataSample().set_gt_label(int(index) % 4))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    spec = LoRASpec.of_weights({('layers.0.proj', ''): Pair(torch.ones(1, 3), torch.zeros(2, 1), 1.0)}, 'base')
    banks = LoRABanks.create(tmp_path / 'banks', spec, 'B', {'layers.0.proj.lora_A': torch.ones(1, 3)})
    for task, (classes, count) in enumerate((('ab', 3), ('bd', 1))):
        for step in range(count):
            banks.add(str(task), {'layers.0.proj.lora_B': torch.full((2, 1), 10.0 * task + step + 1)}, step, step,
                      classes=list(classes))
    vectors = {str(task): torch.full((4, 5), float(task)) + torch.arange(4)[:, None] / 10 for task in range(2)}
    TaskVectors(vectors, dict(encoder=dict(type='MeanFeature'), base_sha256='base')).write(tmp_path / 'v.safetensors')
    return tmp_path


def test_tasks_are_balanced_and_drawn_anew(place: Path) -> None:
    data = SeededDataset(LoRABankDataset(str(place / 'banks'), str(place / 'v.safetensors')))
    items = [data[SampleIndex(i, 0, epoch)]['inputs'] for epoch in range(20) for i in range(len(data))]
    assert len(data) == 6
    tasks = Counter(int(item['vector'][0] > 9) for item in items)
    assert tasks == {0: 60, 1: 60}
    for item in items:  # A LoRA and a condition of one task.
        assert int(item['vector'][0] > 9) == int(item['condition'][0] >= 1)
    assert len({float(item['vector'][0]) for item in items}) == 4  # every checkpoint
    assert len({float(item['condition'][0]) for item in items}) == 8  # every support set
    assert torch.equal(data[SampleIndex(0, 0, 3)]['inputs']['vector'], items[18]['vector'])
    fitted = data.fit_data()
    assert fitted['vectors'][:, 0].tolist() == [3, 2, 1, 11] and fitted['tasks'].tolist() == [0, 0, 0, 1]


def test_episodes_of_tasks_come_with_their_loras(place: Path) -> None:
    data = BankEpisodes(Images(), str(place / 'banks'))
    sampler = BankEpisodeSampler(dataset=data, seed=0, n_way=2, n_shot=2, n_query=1, num_episodes=40, p_interpolate=0.5)
    kinds = Counter()
    for indices in sampler:
        samples = [data[index]['data_samples'] for index in indices]
        classes, lora = {int(index) % 4 for index in indices}, samples[0].lora
        kinds[lora] += 1
        holders = [sample for sample in samples if 'lora_vector' in sample]
        if lora is None:
            assert not holders
            continue
        assert classes == ({0, 1} if lora == '0' else {1, 3})
        assert all(sample.support and int(sample.gt_label) == 0 for sample in holders) and len(holders) == 2
        assert float(holders[0].lora_vector[0]) in ((1, 2, 3) if lora == '0' else (11,))
    assert set(kinds) == {None, '0', '1'}


def test_what_does_not_belong_together_is_refused(place: Path) -> None:
    banks, vectors = str(place / 'banks'), TaskVectors.open(place / 'v.safetensors')
    for record, own, said in ((dict(base_sha256='other'), vectors.vectors, 'extract them again'),
                              (vectors.record, {'0': vectors.vectors['0']}, "such as '1'")):
        TaskVectors(own, record).write(place / 'bad.safetensors')
        with pytest.raises(ValueError, match=said):
            LoRABankDataset(banks, str(place / 'bad.safetensors'))
    with pytest.raises(ValueError, match="'d'"):
        few = Images()
        few.metainfo = dict(classes=('a', 'b', 'c', 'e'))
        BankEpisodes(few, banks)
    with pytest.raises(ValueError, match='BankEpisodes'):
        BankEpisodeSampler(dataset=Images(), seed=0, n_way=2, n_query=1, p_interpolate=0.5)
    for bad, said in ((dict(a=torch.zeros(2, 3), b=torch.zeros(2, 4)), "of 'b'"), ({}, 'no task vector'),
                      (dict(a=torch.full((1, 2), float('nan'))), 'finite')):
        with pytest.raises(ValueError, match=said):
            TaskVectors(bad, {}).write(place / 'bad.safetensors')
    single = LoRABanks.create(place / 'single', LoRABanks.open(banks).full_spec, 'B', LoRABanks.open(banks).shared)
    single.add('0', {'layers.0.proj.lora_B': torch.ones(2, 1)}, 0, 1.0, classes=['a', 'b'])
    with pytest.raises(ValueError, match='holds one LoRA'):
        LoRABankDataset(str(place / 'single'), str(place / 'v.safetensors'))
