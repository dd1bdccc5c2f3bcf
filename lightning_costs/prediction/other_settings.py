"""A counted step in another setting: another batch, format or optimizer, and activation checkpointing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_costs.prediction.workload import PRECISIONS, UPDATE_BYTES
from lightning_costs.records.step_profile import OpClass, StepProfile

#: Copies that autocast makes for a product of the forward pass, of its weight, bias and input, and of their gradients
#: on the way back. 1.1 to 2.7 were counted, each queued in two thirds of the time of other calls: these stand for them.
CASTS = {"forward": 1.3, "backward": 1.5}
_PRODUCTS = ("product", "conv", "depthwise", "attention", "causal", "recurrent")


def resized(profile: StepProfile, factor: float) -> StepProfile:
    """The profile with another batch: work grows with it, weights and their update do not."""
    classes = []
    for one in profile.classes:
        if one.phase != "optimizer":
            growing = one.access_bytes - one.fixed_bytes
            one = replace(one, flop=one.flop * factor, access_bytes=growing * factor + one.fixed_bytes)
        classes.append(one)
    return replace(
        profile,
        classes=tuple(classes),
        samples=profile.samples * factor,
        boundary_bytes=profile.boundary_bytes * factor,
    )


def in_precision(profile: StepProfile, params: float, was: str, now: str) -> StepProfile:
    """The profile in another format: products in it, other operators with the share of bytes that autocast leaves."""
    if was == now:
        return profile
    (_, was_weight, was_share, _), (dtype, weight, share, _) = PRECISIONS[was], PRECISIONS[now]
    half = _product_bytes(now) / _product_bytes(was)
    classes = []
    for one in profile.classes:
        bytes_share = weight / was_weight if one.phase == "optimizer" else share / was_share
        if one.kind in _PRODUCTS and one.phase != "optimizer":
            one = replace(one.scaled(access_bytes=half), dtype=dtype)
        elif one.dtype != "integer":
            one = one.scaled(access_bytes=bytes_share)
        classes.append(one)
    if (mixed := now.endswith("-mixed")) != was.endswith("-mixed"):
        classes = _with_casts(classes, params, 1 if mixed else -1)
    return replace(profile, classes=tuple(classes), boundary_bytes=profile.boundary_bytes * half)


def _with_casts(classes: Sequence[OpClass], params: float, sign: int) -> list[OpClass]:
    """Classes with autocast's copies of weights and inputs, or without them: of each product, there and back."""
    products = sum(one.calls for one in classes if one.kind in _PRODUCTS and one.phase == "forward")
    found = list(classes)
    for phase, calls in CASTS.items():
        casts = OpClass(
            phase=phase,
            kind="other",
            dtype="float32",
            calls=calls * products,
            flop=0.0,
            access_bytes=6 * params,
            fixed_bytes=6 * params,
        )
        if sign > 0:
            found.append(casts)
            continue
        others = [one for one in found if one.phase == phase and one.kind == "other"]
        calls, moved = sum(one.calls for one in others), sum(one.fixed_bytes for one in others)
        left = max(0.2, 1 - casts.calls / calls) if calls else 1.0
        kept = max(0.0, 1 - casts.access_bytes / moved) if moved else 1.0
        for one in others:
            gone = one.fixed_bytes * (1 - kept)
            found[found.index(one)] = replace(
                one, calls=one.calls * left, access_bytes=one.access_bytes - gone, fixed_bytes=one.fixed_bytes - gone
            )
    return found


def _product_bytes(precision: str) -> float:
    return 2.0 if PRECISIONS[precision][0] in ("bfloat16", "float16") else 4.0


def with_optimizer(profile: StepProfile, params: float, was: str | None, now: str | None) -> StepProfile:
    """The profile with another optimizer's update, its bytes in proportion; SAM runs forward and backward twice."""
    if now is None or was == now:
        return profile
    kept = tuple(one for one in profile.classes if one.phase != "optimizer")
    if (now == "sam") != (was == "sam"):
        twice = 2.0 if now == "sam" else 0.5
        kept = tuple(one.scaled(twice, twice, twice) for one in kept)
    moved = UPDATE_BYTES[now] * params
    update = OpClass(
        phase="optimizer", kind="other", dtype="float32", calls=12, flop=0.0, access_bytes=moved, fixed_bytes=moved
    )
    return replace(profile, classes=(*kept, update))


def with_checkpointing(profile: StepProfile) -> StepProfile:
    """The profile with activation checkpointing: the backward pass runs the forward pass again."""
    again = tuple(replace(one, phase="backward") for one in profile.classes if one.phase == "forward")
    return replace(profile, classes=(*profile.classes, *again))
