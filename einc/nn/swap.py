"""Structured layers where a model has dense ones, in one call.

In: a model, and which structure goes where. Out: a `Restructuring`, the table of what
is (or would be) done. Dense layers are torch's nn.Linear and transformers' Conv1D.
Everything is decided, and every structure compiled, before the first layer is touched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

from einc import compiler
from einc.analysis.profile import Profile, number
from einc.api import Argument, StructuredMap, load
from einc.errors import SpecError, UsageError
from einc.nn.adapter import Adapted, last_factors
from einc.nn.compile import class_of
from einc.nn.dense import Dense, dense_of
from einc.nn.projection import project
from einc.nn.staying import heads, must_stay, named, shared
from einc.report import restructuring, signature, text

ALL_LINEAR = "all-linear"
EXCLUDED = "excluded"

Pattern = str | re.Pattern[str] | Callable[[nn.Module, str], bool]
"""The name of a module or the end of it, as PEFT takes it; the whole of it with `*` and
`?`; a regular expression for the whole; or what takes module and name and says yes or
no, as torchao's filters do."""
Chosen = str | StructuredMap | tuple[str, Mapping[str, Argument]]


@dataclass(frozen=True)
class Row:
    """One dense layer: its shape, and what becomes of it.

    `structure` is None where it is left alone, for the `reason` that is told; FLOPs
    are of a token forward, a router's with them. `error` is |W - dense| / |dense|,
    where W was projected.
    """

    name: str
    kind: str
    d_in: int
    d_out: int
    structure: str | None
    reason: str
    parameters: tuple[int, int]
    flops: tuple[int, int | float]
    error: float | None = None


@dataclass(frozen=True)
class Restructuring:
    """What `restructure` did, or would do: a row a dense layer. `str` is a table."""

    rows: tuple[Row, ...]
    mode: str

    @property
    def changed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.structure is not None)

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "rows": [vars(row) for row in self.rows]}

    def __str__(self) -> str:
        return text(restructuring(self.rows))


def restructure(
    model: nn.Module,
    spec: Chosen | Mapping[str, Chosen],
    *,
    include: Pattern | Sequence[Pattern] = ALL_LINEAR,
    exclude: Pattern | Sequence[Pattern] = (),
    arguments: Mapping[str, Argument] | None = None,
    init: Literal["scratch", "project"] = "scratch",
    mode: Literal["replace", "add"] = "replace",
    dry_run: bool = False,
    tokens: int = compiler.DEFAULT_TOKENS,
    seconds: float = 30.0,
    progress: Callable[[str], None] | None = None,
) -> Restructuring:
    """Puts structured layers where `model` has dense ones, in place.

    `spec` is what `einc.load` takes, with `arguments`, or a structure; or a mapping
    from patterns to these or to (spec, arguments), of which the first that fits a
    layer counts. `include` and `exclude` choose layers by pattern. Output heads, and
    layers whose weight another module has too, are left alone unless a name without
    wildcards asks for them; the rows say why. A layer of several names is excluded by
    any of them.

    `init="project"` starts from the nearest structured matrix to the dense weight, in
    up to `seconds` a layer, and keeps the bias. `mode="add"` freezes the dense layer
    and adds a structure that starts at zero. New layers have the device, dtype and
    mode of the old ones. `progress` is called with a line a layer. Raises `SpecError`
    where exact sizes do not fit a layer, and `UsageError` where nothing fits or a
    layer that must stay is asked for by name: the model is then as it was.
    """
    if init not in ("scratch", "project") or mode not in ("replace", "add"):
        raise UsageError("init is `scratch` or `project`, mode `replace` or `add`")
    if mode == "add" and init == "project":
        raise UsageError("an adapter starts at zero: init=`project` is for `replace`")
    chooser = _Chooser(
        spec, dict(arguments or {}), _patterns(include), _patterns(exclude)
    )
    planned = list(_planned(model, chooser, tokens, mode))
    if not any(plan.report for plan in planned):
        raise UsageError(f"no layer to change: {_why_none(planned)}")
    rows = [plan.row for plan in planned]
    if mode == "add":
        for plan in planned:
            if plan.report is not None:
                last_factors(plan.report.structure)
    if dry_run:
        return Restructuring(tuple(rows), mode)
    made: list[tuple[nn.Module, nn.Module]] = []
    frozen = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for i, plan in enumerate(planned):
            if plan.report is None:
                continue
            started = time.perf_counter()
            new, error = _made(plan, plan.report, init, mode, seconds)
            made.append((plan.dense.module, new))
            rows[i] = replace(plan.row, error=error)
            if progress is not None:
                told = "" if error is None else f", error {error:.3g}"
                spent = time.perf_counter() - started
                progress(f"{plan.row.name}: {plan.row.structure}{told}, {spent:.1f} s")
    except BaseException:
        for parameter, flag in frozen:  # adapters freeze what they are beside
            parameter.requires_grad_(flag)
        raise
    for old, new in made:
        _put(model, old, new)
    return Restructuring(tuple(rows), mode)


# Which layers


def _patterns(given: Pattern | Sequence[Pattern]) -> tuple[Pattern, ...]:
    if isinstance(given, str | re.Pattern) or callable(given):
        return (given,)
    return tuple(given)


def _fits(pattern: Pattern, name: str, module: nn.Module) -> bool:
    if isinstance(pattern, str):
        if pattern == ALL_LINEAR or fnmatchcase(name, pattern):
            return True
        return _is_plain(pattern) and name.endswith(f".{pattern}")
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return bool(pattern(module, name))


def _is_plain(pattern: Pattern) -> bool:
    """Whether it is a name, and so asks for what bears it."""
    is_name = isinstance(pattern, str) and not set(pattern) & set("*?[")
    return is_name and pattern != ALL_LINEAR


@dataclass(frozen=True)
class _Chooser:
    """Which structure a layer gets, if any, and whether it was asked for by name."""

    spec: Chosen | Mapping[str, Chosen]
    arguments: dict[str, Argument]
    include: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]

    def asks(self, names: Sequence[str], module: nn.Module) -> bool:
        """Whether a layer of these names is asked for by one of them."""
        keys = tuple(self.spec) if isinstance(self.spec, Mapping) else ()
        plain = filter(_is_plain, (*self.include, *keys))
        return any(_fits(p, name, module) for p in plain for name in names)

    def structure(self, names: Sequence[str], module: nn.Module) -> StructuredMap | str:
        """The structure, or why there is none. Under no name may it be excluded."""
        found = [self._of(name, module) for name in names]
        if EXCLUDED in found:
            return EXCLUDED
        return next((one for one in found if not isinstance(one, str)), found[0])

    def _of(self, name: str, module: nn.Module) -> StructuredMap | str:
        if not any(_fits(pattern, name, module) for pattern in self.include):
            return "not included"
        if any(_fits(pattern, name, module) for pattern in self.exclude):
            return EXCLUDED
        chosen: Any = self.spec
        if isinstance(self.spec, Mapping):
            fitting = (c for p, c in self.spec.items() if _fits(p, name, module))
            chosen = next(fitting, None)
            if chosen is None:
                return "no pattern fits"
        if isinstance(chosen, StructuredMap):
            return chosen
        arguments = self.arguments
        if isinstance(chosen, tuple) and len(chosen) == 2:
            chosen, given = chosen
            arguments = {**arguments, **given}
        if not isinstance(chosen, str):
            kind = type(chosen).__name__
            raise UsageError(
                f"a structure is a SPEC or what einc.load gives, not {kind}"
            )
        return load(chosen, **arguments)


@dataclass(frozen=True)
class _Plan:
    """What is to be done with one dense layer; `report` is None to leave it alone."""

    row: Row
    dense: Dense
    report: Profile | None


def _planned(
    model: nn.Module, chooser: _Chooser, tokens: int, mode: str
) -> Iterator[_Plan]:
    output_heads, tied = heads(model), shared(model)
    known: dict[tuple[int, int, StructuredMap], Profile] = {}
    for names, module in named(model):
        dense, name = dense_of(module), names[0]
        if dense is None:
            continue
        asked = chooser.asks(names, module)
        reasons = [must_stay(model, one, module) for one in names]
        if mode == "add":  # what is frozen and merged would be the others' weight, too
            reasons.append(tied.get(name, ""))
        reason = next(filter(None, reasons), "")
        structure = chooser.structure(names, module)
        if isinstance(structure, str):
            reason = structure
        elif asked and reason:
            raise UsageError(f"`{name}` cannot be changed: {reason}")
        elif not reason and not asked:
            is_head = any(one in output_heads for one in names)
            reason = "an output head" if is_head else tied.get(name, "")
        report = None
        if not reason and isinstance(structure, StructuredMap):
            key = dense.d_in, dense.d_out, structure
            if key not in known:
                known[key] = _analyzed(structure, dense, name, tokens)
            report = known[key]
        yield _Plan(_row(name, dense, report, reason, mode), dense, report)


def _analyzed(
    structure: StructuredMap, dense: Dense, name: str, tokens: int
) -> Profile:
    try:
        return compiler.analyze(structure.structure, dense.d_in, dense.d_out, tokens)
    except UsageError as error:
        raise UsageError(f"layer `{name}`: {error}") from None
    except SpecError as error:
        raise SpecError(
            [
                replace(fault, message=f"layer `{name}`: {fault.message}")
                for fault in error.diagnostics
            ]
        ) from None


def _row(
    name: str, dense: Dense, report: Profile | None, reason: str, mode: str
) -> Row:
    bias = dense.d_out if dense.bias is not None else 0
    before = dense.d_in * dense.d_out
    shape = (name, dense.kind, dense.d_in, dense.d_out)
    if report is None:
        same = (before + bias, before + bias), (2 * before, 2 * before)
        return Row(*shape, None, reason, *same)
    assert report.figures is not None
    parameters, work = report.figures.parameters, report.figures.work
    after = parameters.total + parameters.router + len(report.structure.normalized)
    flops = number(2 * (work.matrix + parameters.router))
    assert flops is not None
    if mode == "add":
        after, flops = before + after, 2 * before + flops
    return Row(
        *shape,
        signature(report.structure),
        "",
        (before + bias, after + bias),
        (2 * before, flops),
    )


def _why_none(planned: Sequence[_Plan]) -> str:
    if not planned:
        return "the model has no dense layers"
    reasons = dict.fromkeys(f"`{p.row.name}` {p.row.reason}" for p in planned)
    return "; ".join(list(reasons)[:3]) + "; ..." * (len(reasons) > 3)


# Changing them


def _made(
    plan: _Plan, report: Profile, init: str, mode: str, seconds: float
) -> tuple[nn.Module, float | None]:
    """What stands for a dense layer, and the projection's error, if any."""
    dense, error = plan.dense, None
    old = dense.module
    weight = old.weight
    slow_views = weight.dtype is torch.bfloat16 and weight.device.type == "cpu"
    built: Any = class_of(report, dtype="bfloat16" if slow_views else "float32")
    options = {"device": weight.device, "dtype": weight.dtype}
    if mode == "add":
        added = Adapted(old, built(bias=False, **options))
        return added.train(old.training), None
    new: Any = built(bias=dense.bias is not None, **options)
    if init == "project":
        try:
            error = project(new, dense.matrix(), seconds=seconds)
        except UsageError as fault:
            raise UsageError(f"layer `{plan.row.name}`: {fault}") from None
        if dense.bias is not None:
            with torch.no_grad():
                new.bias.copy_(dense.bias)
    new.requires_grad_(weight.requires_grad)
    if dense.bias is not None:
        new.bias.requires_grad_(dense.bias.requires_grad)
    return new.train(old.training), error


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts the new layer wherever the old one is."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
    for parent in model.modules():
        _leave_fast_path(parent, new)


def _leave_fast_path(parent: Any, new: nn.Module) -> None:
    """torch's encoders read the weights of linear1 and linear2 in eval mode.

    What turns that off is what would with another activation, and without nesting.
    """
    if not isinstance(parent, nn.TransformerEncoderLayer | nn.TransformerEncoder):
        return
    if not any(module is new for module in parent.modules()):
        return
    if isinstance(parent, nn.TransformerEncoder):
        parent.use_nested_tensor = False
    else:
        parent.activation_relu_or_gelu = 0
