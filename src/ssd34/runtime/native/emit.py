"""Writing LLVM code from Python: values with operators, loops, conditions.

    add = code.function("add", {"to": POINTER, "number": I64})
    with code.loop(add["number"]) as k:
        place = add["to"] + 4 * k
        place.store(place.load(I32) + 1)
    code.finish()

Integers wrap. Pointers have no type: adding to one moves it by bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
POINTER = ir.PointerType()
NOTHING = ir.VoidType()


def vector(element: Any, lanes: int) -> Any:
    """The type of so many elements in one register."""
    return ir.VectorType(element, lanes)


class Value:
    """A number, vector or pointer of the code that is being written."""

    def __init__(self, code: Code, raw: Any) -> None:
        self._code = code
        self.raw = raw
        self.type = raw.type

    def __add__(self, other: Value | float) -> Value:
        if self.type == POINTER:
            by = self._code.value(other, I64).raw
            return self._new(self._code.builder.gep(self.raw, [by], source_etype=I8))
        return self._apply("add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._apply("sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._apply("mul", other)

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Value | int) -> Value:
        """Of numbers without a sign."""
        return self._integers("udiv", other)

    def __lshift__(self, other: int) -> Value:
        return self._integers("shl", other)

    def __rshift__(self, other: int) -> Value:
        """The sign stays."""
        return self._integers("ashr", other)

    def __and__(self, other: Value | int) -> Value:
        return self._integers("and_", other)

    def __lt__(self, other: Value | float) -> Value:
        return self._compare("<", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compare(">", other)

    def equals(self, other: Value | int) -> Value:
        """Whether both are the same."""
        return self._compare("==", other)

    def within(self, end: Value | int) -> Value:
        """Whether an integer is 0 or more and less than another one."""
        right = self._code.value(end, self.type).raw
        return self._new(self._code.builder.icmp_unsigned("<", self.raw, right))

    def load(self, kind: Any, *, align: int = 1) -> Value:
        """What lies at this address."""
        return self._new(self._code.builder.load(self.raw, typ=kind, align=align))

    def store(self, value: Value | int, *, align: int = 1) -> None:
        """Write to this address; plain integers as 64 bits."""
        self._code.builder.store(self._code.value(value, I64).raw, self.raw, align=align)

    def to(self, kind: Any, *, signed: bool = True) -> Value:
        """As another type: wider, narrower, from or to a float (rounded half to even)."""
        builder, source = self._code.builder, _element(self.type)
        target = _element(kind)
        if target == F32:
            name = "sitofp" if signed else "uitofp"
        elif source == F32:
            return self._code.intrinsic("llvm.lrint", kind, [self], suffix=(kind, self.type))
        elif target.width < source.width:
            name = "trunc"
        else:
            name = "sext" if signed else "zext"
        return self._new(getattr(builder, name)(self.raw, kind))

    def as_bits(self, kind: Any) -> Value:
        """The same bits as another type of the same size."""
        return self._new(self._code.builder.bitcast(self.raw, kind))

    def _apply(self, operator: str, other: Value | float) -> Value:
        name = f"f{operator}" if _element(self.type) == F32 else operator
        return self._integers(name, other)

    def _integers(self, name: str, other: Value | float) -> Value:
        right = self._code.value(other, self.type).raw
        return self._new(getattr(self._code.builder, name)(self.raw, right))

    def _compare(self, sign: str, other: Value | float) -> Value:
        builder, right = self._code.builder, self._code.value(other, self.type).raw
        compare = builder.fcmp_ordered if _element(self.type) == F32 else builder.icmp_signed
        return self._new(compare(sign, self.raw, right))

    def _new(self, raw: Any) -> Value:
        return Value(self._code, raw)


class Code:
    """A module of functions; one is being written at a time."""

    def __init__(self) -> None:
        self.module = ir.Module()
        self.builder: Any = None

    def function(
        self, name: str, parameters: Mapping[str, Any], *, exported: bool = False
    ) -> dict[str, Value]:
        """Begin a function that returns nothing; the pointers among its parameters never meet.

        Returns:
            Its parameters by name.
        """
        function = ir.Function(
            self.module, ir.FunctionType(NOTHING, list(parameters.values())), name
        )
        if not exported:
            function.linkage = "internal"
            function.attributes.add("noinline")
        for argument, each in zip(function.args, parameters, strict=True):
            argument.name = each
            if argument.type == POINTER and not exported:
                argument.add_attribute("noalias")
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        return {each.name: Value(self, each) for each in function.args}

    def finish(self) -> None:
        """End the function."""
        self.builder.ret_void()

    def call(self, name: str, *arguments: Value | int) -> None:
        """Call a function of the module; integers are passed as 64 bits."""
        function = self.module.get_global(name)
        self.builder.call(function, [self.value(a, I64).raw for a in arguments])

    def declare(self, name: str) -> None:
        """A function without arguments that is found where the module is loaded."""
        ir.Function(self.module, ir.FunctionType(NOTHING, []), name)

    def intrinsic(
        self, name: str, result: Any, arguments: list[Value], *, suffix: tuple[Any, ...] = ()
    ) -> Value:
        """Call one of LLVM's own functions, whose name ends in the types it is for."""
        name += "".join(f".{_mangled(kind)}" for kind in suffix)
        function = self.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [a.type for a in arguments])
            function = ir.Function(self.module, kind, name)
        return Value(self, self.builder.call(function, [a.raw for a in arguments]))

    def value(self, value: Value | float, kind: Any) -> Value:
        """A number as a constant of a type, in each lane of a vector; a single value spread."""
        if not isinstance(value, Value):
            lanes = getattr(kind, "count", None)
            return Value(self, ir.Constant(kind, value if lanes is None else [value] * lanes))
        if isinstance(kind, ir.VectorType) and not isinstance(value.type, ir.VectorType):
            one = self.builder.insert_element(
                ir.Constant(kind, ir.Undefined), value.raw, ir.Constant(I32, 0)
            )
            zeros = ir.Constant(vector(I32, kind.count), [0] * kind.count)
            return Value(self, self.builder.shuffle_vector(one, one, zeros))
        return value

    def fetch_add(self, place: Value, number: int) -> Value:
        """Add to a 64-bit integer that threads share; what it was before. What this thread wrote
        before is seen by whoever sees the sum."""
        amount = ir.Constant(I64, number)
        return Value(self, self.builder.atomic_rmw("add", place.raw, amount, "acq_rel"))

    def load_shared(self, place: Value) -> Value:
        """A 64-bit integer that other threads add to."""
        return Value(self, self.builder.load_atomic(place.raw, "acquire", 8, typ=I64))

    def pause(self) -> None:
        """Tell the processor that this thread waits."""
        self.intrinsic("llvm.x86.sse2.pause", NOTHING, [])

    def prefetch(self, place: Value, *, to_write: bool = False) -> None:
        """Have a line of the cache brought near; the address need not exist."""
        name = "llvm.prefetch.p0"
        numbers = [self.value(number, I32) for number in (int(to_write), 3, 1)]
        self.intrinsic(name, NOTHING, [place, *numbers])

    def select(self, condition: Value, one: Value, other: Value) -> Value:
        """One where the condition holds, else the other."""
        return Value(self, self.builder.select(condition.raw, one.raw, other.raw))

    def smaller(self, one: Value, other: Value) -> Value:
        """The smaller of two, in each lane."""
        return self.select(one < other, one, other)

    def larger(self, one: Value, other: Value) -> Value:
        """The larger of two, in each lane."""
        return self.select(one > other, one, other)

    def variable(self, kind: Any, *, align: int = 8) -> Value:
        """Room for a value in this function; LLVM keeps it in a register where it can."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(kind)
            place.align = align
            place.type = POINTER  # llvmlite would say to what
        return Value(self, place)

    @contextmanager
    def loop(self, count: Value | int) -> Iterator[Value]:
        """Repeat with 0, 1, ... count - 1."""
        before = self.builder.block
        head, body, after = (self.builder.append_basic_block() for _ in range(3))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        number = self.builder.phi(I64)
        number.add_incoming(ir.Constant(I64, 0), before)
        more = Value(self, number) < self.value(count, I64)
        self.builder.cbranch(more.raw, body, after)
        self.builder.position_at_end(body)
        yield Value(self, number)
        number.add_incoming((Value(self, number) + 1).raw, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def forever(self) -> Iterator[Callable[[Value], None]]:
        """Repeat until the function that is yielded was called with what holds."""
        body, after = (self.builder.append_basic_block() for _ in range(2))
        self.builder.branch(body)
        self.builder.position_at_end(body)

        def leave_if(condition: Value) -> None:
            on = self.builder.append_basic_block()
            self.builder.cbranch(condition.raw, after, on)
            self.builder.position_at_end(on)

        yield leave_if
        self.builder.branch(body)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Only where the condition holds."""
        with self.builder.if_then(condition.raw):
            yield


def _element(kind: Any) -> Any:
    return getattr(kind, "element", kind)


def _mangled(kind: Any) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_mangled(kind.element)}"
    return "f32" if kind == F32 else str(kind)
