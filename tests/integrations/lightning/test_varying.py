"""FLOPs of trainings whose steps vary: every step counted by hand is in the interval, in a real Trainer."""

import pytest
from varying import TRAININGS, train, true_flop

from lightning_costs import CostMonitor
from lightning_costs.probes.opcount import sampling

pytestmark = pytest.mark.integration

#: Of these, nothing that is seen without counting tells the steps apart: drawn steps alone can tell.
SILENT = {
    "expert rows that vary",
    "unpadding by lengths",
    "a silent teacher from step 100 on",
    "rejection sampling",
    "curriculum of growing rows",
}
QUICK = {
    "early exit at random",
    "freezing in mid-epoch",
    "lengths without end",
    "one in five steps four times as long",
    "a loss over a part at random",
    "nothing varies",
}
#: Kinds of these are all counted within two epochs.
EXACT = {"one in five steps four times as long", "nothing varies"}


def measured(name, tmp_path, **options):
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    module = train(name, [monitor], **options)
    return monitor.run, module


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TRAININGS if n not in SILENT]
)
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_the_flops_of_every_step_are_in_the_interval(name, tmp_path):
    run, _ = measured(name, tmp_path, epochs=2)
    truth, flop, how = true_flop(name, epochs=2), run.final["flop"], run.header["methods"]["flop"]
    low, high = run.header.get("intervals", {}).get("flop", (flop, flop))
    assert low * (1 - 1e-9) <= truth <= high * (1 + 1e-9)
    assert how.startswith("exact; ") == ("flop" not in run.header.get("intervals", {}))
    assert flop == pytest.approx(truth, rel=0.02)
    assert flop == truth or name not in EXACT


@pytest.mark.parametrize("name", ["unpadding by lengths"])
def test_where_nothing_tells_steps_apart_the_number_says_that_it_is_estimated_over_a_sample(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(sampling, "ALLOWED_S", 60.0)  # how many are drawn must not hang on this machine's pace
    run, _ = measured(name, tmp_path, epochs=2)
    low, high = run.header["intervals"]["flop"]
    assert low < true_flop(name, epochs=2) < high
    counted = run.header["census"]["counted_steps"]
    assert run.header["methods"]["flop"].startswith(f"estimated over {counted} sampled steps of 200, 95 % interval ")
    assert {"mac", "model_flop", "flop_per_s", "forward_flop"} <= run.header["intervals"].keys()
    assert run.points["flop"].is_sorted()


@pytest.mark.parametrize("name", ["layer drop", "lengths without end"])
def test_counting_again_leaves_the_weights_as_they_would_be(name, tmp_path):
    _, module = measured(name, tmp_path, epochs=1)
    for own, plain in zip(module.parameters(), train(name, [], epochs=1).parameters(), strict=True):
        assert own.equal(plain)


def test_the_first_pass_of_an_epoch_that_looks_at_pictures_does_not_stand_for_the_others(tmp_path):
    run, _ = measured("a look at 2,000 samples in an epoch's first batch", tmp_path, epochs=2)
    plain, _ = measured("nothing varies", tmp_path, epochs=2)
    assert run.final["forward_flop"] == plain.final["forward_flop"]
    assert run.final["op_calls"] == plain.final["op_calls"]
