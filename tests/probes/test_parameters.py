from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from processes import FORKS, free_port
from torch import nn
from torch.nn.utils import prune

from lightning_costs.probes import parameters
from lightning_costs.probes.opcount.module_calls import ModuleCallRecorder
from lightning_costs.records.missing import Missing


def called(module, *args):
    with ModuleCallRecorder(module) as calls:
        module(*args)
    return calls


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids, times=1):
        x = self.embedding(ids)
        for _ in range(times):
            x = self.body(x)
        return self.head(x)


# Counts ------------------------------------------------------------------------------------------------------


def test_a_tensor_in_two_places_is_one():
    net = Tied()
    assert parameters.count_parameters(net) == 10 * 4 + 4 * 4 + 4
    net.body.requires_grad_(False)
    assert parameters.count_parameters(net, trainable_only=True) == 40


def test_meta_parameters_count_and_lazy_ones_wait_for_their_first_batch():
    assert parameters.count_parameters(nn.Linear(1000, 1000, device="meta")) == 1001000
    lazy = nn.LazyLinear(3)
    with pytest.raises(Missing, match="a lazy module has not seen its first batch"):
        parameters.count_parameters(lazy)
    lazy(torch.zeros(1, 5))
    assert parameters.count_parameters(lazy) == 18


def test_zero_3_parameters_count_by_their_own_record():
    net = nn.Linear(4, 3)
    for parameter in net.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    assert parameters.count_parameters(net) == 15
    assert parameters.count_active(net, {}, {}) == 15
    with pytest.raises(Missing, match="held in shards"):
        parameters.count_nonzero(net)


# Shared ------------------------------------------------------------------------------------------------------


def test_tied_weights_are_shared_and_so_is_a_block_that_a_pass_calls_repeatedly():
    net, ids = Tied(), torch.zeros(2, 3, dtype=torch.long)
    assert parameters.count_shared(net, {}) == 40
    assert parameters.count_shared(net, called(net, ids).counts) == 40
    assert parameters.count_shared(net, called(net, ids, 3).counts) == 40 + 20


def test_one_module_under_two_names_is_shared():
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert parameters.count_shared(net, called(net, torch.zeros(1, 4)).counts) == 20


def test_parameters_that_a_parent_reads_go_with_the_parent():
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(1, 3, 8)
    with ModuleCallRecorder(net) as once:
        net(x, x, x)
    assert parameters.count_shared(net, once.counts) == 0
    with ModuleCallRecorder(net) as twice:
        net(*[net(x, x, x)[0]] * 3)
    assert parameters.count_shared(net, twice.counts) == parameters.count_parameters(net)


def test_a_transformer_shares_nothing():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3, enable_nested_tensor=False)
    assert parameters.count_shared(net, called(net, torch.zeros(1, 3, 8)).counts) == 0


# Embeddings --------------------------------------------------------------------------------------------------


def test_embeddings_by_their_class_and_by_their_name():
    class PositionEmbedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(7, 4))

    net = nn.ModuleList([Tied(), PositionEmbedding(), nn.EmbeddingBag(5, 4), nn.Linear(4, 4)])
    assert parameters.count_embedding(net) == 40 + 28 + 20


# Mixtures ----------------------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """Routes each row to `top` of its experts, by a given assignment."""

    def __init__(self, experts=4, top=1):
        super().__init__()
        self.router = nn.Linear(4, experts)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(experts))
        self.top = top

    def forward(self, x):
        chosen = self.router(x).topk(self.top, -1).indices
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).any(-1)
            if rows.any():
                out[rows] += expert(x[rows])
        return out


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("experts", [4, 8])
def test_a_routed_mixture_uses_as_many_experts_a_token_as_it_routes_to(top, experts):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), Mixture(experts, top), nn.Linear(4, 2))
    calls = called(net, torch.randn(200, 4))
    router = 4 * experts + experts
    assert parameters.count_active(net, calls.counts, calls.rows) == pytest.approx(20 + router + top * 20 + 10)
    assert parameters.count_parameters(net) == 20 + router + experts * 20 + 10


def test_a_module_may_declare_what_it_uses():
    class Batched(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(8, 4, 4))
            self.active_params = 2 * 16

        def forward(self, x):
            return F.relu(x)

    class Asked(Batched):
        def __init__(self):
            super().__init__()
            self.active_params = lambda: 16

    net = nn.Sequential(nn.Linear(4, 4), Batched(), Asked())
    assert parameters.count_active(net, {}, {}) == 20 + 32 + 16


def test_dense_models_use_all_their_parameters():
    stack = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = stack

        def forward(self, x, dropped=(), lengths=None):
            for number, layer in enumerate(self.layers):
                if number not in dropped:
                    x = layer(x if lengths is None else x[: lengths[number]])
            return x

    net = Layers()
    for args in (
        (torch.zeros(10, 4),),
        (torch.zeros(10, 4), (1,)),  # LayerDrop
        (torch.zeros(10, 4), (), (10, 7, 4)),  # tokens pruned on the way
    ):
        calls = called(net, *args)
        assert parameters.count_active(net, calls.counts, calls.rows) == 60
    assert parameters.count_active(net, {}, {}) == 60


def test_a_shared_parameter_is_used_once():
    net = Tied()
    assert parameters.count_active(net, {}, {}) == parameters.count_parameters(net)


# Zeros -------------------------------------------------------------------------------------------------------


def test_pruned_weights_are_not_there():
    net = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    prune.l1_unstructured(net[0], "weight", amount=30)
    assert parameters.count_nonzero(net) == 2 * 110 - 30
    with torch.no_grad():
        net[1].weight[:2] = 0
    assert parameters.count_nonzero(net) == 2 * 110 - 30 - 20
    prune.remove(net[0], "weight")
    assert parameters.count_nonzero(net) == 2 * 110 - 30 - 20


def test_weights_in_sparse_layouts_are_the_values_that_they_hold():
    net = nn.Linear(4, 4, bias=False)
    dense = torch.diag(torch.tensor([1.0, 2.0, 0.0, 4.0]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        layouts = [dense.to_sparse_csr(), dense.to_sparse_csc(), dense.to_sparse_coo(), dense.to_sparse_bsr((2, 2))]
    once_more = ([[0, 0], [1, 1]], [1.0, -1.0], (4, 4))  # 1 - 1 in one place
    twice = torch.sparse_coo_tensor(*once_more, check_invariants=True)
    for weight, kept in ((dense, 3), *((layout, 3) for layout in layouts), (twice, 0)):
        net.weight = nn.Parameter(weight, requires_grad=False)
        assert (parameters.count_nonzero(net), parameters.count_parameters(net)) == (kept, 16)


def test_zeros_of_tied_weights_are_counted_once_and_meta_ones_not_at_all():
    net = Tied()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
        net.embedding.weight[0] = 0
    assert parameters.count_nonzero(net) == 60 - 4
    with pytest.raises(Missing, match="on the meta device weights have no values"):
        parameters.count_nonzero(nn.Linear(3, 3, device="meta"))
    assert parameters.count_nonzero(nn.ReLU()) == 0


# Shards ------------------------------------------------------------------------------------------------------


def _sharded(rank: int, port: int, queue: object) -> None:
    import os

    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for name, wrap in {
        "fsdp2": lambda net: fully_shard(net) or net,
        "fsdp1": lambda net: FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True),
        "fsdp1, flat": lambda net: FullyShardedDataParallel(net, device_id=torch.device("cpu")),
    }.items():
        net = wrap(nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 7)))
        try:
            zeros = str(parameters.count_nonzero(net))
        except Missing as missing:
            zeros = str(missing)
        found[name] = (parameters.count_parameters(net), zeros)
    dist.destroy_process_group()
    if rank == 0:
        queue.put(found)  # type: ignore[attr-defined]


@pytest.mark.integration
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_sharded_parameters_count_in_full_on_two_real_processes():
    port, queue = free_port(), FORKS.Queue()
    processes = [FORKS.Process(target=_sharded, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found = queue.get(timeout=240)
    for process in processes:
        process.join(240)
    assert {name: count for name, (count, _) in found.items()} == dict.fromkeys(found, 11 * 5 + 5 * 7 + 7)
    assert all("held in shards" in zeros for _, zeros in found.values())


def test_experts_in_zero_3s_shards_are_told_by_their_whole_shapes() -> None:
    """Empty on this rank, all of them: layers of different sizes are no siblings for that."""
    part = nn.Module()
    part.small, part.large = nn.Linear(2, 2, bias=False), nn.Linear(2, 8, bias=False)
    for layer in (part.small, part.large):
        weight = layer.weight
        weight.ds_shape, weight.ds_numel = weight.shape, weight.numel()
        weight.data = torch.empty(0)
    counts, rows = {part: 1, part.small: 1, part.large: 1}, {part: 8, part.small: 2, part.large: 8}
    assert parameters.count_active(part, counts, rows) == 4 + 16
    assert parameters.in_shards(part)
    assert not parameters.in_shards(nn.Linear(2, 2))
    with pytest.raises(Missing, match="shards"):
        parameters.count_nonzero(part)


def test_sizes_are_those_of_what_wraps_the_model_where_they_are_given() -> None:
    model = nn.Linear(3, 2)
    sizes = {id(p): 10 * p.numel() for p in model.parameters()}
    assert parameters.count_parameters(model, sizes=sizes) == 10 * (6 + 2)
    assert parameters.count_shared(model, {model: 2}, sizes) == 10 * (6 + 2)
    assert parameters.count_active(model, {}, {}, sizes) == 10 * (6 + 2)


def test_layers_behind_an_input_that_is_flattened_are_no_experts():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(24, 24, bias=False)

        def forward(self, x):
            return self.inner(x)

    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.stacks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, x):
            x = x.squeeze(-1)
            for block in self.stacks:
                x = x - block(x)
            return x

    net = Stacked()
    calls = ModuleCallRecorder(net)
    with calls:
        net(torch.rand(8, 24, 1))
    assert parameters.count_active(net, calls.counts, calls.rows) == 2 * 24 * 24


def test_layers_for_a_part_of_the_input_are_no_experts():
    """As in a TemporalFusionTransformer: static features have one row a sample, the others one a time step."""

    class Forecaster(nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = nn.ModuleDict({name: nn.Linear(1, 4) for name in ("length", "x", "y")})
            self.of_static, self.of_horizon, self.of_all = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            static, x = self.scales["length"](x[:, 0, :1]), self.scales["x"](x[..., :1]) + self.scales["y"](x[..., 1:])
            return self.of_horizon(x[:, -3:]) + self.of_all(x)[:, -3:] + self.of_static(static)[:, None]

    net = Forecaster()
    calls = called(net, torch.rand(8, 16, 2))
    assert parameters.count_active(net, calls.counts, calls.rows) == parameters.count_parameters(net)


def test_experts_without_a_name_share_out_the_rows():
    class Switch(Mixture):
        experts = property(lambda self: self.feeders)

        def __init__(self):
            super().__init__(experts=4, top=2)
            self.feeders = self._modules.pop("experts")

    torch.manual_seed(0)
    net = nn.Sequential(Switch())
    calls = called(net, torch.randn(200, 4))
    assert parameters.count_active(net, calls.counts, calls.rows) == pytest.approx(20 + 2 * 20)


def test_experts_of_other_ranks_count_too():
    """DeepSpeed's mixture of experts: each of two ranks holds two of four experts."""
    experts = pytest.importorskip("deepspeed.moe.experts").Experts(nn.Linear(3, 5), 2, expert_group_name="ep_size_2")
    net = nn.ModuleList([nn.Linear(3, 3), experts])
    assert parameters.count_parameters(net) == 3 * 3 + 3 + 4 * (3 * 5 + 5)
    assert parameters.count_parameters(net, trainable_only=True) == parameters.count_parameters(net)


def test_a_place_without_a_layer_is_no_layer_that_repeats():
    """scvi-tools keeps None in a Sequential for the layers that an option leaves out."""
    parts = [nn.Linear(4, 4), None, nn.ReLU(), None, nn.Linear(4, 4)]
    blocks = parameters.repeated_blocks(nn.Sequential(*parts), {})
    assert blocks == {"blocks": 2, "block_bytes": 80, "boundary_bytes": 0}
