"""planish.torch: pruning that gives a torch.nn.Module back, to be fine-tuned and exported again."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from . import _export
from ._api import build, load
from ._errors import Error
from ._prune import Pruned
from ._prune import prune as prune_graph


class _Named(torch.nn.Module):
    """Stands around a module for its export. Counted as training while all inside is evaluating, so that the exporter
    merges no parameters that only happen to be equal, such as the scales of new normalisation layers."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = True

    def forward(self, *arguments: Any) -> Any:
        return self.inner(*arguments)


def _export_named(module: torch.nn.Module, inputs: tuple, names: list[str], path: str) -> None:
    """ONNX whose constants are called as the parameters and buffers, "inner." before."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Named(module),
                inputs,
                path,
                input_names=names,
                dynamo=False,
                do_constant_folding=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                opset_version=18,
            )
    except Exception as error:
        raise Error(
            "unsupported",
            f"PyTorch could not export {type(module).__name__} to ONNX: {error}",
            "export it yourself and prune the file with planish.prune",
        ) from error


def _set(module: torch.nn.Module, name: str, values: Any) -> None:
    """Replaces a parameter or buffer by one of another size."""
    owner, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner)
    old = getattr(owner, leaf)
    tensor = torch.from_numpy(values.copy()).to(old.device, old.dtype)
    if isinstance(old, torch.nn.Parameter):
        setattr(owner, leaf, torch.nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(owner, leaf, tensor)


def _adjust_sizes(module: torch.nn.Module, groups: Mapping[str, int]) -> None:
    """The sizes that layers state, from their weights."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
            layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        elif isinstance(layer, torch.nn.modules.conv._ConvNd):
            layer.groups = groups.get(f"inner.{name}.weight" if name else "inner.weight", layer.groups)
            layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        elif isinstance(layer, torch.nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.instancenorm._InstanceNorm)):
            if layer.weight is not None:
                layer.num_features = layer.weight.shape[0]
        elif isinstance(layer, torch.nn.PReLU):
            layer.num_parameters = layer.weight.shape[0]
        elif isinstance(layer, torch.nn.Embedding):
            layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _check_equal(module: torch.nn.Module, inputs: tuple, names: list[str], pruned: Pruned) -> None:
    """The module must compute what the pruned graph does: code of its own may rely on a size that is gone."""
    feeds = {name: value.detach().cpu().numpy() for name, value in zip(names, inputs)}
    plan = build(pruned.onnx_bytes(), progress=False, optimization_level=1, verify=False, samples=[feeds])
    expected = next(iter(load(plan, "cpu").run(feeds).values()))
    try:
        with torch.no_grad():
            actual = module(*inputs)
        actual = actual[0] if isinstance(actual, (tuple, list)) else actual
        difference = (actual.detach().cpu() - torch.from_numpy(expected)).abs().max().item()
        scale = max(float(abs(expected).max()), 1e-30)
        # Both sum float32 products in their own order: a thousand roundings of the largest value are far more.
        problem = "" if difference <= 1e3 * 2.0**-24 * scale + 1e-6 else f"outputs differ by {difference:.2g}"
    except (RuntimeError, AttributeError, ValueError) as error:
        problem = str(error)
    if problem:
        raise Error(
            "unsupported",
            f"{type(module).__name__} does not run with fewer channels: {problem}",
            "its code states a size itself: give the layers concerned as keep=, or use planish.prune",
        )


def _gradients(module: torch.nn.Module, samples: Iterable[tuple]) -> dict[str, Any]:
    """By name of a layer's weights, [samples, input channels]: x dy/dx over the places of a channel, where y are the
    outputs along a random direction. The mean square over directions is how far the outputs move."""
    generator = torch.Generator().manual_seed(0)
    rows: dict[str, list] = {}

    def watch(name: str, axis: int) -> Callable:
        def before(layer: torch.nn.Module, inputs: tuple) -> tuple:
            x = inputs[0]
            if not x.requires_grad:
                return inputs
            own = x.view_as(x)  # whose gradient is this reader's alone

            def keep(gradient: torch.Tensor) -> None:
                change = (own.detach() * gradient).movedim(axis, -1)
                rows.setdefault(name, []).append(change.flatten(1, -2).sum(1) if change.dim() > 2 else change)

            own.register_hook(keep)
            return (own, *inputs[1:])

        return before

    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            hooks.append(layer.register_forward_pre_hook(watch(f"{name}.weight", -1)))
        elif isinstance(layer, torch.nn.modules.conv._ConvNd) and layer.groups == 1:
            hooks.append(layer.register_forward_pre_hook(watch(f"{name}.weight", 1)))
    try:
        with torch.enable_grad():
            for sample in samples:
                outputs = module(*sample)
                outputs = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
                direction = torch.randn(outputs.shape, generator=generator)
                module.zero_grad()
                (outputs * direction.to(outputs)).sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
        module.zero_grad()
    return {f"inner.{name}": torch.cat(parts).numpy() for name, parts in rows.items()}


def prune(
    module: torch.nn.Module,
    example_inputs: Any,
    *,
    ratio: float | None = None,
    speedup: float | None = None,
    calibration: Iterable[Any] | None = None,
    criterion: str = "auto",
    scope: str = "global",
    multiple: int = 8,
    reconstruct: bool = True,
    ridge: float = 1e-3,
    keep: Sequence[str] = (),
    measure: bool = False,
    threads: int | None = None,
    progress: bool | Callable[[str, str, float], Any] = False,
    return_report: bool = False,
) -> Any:
    """A copy of `module` with fewer channels, ready to be fine-tuned, pruned or exported again.

    example_inputs: a tensor, or a tuple of them; sizes other than the batch's are those that matter.
    calibration: inputs as example_inputs, some dozens (batches do).
    criterion: also "taylor": channels go by how far the outputs move, to first order, on the calibration data.
    keep: names of layers ("blocks.3.conv", '*' for anything) whose channels all stay.
    return_report: the result is (module, report).

    Dependencies are found on the module's ONNX export, weights by the names of its parameters; the result is checked
    against the pruned graph. Other arguments and errors: those of `planish.prune`; unsupported where the module's own
    code relies on a size.
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    names = [f"input_{i}" for i in range(len(inputs))]
    samples = []
    batches = [tuple(s) if isinstance(s, (tuple, list)) else (s,) for s in calibration or ()]
    for arrays in batches:
        samples += [
            {name: array[i : i + len(inputs[0])].detach().cpu().numpy() for name, array in zip(names, arrays)}
            for i in range(0, len(arrays[0]) - len(inputs[0]) + 1, len(inputs[0]))
        ]
    result = copy.deepcopy(module).eval()
    on_cpu = copy.deepcopy(result).cpu()
    gradients = None
    if criterion == "taylor":
        parts = (tuple(p.cpu() for p in part) for arrays in batches for part in zip(*(a.split(16) for a in arrays)))
        gradients = _gradients(copy.deepcopy(on_cpu).requires_grad_(), parts)
    with _export.temporary_folder() as folder:
        path = os.path.join(folder, "module.onnx")
        _export_named(on_cpu, tuple(x.detach().cpu() for x in inputs), names, path)
        pruned = prune_graph(
            path,
            ratio=ratio,
            speedup=speedup,
            calibration=samples,
            criterion=criterion,
            gradients=gradients,
            scope=scope,
            multiple=multiple,
            reconstruct=reconstruct,
            ridge=ridge,
            keep=[f"/inner/{name.replace('.', '/*')}*" for name in keep],
            keep_parameters=True,
            measure=measure,
            threads=threads,
            progress=progress,
        )
    state = result.state_dict()
    with torch.no_grad():
        for name, values in pruned.constants().items():
            name = name.removeprefix("inner.")
            if name in state and values.dtype.kind == "f":
                _set(result, name, values)
    _adjust_sizes(result, pruned._raw.groups())
    _check_equal(result, inputs, names, pruned)
    result.train(module.training)
    return (result, pruned.report) if return_report else result
