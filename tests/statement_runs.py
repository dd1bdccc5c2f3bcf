"""Runs that statements are made of, in the small."""

from synthetic import declaration, make_run

HOSTILE = "a_b % & # $ { } ~ ^ \\ | <b> [x](y) *z* `c` --- '' \" é ß 中 🔥\n@ \x07\u202e\u2028 ==> $$ \\end{document}"


COLUMNS = {
    "gpu_energy_j": "j",
    "cpu_energy_j": "j",
    "ram_energy_j": "j",
    "electricity_usd": "usd",
    "model_flop": "flop",
    "lost_s": "s",
    "lost_energy_j": "j",
}


STATICS = {"infer_energy_j": "j", "infer_latency_p50_s": "s", "infer_samples_per_s": "samples_per_s"}


DECLARED = {name: declaration(name, unit, "counter", "energy") for name, unit in COLUMNS.items()} | {
    name: declaration(name, unit, "static", "time") for name, unit in STATICS.items()
}


METHODS = {
    "gpu_energy_j": "counter: NVML total energy, by UUID",
    "cpu_energy_j": "model: codecarbon cpu_load, TDP 400 W",
    "ram_energy_j": "constant: codecarbon RAM model, 40 W",
}


H100 = {"device": "cuda", "devices": 8, "nodes": 1, "hardware": {"device": "NVIDIA H100 80GB HBM3", "cpu": "EPYC"}}


CPU = {"device": "cpu", "devices": 2, "nodes": 2, "hardware": {"cpu": "EPYC 7763"}}


FRANCE = {
    "country": "FRA",
    "pue": 1.2,
    "usd_per_device_h": 2.5,
    "provider": "some cloud",
    "tier": "on_demand",
    "source": "https://example.org/prices/list",
    "date": "2026-05-01",
    "usd_per_kwh": 0.2,
    "intensity": {"gco2e_per_kwh": 56.0, "source": "FRA 2023, location-based, codecarbon 3.2.0"},
}


ATTEMPT = {
    "id": "a1",
    "began": "2026-01-02T03:04:05+00:00",
    "ended": "2026-01-03T00:00:00+00:00",
    "devices": 8,
    "nodes": 1,
}


def spent(name="run", hours=10.0, *, left_out=(), statics=None, **header):
    """A run of 8 devices at 4 kW in all: GPU 3.5, CPU 0.4, RAM 0.1; 1 PFLOP/s."""
    s = 3600.0 * hours
    costs = {
        "total_s": s,
        "train_s": 0.9 * s,
        "device_s": 8 * s,
        "flop": 1e15 * s,
        "model_flop": 0.8e15 * s,
        "gpu_energy_j": 3500 * s,
        "cpu_energy_j": 400 * s,
        "ram_energy_j": 100 * s,
        "energy_j": 4000 * s,
        "co2e_g": 4 * hours * 1.2 * 56.0,
        "cloud_usd": 8 * hours * 2.5,
        "electricity_usd": 4 * hours * 1.2 * 0.2,
        "samples": 100 * s,
    }
    return make_run(
        name,
        quality=[0.9],
        costs={column: [None if column in left_out else amount] for column, amount in costs.items()},
        statics=statics,
        declared=DECLARED,
        **{"setup": H100, "tariff": FRANCE, "attempts": [ATTEMPT], "methods": METHODS} | header,
    )
