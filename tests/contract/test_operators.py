"""What every step promises, whatever it does; a new step is tested before its author writes a test."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsostream.errors import ConfigError
from tsostream.integration.coupling import Numbered, PerIntegration, Template, Window
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Measurement, Ramp, Rate
from tsostream.operators.base import PAYLOADS, Binding, BoundRampStep, BoundWindowStep, build_operator
from tsostream.operators.catalog import IMAGING, MIRI_RAMPS, NIR_RAMPS, OPERATORS, SPECTROSCOPY
from tsostream.operators.tile import Tile, run_passes
from tsostream.operators.window import run_blocks
from tsostream.testing.builders import make_binding, make_block, make_info

COUNT = 9
#: exposures that between them take every step through every branch of its bind()
EXPOSURES = {
    "nir-spectrum": {"exp_type": "NRS_BRIGHTOBJ"},
    "nir-averaged": {"exp_type": "NRC_TSGRISM", "nframes": 4, "groupgap": 1},
    "nir-zeroframe": {"exp_type": "NRC_TSIMAGE", "nframes": 2, "ngroups": 1, "zeroframe": True},
    "miri-spectrum": {"exp_type": "MIR_LRS-SLITLESS"},
    "nir-image": {"exp_type": "NRC_TSIMAGE"},
    "miri-image": {"exp_type": "MIR_IMAGE", "ngroups": 12},
}


def applies(name: str, info: ExposureInfo) -> bool:
    """Whether the step is one of those that exposures of this kind go through."""
    ramps = MIRI_RAMPS if info.is_miri else NIR_RAMPS
    steps = ramps + (SPECTROSCOPY if info.is_spectroscopy else IMAGING)
    return name in steps or name not in NIR_RAMPS + MIRI_RAMPS + SPECTROSCOPY + IMAGING


CASES = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name in OPERATORS
    for kind, facts in EXPOSURES.items()
    if applies(name, make_info(**facts))
]
every_case = pytest.mark.parametrize(("name", "kind"), CASES)
every_step = pytest.mark.parametrize("name", list(OPERATORS))


def setup(name: str, kind: str, **changes: Any) -> tuple[ExposureInfo, Binding]:
    info = make_info(**{**EXPOSURES[kind], **changes})
    return info, make_binding(OPERATORS[name], info, np.random.default_rng(1))


def block_of(name: str, info: ExposureInfo, *, first: int = 1, count: int = COUNT, **options: Any) -> Any:
    return make_block(OPERATORS[name].accepts, info, np.random.default_rng(2), count, first=first, **options)


def cut(block: Any, start: int, stop: int) -> Any:
    """Copy a part of a block."""
    part = slice(start, stop)
    changes: dict[str, Any] = {"first": block.first + start, "times": block.times[part]}
    if isinstance(block, Measurement):
        changes["columns"] = {key: value[part].copy() for key, value in block.columns.items()}
        changes["spectra"] = {key: value[part].copy() for key, value in block.spectra.items()}
        changes["present"] = block.present[part].copy()
    else:
        for spec in dataclasses.fields(block):
            value = getattr(block, spec.name)
            if isinstance(value, np.ndarray) and spec.name != "pixeldq":
                changes[spec.name] = value[part].copy()
    return dataclasses.replace(block, **changes)


def arrays(block: Any) -> dict[str, np.ndarray]:
    """Everything a block holds that has a leading axis of integrations."""
    if isinstance(block, Measurement):
        return {**block.columns, **block.spectra, "present": block.present}
    if isinstance(block, Ramp):
        zero = {} if block.zeroframe is None else {"zeroframe": block.zeroframe}
        return {"data": block.data, "groupdq": block.groupdq, **zero}
    names = ("data", "err", "var_poisson", "var_rnoise", "dq", "var_flat")
    return {name: getattr(block, name) for name in names if getattr(block, name) is not None}


def push(step: Any, *blocks: Any) -> dict[str, np.ndarray]:
    """Send blocks through a bound step and join what comes out."""
    if isinstance(step, BoundWindowStep):
        out = list(run_blocks(step, iter(blocks), max(one.count for one in blocks)))
    else:
        out = [one for block in blocks for one in step.push(block)] + list(step.flush())
    parts = [arrays(one) for one in out]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_same(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], *, where: Any = ...) -> None:
    """Bit-identical; one NaN is as good as another."""
    assert left.keys() == right.keys()
    for key in left:
        a, b = left[key][where], right[key][where]
        assert (a.dtype, a.shape) == (b.dtype, b.shape), key
        np.testing.assert_array_equal(a, b, err_msg=key)
        if a.dtype.kind == "f":
            np.testing.assert_array_equal(
                np.signbit(a)[~np.isnan(a)], np.signbit(b)[~np.isnan(b)], err_msg=key
            )


def changed(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> set[int]:
    """Integrations in which any array differs."""
    found: set[int] = set()
    for key, one in left.items():
        same = (one == right[key]) | ((one != one) & (right[key] != right[key]))
        found |= set(np.flatnonzero(~same.reshape(len(one), -1).all(axis=1)).tolist())
    return found


class Recorder(Mapping[str, Any]):
    """A mapping that remembers what it was asked for."""

    def __init__(self, content: Mapping[str, Any]):
        self.content, self.asked = content, set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)


# --- the class ----------------------------------------------------------------------------------------------


@every_step
def test_describes_itself(name: str) -> None:
    cls = OPERATORS[name]
    assert cls.name == name
    assert sys.modules[cls.__module__].__name__.rpartition(".")[2] == name or name in cls.__module__.split(
        "."
    )
    assert cls.accepts in PAYLOADS
    assert cls.produces in PAYLOADS
    assert PAYLOADS.index(cls.accepts) <= PAYLOADS.index(cls.produces)
    own = [spec.name for spec in dataclasses.fields(cls) if spec.name != "skip"]
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")
    if own:
        assert "Parameters\n" in cls.__doc__
        described = cls.__doc__.partition("Parameters\n")[2]
        missing = [one for one in own if one not in described]
        assert not missing, f"{cls.__name__}'s docstring does not describe {missing}"
    tests = Path(__file__).resolve().parents[1] / "operators" / f"test_{name}.py"
    assert tests.is_file(), f"{name} has no tests/operators/test_{name}.py"


@every_step
def test_is_frozen_keyword_only_with_valid_defaults(name: str) -> None:
    cls = OPERATORS[name]
    operator = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        operator.skip = True
    with pytest.raises(TypeError):
        cls(False)
    assert all(spec.kw_only for spec in dataclasses.fields(cls))
    assert build_operator(cls, operator.parameters()) == operator
    for spec in dataclasses.fields(cls):
        with pytest.raises(ConfigError, match=rf"^{name}\.{spec.name} = "):
            cls(**{spec.name: object()})
        with pytest.raises(ConfigError, match="did you mean"):
            build_operator(cls, {spec.name + "_": None})


@every_step
def test_operator_pickles(name: str) -> None:
    operator = OPERATORS[name]()
    assert pickle.loads(pickle.dumps(operator)) == operator


# --- the bound step -----------------------------------------------------------------------------------------


@every_case
def test_bound_step_says_what_it_is(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step = OPERATORS[name]().bind(binding)
    assert step.name == name
    assert step.pixeldq.dtype == np.uint32
    # a step that cuts out a window says so
    shape = getattr(step, "info", info).frame_shape
    assert step.pixeldq.shape == shape
    if shape != info.frame_shape:
        return
    lost = binding.dq_plane & ~step.pixeldq
    assert not lost.any(), "a step never takes flags out of the static plane"
    if isinstance(step, BoundRampStep):
        assert step.produces == OPERATORS[name].produces
        assert bool(step.passes) != bool(step.skipped), "a step works, or says why not"
    (out,) = step.push(block_of(name, info))
    assert isinstance(out, {"ramp": Ramp, "rate": Rate, "measurement": Measurement}[OPERATORS[name].produces])
    assert out.first == 1
    assert out.count == COUNT
    assert len(out.times) == COUNT
    assert all(len(value) == COUNT for value in arrays(out).values())


@every_case
def test_results_do_not_depend_on_the_block_size(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step, block = OPERATORS[name]().bind(binding), block_of(name, info)
    whole = push(step, cut(block, 0, COUNT))
    assert_same(whole, push(step, *(cut(block, k, k + 1) for k in range(COUNT))))
    assert_same(whole, push(step, cut(block, 0, 7), cut(block, 7, COUNT)))


@every_case
def test_results_do_not_depend_on_bands_tiles_or_scratch(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step, block = OPERATORS[name]().bind(binding), block_of(name, info)
    if not isinstance(step, BoundRampStep):
        pytest.skip("takes whole images")
    whole = push(step, cut(block, 0, COUNT))
    for rows, integrations in ((1, 1), (3, COUNT), (info.ny, 2)):
        parts = [
            walk(step, info, cut(block, start, min(start + integrations, COUNT)), rows)
            for start in range(0, COUNT, integrations)
        ]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert_same(whole, joined)


def walk(step: BoundRampStep, info: ExposureInfo, block: Any, rows: int) -> dict[str, np.ndarray]:
    """Run the passes band by band, with rubbish in all working arrays."""
    rng = np.random.default_rng(3)

    def rubbish(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(rng.bytes(size), dtype).reshape(shape).copy()

    scratch = {key: rubbish((block.count, *shape), dtype) for key, (shape, dtype) in step.scratch.items()}
    if isinstance(block, Rate):
        dummy = np.zeros((block.count, 1, *info.frame_shape))
        tile = Tile(block.first, None, dummy.astype(np.float32), dummy.astype(np.uint8), block, scratch)
    else:
        shape = (block.count, *info.frame_shape)
        planes = [rubbish(shape, np.float32) for _ in range(4)]
        rate = Rate(block.first, *planes, rubbish(shape, np.uint32), block.times)
        if block.zeroframe is not None and "zeroframe" in scratch:
            # no working array but what the step is given
            scratch["zeroframe"][...] = block.zeroframe
            block.zeroframe = scratch["zeroframe"]
        tile = Tile(block.first, None, block.data, block.groupdq, rate, scratch)
    run_passes(tile, step.passes, info.ny, rows)
    return arrays(tile.rate if step.produces == "rate" else block)


def disturb(block: Any, k: int) -> Any:
    """Another integration k: brighter, noisier, with other flags."""
    other, rng = cut(block, 0, block.count), np.random.default_rng(4)
    if isinstance(other, Measurement):
        other.spectra["flux"][k] *= 1.5
        other.spectra["flux"][k, :, ::7] = np.nan
    else:
        other.data[k] = other.data[k] * 1.5 + rng.normal(0, 100, other.data[k].shape)
        flags = other.groupdq if isinstance(other, Ramp) else other.dq
        flags[k, ..., rng.random(flags.shape[-2:]) < 0.05] |= flags.dtype.type(1)
    return other


@every_case
def test_declared_coupling_is_true(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    operator = OPERATORS[name]()
    step, block = operator.bind(binding), block_of(name, info)
    before = push(step, cut(block, 0, COUNT))
    coupling = operator.coupling
    for k in (0, 4, COUNT - 1):
        found = changed(before, push(step, disturb(block, k)))
        reach = {k}
        if isinstance(coupling, Window):
            reach = set(range(k - coupling.after, k + coupling.before + 1))
        assert k in found, "the disturbance must show"
        assert found <= reach


@every_step
def test_only_numbered_steps_look_at_the_number(name: str) -> None:
    operator, differs = OPERATORS[name](), False
    for kind, facts in EXPOSURES.items():
        if not applies(name, make_info(**facts)):
            continue
        info, binding = setup(name, kind)
        step, block = operator.bind(binding), block_of(name, info)
        late = cut(block, 0, COUNT)
        late.first = 40
        differs |= bool(changed(push(step, cut(block, 0, COUNT)), push(step, late)))
    assert differs == isinstance(operator.coupling, Numbered)


@every_step
def test_looks_at_no_template_it_does_not_declare(name: str) -> None:
    operator, asked = OPERATORS[name](), set()
    for kind, facts in EXPOSURES.items():
        if not applies(name, make_info(**facts)):
            continue
        info, binding = setup(name, kind)
        recorder = Recorder(binding.templates)
        operator.bind(dataclasses.replace(binding, templates=recorder)).push(block_of(name, info))
        asked |= recorder.asked
    assert isinstance(operator.coupling, PerIntegration | Numbered | Window | Template)
    declared = set(getattr(operator.coupling, "what", ()))
    assert asked <= declared
    assert not declared or asked, "declares templates and uses none"


@every_case
def test_declared_extent_is_true(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step, block = OPERATORS[name]().bind(binding), block_of(name, info)
    if not isinstance(step, BoundRampStep):
        pytest.skip("takes whole images")
    if any(one.frame for one in step.passes):
        # a statistic of the frame may reach everywhere; the passes before it may not
        stop = next(index for index, one in enumerate(step.passes) if one.frame)
        step = dataclasses.replace(step, passes=step.passes[:stop])
    halo = sum(one.halo for one in step.passes)
    row = info.ny // 2
    other = cut(block, 0, COUNT)
    rng = np.random.default_rng(5)
    other.data[..., row, :] = rng.choice([-5.0, 3e3, 7e4, np.nan], other.data[..., row, :].shape)
    flags = other.groupdq if isinstance(other, Ramp) else other.dq
    flags[..., row, :] |= rng.integers(0, 8, flags[..., row, :].shape).astype(flags.dtype)
    rows = np.r_[0 : row - halo, row + halo + 1 : info.ny]
    left, right = (walk_first(step, info, cut(one, 0, COUNT)) for one in (block, other))
    assert_same(left, right, where=(..., rows, slice(None)))
    assert any((left[key][..., row, :] != right[key][..., row, :]).any() for key in left)


def walk_first(step: BoundRampStep, info: ExposureInfo, block: Any) -> dict[str, np.ndarray]:
    out = walk(step, info, block, info.ny)
    return {key: value for key, value in out.items() if key != "err"}


def digest(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes() + repr((value.shape, value.dtype)).encode()).hexdigest()
    if isinstance(value, Mapping):
        return repr({key: digest(one) for key, one in value.items()})
    return repr(value)


@every_case
def test_leaves_references_templates_and_the_dq_plane_alone(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    # writeable copies: a write must be seen, not refused
    references = {
        key: dataclasses.replace(one, arrays={n: array.copy() for n, array in one.arrays.items()})
        for key, one in binding.references.items()
    }
    templates = {
        key: value.copy() if isinstance(value, np.ndarray | dict) else value
        for key, value in binding.templates.items()
    }
    copied = Binding(info, references, binding.dq_plane.copy(), templates)
    parts = [one.arrays for one in references.values()] + [templates, {"pixeldq": copied.pixeldq}]
    before = [digest(part) for part in parts]
    step = OPERATORS[name]().bind(copied)
    plane = step.pixeldq.copy()
    step.push(block_of(name, info))
    assert [digest(part) for part in parts] == before
    np.testing.assert_array_equal(step.pixeldq, plane)


@every_case
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_data_never_raise(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step = OPERATORS[name]().bind(binding)
    good = push(step, block_of(name, info))
    broken = block_of(name, info, broken=0.1)
    hopeless = cut(block_of(name, info), 0, COUNT)
    if isinstance(hopeless, Measurement):
        hopeless.spectra["flux"][...] = np.nan
    else:
        hopeless.data[...] = np.nan
        if getattr(hopeless, "zeroframe", None) is not None:
            hopeless.zeroframe[...] = 0
        flags = hopeless.groupdq if isinstance(hopeless, Ramp) else hopeless.dq
        flags[...] = 255
    for block in (broken, hopeless):
        out = push(step, block)
        assert {key: (value.shape, value.dtype) for key, value in out.items()} == {
            key: (value.shape, value.dtype) for key, value in good.items()
        }
    if OPERATORS[name].produces != "ramp":
        flux = out["data"] if "data" in out else out["flux"]
        assert np.isnan(flux).all(), "what cannot be measured is NaN, not a number"


@every_case
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_bad_references_never_raise(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    references = {}
    for key, one in binding.references.items():
        spoilt = {n: array.copy() for n, array in one.arrays.items()}
        for n, array in spoilt.items():
            array[..., : info.nx // 2] = 0xFFFFFFFF if n == "DQ" else np.nan
        references[key] = dataclasses.replace(one, arrays=spoilt)
    templates = dict(binding.templates)
    if OPERATORS[name].accepts == "ramp":
        for key in ("image", "scatter", "variance"):
            templates[key] = np.full(info.frame_shape, np.nan, np.float32)
    spoilt_binding = dataclasses.replace(binding, references=references, templates=templates)
    if OPERATORS[name].produces == "measurement":
        # half of the detector may be too little to find a source on; then the step must say so
        with contextlib.suppress(ConfigError):
            OPERATORS[name]().bind(spoilt_binding).push(block_of(name, info))
        return
    spoilt_step = OPERATORS[name]().bind(spoilt_binding)
    out = push(spoilt_step, block_of(name, info))
    good = push(OPERATORS[name]().bind(binding), block_of(name, info))
    assert {key: (value.shape, value.dtype) for key, value in out.items()} == {
        key: (value.shape, value.dtype) for key, value in good.items()
    }


@every_case
def test_bound_step_pickles(name: str, kind: str) -> None:
    info, binding = setup(name, kind)
    step = OPERATORS[name]().bind(binding)
    again = pickle.loads(pickle.dumps(step))
    block = block_of(name, info)
    assert_same(push(step, cut(block, 0, COUNT)), push(again, cut(block, 0, COUNT)))


@pytest.mark.parametrize("ngroups", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name, cls in OPERATORS.items() if cls.accepts == "ramp"])
def test_short_ramps_and_single_integrations(name: str, ngroups: int) -> None:
    for kind in ("nir-spectrum", "nir-averaged", "miri-spectrum"):
        if not applies(name, make_info(**EXPOSURES[kind])):
            continue
        info, binding = setup(name, kind, ngroups=ngroups)
        step = OPERATORS[name]().bind(binding)
        out = push(step, block_of(name, info, count=1))
        assert all(len(value) == 1 for value in out.values())
        if name == "ramp_fit":
            assert np.isfinite(out["data"]).mean() > 0.8


def test_every_step_is_tested_on_some_exposure() -> None:
    assert {case.values[0] for case in CASES} == set(OPERATORS)
