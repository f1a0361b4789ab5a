"""The protocol of a step: an operator holds parameters, a bound step does the work on one exposure.

An *operator* is a frozen dataclass whose fields are the step's parameters under their jwst names. ``bind`` joins it
to one exposure: shapes are checked, references prepared, DQ planes merged; the result is a *bound step*.

Steps that work on ramps, row by row, say so by a tuple of `RowPass`; the runner then walks several steps over one band
of rows while the band is in cache (see `tsostream.operators.tile`). Every bound step can also be used alone, through
``push(block)``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, get_type_hints

import msgspec
import numpy as np

from tsostream.errors import ConfigError, Problem, ReferenceMismatchError
from tsostream.integration.coupling import Coupling, PerIntegration
from tsostream.integration.exposure_info import ExposureInfo
from tsostream.integration.payload import Ramp, Rate
from tsostream.integration.reference import Reference

if TYPE_CHECKING:
    from tsostream.operators.tile import Tile

__all__ = [
    "Binding",
    "BoundRampStep",
    "BoundRateStep",
    "BoundStep",
    "BoundWindowStep",
    "Frames",
    "Memory",
    "Operator",
    "Part",
    "RowPass",
    "build_operator",
    "reference_array",
]

#: what a step can consume and produce
PAYLOADS = ("ramp", "rate", "measurement")


@dataclass(frozen=True)
class Part:
    """What a row pass does, in words that `tsostream.operators.fused` understands: it does several passes in one walk.

    Parameters
    ----------
    kind
        ``decode, flags, saturation, grow, second, plane, groups, levels, profiles, polynomial, unused,
        light, jump, spread, fit``.
    arrays
        What it does it with.
    """

    kind: str
    arrays: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowPass:
    """One walk over rows.

    Parameters
    ----------
    run
        ``run(tile, y0, y1)`` handles rows ``y0 <= y < y1`` of every integration in the tile.
    halo
        How many rows beyond ``y0, y1`` the pass reads of what earlier passes wrote. A pass with a halo may read
        neighbouring rows only from scratch arrays that no later pass writes: the rows behind it may already
        have gone through the whole chain.
    frame
        True for a statistic of whole frames (reference pixels, flux scale): runs once, when every earlier pass has
        finished all rows.
    part
        The same told otherwise, for passes that can be done together with others; None for all others.
    """

    run: Callable[[Tile, int, int], None]
    halo: int = 0
    frame: bool = False
    part: Part | None = None


@dataclass(frozen=True)
class Binding:
    """Everything a step is given when it is bound to an exposure.

    Parameters
    ----------
    info
        The exposure.
    references
        Reference type -> record, cut to the subarray or to the window an earlier step cut out; only those the step
        asked for and that exist.
    pixeldq : uint32 [y, x]
        The exposure's static DQ plane as the earlier steps left it.
    templates
        The scout's products by name. Empty while the scout itself runs, and when the steps are bound to see that
        they fit the exposure: a step must bind without them.
    segments
        First and last integration of each file, for steps that do what the official pipeline does to a file.
    official_rounding
        The segment scope: steps that can round like the official ones do so.
    """

    info: ExposureInfo
    references: Mapping[str, Reference] = field(default_factory=dict)
    pixeldq: np.ndarray | None = None
    templates: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[tuple[int, int], ...] = ()
    official_rounding: bool = False

    def __post_init__(self) -> None:
        cut = {name: one.within(self.info) for name, one in self.references.items()}
        object.__setattr__(self, "references", cut)

    @property
    def dq_plane(self) -> np.ndarray:
        """The static DQ plane, zeros where nothing was known yet; uint32 [y, x]."""
        if self.pixeldq is None:
            return np.zeros(self.info.frame_shape, np.uint32)
        return self.pixeldq


class BoundStep(Protocol):
    """A step joined to an exposure."""

    @property
    def name(self) -> str:
        """Step name."""
        ...

    @property
    def pixeldq(self) -> np.ndarray:
        """The static DQ plane after this step, uint32 [y, x]."""
        ...

    @property
    def skipped(self) -> str:
        """Why the step does nothing for this exposure; empty when it works."""
        ...

    def push(self, block: Any) -> Iterable[Any]:
        """Take a block, give back the blocks that are finished."""
        ...

    def flush(self) -> Iterable[Any]:
        """Give back what is still held, at the end of the exposure."""
        ...


@dataclass(frozen=True)
class Memory:
    """What a step on ramps knows of earlier integrations: one plane, carried from integration to integration.

    What an integration leaves depends on its saturated samples alone, so it can be found ahead of the other steps, and
    blocks need not wait for each other. Joining is exact (a maximum, a replacement): what is carried does not depend
    on where a run began, if it began ``before`` integrations earlier.

    Parameters
    ----------
    plane
        Name of the scratch array [integration, y, x] in which the step finds what earlier integrations left; zeros
        for the first.
    dtype
        Of the plane.
    before
        How many integrations back it can reach.
    trace
        ``trace(tile, planes)`` writes what each integration of a tile leaves, from its flags as the steps up to
        saturation leave them; it may change the flags as the step will.
    join
        ``join(state, plane)`` adds an integration to what is carried, in place.
    """

    plane: str
    dtype: Any
    before: int
    trace: Callable[[Tile, np.ndarray], None]
    join: Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class BoundRampStep:
    """A bound step on ramps, as row passes.

    Parameters
    ----------
    name
        Step name.
    pixeldq : uint32 [y, x]
        Static DQ plane after this step.
    passes
        Row passes, in order.
    scratch
        Name -> (shape per integration, dtype) of the working arrays the passes share; the runner makes them, one set
        per worker, so that a bound step itself holds no state.
    skipped
        Why the step does nothing for this exposure; empty when it works.
    produces
        ``ramp``, or ``rate`` for the step that fits the ramps and those after it.
    templates
        What later steps are told beside the scout's products (``average_dark_current``).
    memory
        What the step knows of earlier integrations; None for nothing.
    """

    name: str
    pixeldq: np.ndarray
    passes: tuple[RowPass, ...] = ()
    scratch: Mapping[str, tuple[tuple[int, ...], Any]] = field(default_factory=dict)
    skipped: str = ""
    produces: str = "ramp"
    templates: Mapping[str, Any] = field(default_factory=dict)
    memory: Memory | None = None

    def push(self, block: Ramp) -> list[Ramp] | list[Rate]:
        """Run the step alone on decoded ramps; arrays are changed in place."""
        from tsostream.operators.tile import run_alone  # the tile module needs the protocol above

        return run_alone(self, block)

    def flush(self) -> list[Any]:
        """Nothing is ever held back."""
        return []


@dataclass(frozen=True)
class BoundRateStep:
    """A bound step on slopes that needs nothing but the block in hand.

    Parameters
    ----------
    name
        Step name.
    pixeldq : uint32 [y, x]
        Static DQ plane after this step.
    info
        The exposure as later steps see it: a window that was cut out has another `frame_shape`, a flux calibration
        another `bunit`.
    run
        ``run(block)`` gives the block after the step. It may change the block's arrays in place, and must not keep
        them: they serve another block later. What it gives back are these arrays, contiguous parts of them, or arrays
        of its own.
    templates
        Scout products and other templates that look different after this step (wavelengths cut to a window).
    facts
        Keywords that products carry after this step (``PHOTMJSR``, ``PIXAR_SR``, ``SLTSTRT1``, …), by FITS name.
    skipped
        Why the step does nothing for this exposure; empty when it works.
    notes
        What is worth telling once.
    quiet
        Whether that it is skipped is no news: the step has nothing to do with such an exposure.
    """

    name: str
    pixeldq: np.ndarray
    info: ExposureInfo
    run: Callable[[Rate], Rate]
    templates: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""
    notes: tuple[str, ...] = ()
    quiet: bool = False

    def push(self, block: Rate) -> list[Rate]:
        """Take a block through the step."""
        return [self.run(block)]

    def flush(self) -> list[Rate]:
        """Nothing is ever held back."""
        return []


@dataclass(frozen=True)
class Frames:
    """What a window step kept of the integrations around a block; see `tsostream.operators.window`.

    Parameters
    ----------
    planes : float32 [slot, y, x]
        One plane per integration.
    scalars : float64 [slot, scalar]
        A few numbers per integration.
    marks : uint64 [slot, mark, y, word]
        A few bits per pixel; those of a row in words of their own.
    numbers : int64 [slot]
        Which integration stands in a slot; integration *n* can only stand in slot ``n % len(numbers)``.
    """

    planes: np.ndarray
    scalars: np.ndarray
    marks: np.ndarray
    numbers: np.ndarray

    def part(self, slots: slice) -> Frames:
        """Take some slots, to be written."""
        return Frames(self.planes[slots], self.scalars[slots], self.marks[slots], self.numbers[slots])

    def slots(self, numbers: np.ndarray) -> np.ndarray:
        """Slots of integrations by number, of any shape; -1 for those that are not there."""
        slots = numbers % len(self.numbers)
        return np.where((self.numbers[slots] == numbers) & (numbers > 0), slots, -1)


@dataclass(frozen=True)
class BoundWindowStep:
    """A bound step on slopes that looks at neighbouring integrations.

    The step says what it must remember of an integration (`prepare`), the runner remembers it as long as any window
    needs it, and calls `run` when all neighbours of a block are there. The result is a pure function of the block and
    of the frames in its windows: nothing else survives from block to block, so a run can begin anywhere.

    Parameters
    ----------
    name
        Step name.
    pixeldq : uint32 [y, x]
        Static DQ plane after this step.
    info
        The exposure as later steps see it.
    before, after
        How many integrations the step looks at on either side.
    prepare
        ``prepare(block, frames)`` writes what is to be remembered into one slot per integration, all but its number; a
        function of each integration alone.
    run
        ``run(block, frames)`` gives the block after the step; it may change the block's arrays in place.
    scalars, marks
        Scalars to remember per integration, and bits per pixel.
    segments
        First and last integration of the files that no window reaches beyond; empty when windows reach everywhere.
    templates, facts, skipped
        As in `BoundRateStep`.
    """

    name: str
    pixeldq: np.ndarray
    info: ExposureInfo
    before: int
    after: int
    prepare: Callable[[Rate, Frames], None]
    run: Callable[[Rate, Frames], Rate]
    scalars: int = 0
    marks: int = 0
    segments: tuple[tuple[int, int], ...] = ()
    templates: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def last_needed(self, number: int) -> int:
        """Tell the number of the last integration that decides about an integration."""
        end = next((last for first, last in self.segments if first <= number <= last), number + self.after)
        return min(number + self.after, end)

    def push(self, block: Rate) -> list[Rate]:
        """Take a block that is the whole exposure through the step."""
        from tsostream.operators.window import run_whole  # the window module needs the protocol above

        return [run_whole(self, block)]

    def flush(self) -> list[Rate]:
        """Nothing is ever held back."""
        return []


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Base of all steps: validation, description, defaults.

    Subclasses are frozen keyword-only dataclasses; annotate a field with ``Annotated[float, msgspec.Meta(gt=0)]`` to
    bound it. Class constants: ``name``, ``accepts``, ``produces``, ``references`` (needed), ``optional_references``.
    """

    name: ClassVar[str] = ""
    accepts: ClassVar[str] = "ramp"
    produces: ClassVar[str] = "ramp"
    references: ClassVar[tuple[str, ...]] = ()
    optional_references: ClassVar[tuple[str, ...]] = ()
    #: further names of parameters
    aliases: ClassVar[Mapping[str, str]] = {}

    skip: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            try:
                converted = msgspec.convert(value, hints[spec.name], strict=True)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    Problem(
                        f"{self.name}.{spec.name} = {value!r}: {error}",
                        todo=f"the default is {_default(spec)!r}",
                        code="parameter",
                    )
                ) from None
            object.__setattr__(self, spec.name, converted)

    @property
    def coupling(self) -> Coupling:
        """What the step looks at besides the integration in hand."""
        return PerIntegration()

    def wants(self, info: ExposureInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the reference types this exposure needs, and those it uses when they are there.

        Steps whose references depend on the mode say here which ones; the class constants name all of them.
        """
        return self.references, self.optional_references

    def bind(self, binding: Binding) -> BoundStep:
        """Join the step to an exposure."""
        raise TypeError(f"{type(self).__name__} does not define bind()")

    def parameters(self) -> dict[str, Any]:
        """Name -> value of every parameter, as recorded in the output's metadata."""
        return dataclasses.asdict(self)


def _default(spec: dataclasses.Field) -> Any:
    if spec.default is not dataclasses.MISSING:
        return spec.default
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return None


def build_operator(cls: type[Operator], parameters: Mapping[str, Any], *, where: str = "") -> Operator:
    """Make an operator from a mapping, naming unknown parameters.

    Raises
    ------
    ConfigError
        A parameter the step does not have (the nearest name is suggested), or a value it does not accept.
    """
    known = [spec.name for spec in dataclasses.fields(cls)]
    parameters = {cls.aliases.get(name, name): value for name, value in parameters.items()}
    problems = []
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *cls.aliases], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            problems.append(Problem(f"{cls.name} has no parameter {name!r}", where, hint, "parameter"))
    if problems:
        raise ConfigError(problems)
    hints = get_type_hints(cls, include_extras=True)
    values = {}
    for name, value in parameters.items():
        try:
            # lax: "8" from the command line is 8.0
            values[name] = msgspec.convert(value, hints[name], strict=False)
        except msgspec.ValidationError as error:
            problems.append(Problem(f"{cls.name}.{name} = {value!r}: {error}", where, code="parameter"))
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def reference_array(reference: Reference, extension: str, shape: tuple[int, ...], step: str) -> np.ndarray:
    """Fetch an array of a reference and check its trailing axes.

    Raises
    ------
    ReferenceMismatchError
        The extension is missing, or its last axes are not the subarray's.
    """
    array = reference.arrays.get(extension)
    if array is None:
        raise ReferenceMismatchError(
            Problem(
                f"{step} needs extension {extension}", reference.path or reference.name, "choose another file"
            )
        )
    if array.shape[-len(shape) :] != shape:
        raise ReferenceMismatchError(
            Problem(
                f"{extension} has shape {array.shape}, {step} needs (..., {', '.join(map(str, shape))})",
                reference.path or reference.name,
                "choose a reference for this subarray, or a full-frame one",
            )
        )
    return array
