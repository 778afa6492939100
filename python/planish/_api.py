"""build, load, Engine, Context, Plan: what users call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

import numpy as np

from . import _export, _planish
from ._arrays import DTypeName, Feeds, empty_like_on_gpu, feeds_of, to_user
from ._calibration import samples_of
from ._errors import Error
from ._progress import reported

PathLike = Union[str, "os.PathLike[str]"]
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8", "auto")


class TensorInfo:
    """An input or output: `name`, `dtype` ("float32", ...) and `shape`, a tuple of sizes and, where a size is open,
    of its symbol or expression ("N", "2*S + 1"). `shape` is None when even the rank is open. `kind` is "tensor",
    "sequence" or "optional"."""

    __slots__ = ("dtype", "kind", "name", "shape")

    def __init__(self, name: str, dtype: str, kind: str, shape: list[str] | None) -> None:
        self.name = name
        self.dtype = DTypeName(dtype)
        self.kind = kind
        self.shape = None if shape is None else tuple(int(d) if d.isdigit() else d for d in shape)

    def __repr__(self) -> str:
        shape = "any shape" if self.shape is None else ", ".join(str(d) for d in self.shape)
        return f"<{self.name}: {self.dtype}[{shape}]{'' if self.kind == 'tensor' else ' ' + self.kind}>"


class Plan:
    """A built plan in memory: `save` it, `load` it, read its `report`."""

    def __init__(self, raw: _planish.Plan) -> None:
        self._raw = raw

    def save(self, path: PathLike) -> None:
        """Writes the plan; `path` holds the former file or the whole plan, nothing between. Errors: io_error."""
        self._raw.save(os.fspath(path))

    def export_onnx(self, path: PathLike) -> None:
        """Writes the plan's portable graph as an ONNX model; weights beyond 2 GB go beside it. Errors: io_error."""
        self._raw.export_onnx(os.fspath(path))

    def bytes(self) -> bytes:
        """The content of the .plan file."""
        return self._raw.bytes()

    __bytes__ = bytes

    @property
    def report(self) -> dict:
        """tactics, passes, layers, precision, output_errors, groups, mixes, verification (rows), budget, seconds (by
        stage), timing_cache, warnings."""
        return self._raw.report()

    def __str__(self) -> str:
        """The optimised graph as text."""
        return self._raw.text()

    def __repr__(self) -> str:
        report = self.report
        return f"<planish.Plan: {len(report['layers'])} regions, {len(report['verification'])} verified>"


class _Runner:
    """What Engine and Context share: running by name or by position."""

    _raw: Any
    _engine: Any  # the engine's side of _raw
    _gpu: bool  # runs on a CUDA device
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(
        self, feeds: Mapping[str, Any], outputs: Mapping[str, Any] | None = None, stream: int | None = None
    ) -> dict:
        """Runs once.

        feeds: array by input name: NumPy, or anything with DLPack or __array__ (a torch CPU tensor); contiguous CPU
            memory is used in place. A sequence input takes a list of arrays. On a GPU also arrays in its memory
            (DLPack, __cuda_array_interface__), used where they are.
        outputs: arrays to write into, by output name; only these outputs are delivered, and they are what is returned.
        stream: a CUDA stream handle (torch.cuda.current_stream().cuda_stream) to run in; the call then returns
            without waiting, unless host arrays take part. The arrays must live until the stream is done. An error on
            the CPU.

        Returns the outputs by name: NumPy arrays that own their memory, or arrays on the GPU, of the library that the
        feeds come from, when any of them is there. Errors: invalid_argument for a missing or unknown name, a wrong
        dtype or shape.
        """
        if stream is not None and not self._gpu:
            raise Error("unsupported", "stream= needs an engine on a CUDA device, this one runs on the CPU")
        if not isinstance(feeds, Mapping):
            raise Error(
                "invalid_argument",
                f"feeds is a {type(feeds).__name__}, expected a dict of arrays by input name",
                "the inputs are: " + ", ".join(repr(i.name) for i in self.inputs),
            )
        kinds = {info.name: info.kind for info in self.inputs}
        rows = Feeds(self._gpu, stream)
        for name, value in feeds.items():
            rows.add(str(name), value, kinds.get(name, "tensor"))
        if outputs is None and rows.on_gpu is not None:
            outputs = self._outputs_on_gpu(rows)
        if outputs is not None:
            targets = Feeds(self._gpu, stream)
            for name, value in outputs.items():
                targets.add_target(str(name), value)
            self._raw.run_into(rows.rows, targets.rows, stream or 0)
            return dict(outputs)
        results = self._raw.run(rows.rows)
        return {info.name: to_user(value) for info, value in zip(self.outputs, results)}

    def _outputs_on_gpu(self, feeds: Feeds) -> dict | None:
        missing = [i.name for i in self.inputs if i.name not in feeds.rows]
        types = None if missing else self._engine.output_types([list(feeds.rows[i.name][1]) for i in self.inputs])
        if types is None:
            return None
        return {o.name: empty_like_on_gpu(feeds.on_gpu, *type_) for o, type_ in zip(self.outputs, types)}

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Positional (or keyword) inputs; one output comes bare, several as a tuple."""
        if len(arrays) > len(self.inputs):
            raise Error(
                "invalid_argument",
                f"{len(arrays)} arrays for {len(self.inputs)} inputs",
                "the inputs are: " + ", ".join(repr(i.name) for i in self.inputs),
            )
        feeds = {info.name: array for info, array in zip(self.inputs, arrays)}
        for name in named:
            if name in feeds:
                raise Error("invalid_argument", f"input '{name}' is given by position and by name")
        results = tuple(self.run({**feeds, **named}).values())
        return results[0] if len(results) == 1 else results


class Context(_Runner):
    """Scratch memory for one run at a time: one for each thread. Weights are shared with its engine."""

    def __init__(self, engine: Engine) -> None:
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._engine, self._gpu = engine._raw, engine._gpu
        self._raw = engine._raw.create_context()


class Engine(_Runner):
    """A loaded plan. Immutable; may be used by many threads at once."""

    def __init__(self, raw: _planish.Engine) -> None:
        self._raw = self._engine = raw
        self._gpu = raw.info()["device"].startswith("cuda")
        self.inputs = tuple(TensorInfo(*row) for row in raw.inputs())
        self.outputs = tuple(TensorInfo(*row) for row in raw.outputs())

    def create_context(self) -> Context:
        """A context of this engine: one for each thread."""
        return Context(self)

    def prepare(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Compiles for these input shapes, so that the first run with them does not wait."""
        self._raw.prepare(self._ordered(shapes))

    def layers(self, shapes: Mapping[str, Sequence[int]]) -> list[dict]:
        """Where and how each region runs for these input shapes; empty when the interpreter runs the plan."""
        return self._raw.layers(self._ordered(shapes))

    def profile(self, feeds: Mapping[str, Any], runs: int = 20, trace: PathLike | None = None) -> dict:
        """Where the time of a run goes: medians over `runs` runs, held against what the machine was measured to do.

        feeds: as in `run`.
        trace: a file to write one run to, as a trace for Perfetto or chrome://tracing.

        Returns seconds (all regions), threads, peak_flops and peak_bandwidth (per second), and regions, in the order
        in which they run: name, layers, op, implementation, seconds, flops, bytes, busy_threads, and roofline, the
        share of what the machine allows (above 1 where data came from a closer cache or the algorithm saves
        operations).
        Errors: those of `run`; unsupported when the reference interpreter runs the plan.
        """
        if runs < 1:
            raise Error("invalid_argument", f"runs is {runs}", "give a positive number")
        rows = Feeds()
        for name, value in feeds.items():
            rows.add(str(name), value)
        result = self._raw.profile(rows.rows, runs)
        text = result.pop("trace")
        if trace is not None:
            with open(trace, "w", encoding="utf-8") as file:
                file.write(text)
        return result

    @property
    def info(self) -> dict:
        """device, target, threads, sizes in bytes, provenance."""
        return self._raw.info()

    def _ordered(self, shapes: Mapping[str, Sequence[int]]) -> list[list[int]]:
        missing = [i.name for i in self.inputs if i.name not in shapes]
        if missing:
            raise Error("invalid_argument", f"no shape for input '{missing[0]}'")
        return [[int(d) for d in shapes[i.name]] for i in self.inputs]

    def __repr__(self) -> str:
        return f"<planish.Engine on {self.info['device']}: {list(self.inputs)} -> {list(self.outputs)}>"


def _shape_ranges(shapes: Mapping[str, Any] | None) -> dict[str, list[list[int]]]:
    ranges = {}
    for name, value in (shapes or {}).items():
        try:
            fixed = all(isinstance(d, (int, np.integer)) for d in value)
            rows = [value] * 3 if fixed else value
            low, opt, high = ([int(d) for d in row] for row in rows)
        except (TypeError, ValueError) as error:
            raise Error(
                "invalid_argument",
                f"shapes['{name}'] is {value!r}",
                "give (min, opt, max), each a tuple of sizes, or one tuple for a fixed shape",
            ) from error
        ranges[name] = [low, opt, high]
    return ranges


def build(
    model: Any,
    output: PathLike | None = None,
    *,
    target: str | Sequence[str] = "cpu",
    precision: str = "fp32",
    shapes: Mapping[str, Any] | None = None,
    calibration: Any = None,
    calibration_method: str = "mse",
    calibration_table: PathLike | None = None,
    save_calibration_table: PathLike | None = None,
    layer_precision: Mapping[str, str] | None = None,
    accuracy_budget: float | None = None,
    budget: str = "",
    metric: str | Callable[[Engine], float] | None = None,
    held_out: Any = None,
    mixes: int = 6,
    search_time: float | None = None,
    sparsity: Any = None,
    timing_cache: PathLike | None = None,
    progress: bool | Callable[[str, str, float], Any] = True,
    example_inputs: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    optimization_level: int = 3,
    time_budget: float | None = None,
    replay_only: bool = False,
    verify: bool = True,
    samples: Iterable[Mapping[str, Any]] | None = None,
    metadata: Mapping[str, str] | None = None,
    threads: int | None = None,
    disabled_passes: Sequence[str] = (),
    disabled_implementations: Sequence[str] = (),
    only_reference: bool = False,
) -> Plan:
    """Compiles a model to a plan, checking it against the reference interpreter on the way.

    model: path of an ONNX file, its bytes, an onnx.ModelProto, or a torch.nn.Module (with example_inputs).
    output: where to write the .plan; None: only in memory.
    target: "cpu", "cpu:avx2", "cpu:avx512", "cuda" (this machine's GPU, else sm_90a), "cuda:sm_80", ..., or a list of
        them: one plan for all. Building for a GPU needs NVRTC (pip install nvidia-cuda-nvrtc nvidia-cuda-runtime), but
        no GPU; without one, tactics are chosen by a cost model and nothing is verified.
    precision: of the GPU targets: "fp32", "tf32" (products on tensor cores), "fp16" or "bf16" (sums in float32),
        "int8", or "fp8" (from sm_89 on). Of the CPU: "fp32", "int8", or "auto": the fastest mix of both within the
        budget. "int8", "fp8" and "auto" need calibration.
    shapes: by input name (min, opt, max) or one fixed shape. Inputs not named keep the model's shape.
    calibration: real inputs for precision "int8", "fp8" and "auto", 100 or so: an iterable of dicts by input name (a
        model of one input: of arrays), a folder of .npz (a sample each) or .npy files (for a model of one input), or an
        .npz whose arrays hold the samples along their first axis.
    calibration_method: how the range of a tensor is chosen: "mse", "min_max", "percentile" or "entropy".
    calibration_table, save_calibration_table: JSON files of ranges by tensor, to take and to write.
    layer_precision: by pattern of layer names (* and ?): "fp32" or "int8" ("fp8"). The last that matches counts.
    accuracy_budget: least signal to quantisation noise, in dB, that every output must keep on the calibration data.
    budget: what precision "auto" must keep of the accuracy, as a metric and a bound: "top1>=0.99" (the same largest
        class as in float32), "cosine>=0.999", "sqnr>=25" (dB), "error<=0.05" (root of noise over signal), all of the
        worst output; of one's own metric "metric>=0.75", or against float32 "metric>=fp32-0.005".
    metric: one's own: a function of an engine that returns a number, or a shell command that prints one last, in which
        {plan} stands for the plan's file.
    held_out: inputs to verify the budget with, in the forms of calibration; default: every fifth of those.
    mixes, search_time: how many mixes are built and measured at most, and the seconds after which none is begun.
    timing_cache: file of measurements to use and to add to; with the same one, equal inputs give equal bytes. None:
        what is measured is not kept.
    progress: True for a bar on a terminal, or a function of (stage, detail, fraction); returning False cancels.
    example_inputs: a tensor, a tuple of them, or a dict by argument name; for a torch.nn.Module.
    input_names, output_names: names of a torch.nn.Module's inputs and outputs; default: its forward's argument names.
    optimization_level: 0: the graph as imported; 1: optimised, the first kernel that can; 2: and the choices of the
        timing cache; 3: and what it lacks is timed; 4, 5: timed 3 and 10 times as often.
    time_budget: seconds to spend on timing; regions not reached keep their default. None: as many as it takes.
    replay_only: time nothing; a region that the timing cache does not know is an error (not_found).
    verify: compare every region and output with the reference; over tolerance is an error and nothing is written.
    samples: inputs by name to verify with; default: random ones.
    metadata: kept in the plan.

    Errors: not_found, io_error, invalid_model, unsupported, verification_failed, invalid_argument.
    """
    if sparsity is not None:
        raise Error("unsupported", "sparsity= is not available in this version of Planish", "leave it out")
    if calibration is not None and precision not in ("int8", "fp8", "auto"):
        raise Error(
            "invalid_argument", f"calibration= is of no use for precision {precision!r}", 'say precision="int8"'
        )
    if (budget or metric is not None or held_out is not None) and precision != "auto":
        raise Error(
            "invalid_argument", f"an accuracy budget is of no use for precision {precision!r}", 'say precision="auto"'
        )
    if precision not in PRECISIONS:
        raise Error("invalid_argument", f"unknown precision {precision!r}", "precisions are " + ", ".join(PRECISIONS))
    ranges = _shape_ranges(shapes)
    if output is not None:
        _planish.check_writable(os.fspath(output))
    sample_feeds, calibration_feeds = feeds_of(samples or ()), feeds_of(samples_of(calibration, model))
    held_out_feeds = feeds_of(samples_of(held_out, model))
    load_options = {"threads": threads, "device": target if isinstance(target, str) else next(iter(target), "cpu")}
    options = {
        "calibration": [f.rows for f in calibration_feeds],
        "calibration_method": calibration_method,
        "calibration_table": os.fspath(calibration_table) if calibration_table is not None else "",
        "save_calibration_table": os.fspath(save_calibration_table) if save_calibration_table is not None else "",
        "layer_precision": [(str(k), str(v)) for k, v in (layer_precision or {}).items()],
        "accuracy_budget": -1.0 if accuracy_budget is None else float(accuracy_budget),
        "budget": budget,
        "metric": (lambda raw: float(metric(load(Plan(raw), **load_options)))) if callable(metric) else None,
        "metric_command": metric if isinstance(metric, str) else "",
        "held_out": [f.rows for f in held_out_feeds],
        "mixes": int(mixes),
        "search_time": -1.0 if search_time is None else max(float(search_time), 0.0),
        "targets": [target] if isinstance(target, str) else list(target),
        "precision": precision,
        "shapes": ranges,
        "threads": threads or 0,
        "optimization_level": optimization_level,
        "timing_cache": os.fspath(timing_cache) if timing_cache is not None else "",
        "time_budget": -1.0 if time_budget is None else max(float(time_budget), 0.0),
        "replay_only": replay_only,
        "verify": verify,
        "metadata": [(str(k), str(v)) for k, v in (metadata or {}).items()],
        "disabled_passes": list(disabled_passes),
        "disabled_implementations": list(disabled_implementations),
        "only_reference": only_reference,
        "samples": [f.rows for f in sample_feeds],
    }
    exported = _export.portable(model, "build from", example_inputs, ranges, input_names, output_names)
    with reported(progress) as options["progress"], exported as source:
        native = _planish.build_bytes if isinstance(source, bytes) else _planish.build_path
        raw = native(source, options)
    plan = Plan(raw)
    if output is not None:
        plan.save(output)
    return plan


def quantize(model: Any, output: PathLike | None = None, *, calibration: Any, **options: Any) -> Plan:
    """Compiles a float model to a plan of 8-bit integers, or with `budget=` to the fastest mix of them and float32 that
    keeps within it.

    model, output, calibration, budget and all other options: as `planish.build`, whose precision "int8" or "auto" this
    is. The plan's report has each layer with its error (precision) and the mixes that were measured (mixes).

    Errors: those of `build`.
    """
    precision = "auto" if options.get("budget") else "int8"
    return build(model, output, precision=precision, calibration=calibration, **options)


def load(
    plan: PathLike | bytes | Plan,
    device: str = "auto",
    threads: int | None = None,
    *,
    cached_shapes: int = 16,
    only_reference: bool = False,
) -> Engine:
    """Loads a plan: a path (the file is mapped), its bytes, or what `build` returned.

    device: "cpu", "cpu:avx2", "cuda:0"; a device that is not there is an error. "auto": a GPU that the plan was built
        for, else the CPU.
    threads: that one run may use; None: one for each core that the process may use.
    cached_shapes: programs kept, one for each set of input shapes.
    only_reference: run in the reference interpreter.

    Errors: not_found, io_error, invalid_plan, unsupported.
    """
    if threads is not None and threads < 1:
        raise Error("invalid_argument", f"threads is {threads}", "give a positive number or None")
    arguments = (device, threads or 0, cached_shapes, only_reference)
    if isinstance(plan, Plan):
        return Engine(_planish.load_plan(plan._raw, *arguments))
    if isinstance(plan, (bytes, bytearray, memoryview)):
        return Engine(_planish.load_bytes(bytes(plan), *arguments))
    if isinstance(plan, (str, os.PathLike)):
        return Engine(_planish.load_path(os.fspath(plan), *arguments))
    raise Error("invalid_argument", f"cannot load a {type(plan).__name__}", "give a path, bytes or a planish.Plan")


def export_onnx(plan: PathLike | Plan, output: PathLike) -> None:
    """Writes the portable graph of a plan (a path, or what `build` returned) as an ONNX model, in the lowest opset that
    has its operators. Weights beyond 2 GB go to `output` + ".data".

    Errors: not_found, invalid_plan, io_error.
    """
    if isinstance(plan, Plan):
        plan.export_onnx(output)
    else:
        _planish.export_onnx_path(os.fspath(plan), os.fspath(output))
