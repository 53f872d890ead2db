"""The runner: ways that do not agree get no ratio, and what is reported is what was measured. No time is asserted."""

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from benchmarks import __main__ as runner
from benchmarks import core, report
from benchmarks.core import Case, Comparison, DisagreementError, Growth, Rounds, Spread
from benchmarks.suites.steps import forward, step
from benchmarks.targets import Target

CPU = torch.device('cpu')


def case(name: str, ran: list | None = None, **results) -> Case:
    tensors = {key: torch.tensor(value) for key, value in results.items()}
    return Case(name, lambda: ran.append(name) if ran is not None else None, (lambda: tensors) if tensors else None)


def comparison(*cases: Case, **kwargs) -> Comparison:
    return Comparison('A title', cases, **{'base': 'one', 'reference': 'one', 'tolerance': 1e-3, 'rounds': 3} | kwargs)


class TestAgreement:
    @pytest.mark.parametrize('results, message', [
        (dict(y=[1.0, 2.01]), r"'two' differs from 'one' by 5.0e-03, more than 1e-03"),
        (dict(y=[1.0, 2.0, 3.0]), r"'y' of 'two' is \(3,\), expected \(2,\)"),
        (dict(q=[1.0, 2.0]), r"'two' gives \['q'\], which the reference does not"),
        (dict(y=[1.0, 2.0], more=[5.0]), r"'two' gives \['more'\], which the reference does not"),
        (dict(y=[1.0, float('nan')]), 'not finite'),
    ])  # fmt: skip
    def test_a_wrong_peer_is_refused_before_anything_is_timed(self, results, message):
        ran = []
        with pytest.raises(DisagreementError, match=message):
            core.measure(comparison(case('one', ran, y=[1.0, 2.0]), case('two', ran, **results)), CPU)
        assert not ran

    def test_within_the_tolerance_the_difference_is_reported(self):
        rows, _ = core.measure(
            comparison(case('one', y=[1.0, 2.0]), case('two', y=[1.0, 2.001]), case('floor')), CPU
        )
        assert [row.name for row in rows] == ['one', 'two', 'floor']
        assert rows[0].difference is None and rows[2].difference is None
        assert rows[1].difference == pytest.approx(5e-4, rel=1e-3)
        text = report.comparison(comparison(case('one')), rows)
        assert '| reference |' in text and '| 5e-04 |' in text and '| other work |' in text

    def test_rates_and_further_cells_have_columns_of_their_own(self):
        ran = []

        def facts(time):
            return {'images': f'{len(ran)}', 'published': f'{time.low <= time.median}'}

        told = Case('two', lambda: ran.append('two'), facts=facts)
        own = dict(reference=None, rounds=2, warm_up=0, rate=('runs per minute', 60.0), peaks=False)
        what = comparison(case('one', ran), told, **own)
        rows, _ = core.measure(what, CPU)
        assert ran == ['one', 'two', 'two', 'one']
        rows = [replace(row, time=Spread(4.0, 4.0, 4.0)) for row in rows]
        header, _, *lines = [line.split(' | ') for line in report.comparison(what, rows).splitlines()[2:]]
        cells = [dict(zip(header, line, strict=True)) for line in lines]
        assert [row['runs per minute'] for row in cells] == ['15000', '15000']
        assert [(row['images'], row['published |']) for row in cells] == [('', ' |'), ('4', 'True |')]

    def test_what_compares_nothing_is_refused(self):
        one, none = case('one', y=[1.0]), Case('one', lambda: None, dict)
        missing = Case('two', lambda: None, lambda: {'y': torch.ones(1)})
        with pytest.raises(DisagreementError, match="the reference that 'two' is compared with gives nothing"):
            core.check_agreement(comparison(none, case('two', y=[1.0])))
        with pytest.raises(DisagreementError, match="'y' of the reference is empty"):
            core.check_agreement(comparison(case('one', y=[]), case('two', y=[])))
        with pytest.raises(DisagreementError, match="'two' gives no 'z'"):
            core.check_agreement(comparison(case('one', y=[1.0], z=[1.0]), missing))
        with pytest.raises(ValueError, match="compares nothing with 'one': its reference must be None"):
            core.check_agreement(comparison(one, case('floor')))
        with pytest.raises(ValueError, match=r"has no reference to compare \['one'\] with"):
            core.check_agreement(comparison(one, case('floor'), reference=None))
        assert core.check_agreement(comparison(one, absent={'two': 'peft'})) == {}
        assert core.check_agreement(comparison(case('one'), case('floor'), reference=None)) == {}

    def test_long_runs_are_compared_by_what_they_gave(self):
        ran = []
        cases = [core.remembered(name, lambda name=name: ran.append(name) or len(ran),
                                 lambda found: {'y': torch.tensor(found)}) for name in ('one', 'two')]
        own = dict(rounds=1, warm_up=0, peaks=False, long=True)
        rows, _ = core.measure(comparison(*cases, **own, tolerance=2.0), CPU)
        assert ran == ['one', 'two'] and rows[1].difference == 1.0
        with pytest.raises(DisagreementError, match="'two' differs from 'one'"):
            core.measure(comparison(*cases, **own), CPU)

    @pytest.mark.parametrize('wrong, message', [
        (dict(reference='none'), "no case 'none'"),
        (dict(base='none'), "no case 'none'"),
        (dict(reference='floor'), "the reference 'floor' of 'A title' has no results"),
    ])  # fmt: skip
    def test_names_that_are_not_there(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            core.measure(comparison(case('one', y=[1.0]), case('floor'), **wrong), CPU)

    def test_a_wrong_gradient_is_found(self):
        x = torch.randn(3, 4, requires_grad=True)
        w = torch.randn(5, 4, requires_grad=True)

        def gradients():
            return {'w': w.grad}

        def detached(x):
            return F.linear(x, w) + x.sum() - x.sum().detach()

        right = step('one', lambda x: F.linear(x, w), x, [w], gradients=gradients)
        wrong = step('two', detached, x, [w], gradients=gradients)
        assert torch.allclose(right.results()['the output'], wrong.results()['the output'], atol=1e-5)
        with pytest.raises(DisagreementError, match="'two' differs"):
            core.check_agreement(comparison(right, wrong))
        assert w.grad is None and x.grad is None


class TestNumbers:
    def test_every_case_runs_once_a_round_and_the_first_one_changes(self):
        ran, names = [], ['one', 'two', 'three']
        times = core.alternate([case(name, ran) for name in names], 4, CPU)
        rounds = [ran[i : i + 3] for i in range(0, len(ran), 3)]
        assert len(rounds) == 4 + core.WARM_UP and all(sorted(turn) == sorted(names) for turn in rounds)
        assert [turn[0] for turn in rounds] == (names * 2)[: len(rounds)]
        assert {name: len(spent) for name, spent in times.times.items()} == dict.fromkeys(names, 4)

    def test_cpu_time_does_not_count_sleep(self):
        times = core.alternate([Case('sleeps', lambda: time.sleep(0.05))], 2, CPU, 'cpu')
        assert max(times.times['sleeps']) < 25

    def test_ratios_are_taken_within_a_round(self):
        times = Rounds({'one': [1.0, 10.0, 100.0], 'two': [2.0, 30.0, 200.0]})
        assert times.ratio('two', 'one') == Spread(2.0, 2.0, 2.5)
        assert times.spread('one') == Spread(10.0, 5.5, 55.0)
        assert report.ratio(times.ratio('two', 'one')) == '2.00 (2.00 to 2.50)'
        assert report.ratio(times.ratio('one', 'one')) == '1.00'

    def test_spread_of_little(self):
        assert core.spread([3.0]) == Spread(3.0, 3.0, 3.0)
        with pytest.raises(ValueError, match='at least one round'):
            core.spread([])

    @pytest.mark.parametrize('power', [0.0, 1.0, 2.0, -0.5])
    def test_exponents(self, power):
        sizes = [2, 8, 32, 100]
        assert core.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)

    @pytest.mark.parametrize('sizes, costs', [
        ([2], [1.0]), ([2, 2], [1.0, 1.0]), ([1, 2], [0.0, 1.0]), ([1, 2], [1.0]),
    ])  # fmt: skip
    def test_what_has_no_exponent(self, sizes, costs):
        with pytest.raises(ValueError, match='at least two different sizes'):
            core.exponent(sizes, costs)

    def test_kept_bytes_are_those_of_autograd_without_what_is_there_anyway(self):
        x, w = torch.randn(10, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
        assert core.kept_bytes(lambda: F.linear(x, w).exp(), [x, w]) == 10 * 6 * 4
        assert core.kept_bytes(lambda: F.linear(x, w).exp()) == (10 * 6 + 10 * 4 + 6 * 4) * 4
        with torch.no_grad():
            assert core.kept_bytes(lambda: F.linear(x, w).exp()) == 0

    def test_the_peak_is_what_is_there_at_a_time(self):
        x = torch.randn(1000)  # 4000 bytes

        def run():
            y = x + 1
            z = y * 2
            del y
            return (z + 3) * 2  # z + 3 and its double beside z

        assert 0 <= core.peak_bytes(run, CPU) - 3 * 4000 < 100  # the numbers 1, 2 and 3 are tensors for a moment
        assert core.peak_bytes(lambda: x.add_(0.0), CPU) < 100

    def test_growth(self):
        w = torch.randn(4, 4)
        cases = {n: step(str(n), lambda x: (x @ w).exp(), torch.randn(n, 4, requires_grad=True)) for n in (10, 20, 40)}
        growth = Growth('A title', 'rows', cases, 2)
        measured = core.measure_growth(growth, CPU)
        assert [kept for _, kept, _ in measured.values()] == [10 * 4 * 4 + 64, 20 * 4 * 4 + 64, 40 * 4 * 4 + 64]
        table = report.growth(growth, {n: (Spread(2.0 * n, n, n), 8 * n * n, n**3) for n in (10, 20, 40)})
        assert table.splitlines()[-1] == '| exponent | 1.00 | 2.00 | 3.00 |'
        table = report.growth(growth, {n: (Spread(2.0 * n, n, n), 0, n) for n in (10, 20)})
        assert table.splitlines()[2] == '| rows | ms, median (quartiles) | peak, MiB |'

    def test_a_forward_case_has_no_graph(self):
        x = torch.randn(3, requires_grad=True)
        assert not forward('one', torch.exp, x).results()['the output'].requires_grad
        assert forward('floor', torch.exp, x, compare=False).results is None


class TestTargets:
    def measured(self, at_most=0.5, of='time', **kwargs):
        times = Rounds({'one': [1.0, 10.0, 100.0], 'two': [0.4, 5.0, 20.0]})
        spread = Spread(1.0, 1.0, 1.0)
        rows = [core.Row(name, spread, spread, size, None, None) for name, size in (('one', 100), ('two', 103))]
        what = comparison(case('one', y=[1.0]), case('two', y=[1.0]), targets=[Target('two', 'one', at_most, of)])
        (found,) = core.outcomes(replace(what, **kwargs), rows, times)
        return report.comparison(replace(what, **kwargs), rows, [found]), found

    @pytest.mark.parametrize('at_most, of, reached, line', [
        (1.1, 'time', True, 'two at most 1.1 of one (time): reached (0.400, quartiles 0.300 to 0.450)'),
        (0.5, 'time', True, 'two at least 2 times as fast as one: reached (2.50 times, quartiles 2.22 to 3.33)'),
        (0.25, 'time', False, 'two at least 4 times as fast as one: missed (2.50 times, quartiles 2.22 to 3.33)'),
        (1.02, 'kept', False, 'two at most 1.02 of one (memory kept for backward): missed (1.030)'),
        (1.02, 'peak', None, 'two at most 1.02 of one (peak memory): not measured (no such memory here)'),
    ])  # fmt: skip
    def test_the_median_decides(self, at_most, of, reached, line):
        text, found = self.measured(at_most, of)
        assert found.reached is reached and text.endswith(f'\nTarget: {line}.\n')
        assert f'| a suite | A title | {str(found.target)} | {str(found)} |' in report.summary({'a suite': [found]}, {})

    def test_what_is_not_installed_is_said(self):
        text, found = self.measured(absent={'one': 'peft'})
        assert found.reached is None and str(found) == 'not measured (peft is not installed)'
        assert 'No row of *one*: peft is not installed: pip install "mmlora[bench]"' in text
        assert core.absent(one_way='torch', another_way='no_such_package') == {'another way': 'no_such_package'}

    @pytest.mark.parametrize('wrong', [dict(of='space'), dict(at_most=0.0)])
    def test_wrong_targets(self, wrong):
        with pytest.raises(ValueError, match='a target is of'):
            self.measured(**wrong)

    def test_a_target_of_no_case(self):
        with pytest.raises(ValueError, match="no case 'three'"):
            core.measure(comparison(case('one', y=[1.0]), targets=[Target('three', 'one', 1.0)]), CPU)


class TestCommand:
    def suite(self, monkeypatch, second):
        def suite(device, quick):
            targets = [Target('two', 'one', 1e9)]
            yield comparison(case('one', y=[1.0]), case('two', y=[second]), targets=targets)
            yield comparison(case('one', y=[1.0]), case('fine', y=[1.0]))

        monkeypatch.setitem(runner.SUITES, 'attention', suite)

    def test_a_disagreement_is_printed_in_the_place_of_the_table(self, monkeypatch, capsys):
        self.suite(monkeypatch, 2.0)
        assert runner.main(['--suite', 'attention', '--quick']) == 1
        out = capsys.readouterr().out
        assert "No times: 'two' differs from 'one' by 1.0e+00" in out
        assert '| two |' not in out and '| fine |' in out
        assert out.count('not measured (the ways disagree)') == 2

    def test_the_file_holds_what_was_printed(self, monkeypatch, capsys, tmp_path):
        self.suite(monkeypatch, 1.0)
        path = tmp_path / 'new' / 'tables.md'
        path.parent.mkdir()
        assert runner.main(['--suite', 'attention', '--rounds', '2', '--out', str(path)]) == 0
        text = path.read_text()
        assert text.startswith('# Benchmarks\n\n`python -m benchmarks --suite attention --rounds 2 --out ')
        words = ('cores', 'load', f'torch {torch.__version__.split("+")[0]}', '| two |', 'quartiles', '## Targets')
        for word in (*words, 'the floor', ': reached ('):
            assert word in text
        assert text.split() == capsys.readouterr().out.split()

    @pytest.mark.parametrize('arguments, message', [
        (['--suite', 'nothing'], "invalid choice: 'nothing'"),
        (['--rounds', '0'], '--rounds must be at least 1, got 0'),
        (['--device', 'cuda'], 'PyTorch finds no GPU here'),
        (['--device', 'cuda', '--clock', 'cpu'], 'PyTorch finds no GPU here'),
        (['--clock', 'sun'], "invalid choice: 'sun'"),
    ])  # fmt: skip
    def test_wrong_arguments(self, arguments, message, capsys, monkeypatch):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
        with pytest.raises(SystemExit):
            runner.main(arguments)
        assert message in capsys.readouterr().err
