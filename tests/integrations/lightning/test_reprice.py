"""Real Trainers under a tariff: priced again they equal those trained under it, and nothing asks the network."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from fakes import measured
from lightning_models import NAMESPACES, classifier, data, namespace

from lightning_costs import CostMonitor, Tariff, compare, load_run, load_runs
from lightning_costs.indicators import carbon_and_money
from lightning_costs.pricing.carbon_intensity import lookup_carbon_intensity
from lightning_costs.pricing.rates import PRICED
from lightning_costs.storage.run_folder.files import HEADER
from lightning_costs.storage.run_folder.reprice import reprice_folder

A = Tariff(country="FRA", pue=1.1, usd_per_device_h=2.5, usd_per_kwh=0.21)
B = Tariff(country="USA", region="US-TX", pue=1.37, usd_per_node_h=31.7, usd_per_kwh=0.113)


def indicators():
    """What a run uses, told from its steps alone: two trainings use the same."""
    return [
        measured("total_s", reads=lambda s: 0.1 * s.steps),
        measured("device_s", reads=lambda s: 0.8 * s.steps),
        measured("node_s", reads=lambda s: 0.3 * s.steps),
        measured("steps", "steps", reads=lambda s: float(s.steps)),
        measured("energy_j", reads=lambda s: 17.3 * s.steps),
        carbon_and_money.Co2eG(), carbon_and_money.CloudUsd(), carbon_and_money.ElectricityUsd(),
    ]  # fmt: skip


def fit(pl, folder, tariff, epochs, ckpt_path=None):
    monitor = CostMonitor(
        monitor="val/acc", mode="max", save_dir=folder / "costs", indicators=indicators(), tariff=tariff, infer=False
    )
    every_epoch = pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1, enable_version_counter=False)
    torch.manual_seed(0)
    trainer(pl, epochs, monitor, every_epoch).fit(classifier(pl), data(), data(16), ckpt_path=ckpt_path)
    return monitor.run


def trainer(pl, epochs, *callbacks):
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=len(callbacks) > 1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=3,
    )


@pytest.fixture(params=NAMESPACES)
def pl(request):
    return namespace(request.param)


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_training_priced_again_equals_one_trained_under_that_tariff(pl, tmp_path, restarts):
    runs = {}
    for name, tariff in (("a", A), ("b", B)):
        folder = tmp_path / name
        fit(pl, folder, tariff, 2)
        for epochs, checkpoint in ((3, "epoch=1.ckpt"), (4, "epoch=0.ckpt"))[:restarts]:
            fit(pl, folder, tariff, epochs, folder / checkpoint)
        (runs[name],) = (folder / "costs").glob("*/" + HEADER)
    done = reprice_folder(runs["a"].parent, B)
    expected = load_run(runs["b"].parent)
    assert len(expected.header["attempts"]) == restarts + 1
    timeless = [name for name in expected.points.columns if name != "time"]
    assert done.after.points.select(timeless).equals(expected.points.select(timeless))
    assert load_run(runs["a"].parent).points.select(timeless).equals(expected.points.select(timeless))
    for key in ("tariff", "missing", "methods", "indicators", "priced"):
        assert done.after.header[key] == expected.header[key], key
    for mine, other in zip(done.after.header["attempts"], expected.header["attempts"], strict=True):
        assert (mine["lost"], mine["tariff"]) == (other["lost"], other["tariff"])
    if restarts:
        assert expected.header["attempts"][2]["lost"]["co2e_g"] > 0
        assert done.after.to_reach().final["cloud_usd"] == expected.to_reach().final["cloud_usd"]


def test_measured_energy_priced_again_is_what_the_tariff_says_of_every_point(pl, tmp_path):
    monitor = CostMonitor(save_dir=tmp_path, monitor="val/acc", mode="max")
    trainer(pl, 1, monitor).fit(classifier(pl), data(), data(16))
    assert monitor.run.final["co2e_g"] is None
    done = reprice_folder(tmp_path / monitor.run.id, B)
    for row in done.after.points.iter_rows(named=True):
        assert row["co2e_g"] == B.co2e_g(row["energy_j"])
        assert row["electricity_usd"] == B.electricity_usd(row["energy_j"])
        assert row["cloud_usd"] == B.cloud_usd(device_s=row["device_s"], node_s=row["node_s"])
    assert done.after.final["cloud_usd"] > 0


def test_a_provider_that_prices_no_cpu_is_recorded_as_missing_and_training_goes_on(pl, tmp_path, caplog):
    run = fit(pl, tmp_path, Tariff(provider="aws"), 1)
    assert run.header["status"] == "finished"
    assert run.final["cloud_usd"] is None
    assert run.header["missing"]["cloud_usd"].startswith("no price of nodes without accelerators at aws, on_demand")
    assert sum("cloud_usd is recorded as missing" in record.getMessage() for record in caplog.records) == 1


def test_no_socket_is_opened_from_the_tariff_to_the_re_priced_run(pl, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    lookup_carbon_intensity.cache_clear()
    tariff = Tariff(country="DE", provider="lambda", usd_per_kwh=0.3)
    monitor = CostMonitor(save_dir=tmp_path, monitor="val/acc", mode="max", tariff=tariff)
    trainer(pl, 1, monitor).fit(classifier(pl), data(), data(16))
    assert monitor.run.header["tariff"]["intensity"]["source"].startswith("DEU 20")
    assert "location-based" in monitor.run.header["methods"]["co2e_g"]
    compared = compare(
        load_runs(tmp_path), tariff=Tariff(cloud="gcp", cloud_region="europe-west9", usd_per_device_h=1.0)
    )
    assert compared.runs[0]["final"]["co2e_g"] > 0
    priced = Tariff(
        country="CA", region="CA-QC", usd_per_node_h=3.0, embodied_g_per_exaflop=0.5, wue_l_per_kwh=1.8, pue=1.1
    )
    again = reprice_folder(tmp_path / monitor.run.id, priced).after
    assert all(again.final[name] is not None for name in PRICED if name != "electricity_usd")
    header = json.loads((tmp_path / monitor.run.id / HEADER).read_text())
    assert header["tariff"]["intensity"]["source"].startswith("CAN, quebec")
