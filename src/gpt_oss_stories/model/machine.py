"""What compiled loops (`compiled_step`) need of the machine and numba cannot say: addresses, bits of a number, and
cores that work side by side.

Cores share words, 64-bit numbers in an array, which one of them can read, count up or exchange in one piece; what a
core wrote before is there for whoever sees it. They wait for each other by looking at such a word again and again,
since sleeping and waking up takes longer than a step of a small model.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba.extending
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

PATIENCE = 1000
"""Looks at a word, of some 50 ns each, before the system may run something else on this core."""

CAN_SHARE = os.name == "posix"
"""Whether cores can share work: elsewhere nobody says how a core lets others run."""


intrinsic: Any = numba.extending.intrinsic  # whose types do not know that numba gives the first argument


def _use_wide_registers() -> None:
    """Let LLVM use all 512 bits of a register where there are so many: for the sake of older processors' clocks it uses
    256 unless told so, and batches then take longer. A choice of the user's stays, and once something has
    been compiled in this process, nothing changes any more."""
    features = llvmlite.binding.get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and features.get("avx512f"):  # type: ignore[attr-defined]
        numba.config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"  # type: ignore[attr-defined]


_use_wide_registers()


def _compiler(fastmath: set[str], **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for loops; infinities and NaN mean what they always mean."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, **more}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written, as in some containers: compiled anew by each process
            return njit(**options)(function)

    return decorate


compiled = _compiler({"reassoc", "contract", "nsz", "arcp"})
"""A decorator that makes machine code of a function; sums in any order, so that they fill vector registers."""

compiled_in_place = _compiler({"reassoc", "contract", "nsz", "arcp"}, inline="always")
"""The same, for a function that is called in one place: it is compiled as a part of its caller. Every function on the
way from a loop to Python is optimised again with all that it calls."""

compiled_in_order = _compiler({"contract"})
"""The same as `compiled`, for what depends on the order of operations; and for what does not, so that each number is
the same whichever way LLVM takes through a loop: that depends on where in memory arrays lie."""


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """An address as something that `numba.carray` takes."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), build


@intrinsic
def power_of_two(context: Any, exponent: Any) -> Any:
    """2 to a whole number from -126 to 127, both float32: its bits are those of the exponent."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(builder.fptosi(arguments[0], word), word(127))
        return builder.bitcast(builder.shl(biased, word(23)), ir.FloatType())

    return types.float32(types.float32), build


def _word(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Where the word is that an intrinsic's first two arguments, an array and a place, name."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def look(context: Any, words: Any, place: Any) -> Any:
    """Read a word."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, arguments), "seq_cst", 8)

    return types.int64(words, types.int64), build


@intrinsic
def count_up(context: Any, words: Any, place: Any) -> Any:
    """Add one to a word; gives what it was."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = _word(context, builder, signature, arguments)
        return builder.atomic_rmw("add", word, ir.IntType(64)(1), "seq_cst")

    return types.int64(words, types.int64), build


@intrinsic
def exchange(context: Any, words: Any, place: Any, expected: Any, new: Any) -> Any:
    """Make a word `new` if it is `expected`, and say whether it was."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = _word(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(word, arguments[2], arguments[3], "seq_cst", "seq_cst"), 1)

    return types.boolean(words, types.int64, types.int64, types.int64), build


@intrinsic
def pause(context: Any) -> Any:
    """Tell the processor that this core only waits: another one that shares its units may have them for a moment."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.none(), build


_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@compiled
def wait_a_moment(looks):
    """What to do after so many looks at a word."""
    if looks <= PATIENCE:
        pause()
    elif CAN_SHARE:
        _sched_yield()


@compiled
def meet(words, cores, meeting):
    """Go on when all cores have come to their meeting number `meeting`, counted from 1; the first word counts them."""
    if cores > 1:
        count_up(words, 0)
        looks = 0
        while look(words, 0) < cores * meeting:
            looks += 1
            wait_a_moment(looks)
