"""The recorder beside a real model on a CPU: closed forms for FLOPs and bytes, and no harm done."""

from __future__ import annotations

import math

import polars
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from fakes import FakeClock
from torch import nn

from lightning_costs import Recorder, Tariff, load_run
from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.base import Measured
from lightning_costs.indicators.compute import CONVENTION
from lightning_costs.probes import clock, step_monitor
from lightning_costs.probes.memory import tensors
from lightning_costs.probes.opcount import counter
from lightning_costs.recording.emission import (
    FIRST_POINTS,
    MOST_APART_S,
    POINTS_AT_ANY_PACE,
    SHARE_OF_FIRST_POINTS,
    SHARE_OF_POINTS,
)
from lightning_costs.records.certainty import convention

PARAMS = 12 * 24 + 24 + 24 * 3 + 3
FLOP_PER_SAMPLE = 2 * 2 * 12 * 24 + 3 * 2 * 24 * 3  # the first layer has no gradient of its input


def plain():
    return [i for i in default_indicators() if i.family not in ("energy", "money")]


def network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 24), nn.Dropout(dropout), nn.ReLU(), nn.Linear(24, 3))


class Training:
    def __init__(self, tmp_path, net=None, make=torch.optim.SGD, recorded=True, **options):
        self.net = net or network()
        self.optimizer = make(self.net.parameters(), lr=0.1)
        self.clock = FakeClock()
        given = {"save_dir": tmp_path, "clock": self.clock, "indicators": plain(), "log_every_n_steps": 5}
        self.recorder = (
            Recorder(**given | {"module": self.net, "optimizers": [self.optimizer]} | options) if recorded else None
        )

    def update(self, x, y):
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(x), y).backward()
        if self.recorder is not None:
            self.recorder.hooks.steps.sample_memory()
        self.optimizer.step()

    def step(self, size=8):
        batch = torch.randn(size, 12), torch.randint(3, (size,))
        if self.recorder is None:
            self.update(*batch)
            return
        with self.recorder.train_batch(batch):
            self.update(*batch)
        self.recorder.step(batch)


@pytest.mark.parametrize("sizes", [[8] * 12, [8, 8, 8, 5], [1, 2, 3, 4, 3, 2, 1]])
def test_flops_of_a_run_are_the_closed_form_whatever_the_batch_sizes(tmp_path, sizes):
    training = Training(tmp_path)
    with training.recorder:
        for size in sizes:
            training.step(size)
    final = training.recorder.final
    assert final["flop"] == FLOP_PER_SAMPLE * sum(sizes)
    assert final["mac"] == final["flop"] / 2
    assert training.recorder.header["methods"]["flop"].endswith(CONVENTION)


def test_sizes_are_those_of_the_network(tmp_path):
    net = network()
    net[0].weight.requires_grad_(False)
    training = Training(tmp_path, net)
    with training.recorder:
        training.step()
    assert training.recorder.final["params"] == PARAMS
    assert training.recorder.final["trainable_params"] == PARAMS - 12 * 24


@pytest.mark.parametrize("counting", [True, False])
@pytest.mark.parametrize("evaluated_first", [True, False])
def test_memory_is_the_textbooks(tmp_path, counting, evaluated_first):
    training = Training(tmp_path, make=torch.optim.AdamW)
    with training.recorder as recorder:
        if evaluated_first:
            recorder.log_metrics({"acc": 0.1})
        for _ in range(12):
            if counting:
                training.step()
            else:
                training.update(torch.randn(8, 12), torch.randint(3, (8,)))
                recorder.step(torch.zeros(8, 12))
    final = recorder.final
    assert final["param_bytes"] == 4 * PARAMS
    assert final["grad_bytes"] == 4 * PARAMS
    assert final["opt_state_bytes"] == final["opt_peak_bytes"] == 2 * 4 * PARAMS + 4 * 4


def test_measuring_changes_neither_weights_nor_random_numbers_by_a_bit(tmp_path):
    ends = []
    for recorded in (False, True):
        training = Training(tmp_path, network(dropout=0.3), recorded=recorded, indicators=None, log_every_n_steps=2)
        torch.manual_seed(5)
        if recorded:
            training.recorder.begin()
        for n in range(20):
            training.step(8 + n % 3)
        ends.append(([p.detach().clone() for p in training.net.parameters()], torch.get_rng_state()))
        if recorded:
            training.recorder.end()
    (plain_weights, plain_rng), (weights, rng) = ends
    assert all(torch.equal(a, b) for a, b in zip(plain_weights, weights, strict=True))
    assert torch.equal(plain_rng, rng)


def test_steps_outside_counting_are_never_guessed(tmp_path):
    training = Training(tmp_path)
    with training.recorder as recorder:
        for _ in range(3):
            training.step()
        for _ in range(2):
            training.update(torch.randn(8, 12), torch.randint(3, (8,)))
            recorder.step((torch.zeros(8, 12), torch.zeros(8)))
    assert recorder.final["flop"] is None
    assert recorder.header["missing"]["flop"].startswith("2 of 5 batches were never counted: ")
    assert "recorder.train_batch(batch)" in recorder.header["missing"]["flop"]


def test_flops_of_ever_new_shapes_are_an_estimate_that_holds_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(counter, "MOST_CENSUSES", 4)
    training = Training(tmp_path)
    with training.recorder as recorder:
        for size in range(1, 41):
            training.step(size)
    truth = FLOP_PER_SAMPLE * sum(range(1, 41))
    low, high = recorder.header["intervals"]["flop"]
    assert low <= truth <= high
    assert recorder.final["flop"] == pytest.approx(truth)  # linear in the samples
    assert recorder.header["methods"]["flop"].startswith("estimated over ")


def test_alternating_kinds_of_step_with_equal_shapes_come_out_exact(tmp_path):
    generator, critic = nn.Linear(6, 6, bias=False), nn.Linear(6, 1, bias=False)
    recorder = Recorder(
        module=nn.ModuleList([generator, critic]), save_dir=tmp_path, clock=FakeClock(), indicators=plain()
    )
    work = {"critic": 2 * 8 * 6 * 6 + 2 * (2 * 8 * 6), "generator": 2 * (2 * 8 * 6 * 6) + 2 * (2 * 8 * 6)}
    truth = 0
    with recorder:
        for n in range(17):
            kind = "generator" if n % 2 else "critic"
            batch = torch.randn(8, 6)
            with recorder.train_batch(batch):
                fake = generator(batch)
                if kind == "critic":
                    critic(fake.detach()).sum().backward()
                else:
                    frozen = critic.weight.detach()
                    F.linear(fake, frozen).sum().backward()
            recorder.step(batch, work=kind)
            truth += work[kind]
    assert recorder.final["flop"] == truth


def test_accumulation_is_told_apart_by_position(tmp_path):
    training = Training(tmp_path)
    with training.recorder as recorder:
        for n in range(8):
            batch = torch.randn(8, 12), torch.randint(3, (8,))
            last = n % 4 == 3
            with recorder.train_batch(batch, position=last):
                F.cross_entropy(training.net(batch[0]), batch[1]).backward()
                if last:
                    training.optimizer.step()
                    training.optimizer.zero_grad()
            recorder.step(batch, optimizer_steps=int(last))
    final = recorder.final
    assert (final["flop"], final["steps"], final["batches"]) == (FLOP_PER_SAMPLE * 64, 2, 8)


def test_a_custom_operator_makes_the_count_a_lower_bound_that_names_it(tmp_path):
    @torch.library.custom_op("lightning_costs_tests::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x @ x.T

    class Odd(nn.Linear):
        def forward(self, x):
            mystery(x.detach())
            return super().forward(x)

    training = Training(tmp_path, nn.Sequential(Odd(12, 24), nn.ReLU(), nn.Linear(24, 3)))
    with training.recorder as recorder:
        training.step()
    assert recorder.header["methods"]["flop"].endswith("; lower bound: no formula for lightning_costs_tests.mystery")


def test_a_step_that_raises_counts_for_nothing_and_the_next_one_counts(tmp_path):
    training = Training(tmp_path)
    with training.recorder as recorder:
        batch = torch.randn(8, 12), torch.full((8,), 99)  # no such class
        with pytest.raises(IndexError), recorder.train_batch(batch):
            training.update(*batch)
        training.step()
    assert recorder.final["flop"] == FLOP_PER_SAMPLE * 8
    assert recorder.final["batches"] == 1.0


def test_a_look_inside_that_fails_does_not_stop_the_training(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a tensor of a kind nobody has seen")

    monkeypatch.setattr(tensors, "memory_breakdown", fail)
    training = Training(tmp_path)
    with training.recorder as recorder:
        for _ in range(3):
            training.step()
    assert recorder.final["steps"] == 3.0
    assert "RuntimeError" in recorder.header["missing"]["opt_peak_bytes"]


def test_sparse_gradients_do_not_stop_the_training(tmp_path):
    net = nn.Sequential(nn.Embedding(100, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    recorder = Recorder(
        module=net,
        optimizers=[optimizer],
        save_dir=tmp_path,
        clock=FakeClock(),
        indicators=plain(),
        log_every_n_steps=1,
    )
    with recorder:
        for _ in range(3):
            batch = torch.randint(100, (8, 2))
            with recorder.train_batch(batch):
                optimizer.zero_grad()
                net(batch).sum().backward()
                recorder.hooks.steps.sample_memory()
                optimizer.step()
            recorder.step(batch)
    assert recorder.final["steps"] == 3.0
    assert recorder.final["param_bytes"] == 4 * (400 + 8 * 3 + 3)


def test_a_lazy_module_is_counted_once_it_has_seen_a_batch(tmp_path):
    net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3))
    recorder = Recorder(module=net, save_dir=tmp_path, clock=FakeClock(), indicators=plain())
    with recorder:
        batch = torch.randn(8, 12)
        with recorder.train_batch(batch):
            net(batch).sum().backward()
        recorder.step(batch)
    assert recorder.final["params"] == 12 * 4 + 4 + 4 * 3 + 3


# Prices ------------------------------------------------------------------------------------------------------


def test_a_run_is_priced_by_its_tariff_and_can_be_priced_again(tmp_path):
    tariff = Tariff(gco2e_per_kwh=100.0, pue=1.5, usd_per_device_h=36.0, usd_per_kwh=0.5)
    training = Training(tmp_path, indicators=None, tariff=tariff, log_every_n_steps=1)
    with training.recorder as recorder:
        for _ in range(8):
            training.clock.sleep(0.25)
            training.step()
    final = recorder.final
    assert final["energy_j"] > 0
    assert final["energy_j"] == pytest.approx(final["gpu_energy_j"] + final["cpu_energy_j"] + final["ram_energy_j"])
    assert final["co2e_g"] == pytest.approx(tariff.co2e_g(final["energy_j"]), rel=1e-12)
    assert final["electricity_usd"] == pytest.approx(tariff.electricity_usd(final["energy_j"]), rel=1e-12)
    assert final["cloud_usd"] == pytest.approx(final["device_s"] / 3600 * 36.0, rel=1e-12)
    assert load_run(recorder.path).header["tariff"]["usd_per_device_h"] == 36.0


def test_without_a_tariff_prices_are_missing_with_how_to_give_them(tmp_path):
    training = Training(tmp_path, indicators=None)
    with training.recorder as recorder:
        training.step()
    missing = recorder.header["missing"]
    assert missing["co2e_g"].startswith("no place was given: Tariff(country='FRA')")
    assert missing["cloud_usd"].startswith("no device price: Tariff(usd_per_device_h=2.5)")
    assert recorder.final["cloud_usd"] is None


def test_the_tariff_of_the_environment_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_COUNTRY", "FRA")
    training = Training(tmp_path)
    assert training.recorder.header["tariff"]["intensity"]["gco2e_per_kwh"] == 56.039


# The real clock ----------------------------------------------------------------------------------------------


def test_on_the_real_clock_the_accounts_add_up_to_the_time_since_the_process_began(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "_runs_ended_s", None)
    monkeypatch.setattr(clock, "is_interactive", lambda: False)
    training = Training(tmp_path, clock=clock.now_s)
    with training.recorder as recorder:
        for _ in range(5):
            training.step()
        least_s = clock.now_s() - clock.process_began_s()
    final = recorder.final
    tick_s = 0.1  # the process's start is known in ticks of 10 ms, and read with others at work
    assert least_s - tick_s < final["total_s"] < clock.now_s() - clock.process_began_s() + tick_s
    parts = ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s")
    assert math.fsum(final[p] for p in parts) == pytest.approx(final["total_s"], rel=1e-9)
    assert 0 < final["overhead_s"] < final["total_s"]


def test_a_second_run_of_the_process_begins_where_the_first_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "_runs_ended_s", None)
    monkeypatch.setattr(clock, "is_interactive", lambda: False)
    totals = []
    for _ in range(2):
        training = Training(tmp_path, clock=clock.now_s)
        with training.recorder as recorder:
            training.step()
        totals.append(recorder.final["total_s"])
    assert totals[1] < totals[0], "the process is older than its second run"


@pytest.mark.parametrize(("point_s", "step_s"), [(0.0001, 0.001), (0.01, 0.05)])
def test_many_train_points_keep_apart_by_what_one_takes_and_totals_leave_nothing_out(tmp_path, point_s, step_s):
    clock = FakeClock(0.0)

    class Slow(Measured):
        name, unit, kind, family = "slow_calls", "calls", "counter", "data"

        def read(self, sample):
            clock.sleep(point_s)
            return 1.0

    first_s, apart_s = (min(point_s / share, MOST_APART_S) for share in (SHARE_OF_FIRST_POINTS, SHARE_OF_POINTS))
    later = FIRST_POINTS - POINTS_AT_ANY_PACE
    steps = POINTS_AT_ANY_PACE + int((later * (first_s + 2 * step_s) + 3 * apart_s) / step_s)
    indicators = [*default_indicators(), Slow()]
    recorder = Recorder(save_dir=tmp_path, log_every_n_steps=1, clock=clock, indicators=indicators)
    with recorder:
        for _ in range(steps):
            clock.sleep(step_s)
            recorder.step(torch.zeros(4, 2))
    run = load_run(recorder.path)
    ended_s = run.points.filter(polars.col("trigger") == "train")["total_s"]
    gaps_s = ended_s.diff().drop_nulls()
    assert gaps_s[: POINTS_AT_ANY_PACE - 1].to_list() == pytest.approx([step_s + point_s] * (POINTS_AT_ANY_PACE - 1))
    for gaps, least_s in (
        (gaps_s[POINTS_AT_ANY_PACE - 1 : FIRST_POINTS - 1], first_s),
        (gaps_s[FIRST_POINTS - 1 :], apart_s),
    ):
        assert len(gaps) >= 2
        assert least_s <= gaps.min() <= gaps.max() <= least_s + 2 * step_s + point_s
    assert (run.final["steps"], run.final["samples"]) == (steps, 4 * steps)


def test_a_loop_whose_counted_step_fails_is_told_how_to_train_without(tmp_path, caplog):
    class Legacy(torch.Tensor):
        """Made in the older way, which no dispatch mode of torch allows."""

        @staticmethod
        def __new__(cls, x):
            return super().__new__(cls, x)

    def train(**options):
        with Recorder(module=torch.nn.Linear(2, 1), save_dir=tmp_path, **options) as recorder:
            for batch in (torch.zeros(3, 2), torch.ones(3, 2)):
                with recorder.train_batch(batch):
                    Legacy(batch[:, [0]])
                recorder.step(batch)

    with pytest.raises(RuntimeError, match="already associated"):
        train()
    assert "LIGHTNING_COSTS_COUNT=0" in caplog.text
    train(count="off")


@pytest.mark.parametrize("compile_s", [0.0, 16.0])
def test_what_torch_compiles_in_a_counted_step_is_no_cost_of_counting(tmp_path, monkeypatch, compile_s):
    account = {"entire_frame_compile": 0, "backend_compile": 0}
    monkeypatch.setattr("torch._dynamo.utils.cumulative_time_spent_ns", account)
    training = Training(tmp_path)

    def works(*_):
        training.clock.sleep(0.25 + compile_s)
        account["entire_frame_compile"] += int(compile_s * 1e9)

    training.net.register_forward_hook(works)
    with training.recorder as recorder:
        training.step()
        compile_s = 0.0
        for _ in range(300):
            training.step()
    assert recorder.final["overhead_s"] == 0.0
    assert recorder.header["census"]["took_s"] == 0.0


def test_what_a_loop_computes_after_its_step_makes_no_other_kind_of_it(tmp_path):
    training = Training(tmp_path)
    with training.recorder as recorder:
        for n in range(40):
            batch = torch.randn(8, 12), torch.randint(3, (8,))
            with recorder.train_batch(batch):
                training.update(*batch)
            if n % 3 == 0:
                training.net(batch[0]).sum()  # a metric, with a gradient that nobody asks for
            recorder.step(batch)
    assert recorder.final["flop"] == FLOP_PER_SAMPLE * 8 * 40
    counted = recorder.header["census"]["counted_steps"]
    assert counted < 8
    how = recorder.header["methods"]["flop"]
    assert how.startswith("exact; uncounted steps are taken to be like the counted ones of their kind; step census: ")
    assert convention(how) == f"step census: {CONVENTION}"


def test_a_fact_of_the_header_that_cannot_be_read_costs_itself_alone(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(counter.StepOpCounter, "profile", lambda _: 1 / 0)
    training = Training(tmp_path)
    with training.recorder:
        for _ in range(3):
            training.step(8)
    header = training.recorder.header
    assert (header["status"], training.recorder.final["flop"]) == ("finished", FLOP_PER_SAMPLE * 24)
    assert header["census"]["batches"] == 3
    assert "step_profile" not in header
    assert caplog.text.count("the run's header has no step_profile: reading it raised ZeroDivisionError") == 1


def test_a_pass_that_is_repeated_has_the_samples_of_its_own_batch(tmp_path, monkeypatch):
    """Where something in the process is compiled, modules are watched from the second counted step on."""
    monkeypatch.setattr(counter, "may_compile", lambda module: True)
    given = {}

    def benchmark(module, args, kwargs, **options):
        given.update(options, rows=len(args[0]))
        return "not run here"

    monkeypatch.setattr(step_monitor, "benchmark_inference", benchmark)
    training = Training(tmp_path, infer=True)
    with training.recorder:
        for size in (8, 3, 8, 3):
            training.step(size)
        training.recorder.benchmark_inference()
    assert (given["rows"], given["samples"]) == (3, 3)


class NoTruth(nn.Module):
    """A wrapper that has no length until it is asked for one, as torch.compile's."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __len__(self):
        raise TypeError("it does not support len()")


def test_parameters_below_a_wrapper_without_a_length_are_known(tmp_path):
    training = Training(tmp_path)
    training.recorder.hooks.run.set_wrapped_module(NoTruth(training.net))
    with training.recorder:
        training.step()
    names = ("params", "trainable_params", "shared_params", "embedding_params", "active_params")
    assert [load_run(training.recorder.path).final[name] for name in names] == [PARAMS, PARAMS, 0, 0, PARAMS]
