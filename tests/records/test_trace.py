from __future__ import annotations

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.trace import (
    TracedStep,
    TraceEvent,
    device_steps,
    host_steps,
    kernel_category,
    length,
    merged,
    perfetto,
    without,
)

GEMM, NCCL, COPY, ADD = "sm90_xmma_gemm_bf16", "ncclDevKernel_AllReduce", "Memcpy HtoD", "vectorized_elementwise_kernel"


class Device:
    """A simulated device: kernels begin when they were launched and their stream is free."""

    def __init__(self) -> None:
        self.events: list[TraceEvent] = []
        self.free_s = {0: 0.0, 1: 0.0}
        self.host_s = 0.0
        self.steps: list[list[tuple[float, float]]] = []

    def launch(
        self, name: str, seconds: float, *, stream: int = 0, after: int | None = None, host_s: float = 0.5
    ) -> None:
        begun_s, self.host_s = self.host_s, self.host_s + host_s
        correlation = len(self.events) + 1
        self.events.append(TraceEvent("launch", "cudaLaunchKernel", 7, begun_s, self.host_s, correlation))
        start_s = max(self.host_s, self.free_s[stream], self.free_s[after] if after is not None else 0.0)
        self.free_s[stream] = start_s + seconds
        self.events.append(TraceEvent("kernel", name, stream, start_s, self.free_s[stream], correlation))

    def step(self, *work: object) -> None:
        begun_s = self.host_s
        for one in work:
            if callable(one):
                one()
            elif isinstance(one, float):
                self.host_s += one
        self.steps.append([(begun_s, self.host_s)])

    def read(self) -> list[TracedStep]:
        shuffled = self.events.copy()
        random.Random(1).shuffle(shuffled)
        return device_steps(shuffled, self.steps)


def test_hidden_and_exposed_communication_of_known_overlap() -> None:
    device = Device()

    def work() -> None:
        device.launch(GEMM, 8.0)
        device.launch(NCCL, 6.0, stream=1)  # hidden
        device.launch(GEMM, 4.0)
        device.launch(NCCL, 5.0, stream=1, after=0)  # begins when computation is over
        device.launch(ADD, 1.0, after=1)

    device.step(work)
    device.step(work)
    steps = device.read()
    assert [step.exposed_comm_s for step in steps] == pytest.approx([5.0, 5.0])
    assert [step.by_category_s["matrix products"] for step in steps] == pytest.approx([12.0, 12.0])
    assert sum(step.comm_s for step in steps) == pytest.approx(22.0), "the second step's begins in the first one"


def test_a_sleep_of_the_host_before_the_first_kernel_is_idle_and_late() -> None:
    device = Device()
    device.step(lambda: device.launch(GEMM, 2.0))
    device.host_s = 100.0  # the loader: between steps
    device.step(30.0, lambda: device.launch(GEMM, 2.0))
    step = device.read()[1]
    assert step.step_s == pytest.approx(30.0 + 0.5 + 2.0)
    assert step.idle_s == step.late_s == pytest.approx(30.5)


def test_an_item_between_kernels_leaves_the_device_waiting() -> None:
    device = Device()

    def item() -> None:
        device.host_s = device.free_s[0] + 3.0  # the host waits for the device, and then for itself

    device.step(lambda: device.launch(GEMM, 2.0), item, lambda: device.launch(GEMM, 2.0))
    (step,) = device.read()
    assert step.idle_s == step.late_s == pytest.approx(0.5 + 3.0 + 0.5)


def test_tiny_kernels_are_bound_by_their_launches() -> None:
    device = Device()

    def tiny() -> None:
        for _ in range(100):
            device.launch(ADD, 0.1)

    device.step(tiny)
    (step,) = device.read()
    assert step.step_s == pytest.approx(50.1)
    assert step.late_s / step.step_s == pytest.approx(0.8, abs=0.005)


def test_a_host_that_runs_ahead_leaves_no_idle_and_the_step_is_the_devices() -> None:
    device = Device()
    for _ in range(3):
        device.step(lambda: device.launch(GEMM, 10.0), lambda: device.launch(COPY, 1.0))
    first, *others = device.read()
    for step in others:
        assert step.step_s == pytest.approx(11.0)
        assert step.idle_s == step.late_s == 0.0
        assert step.by_category_s == pytest.approx({"matrix products": 10.0, "memory copies": 1.0})
    assert first.idle_s == pytest.approx(0.5), "up to its first kernel"


def test_a_gap_that_was_launched_in_time_is_idle_and_not_late() -> None:
    events = [
        TraceEvent("launch", "cudaLaunchKernel", 7, 0.0, 0.1, 1),
        TraceEvent("launch", "cudaLaunchKernel", 7, 0.1, 0.2, 2),
        TraceEvent("kernel", GEMM, 0, 0.1, 1.0, 1),
        TraceEvent("kernel", GEMM, 0, 3.0, 4.0, 2),  # it waits for something else
    ]
    (step,) = device_steps(events, [[(0.0, 0.2)]])
    assert step.idle_s == pytest.approx(2.1)
    assert step.late_s == pytest.approx(0.1)


def test_waiting_for_data_between_batches_is_outside_of_an_accumulated_step() -> None:
    events = [
        event
        for n in range(2)
        for event in (
            TraceEvent("launch", "cudaLaunchKernel", 7, 10.0 * n, 10.0 * n + 0.5, n + 1),
            TraceEvent("kernel", GEMM, 0, 10.0 * n + 0.5, 10.0 * n + 2.0, n + 1),
        )
    ]
    (step,) = device_steps(events, [[(0.0, 0.5), (10.0, 10.5)]])
    assert step.step_s == pytest.approx(4.0)
    assert step.idle_s == pytest.approx(1.0)


def test_operators_of_a_cpu_are_counted_without_those_that_they_call() -> None:
    events = [
        TraceEvent("operator", "aten::linear", 1, 0.0, 10.0),
        TraceEvent("operator", "aten::addmm", 1, 1.0, 9.0),
        TraceEvent("operator", "aten::copy_", 1, 2.0, 3.0),
        TraceEvent("operator", "aten::add_", 1, 12.0, 14.0),
        TraceEvent("operator", "AddmmBackward0", 2, 15.0, 18.0),
        TraceEvent("operator", "aten::mm", 2, 15.0, 17.0),
        TraceEvent("operator", "aten::mm", 1, 30.0, 40.0),  # outside
    ]
    (step,) = host_steps(events, [[(0.0, 20.0)]])
    assert step.by_category_s == {
        "matrix products": 2.0 + 7.0 + 2.0,
        "memory copies": 1.0,
        "elementwise and reduction": 2.0,
        "other": 1.0,
    }
    assert step.idle_s == 20.0 - 10.0 - 2.0 - 3.0


def test_intervals_are_those_of_a_brute_force_count() -> None:
    draw = random.Random(3)

    def some() -> list[tuple[float, float]]:
        return [(begun, begun + draw.randrange(1, 9)) for begun in (draw.randrange(60) for _ in range(8))]

    def cells(intervals: list[tuple[float, float]]) -> set[int]:
        return {cell for begun, ended in intervals for cell in range(int(begun), int(ended))}

    for _ in range(200):
        a, b = some(), some()
        assert cells(merged(a)) == cells(a)
        assert length(merged(a)) == len(cells(a))
        assert cells(without(a, b)) == cells(a) - cells(b)
        assert length(without(a, b)) == len(cells(a) - cells(b))


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NTT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64>", "matrix products"),
        ("triton_tem_fused_mm_3", "matrix products"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32", "convolutions"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel", "elementwise and reduction"),
        # As an H200 ran them under torch 2.11: a GPT, a ResNet-50 and an LSTM.
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT", "matrix products"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8_stage3_ffma_cublas", "matrix products"),
        ("fmha_cutlassB_f32_aligned_64x64_k64_sm80(PyTorchMemEffAttention::AttentionBackwardKernel", "attention"),
        ("sm90_xmma_wgrad_indexed_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x32", "convolutions"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816fprop_optimized_bf16>", "convolutions"),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate", "elementwise and reduction"),
        ("void cudnn::bn_bw_1C11_kernel_new<float, float, float2, 128, true, 1>", "elementwise and reduction"),
        ("void elemWiseRNNcell<__half, __half, float, (cudnnRNNMode_t)2>", "elementwise and reduction"),
        ("void LSTM_elementWise_bp1<__half, __half, float>", "elementwise and reduction"),
        ("void at::native::elementwise_kernel<128, 2, at::native::gpu_kernel_impl", "elementwise and reduction"),
        ("void at::native::(anonymous namespace)::compute_grad_weight<float, long>", "elementwise and reduction"),
        ("void at_cuda_detail::cub::detail::unique_by_key::DeviceUniqueByKeySweepKernel", "elementwise and reduction"),
        ("triton_poi_fused_convolution_backward_3", "elementwise and reduction"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("triton_per_fused__softmax_0", "elementwise and reduction"),
        ("triton_poi_fused_add_mm_2", "elementwise and reduction"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel", "elementwise and reduction"),
        ("Memset (Device)", "memory copies"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "communication"),
    ],
)
def test_kernels_have_their_category(name: str, category: str) -> None:
    assert kernel_category(name) == category


def test_a_kept_trace_names_no_path_and_has_every_event_with_its_launch() -> None:
    events = [
        TraceEvent("operator", "step /home/someone/train.py(12)", 4711, 5.0, 6.0),
        TraceEvent("note", r"C:\Users\someone\x.py", 4711, 5.0, 6.0),
        TraceEvent("launch", "cudaLaunchKernel", 4711, 5.25, 5.5, 9),
        TraceEvent("kernel", "void kernel<4, a/b>(int*)", 7, 5.5, 5.75, 9),
    ]
    text = gzip.decompress(perfetto(events)).decode()
    assert "someone" not in text
    assert "4711" not in text, "threads are numbered"
    rows = json.loads(text)["traceEvents"]
    kernel = next(row for row in rows if row.get("cat") == "kernel")
    assert (kernel["ph"], kernel["ts"], kernel["dur"]) == ("X", 0.5e6, 0.25e6)
    assert [row["ph"] for row in rows if row.get("cat") == "launch"] == ["X", "s", "f"]


@given(busy_s=st.floats(0.0, 10.0), idle_s=st.floats(0.0, 10.0), late=st.floats(0.0, 1.0), pace_s=st.floats(0.0, 30.0))
def test_what_a_profiler_adds_to_a_step_is_taken_out_of_its_idle_time(
    busy_s: float, idle_s: float, late: float, pace_s: float
) -> None:
    step = TracedStep(step_s=busy_s + idle_s, by_category_s={}, idle_s=idle_s, late_s=late * idle_s)
    found = step.at_pace(pace_s)
    assert found.step_s == pytest.approx(min(step.step_s, max(pace_s, busy_s)))
    assert found.step_s - found.idle_s == pytest.approx(busy_s)
    assert found.late_s == pytest.approx(late * found.idle_s)
