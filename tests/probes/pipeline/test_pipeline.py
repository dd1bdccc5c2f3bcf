"""A stage's tape against a told truth, and the shadows on torch's own schedules, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock, FakeStream
from torch import distributed, nn
from torch.distributed import pipelining

from lightning_costs import Recorder
from lightning_costs.indicators.compute import Flop, ForwardFlop
from lightning_costs.indicators.counts import Samples, Steps
from lightning_costs.indicators.pipeline import BubbleFraction, BubbleS, StageBusyS, StageOutsideS, StageStepS
from lightning_costs.integrations.deepspeed import watch_pipeline
from lightning_costs.patching.patches import Patches
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.pipeline.detect import find_pipelines, instrument_pipeline, is_pipeline
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.probes.pipeline.stage_timer import MOST_STEPS, HostEvents, StageTimer
from lightning_costs.probes.pipeline.timeline_exchange import TimelineExchange
from lightning_costs.records.pipeline.ideal_bubble import PipelineShape
from lightning_costs.records.pipeline.timeline import Span
from lightning_costs.records.samples import PipelineTime, RankInfo

# The tape -----------------------------------------------------------------------------------------------------------


def step(
    tape: StageTimer[Any], clock: FakeClock, *, busy_s: float = 1.0, wait_s: float = 0.5, after_s: float = 0.25
) -> None:
    """A step of the host's: waiting, a forward pass, an update, and what lies before the next one."""
    tape.begin()
    clock.sleep(wait_s)
    begun = tape.mark()
    clock.sleep(busy_s)
    tape.add_span("F", 0, 0, begun)
    begun = tape.mark()
    clock.sleep(0.125)
    tape.add_span("U", 0, -1, begun)
    tape.end()
    clock.sleep(after_s)


def host_tape() -> tuple[StageTimer[float], FakeClock]:
    clock = FakeClock()
    return StageTimer(HostEvents(clock), clock.time), clock


def test_a_step_goes_from_its_begin_to_the_next_ones_and_the_first_is_warm_up() -> None:
    tape, clock = host_tape()
    for busy_s in (100.0, 1.0, 2.0, 4.0):
        step(tape, clock, busy_s=busy_s)
        tape.mark_steady(steady=True)
    assert tape.collect() == PipelineTime(steps=2, step_s=2 * 0.875 + 3.0, busy_s=3.0, outside_s=2 * (0.125 + 0.25)), (
        "of the last one nobody knows yet where it ends"
    )
    assert tape.collect() == PipelineTime()
    tape.begin()
    assert tape.collect() == PipelineTime(steps=1, step_s=4.875, busy_s=4.0, outside_s=0.375)


def test_steps_that_are_warm_up_or_interrupted_leave_all_sums_alike() -> None:
    tape, clock = host_tape()
    for number in range(6):
        step(tape, clock, busy_s=2.0**number)
        tape.mark_steady(steady=number not in (0, 1))  # a counted step, say
        if number == 3:
            tape.interrupted()  # an evaluation follows
            clock.sleep(1000.0)
    tape.begin()
    assert tape.collect() == PipelineTime(steps=3, step_s=3 * 0.875 + 52.0, busy_s=4.0 + 16 + 32, outside_s=3 * 0.375)


def test_an_accumulation_of_several_pipeline_steps_is_judged_as_one() -> None:
    tape, clock = host_tape()
    for number in range(6):
        step(tape, clock)
        if number % 2:
            tape.mark_steady(steady=number > 1)
    tape.begin()
    assert tape.collect().steps == 4


def test_a_pass_that_is_split_over_two_calls_or_overlaps_another_is_busy_once() -> None:
    tape, clock = host_tape()
    for _ in range(3):
        tape.begin()
        first = tape.mark()
        clock.sleep(1.0)
        second = tape.mark()
        clock.sleep(1.0)
        tape.add_span("F", 0, 0, first)
        clock.sleep(1.0)
        tape.add_span("B", 0, 0, second)
        tape.end()
    assert tape.collect().busy_s == 3.0


def test_what_lies_between_passes_is_sending_receiving_or_idle() -> None:
    tape, clock = host_tape()
    for _ in range(2):
        tape.begin()
        clock.sleep(0.5)
        if tape.detailed:
            tape.on_recv_start("F", 1, 7)  # posted early
            tape.on_gap("S", 0, 6)
        clock.sleep(1.0)
        if tape.detailed:
            tape.on_gap("")
        clock.sleep(0.25)
        if tape.detailed:
            tape.on_compute_start("F", 1, 7)  # and waited for here
        begun = tape.mark()
        clock.sleep(2.0)
        tape.add_span("F", 1, 7, begun)
        if tape.detailed:
            tape.on_gap("")
        clock.sleep(0.5)
        tape.end()
    tape.read()
    assert tape.example_step is not None
    number, began, length_s, intervals = tape.example_step
    assert (number, began, length_s) == (1, clock.time() - 4.25, 4.25)
    assert intervals == [
        Span("R", 1, 7, 0.5, 0.5),
        Span("S", 0, 6, 0.5, 1.5),
        Span("R", 1, 7, 1.5, 1.75),
        Span("F", 1, 7, 1.75, 3.75),
    ]


def test_of_a_device_only_what_has_happened_is_read_and_every_event_is_given_back() -> None:
    clock = FakeClock()
    stream = FakeStream(clock)
    tape: StageTimer[Any] = StageTimer(stream, clock.time)
    for _ in range(5):
        tape.begin()
        begun = tape.mark()
        stream.launch(2.0)
        tape.add_span("F", 0, 0, begun)
        stream.launch(1.0, "update")
        tape.end()
        tape.mark_steady(steady=True)
    assert tape.collect() == PipelineTime(), "the device has done nothing yet, and nobody waits"
    clock.sleep(7.0)
    assert tape.collect() == PipelineTime(steps=1, step_s=3.0, busy_s=2.0, outside_s=0.0)
    stream.synchronize()
    assert tape.collect() == PipelineTime(steps=2, step_s=6.0, busy_s=4.0, outside_s=0.0)
    assert stream.in_use == 4, "the step in work's begin, its pass and its end"


def test_a_device_far_behind_keeps_the_tape_bounded() -> None:
    clock = FakeClock()
    stream = FakeStream(clock)
    tape: StageTimer[Any] = StageTimer(stream, clock.time)
    for _ in range(5 * MOST_STEPS):
        tape.begin()
        begun = tape.mark()
        stream.launch(1.0)
        tape.add_span("F", 0, 0, begun)
        tape.end()
    assert stream.in_use <= 4 * (MOST_STEPS + 1)
    stream.synchronize()
    found = tape.collect()
    assert found.steps == MOST_STEPS
    assert found.busy_s == found.step_s == MOST_STEPS


def test_the_latest_of_the_first_steps_is_drawn_and_messages_are_noted_in_no_other() -> None:
    tape, clock = host_tape()
    detailed = []
    for _ in range(8):
        step(tape, clock)
        tape.begin()
        detailed.append(tape.detailed)
        tape.end()
    assert tape.example_step is not None
    assert tape.example_step[0] == 5
    assert detailed == [True] * 3 + [False] * 5


# The shadows --------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def made(schedule: str = "ScheduleInterleaved1F1B", parts: int = 2, m: int = 4, loss: bool = True) -> Any:
    stages = [pipelining.PipelineStage(nn.Linear(3, 3), part, parts, torch.device("cpu")) for part in range(parts)]
    single = schedule in ("ScheduleGPipe", "Schedule1F1B")
    kind = getattr(pipelining, schedule)
    return kind(stages[0] if single else stages, m, loss_fn=nn.functional.mse_loss if loss else None)


def recorder(folder: Path, **options: Any) -> Recorder:
    kinds = (StageStepS, StageBusyS, StageOutsideS, BubbleS, BubbleFraction)
    return Recorder(
        indicators=[kind() for kind in kinds],
        save_dir=folder,
        place=RankInfo(),
        places=[RankInfo()],
        device="cpu",
        **options,
    )


@pytest.mark.usefixtures("alone")
def test_passes_are_noted_with_kind_chunk_and_microbatch(tmp_path: Path) -> None:
    schedule = made()
    x = torch.ones(8, 3)
    with recorder(tmp_path) as run:
        watch_pipeline(schedule, run)
        for _ in range(6):
            with run.train_batch(x):
                schedule.step(x, target=x)
            run.step(x)
    told = run.header["pipeline"]
    assert (told["engine"], told["schedule"]) == ("torch.distributed.pipelining", "ScheduleInterleaved1F1B")
    assert (told["stages"], told["microbatches"], told["chunks"], told["theory"]) == (1, 4, 2, "(p-1)/(vm+p-1)")
    (lane,) = told["timeline"]["lanes"]
    passes = {(kind, chunk, microbatch) for kind, chunk, microbatch, *_ in lane["intervals"] if kind in "FB"}
    assert passes == {(kind, chunk, microbatch) for kind in "FB" for chunk in (0, 1) for microbatch in range(4)}
    final = run.final
    assert final["stage_step_s"] > final["bubble_s"] > 0  # type: ignore[operator]
    assert final["stage_busy_s"] + final["bubble_s"] == pytest.approx(final["stage_step_s"])  # type: ignore[operator]
    assert final["bubble_s"] >= final["stage_outside_s"] > 0  # type: ignore[operator]


@pytest.mark.usefixtures("alone")
def test_the_loss_of_the_last_stage_is_forward_work(tmp_path: Path) -> None:
    schedule = made("ScheduleGPipe", parts=1)
    waits = FakeClock()
    schedule._loss_fn = lambda output, target: (waits.sleep(1.0), nn.functional.mse_loss(output, target))[1]
    x = torch.ones(4, 3)
    tape: StageTimer[float] = StageTimer(HostEvents(waits), waits.time)
    shadows = Patches()
    instrument_pipeline(schedule, tape, shadows)
    for _ in range(3):
        schedule.step(x, target=x)
    shadows.restore()
    assert tape.collect() == PipelineTime(steps=1, step_s=4.0, busy_s=4.0, outside_s=0.0)


@pytest.mark.usefixtures("alone")
def test_an_evaluation_through_the_schedule_is_no_step_and_breaks_the_one_before(tmp_path: Path) -> None:
    schedule = made("ScheduleGPipe", parts=1)
    x = torch.ones(8, 3)
    pipeline = Pipeline(ProbeContext())
    pipeline.watch(schedule)
    for _ in range(4):
        schedule.step(x, target=x)
        schedule.eval(x, target=x)
    found = pipeline.collect()
    assert found == PipelineTime()
    pipeline.detach()


@pytest.mark.usefixtures("alone")
def test_everything_is_lifted_at_the_end_and_a_users_own_shadow_stays(tmp_path: Path) -> None:
    schedule = made()
    (stage, other), calls = schedule._stages, []
    own = other.forward_one_chunk
    other.forward_one_chunk = lambda *args, **kwargs: (calls.append(args[0]), own(*args, **kwargs))[1]
    mine = other.forward_one_chunk
    before = [dict(vars(each)) for each in (schedule, stage)]
    x = torch.ones(8, 3)
    with recorder(tmp_path) as run:
        watch_pipeline(schedule, run)
        assert "forward_one_chunk" in vars(stage)
        with run.train_batch(x):
            schedule.step(x, target=x)
        run.step(x)
    assert [set(vars(each)) - set(was) for each, was in zip((schedule, stage), before, strict=True)] == [set(), set()]
    assert other.forward_one_chunk is mine
    assert calls == [0, 1, 2, 3]


@pytest.mark.usefixtures("alone")
def test_shape_inference_of_the_first_step_is_none_of_its_flops(tmp_path: Path) -> None:
    schedule = made("ScheduleGPipe", parts=1)
    x = torch.ones(8, 3)
    with Recorder(
        module=schedule._stage.submod, indicators=[Flop(), ForwardFlop(), StageStepS()], save_dir=tmp_path,
        place=RankInfo(), places=[RankInfo()],
    ) as run:  # fmt: skip
        watch_pipeline(schedule, run)
        for _ in range(3):
            with run.train_batch(x):
                schedule.step(x, target=x)
            run.step(x)
    assert run.final["flop"] == 3 * 2 * (2 * 8 * 3 * 3), "forward and the weights' gradient: the data has none"
    assert run.final["forward_flop"] is None
    assert "no forward pass of a whole batch" in run.header["missing"]["forward_flop"]


@pytest.mark.usefixtures("alone")
def test_a_run_has_one_pipeline_and_an_object_that_is_none_is_refused(tmp_path: Path) -> None:
    schedule = made()
    with recorder(tmp_path) as run:
        watch_pipeline(schedule, run)
        watch_pipeline(schedule, run)  # the same again is no other
        with pytest.raises(ValueError, match="one pipeline is watched in a run"):
            watch_pipeline(made(), run)
        with pytest.raises(ValueError, match=r"expected a schedule .* or a DeepSpeed PipelineEngine, got Linear"):
            Pipeline(ProbeContext()).watch(nn.Linear(1, 1))
        with pytest.raises(ValueError, match="a schedule fetches no batches"):
            Pipeline(ProbeContext()).watch(schedule, run)
    with pytest.raises(ValueError, match="has ended"):
        watch_pipeline(schedule, run)


@pytest.mark.usefixtures("alone")
def test_pipelines_are_found_among_a_modules_attributes_and_in_containers() -> None:
    first, second, third = made(), made(), made()
    module = nn.Module()
    module.schedule, module.others, module.named, module.same = first, [1, second], {"it": third}, first
    assert find_pipelines(module) == [first, second, third]
    assert find_pipelines(nn.Linear(1, 1)) == []
    assert is_pipeline(first)
    assert not is_pipeline(module)


def test_lanes_of_ranks_that_never_come_are_waited_for_no_longer_than_agreed() -> None:
    store = distributed.HashStore()
    lanes = [TimelineExchange([0, 1, 2], store) for _ in range(2)]
    lanes[1]._prefix = lanes[0]._prefix  # as on another rank
    lanes[1].leave({"rank": 1, "step": 4})
    lanes[1].leave({"rank": 1, "step": 5})
    assert lanes[0].read({"rank": 0, "step": 5}, 0.05) == [{"rank": 0, "step": 5}, {"rank": 1, "step": 5}]


# An engine like DeepSpeed's ----------------------------------------------------------------------------------------


class ForwardPass:
    pass


class SendActivation:
    pass


class OptimizerStep:
    pass


class TrainSchedule:
    pass


class PipelineEngine:
    """What `DeepSpeed` has and its shadows use, over a told clock; the real one runs in test_pipeline_processes."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.device, self.grid, self.micro_batches = clock, torch.device("cpu"), self, 2
        self.pipe_parallel_size = 1

    def get_data_parallel_id(self) -> int:
        return 3

    def get_stage_id(self) -> int:
        return 1

    def get_slice_parallel_rank(self) -> int:
        return 2

    def get_pipe_parallel_group(self) -> Any:
        return distributed.group.WORLD

    def train_micro_batch_size_per_gpu(self) -> int:
        return 8

    def _train_schedule(self) -> TrainSchedule:
        return TrainSchedule()

    def _next_batch(self) -> None:
        self.clock.sleep(0.5)

    def _run(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    _INSTRUCTION_MAP = {ForwardPass: _run, SendActivation: _run, OptimizerStep: _run}  # noqa: RUF012 - as there

    def _go(self) -> None:
        for _ in range(2):
            self._next_batch()
            self._INSTRUCTION_MAP[ForwardPass](self, 2.0)
            self._INSTRUCTION_MAP[SendActivation](self, 0.25)

    def train_batch(self, data_iter: object = None) -> float:
        self._go()
        self._INSTRUCTION_MAP[OptimizerStep](self, 1.0)
        return 0.5

    def eval_batch(self, data_iter: object) -> float:
        self._go()
        return 0.25


@pytest.mark.usefixtures("alone")
def test_an_engines_batches_are_steps_where_its_loop_tells_none(tmp_path: Path) -> None:
    clock = FakeClock()
    engine = PipelineEngine(clock)
    kinds = (StageStepS, StageBusyS, StageOutsideS, Samples, Steps)
    with Recorder(
        indicators=[kind() for kind in kinds], save_dir=tmp_path, place=RankInfo(), places=[RankInfo()], clock=clock
    ) as run:
        watch_pipeline(engine, run, steps=True)
        tape = run.hooks.run.context.probe(Pipeline)._tape
        assert tape is not None
        tape.mark = clock
        for _ in range(7):
            assert engine.train_batch() == 0.5
        assert run.hooks.run.context.place == RankInfo(replica=3, stage=1, shard=2)
    assert run.final["samples"] == 7 * 2 * 8
    assert run.final["steps"] == 7
    assert run.final["stage_step_s"] == 3 * 6.5, "three are warm-up, and the last has no next one"
    assert run.final["stage_busy_s"] == 3 * 4.0
    assert run.final["stage_outside_s"] == 3 * 1.0
    assert run.hooks.steps.accounts.data_wait_s() == 7 * 2 * 0.5
    assert "_INSTRUCTION_MAP" not in vars(engine)
    assert "train_batch" not in vars(engine)
    told = run.header["pipeline"]
    assert (told["engine"], told["schedule"], told["theory"]) == ("DeepSpeed", "TrainSchedule", "(p-1)/(m+p-1)")
    kinds_drawn = [(kind, microbatch) for kind, _, microbatch, *_ in told["timeline"]["lanes"][0]["intervals"]]
    assert kinds_drawn == [("F", 0), ("S", 0), ("F", 1), ("S", 1), ("U", -1)]


@pytest.mark.usefixtures("alone")
def test_an_engines_evaluation_breaks_the_step_before_and_is_none() -> None:
    engine = PipelineEngine(FakeClock())
    pipeline = Pipeline(ProbeContext())
    assert pipeline.watch(engine) == RankInfo(replica=3, stage=1, shard=2)
    assert pipeline.shape == PipelineShape(engine="DeepSpeed", schedule="TrainSchedule", stages=1, microbatches=2)
    for _ in range(3):
        engine.train_batch()
        engine.eval_batch(None)
    assert pipeline.collect() == PipelineTime()
    pipeline.detach()


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
def test_a_fault_of_the_tape_stops_the_timing_and_never_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = made()
    x = torch.ones(8, 3)
    with recorder(tmp_path) as run:
        watch_pipeline(schedule, run)
        tape = run.hooks.run.context.probe(Pipeline)._tape
        assert tape is not None

        def fails(*_: Any) -> float:
            raise RuntimeError("device event not ready")

        for number in range(4):
            if number == 2:
                tape._events.between_s = fails  # type: ignore[method-assign]
            schedule.step(x, target=x)
            run.step(x)
    assert sum("timing the pipeline's stages failed" in record.message for record in caplog.records) == 1
    assert run.final["stage_step_s"] is None
    assert run.header["missing"]["stage_step_s"] == "timing the stages failed; the log has the error"


@pytest.mark.usefixtures("alone")
def test_a_step_that_raises_counts_for_nothing() -> None:
    schedule = made("ScheduleGPipe", parts=1)
    x = torch.ones(8, 3)
    clock = FakeClock()
    tape: StageTimer[float] = StageTimer(HostEvents(clock), clock.time)
    shadows = Patches()
    instrument_pipeline(schedule, tape, shadows)
    for number in range(5):
        if number == 2:
            with pytest.raises(RuntimeError, match="failed to run forward"):
                schedule.step(x, target=x, unknown=1)
        schedule.step(x, target=x)
    tape.begin()
    shadows.restore()
    assert tape.collect().steps == 4, "the second to the fifth that went through"


@pytest.mark.usefixtures("alone")
def test_an_engine_of_an_unknown_version_is_given_back_as_it_was(tmp_path: Path) -> None:
    schedule = made()
    del schedule._n_microbatches
    before = set(vars(schedule))
    with recorder(tmp_path) as run, pytest.raises(AttributeError):
        watch_pipeline(schedule, run)
    assert set(vars(schedule)) == before


def test_a_pass_on_a_stream_of_its_own_is_waited_for() -> None:
    clock = FakeClock()
    stream, other = FakeStream(clock), FakeStream(clock)
    tape: StageTimer[Any] = StageTimer(stream, clock.time)
    for _ in range(3):
        tape.begin()
        begun = tape.mark()
        other.launch(8.0)
        stream.free_at_s, was = other.free_at_s, stream.free_at_s  # the pass's end is recorded on the other one
        tape.add_span("F", 0, 0, begun)
        stream.free_at_s = was
        stream.launch(1.0)
        tape.end()
    clock.sleep(4.0)
    assert tape.collect() == PipelineTime()
    clock.sleep(20.0)
    assert tape.collect().steps == 1


def test_a_store_that_fails_leaves_the_picture_without_other_stages(caplog: pytest.LogCaptureFixture) -> None:
    lanes = TimelineExchange([0, 1], object())
    lanes.leave({"rank": 0, "step": 5})
    assert lanes.read({"rank": 0, "step": 5}, 0.0) == [{"rank": 0, "step": 5}]
    assert len(caplog.records) == 2
