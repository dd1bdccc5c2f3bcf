from __future__ import annotations

import logging
import tomllib
from datetime import date
from importlib.resources import files

import pytest

from lightning_costs.integrations.lightning.options import RunOptions
from lightning_costs.pricing import price_table
from lightning_costs.pricing.price_table import PriceRow, canonical_device_name, find_price, load_price_table
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.missing import Missing

ROW = {"gpu": "H100 SXM", "provider": "ours", "usd_per_device_h": 1.5, "source": "contract 7", "date": "2026-10-01"}


@pytest.fixture(autouse=True)
def nobody_was_warned():
    price_table.warn_if_stale.cache_clear()


# Names of devices --------------------------------------------------------------------------------------------

#: What torch and NVML report.
REPORTED = {
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA A100-SXM4-40GB": "A100 SXM 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
    "NVIDIA A100-PCIE-40GB": "A100 PCIe 40GB",
    "A100-PCIE-40GB": "A100 PCIe 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe 80GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA L40": "L40",
    "NVIDIA L4": "L4",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "Tesla T4": "T4",
    "NVIDIA T4G": "T4G",
    "Tesla V100-SXM2-16GB": "V100 SXM2 16GB",
    "Tesla V100-SXM2-32GB": "V100 SXM2 32GB",
    "Tesla V100-PCIE-16GB": "V100 PCIe 16GB",
}
#: Devices that look like one of the table's and are none.
OTHERS = (
    "NVIDIA A100-SXM-64GB", "NVIDIA H100 64GB HBM2", "NVIDIA H100 96GB HBM3", "NVIDIA H800", "NVIDIA H20",
    "NVIDIA A800-SXM4-80GB", "NVIDIA A10M", "NVIDIA L40G", "NVIDIA L20", "NVIDIA L2", "Tesla V100-DGXS-32GB",
    "Tesla V100-FHHL-16GB", "Tesla T40 24GB", "NVIDIA T400", "NVIDIA B200A", "NVIDIA B300 SXM6 AC",
    "NVIDIA GH200 144G HBM3e", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "AMD Instinct MI300X", "",
)  # fmt: skip


@pytest.mark.parametrize(("reported", "name"), REPORTED.items())
def test_a_reported_name_is_one_device_of_the_table(reported, name):
    assert (
        canonical_device_name(reported)
        == name
        == canonical_device_name(name)
        == canonical_device_name(f"  {reported.upper()} ")
    )


@pytest.mark.parametrize("reported", OTHERS)
@pytest.mark.parametrize("provider", sorted({row.provider for row in load_price_table()}))
def test_a_device_that_no_row_is_for_is_missing_and_never_gets_anothers_price(provider, reported):
    tariff = Tariff(provider=provider).for_device(reported)
    assert tariff.price_row is None
    assert "give usd_per_device_h= with source= and date=, or a [[prices]] row" in tariff.unpriced
    with pytest.raises(Missing, match="give usd_per_device_h="):
        tariff.cloud_usd(device_s=1.0, node_s=1.0)


# The shipped table -------------------------------------------------------------------------------------------


def test_every_shipped_row_says_who_says_so_and_when_and_is_of_a_named_device():
    for row in load_price_table():
        assert row.source.startswith("https://"), row
        assert date(2025, 11, 1) < date.fromisoformat(row.date) <= date(2026, 11, 24), row
        assert row.includes, row
        assert row.memory_gb, row
        assert row.gpu in REPORTED.values(), row
        assert 0.1 < row.usd_per_device_h < 20, row


def test_no_two_shipped_rows_are_for_the_same():
    keys = [(row.gpu, row.provider, row.region, row.tier) for row in load_price_table()]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("gpus", [
    ("H100 SXM",), ("H200",), ("B200",), ("A100 SXM 40GB",), ("A100 SXM 80GB",), ("L40S",), ("L4",), ("A10", "A10G"),
    ("T4",), ("V100 SXM2 16GB",),
])  # fmt: skip
def test_current_accelerators_are_priced_at_two_providers_or_more(gpus):
    assert len({row.provider for row in load_price_table() if row.gpu in gpus}) >= 2


def test_the_share_of_an_instance_is_its_price_over_its_devices():
    text = files("lightning_costs.pricing").joinpath("prices.toml").read_text(encoding="utf-8")
    shares = [line.split("#") for line in text.splitlines() if "/ 8" in line and line.startswith("usd_per_device_h")]
    assert len(shares) >= 6
    for price, share in shares:
        whole, _, devices = share.partition("/")
        assert float(price.split("=")[1]) == pytest.approx(float(whole) / float(devices), rel=1e-12)


# What rows must have -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("usd_per_device_h", 0, "usd_per_device_h must be a finite number above 0, got 0"),
        ("usd_per_device_h", -2.0, "must be a finite number above 0, got -2.0"),
        ("usd_per_device_h", float("inf"), "must be a finite number above 0, got inf"),
        ("usd_per_device_h", True, "must be a finite number above 0, got True"),
        ("usd_per_device_h", "2", "must be a finite number above 0, got '2'"),
        ("source", "", "source must be a text, got ''; a price row names its source and date"),
        ("source", " ", "source must be a text"),
        ("date", "yesterday", "date must be YYYY-MM-DD, got 'yesterday'"),
        ("date", "2026-13-01", "date must be YYYY-MM-DD"),
        ("provider", "", "provider must be a text"),
    ],
)
def test_a_row_that_nobody_could_check_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        PriceRow.of(ROW | {field: value})


@pytest.mark.parametrize("field", ["gpu", "provider", "usd_per_device_h", "source", "date"])
def test_a_row_without_a_field_that_it_needs_is_refused_in_a_users_file_too(tmp_path, field):
    with pytest.raises(ValueError, match=f"a price row needs {field}"):
        PriceRow.of({name: value for name, value in ROW.items() if name != field})
    path = tmp_path / "tariff.toml"
    lines = [f"{name} = {value!r}" for name, value in ROW.items() if name != field]
    path.write_text("\n".join(["[[prices]]", *lines]))
    with pytest.raises(ValueError, match=f"a price row needs {field}"):
        Tariff.from_file(path)


def test_a_field_that_rows_have_not_is_refused():
    with pytest.raises(ValueError, match="a price row has no field 'price'; it has gpu, provider,"):
        PriceRow.of(ROW | {"price": 3})
    with pytest.raises(ValueError, match=r"prices must be rows \(\[\[prices\]\] in TOML\)"):
        Tariff.from_dict({"prices": 3})


# Which row is taken ------------------------------------------------------------------------------------------


def test_a_named_provider_takes_the_row_of_the_device():
    found = Tariff(provider="lambda").for_device("NVIDIA A100-SXM4-40GB")
    assert found.price_row.usd_per_device_h == 1.99
    assert found.cloud_usd(device_s=7200.0, node_s=0.0) == pytest.approx(3.98)
    assert found.for_device("NVIDIA A100-SXM4-40GB") is found


def test_a_given_price_goes_before_the_table():
    tariff = Tariff(provider="aws", usd_per_device_h=3.0)
    assert tariff.for_device("NVIDIA H100 80GB HBM3") is tariff
    assert Tariff(provider="my cluster", usd_per_node_h=3.0).for_device("cpu").cloud_usd(device_s=0, node_s=3600) == 3.0


def test_ones_own_rows_go_before_the_shipped_ones_and_the_shipped_ones_fill_up(tmp_path):
    path = tmp_path / "tariff.toml"
    path.write_text(
        'provider = "aws"\n[[prices]]\ngpu = "NVIDIA H100 80GB HBM3"\nprovider = "aws"\nregion = "us-east-1"\n'
        'usd_per_device_h = 4.4\nsource = "our contract"\ndate = 2026-10-01\n'
    )
    tariff = Tariff.from_file(path)
    own = tariff.for_device("NVIDIA H100 80GB HBM3").price_row
    assert (own.usd_per_device_h, own.source, own.date) == (4.4, "our contract", "2026-10-01")
    assert tariff.for_device("NVIDIA H200").price_row.usd_per_device_h == 7.912


def test_a_provider_of_ones_own_is_known_where_its_rows_are(tmp_path, monkeypatch):
    path = tmp_path / "mine.toml"
    rows = '[[prices]]\ngpu = "cpu"\nprovider = "cluster"\nusd_per_device_h = 0.4\nsource = "s"\ndate = "2026-10-01"\n'
    path.write_text(rows)
    with pytest.raises(ValueError, match="provider 'cluster' is unknown"):
        Tariff(provider="cluster")
    monkeypatch.setenv("LIGHTNING_COSTS_TARIFF", str(path))
    assert Tariff.resolve(Tariff(provider="cluster")).for_device("cpu").price_row.usd_per_device_h == 0.4
    monkeypatch.delenv("LIGHTNING_COSTS_TARIFF")
    environ = {"LIGHTNING_COSTS_PROVIDER": "cluster", "LIGHTNING_COSTS_TARIFF": str(path)}
    assert Tariff.resolve(environ=environ).for_device("cpu").price_row.provider == "cluster"
    path.write_text(f'[tariff]\nprovider = "cluster"\npue = 1.2\n{rows}')
    assert Tariff.from_file(path).for_device("cpu").price_row.usd_per_device_h == 0.4


def test_rows_travel_to_the_processes_that_lightning_costs_run_starts():
    tariff = Tariff(provider="ours", prices=[PriceRow.of(ROW)])
    options = RunOptions(save_dir="costs", tariff=tariff.as_dict())
    assert RunOptions.from_environment(options.as_environment()).arguments()["tariff"] == tariff


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"provider": "AWS"}, "provider 'AWS' is unknown: the price table has aws, azure, .*; near: aws"),
        ({"provider": "amazon"}, "provider 'amazon' is unknown"),
        ({"provider": "aws", "tier": "spot"}, "no price of aws is 'spot': it has on_demand; for a price of your own"),
        ({"provider": "aws", "price_region": "us-east-2"}, "in price_region='us-east-2'; near: us-east-1"),
    ],
)
def test_what_no_row_can_be_for_is_an_error_when_the_tariff_is_written(given, message):
    with pytest.raises(ValueError, match=message):
        Tariff(**given)


def test_a_device_that_the_provider_has_not_is_missing_with_what_it_has():
    tariff = Tariff(provider="azure").for_device("NVIDIA H200")
    assert tariff.unpriced.startswith(
        "no price of 'H200' (reported as 'NVIDIA H200') at azure, on_demand; there are: H100 SXM"
    )
    assert "nodes without accelerators at aws" in Tariff(provider="aws").for_device("cpu").unpriced
    assert "the device that trains is unknown" in Tariff(provider="aws").for_device(None).unpriced
    assert "is a slice of a device" in Tariff(provider="aws").for_device("NVIDIA A100-SXM4-40GB MIG 1g.5gb").unpriced


def test_of_several_regions_none_is_chosen_for_the_user():
    rows = [PriceRow.of(ROW | {"region": "east"}), PriceRow.of(ROW | {"region": "west", "usd_per_device_h": 9.0})]
    tariff = Tariff(provider="ours", prices=rows)
    assert "give price_region=, one of east, west" in tariff.for_device("NVIDIA H100 80GB HBM3").unpriced
    west = Tariff(provider="ours", prices=rows, price_region="west").for_device("NVIDIA H100 80GB HBM3")
    assert west.price_row.usd_per_device_h == 9.0
    assert find_price(rows, "H100 SXM", provider="ours", tier="on_demand", region="east").usd_per_device_h == 1.5


# Age ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "warns"), [(180, False), (181, True)])
def test_a_row_over_180_days_old_warns_once_with_its_age_and_what_to_do(monkeypatch, caplog, days, warns):
    class Today(date):
        @classmethod
        def today(cls):
            return cls.fromordinal(date.fromisoformat(ROW["date"]).toordinal() + days)

    monkeypatch.setattr(price_table, "Date", Today)
    tariff = Tariff(provider="ours", prices=[PriceRow.of(ROW)])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tariff.for_device("NVIDIA H100 80GB HBM3")
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == warns
    if warns:
        assert "was read 181 days ago, on 2026-10-01. Give a newer one: a [[prices]] row in your tariff file" in said[0]


def test_the_header_holds_the_row_and_a_tariff_from_it_is_the_same_without_the_table(monkeypatch):
    tariff = Tariff(provider="aws", pue=1.1).for_device("NVIDIA H100 80GB HBM3")
    data = tariff.as_dict()
    assert data["price_row"] == {
        "gpu": "H100 SXM", "memory_gb": 80, "provider": "aws", "region": "us-east-1", "tier": "on_demand",
        "usd_per_device_h": 6.88, "includes": "1/8 of p5.48xlarge (vCPUs, memory, disk)",
        "source": "https://aws.amazon.com/ec2/pricing/on-demand/", "date": "2026-11-09",
    }  # fmt: skip
    monkeypatch.setattr("lightning_costs.pricing.tariff.load_price_table", tuple)
    again = Tariff.from_dict(data)
    assert again == tariff
    assert again.for_device("NVIDIA H100 80GB HBM3") == tariff


def test_the_shipped_file_is_toml_that_the_loader_reads_whole():
    text = files("lightning_costs.pricing").joinpath("prices.toml").read_text(encoding="utf-8")
    assert len(tomllib.loads(text)["prices"]) == len(load_price_table()) > 30
