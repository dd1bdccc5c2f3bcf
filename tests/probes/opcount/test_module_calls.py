from __future__ import annotations

import copy
import gc
import io
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.probes import example_batch
from lightning_costs.probes.opcount import module_calls as probe
from lightning_costs.probes.opcount.module_calls import ModuleCallRecorder


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def hooks(module):
    return [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in module.modules()]


def test_calls_and_rows_of_one_forward_pass():
    net = block()
    with ModuleCallRecorder(net) as calls:
        net(torch.randn(3, 5, 4))
    assert [calls.counts[m] for m in net.modules()] == [1, 1, 1, 1]
    assert [calls.rows[m] for m in net.modules()] == [15, 15, 15, 15]
    assert calls.outermost == [net]
    assert hooks(net) == [(0, 0)] * 4


def test_what_follows_the_first_backward_pass_is_not_noted():
    net = block()
    with ModuleCallRecorder(net) as calls:
        net(torch.randn(3, 4))
        calls.stop()
        net(torch.randn(3, 4))
    assert calls.counts[net] == 1


def test_hooks_are_gone_after_an_error_and_the_users_own_stay():
    net = block()
    net[0].register_forward_hook(lambda *_: None)
    before = hooks(net)

    def fail():
        with ModuleCallRecorder(net):
            net(torch.randn(3, 5))

    with pytest.raises(RuntimeError):
        fail()
    assert hooks(net) == before


def test_nesting_survives_an_error_that_the_step_catches():
    class Trying(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(3, 3)

        def forward(self, x):
            try:
                return self.second(x)
            except RuntimeError:
                return self.first(x)

    net = Trying()
    with ModuleCallRecorder(net) as calls:
        net(torch.randn(2, 4))
        net(torch.randn(2, 4))
    assert calls.outermost == [net, net]


def test_no_tensor_is_kept_alive_and_no_random_number_drawn():
    net = block()
    state = torch.get_rng_state()
    x = torch.zeros(3, 4)
    with ModuleCallRecorder(net) as calls:
        out = net(x)
        seen = weakref.ref(x)
        del x, out
    gc.collect()
    assert seen() is None
    assert torch.equal(torch.get_rng_state(), state)
    assert calls.why_no_example == "no example of a forward pass was kept"


def test_the_example_repeats_the_pass_and_is_a_copy():
    net = nn.Linear(4, 2)
    x = torch.randn(3, 4)
    with ModuleCallRecorder(net, keep_example=True) as calls:
        out = net(input=x)
    x.zero_()
    kept = calls.example
    assert kept is not None
    assert kept.module is net
    assert torch.equal(kept.module(*kept.args, **kept.kwargs), out)


def test_copying_the_example_is_not_seen_by_a_mode_that_counts():
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    def run(keep):
        names.clear()
        with ModuleCallRecorder(net, keep_example=keep), Seen():
            net(torch.zeros(3, 4))
        return list(names)

    names: list[str] = []
    net = nn.Linear(4, 2)
    assert run(True) == run(False)


def test_losses_have_no_parameters_and_are_no_part_of_the_forward_pass():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.loss = nn.Linear(4, 2), nn.MSELoss()

    step = Step()
    with ModuleCallRecorder(step, keep_example=True) as calls:
        step.loss(step.net(torch.zeros(3, 4)), torch.zeros(3, 2))
    assert calls.outermost == [step.net]
    assert calls.example is not None


def test_two_networks_in_turn_are_no_single_pass():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 2), nn.Conv1d(1, 1, 1)

    step = Step()
    with ModuleCallRecorder(step, keep_example=True) as calls:
        step.decoder(step.encoder(torch.zeros(1, 4)))
    assert calls.example is None
    assert calls.why_no_example == (
        "the step calls Linear and Conv1d one after the other: "
        "define forward() and call it in training_step as self(...)"
    )
    with ModuleCallRecorder(step, keep_example=True) as none:
        pass
    assert "calls no module with parameters" in none.why_no_example


def test_an_example_too_large_for_the_host_is_not_kept(monkeypatch):
    monkeypatch.setattr(example_batch, "MOST_EXAMPLE_BYTES", 16)
    net = nn.Linear(4, 2)
    with ModuleCallRecorder(net, keep_example=True) as calls:
        net(torch.zeros(3, 4))
    assert calls.example is None
    assert "hold more than" in calls.why_no_example


def test_arguments_that_cannot_be_looked_at_do_not_end_the_pass(monkeypatch):
    def broken(*_):
        raise RuntimeError("odd")

    monkeypatch.setattr(probe, "tensors_in", broken)
    net = nn.Linear(4, 2)
    with ModuleCallRecorder(net) as calls:
        assert net(torch.zeros(3, 4)).shape == (3, 2)
    assert calls.failed == "calls could not be noted: RuntimeError (its text is in the log)"


def test_modules_copied_or_saved_in_the_pass_hold_nothing_of_ours():
    class Teaching(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = block()

        def forward(self, x):
            self.teacher = copy.deepcopy(self.student)
            self.saved = io.BytesIO()
            torch.save(self.student, self.saved)
            return self.student(x)

    net = Teaching()
    with ModuleCallRecorder(net) as calls:
        net(torch.randn(3, 4))
        net.teacher(torch.randn(3, 4))
    assert hooks(net.teacher) == [(0, 0)] * 4
    assert b"lightning_costs" not in net.saved.getvalue()
    assert not [m for m in net.teacher.modules() if m in calls.counts]
    assert calls.outermost == [net]


def test_the_call_of_modules_is_given_back_whoever_leaves_first():
    was = nn.Module.__call__
    one, other = ModuleCallRecorder(block()), ModuleCallRecorder(block())
    one.__enter__()
    other.__enter__()
    one.__exit__()
    assert nn.Module.__call__ is not was
    other.__exit__()
    assert nn.Module.__call__ is was


def test_a_foreign_wrap_of_the_call_stays_and_works_on(monkeypatch):
    net, seen = block(), []
    calls = ModuleCallRecorder(net)
    calls.__enter__()
    ours = nn.Module.__call__

    def theirs(self, *args, **kwargs):
        seen.append(self)
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__call__", theirs)
    calls.__exit__()
    with ModuleCallRecorder(net) as again:
        net(torch.randn(3, 4))
    assert (again.counts[net], seen[0]) == (1, net)
    monkeypatch.undo()
    net(torch.randn(3, 4))
    with ModuleCallRecorder(net) as last:
        net(torch.randn(3, 4))
    assert last.counts[net] == 1
    assert "lightning_costs" not in nn.Module.__call__.__module__


def test_calls_in_other_threads_are_not_noted():
    net = block()
    with ModuleCallRecorder(net) as calls:
        thread = threading.Thread(target=net, args=(torch.randn(3, 4),))
        thread.start()
        thread.join()
    assert net not in calls.counts


def test_a_module_that_does_not_tell_its_parts_is_called_as_ever():
    class Closed(nn.Linear):
        def modules(self):
            raise RuntimeError("not for you")

    net = Closed(4, 2)
    with ModuleCallRecorder(net) as calls:
        assert net(torch.zeros(3, 4)).shape == (3, 2)
    assert "RuntimeError" in calls.why_no_example or "no example" in calls.why_no_example
