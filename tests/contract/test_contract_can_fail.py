"""Steps that break one promise each; the contract test that guards the promise must notice."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import test_operators as contract

from tsostream.integration.coupling import Coupling, Numbered, Template, Window
from tsostream.operators.base import Binding, BoundRampStep, Operator, RowPass
from tsostream.operators.catalog import OPERATORS
from tsostream.operators.tile import Tile

KIND = "nir-spectrum"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Good(Operator):
    """Subtract a constant; breaks no promise."""

    name: ClassVar[str] = "planted"
    references: ClassVar[tuple[str, ...]] = ("superbias",)

    def bind(self, binding: Binding) -> BoundRampStep:
        return BoundRampStep(self.name, binding.dq_plane, (RowPass(partial(self.work, binding)),))

    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        tile.data[:, :, y0:y1] -= np.float32(1.0)


class MixesIntegrations(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        tile.data[:, :, y0:y1] -= tile.data[:, :, y0:y1].mean(axis=0)


class CountsCalls(Good):
    calls: ClassVar[list[int]] = []

    @classmethod
    def work(cls, binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        cls.calls.append(1)
        tile.data[:, :, y0:y1] += np.float32(len(cls.calls))


class LooksAtItsNumber(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        tile.data[:, :, y0:y1] += np.float32(tile.first)


class NeedsNoNumber(Good):
    @property
    def coupling(self) -> Coupling:
        return Numbered()


class LooksAtTheNextRow(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        for y in range(y0, min(y1, tile.data.shape[2] - 1)):
            tile.data[:, :, y] += tile.data[:, :, y + 1]


class WritesIntoItsReference(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        binding.references["superbias"].arrays["SCI"][0, 0] += 1.0


class WritesIntoThePlane(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        binding.dq_plane[0, 0] ^= np.uint32(4)


class RaisesOnNan(Good):
    @staticmethod
    def work(binding: Binding, tile: Tile, y0: int, y1: int) -> None:
        if not np.isfinite(tile.data).all():
            raise ValueError("not finite")


class Peeks(Good):
    def bind(self, binding: Binding) -> BoundRampStep:
        _ = binding.templates["image"]
        return super().bind(binding)


class DeclaresWhatItDoesNotUse(Good):
    @property
    def coupling(self) -> Coupling:
        return Template(("image",))


class DoesNotPickle(Good):
    def bind(self, binding: Binding) -> BoundRampStep:
        return BoundRampStep(self.name, binding.dq_plane, (RowPass(lambda tile, y0, y1: None),))


class ForgetsFlags(Good):
    def bind(self, binding: Binding) -> BoundRampStep:
        return BoundRampStep(self.name, 0 * binding.dq_plane, (RowPass(partial(self.work, binding)),))


class DoesNothingAndSaysNothing(Good):
    def bind(self, binding: Binding) -> BoundRampStep:
        return BoundRampStep(self.name, binding.dq_plane)


class ReadsItsScratch(Good):
    def bind(self, binding: Binding) -> BoundRampStep:
        shape = (binding.info.frame_shape, np.float32)
        return BoundRampStep(self.name, binding.dq_plane, (RowPass(self.add),), {"planted.work": shape})

    @staticmethod
    def add(tile: Tile, y0: int, y1: int) -> None:
        tile.scratch["planted.work"][:, y0:y1] *= np.float32(0.0)
        tile.data[:, :, y0:y1] += tile.scratch["planted.work"][:, None, y0:y1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HasAnUndescribedParameter(Good):
    """Subtract a constant."""

    level: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class HasABadDefault(Good):
    """Subtract a constant."""

    level: float = "high"  # type: ignore[assignment]


by_case = (
    contract.test_bound_step_says_what_it_is,
    contract.test_results_do_not_depend_on_the_block_size,
    contract.test_results_do_not_depend_on_bands_tiles_or_scratch,
    contract.test_declared_coupling_is_true,
    contract.test_looks_at_no_template_it_does_not_declare,
    contract.test_declared_extent_is_true,
    contract.test_leaves_references_templates_and_the_dq_plane_alone,
    contract.test_bad_data_never_raise,
    contract.test_bound_step_pickles,
)


def run(check: Callable[..., None]) -> None:
    """Let the planted step through a contract test: one of a kind of exposure, or one of all kinds together."""
    check("planted", *([KIND] if "kind" in inspect.signature(check).parameters else []))


@pytest.mark.parametrize("check", by_case)
def test_a_good_step_passes(check: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "planted", Good)
    run(check)
    contract.test_only_numbered_steps_look_at_the_number("planted")


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (MixesIntegrations, contract.test_results_do_not_depend_on_the_block_size),
        (MixesIntegrations, contract.test_declared_coupling_is_true),
        (CountsCalls, contract.test_results_do_not_depend_on_the_block_size),
        (LooksAtTheNextRow, contract.test_declared_extent_is_true),
        (ReadsItsScratch, contract.test_results_do_not_depend_on_bands_tiles_or_scratch),
        (WritesIntoItsReference, contract.test_leaves_references_templates_and_the_dq_plane_alone),
        (WritesIntoThePlane, contract.test_leaves_references_templates_and_the_dq_plane_alone),
        (RaisesOnNan, contract.test_bad_data_never_raise),
        (Peeks, contract.test_looks_at_no_template_it_does_not_declare),
        (DeclaresWhatItDoesNotUse, contract.test_looks_at_no_template_it_does_not_declare),
        (DoesNotPickle, contract.test_bound_step_pickles),
        (ForgetsFlags, contract.test_bound_step_says_what_it_is),
        (DoesNothingAndSaysNothing, contract.test_bound_step_says_what_it_is),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_broken_promise_is_noticed(
    planted: type[Operator], check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "planted", planted)
    with pytest.raises(Exception) as caught:  # an assertion, or what the step itself raised
        run(check)
    assert not isinstance(caught.value, KeyError | TypeError | ImportError) or planted is DoesNotPickle


@pytest.mark.parametrize("planted", [LooksAtItsNumber, NeedsNoNumber])
def test_a_wrong_word_about_the_number_is_noticed(
    planted: type[Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "planted", planted)
    with pytest.raises(AssertionError):
        contract.test_only_numbered_steps_look_at_the_number("planted")


@pytest.mark.parametrize(
    ("planted", "check"),
    [
        (HasAnUndescribedParameter, contract.test_describes_itself),
        (HasABadDefault, contract.test_is_frozen_keyword_only_with_valid_defaults),
    ],
)
def test_a_careless_class_is_noticed(
    planted: type[Operator], check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATORS, "planted", planted)
    with pytest.raises(Exception, match=r"planted|Parameters"):
        check("planted")


def test_a_declared_window_is_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that mixes integrations may, once it says so, and no further."""

    class Blurs(Good):
        reach: ClassVar[int] = 1

        @property
        def coupling(self) -> Coupling:
            return Window(1, 1)

        @classmethod
        def work(cls, binding: Binding, tile: Tile, y0: int, y1: int) -> None:
            before = tile.data[:, :, y0:y1].copy()
            for k in range(len(before)):
                near = slice(max(0, k - cls.reach), k + cls.reach + 1)
                tile.data[k, :, y0:y1] = before[near].mean(axis=0)

    monkeypatch.setitem(OPERATORS, "planted", Blurs)
    contract.test_declared_coupling_is_true("planted", KIND)
    monkeypatch.setattr(Blurs, "reach", 2)
    with pytest.raises(AssertionError):
        contract.test_declared_coupling_is_true("planted", KIND)


def test_rubbish_in_scratch_is_rubbish() -> None:
    info, binding = contract.setup("jump", KIND)
    step: Any = OPERATORS["jump"]().bind(binding)
    seen: list[float] = []
    peek = RowPass(lambda tile, y0, y1: seen.append(float(tile.scratch["jump.marks"].std())))
    contract.walk(dataclasses.replace(step, passes=(peek,)), info, contract.block_of("jump", info), 99)
    assert seen[0] > 10
