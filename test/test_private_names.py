"""Every private name of another library is in this table, and its library still has it.

Private names may change in any release. Whoever adds one adds a line here; whoever raises a bound
in pyproject.toml sees here what the new release has renamed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
import inspect
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / 'segzero_ros'
# Documented by Python, with an underscore all the same.
OF_PYTHON = {'_replace', '_asdict', '_fields', '_exit', '_current_frames'}
# Functions whose second argument names an attribute.
_BY_NAME = {'getattr', 'hasattr', 'setattr', 'delattr', 'private'}


def of_transformers() -> bool:
    transformers = pytest.importorskip('transformers')
    config = transformers.Qwen2Config()
    config._attn_implementation = 'sdpa'
    return bool(config._attn_implementation == 'sdpa')


def of_trainer() -> bool:
    transformers = pytest.importorskip('transformers')
    method = transformers.Trainer._load_from_checkpoint
    return list(inspect.signature(method).parameters) == [
        'self',
        'resume_from_checkpoint',
        'model',
    ]


def of_accelerate() -> bool:
    hooks = pytest.importorskip('accelerate.hooks')
    torch = pytest.importorskip('torch')
    module = torch.nn.Linear(1, 1)
    hooks.add_hook_to_module(module, hooks.ModelHook())
    return hasattr(module, '_hf_hook')


def of_cuda_graphs() -> bool:
    torch = pytest.importorskip('torch')
    from torch._inductor import cudagraph_trees

    return callable(torch._C._stash_obj_in_tls) and hasattr(cudagraph_trees, 'local')


def of_sam2(name: str, *needed: str) -> Callable[[], bool]:
    def there() -> bool:
        base = pytest.importorskip('sam2.modeling.sam2_base').SAM2Base
        return set(needed) <= set(inspect.signature(getattr(base, name)).parameters)

    return there


def of_rclpy(name: str) -> Callable[[], bool]:
    # test/ros/test_rclpy_internals.py starts nodes with and without each.
    def tested() -> bool:
        return name in (PACKAGE.parent / 'test/ros/test_rclpy_internals.py').read_text()

    return tested


# Name: what shows that it is there and means what it did.
NAMES: dict[str, Callable[[], bool]] = {
    '_attn_implementation': of_transformers,
    '_load_from_checkpoint': of_trainer,
    '_hf_hook': of_accelerate,
    '_C': of_cuda_graphs,
    '_inductor': of_cuda_graphs,
    '_stash_obj_in_tls': of_cuda_graphs,
    '_prepare_backbone_features': of_sam2('_prepare_backbone_features', 'backbone_out'),
    '_track_step': of_sam2('_track_step', 'frame_idx', 'output_dict'),
    '_encode_new_memory': of_sam2('_encode_new_memory', 'pred_masks_high_res'),
    '_parameter_overrides': of_rclpy('_parameter_overrides'),
    '_state_machine': of_rclpy('_state_machine'),
}


def test_the_table_holds_every_private_name_that_is_used() -> None:
    trees = [ast.parse(path.read_text()) for path in PACKAGE.rglob('*.py')]
    own = {name for tree in trees for name in _defined(tree)}
    used = {name for tree in trees for name in _used(tree) if _is_private(name)}
    assert used - own - OF_PYTHON == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_the_library_still_has_it(name: str) -> None:
    assert NAMES[name]()


def _is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__') and name != '_'


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that this package itself defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in {'self', 'cls'}
        ):
            yield node.attr


def _used(tree: ast.Module) -> Iterator[str]:
    """Yield the names that are looked up in something, or imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith('segzero_ros'):
            yield from [*str(node.module).split('.'), *(each.name for each in node.names)]
        elif isinstance(node, ast.Import):
            yield from (part for each in node.names for part in each.name.split('.'))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names: list[Any] = node.args[1:2] if node.func.id in _BY_NAME else []
            yield from (str(each.value) for each in names if isinstance(each, ast.Constant))
